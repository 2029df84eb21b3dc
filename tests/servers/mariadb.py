"""A private MariaDB server."""

from __future__ import annotations

import os
import subprocess

from tests.servers.database import OWNER_PASSWORD, READER_PASSWORD, DatabaseServer
from tests.servers.process import HOST, accepts_connections, require

NO_KERNEL_AIO = "--innodb-use-native-aio=0"  # of which there is not enough for several servers


class MariaDB(DatabaseServer):
    """Durable enough for SIGKILL, not for a power cut."""

    name = "mariadb"
    driver = "mysql+pymysql"
    administrator = "administrator"
    administration = "mysql"
    accounts = (
        f"CREATE USER celery@'%' IDENTIFIED BY '{OWNER_PASSWORD}'",
        f"CREATE USER reader@'%' IDENTIFIED BY '{READER_PASSWORD}'",
    )

    def __init__(self) -> None:
        self._mariadbd = require("mariadbd", "mariadb-server")
        self._install = require("mariadb-install-db", "mariadb-server")
        if os.geteuid() == 0:
            self._user = ["--user=root"]
        else:
            self._user = []
        super().__init__()

    def prepare(self) -> None:
        installed = subprocess.run(
            [
                self._install,
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-name-resolve",
                "--skip-test-db",
                f"--datadir={self.folder}/data",
                f"--tmpdir={self.folder}",  # at its start a server empties it of others' tables
                NO_KERNEL_AIO,
                *self._user,
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
        )
        assert installed.returncode == 0, installed.stdout + installed.stderr
        # Of the accounts that the installation makes, none has a password.
        (self.folder / "init.sql").write_text(
            f"CREATE OR REPLACE USER administrator@'%' IDENTIFIED BY '{OWNER_PASSWORD}';\n"
            "GRANT ALL ON *.* TO administrator@'%' WITH GRANT OPTION;\n"
        )

    def command(self) -> list[str]:
        return [
            self._mariadbd,
            "--no-defaults",
            *self._user,
            f"--datadir={self.folder}/data",
            NO_KERNEL_AIO,
            f"--tmpdir={self.folder}",  # likewise
            f"--init-file={self.folder}/init.sql",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            f"--socket={self.folder}/socket",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",  # as Debian's configuration has it
            "--collation-server=utf8mb4_general_ci",
            "--default-time-zone=+00:00",
            "--innodb-flush-log-at-trx-commit=2",
            "--lock-wait-timeout=10",  # so that a reader that sits in a transaction is found out
        ]

    def ready(self) -> bool:
        return accepts_connections(self.port)

    def create(self, database: str) -> None:
        self.execute(
            f"CREATE DATABASE {database}",
            f"GRANT ALL ON {database}.* TO celery@'%'",
            f"GRANT SELECT ON {database}.* TO reader@'%'",
        )

    def drop(self, database: str) -> None:
        self.execute(
            f"DROP DATABASE {database}",
            f"REVOKE ALL ON {database}.* FROM celery@'%'",
            f"REVOKE ALL ON {database}.* FROM reader@'%'",
        )
