"""MariaDB under its own SQLAlchemy dialect name (``mariadb+pymysql://``)."""

from exporter.sql.dialects.mysql import DIALECT

__all__ = ["DIALECT"]
