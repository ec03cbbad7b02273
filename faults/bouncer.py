"""A pooler between the service and PostgreSQL: PgBouncer, which lends a session per transaction."""

import os
import shutil
from pathlib import Path

import psycopg2

from faults.processes import ADDRESS, GUARD, end, launch, quiet_port, until
from projectapp.devdb import supervisor

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


def missing() -> str:
    """Why this cannot run here, or an empty string."""
    return "" if PGBOUNCER else "skipped: there is no pgbouncer"


class Bouncer:
    """One that serves on `port` as soon as it is made, with its files in `folder`."""

    def __init__(self, folder: Path, upstream: int) -> None:
        self.port = quiet_port()
        settings = {
            "listen_addr": ADDRESS,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 4,
            "server_login_retry": 0.2,  # seconds; by default it tries again after 15
        }
        lines = ["[databases]", f"* = host={ADDRESS} port={upstream} user=postgres", "[pgbouncer]"]
        lines += (f"{name} = {value}" for name, value in settings.items())
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(lines))
        command = [*supervisor.unprivileged_prefix(), *GUARD, PGBOUNCER, file]
        self._process = launch(command, folder / "pgbouncer.log")
        until(self._serves, 10, "PgBouncer")

    def end(self) -> None:
        end(self._process)

    def _serves(self) -> bool:
        try:
            psycopg2.connect(
                host=ADDRESS, port=self.port, user="postgres", dbname="postgres"
            ).close()
        except psycopg2.Error:
            return False
        return True
