"""A private PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.servers.database import OWNER_PASSWORD, READER_PASSWORD, DatabaseServer
from tests.servers.process import HOST, require

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # where Debian has them

GRANTS = (
    "GRANT USAGE ON SCHEMA public TO reader",
    "ALTER DEFAULT PRIVILEGES FOR ROLE celery GRANT USAGE ON SCHEMAS TO reader",
    "ALTER DEFAULT PRIVILEGES FOR ROLE celery GRANT SELECT ON TABLES TO reader",
)


class PostgreSQL(DatabaseServer):
    """Durable enough for SIGKILL, not for a power cut."""

    name = "postgresql"
    driver = "postgresql+psycopg"
    administrator = "postgres"
    administration = "postgres"
    accounts = (
        f"CREATE ROLE celery LOGIN PASSWORD '{OWNER_PASSWORD}'",
        "SET password_encryption = 'scram-sha-256'",
        f"CREATE ROLE reader LOGIN PASSWORD '{READER_PASSWORD}'",
    )
    options: ClassVar[dict[str, str]] = {"client_encoding": "utf8"}  # or SQL_ASCII gives bytes
    stop_signal = signal.SIGINT  # "fast": does not wait for clients

    def __init__(self) -> None:
        self._postgres = Path(require("postgres", "postgresql", *BINARIES))
        if os.geteuid() == 0:  # as whom PostgreSQL refuses to run
            self.user = "postgres"
        super().__init__()

    def set_up(self) -> None:
        super().set_up()
        self.execute(*GRANTS, database="template1")  # so that each database has them

    def prepare(self) -> None:
        password = self.folder / "password"
        password.write_text(OWNER_PASSWORD)
        if self.user:
            shutil.chown(self.folder, self.user)
            shutil.chown(password, self.user)
        subprocess.run(
            [
                self._postgres.with_name("initdb"),
                f"--pgdata={self.folder}/data",
                f"--username={self.administrator}",
                f"--pwfile={password}",
                # Or as a password is stored: the reader's for scram-sha-256, which would be half of
                # what the owner's many short connections cost.
                "--auth=md5",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            cwd=self.folder,
            user=self.user,
        )

    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "max_connections": 200,
            "timezone": "UTC",
            "fsync": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._postgres), "-D", f"{self.folder}/data", *options]

    def ready(self) -> bool:
        pg_isready = self._postgres.with_name("pg_isready")
        probe = subprocess.run(
            [pg_isready, "-q", f"--host={HOST}", f"--port={self.port}"], check=False
        )
        return probe.returncode == 0

    def create(self, database: str, options: str = "") -> None:
        self.execute(
            f"CREATE DATABASE {database} OWNER celery {options}",
            f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
            f"GRANT CONNECT ON DATABASE {database} TO reader",
        )
        if options:  # perhaps of another template
            self.execute(*GRANTS, database=database)

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE {database} WITH (FORCE)")
