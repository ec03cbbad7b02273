"""PgBouncer in transaction mode between the service and PostgreSQL."""

import os
import shutil
from pathlib import Path

import psycopg2

from faults.processes import (
    ADDRESS,
    KILLED_WITH_PARENT,
    end_process,
    free_port,
    start_process,
    wait_until,
)
from projectapp.devdb import supervisor

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


def skip_reason() -> str:
    """Return why this machine cannot run the scenario, or an empty string."""
    return "" if PROGRAM else "skipped: pgbouncer is not installed"


class PgBouncer:
    """A PgBouncer that serves on `port` once this object exists; its files are in `folder`."""

    def __init__(self, folder: Path, upstream_port: int) -> None:
        self.port = free_port()
        settings = {
            "listen_addr": ADDRESS,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 4,
            "server_login_retry": 0.2,  # seconds; the default is 15
        }
        database = f"* = host={ADDRESS} port={upstream_port} user=postgres"
        lines = ["[databases]", database, "[pgbouncer]"]
        lines += (f"{name} = {value}" for name, value in settings.items())
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(lines))
        command = [*supervisor.unprivileged_prefix(), *KILLED_WITH_PARENT, PROGRAM, file]
        self._process = start_process(command, folder / "pgbouncer.log")
        wait_until(self._accepts_connections, 10, "PgBouncer")

    def end(self) -> None:
        end_process(self._process)

    def _accepts_connections(self) -> bool:
        try:
            psycopg2.connect(
                host=ADDRESS, port=self.port, user="postgres", dbname="postgres"
            ).close()
        except psycopg2.Error:
            return False
        return True
