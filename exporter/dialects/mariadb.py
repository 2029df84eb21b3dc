"""MariaDB under its own SQLAlchemy dialect name (``mariadb+pymysql://``)."""

from exporter.dialects.mysql import DIALECT

__all__ = ["DIALECT"]
