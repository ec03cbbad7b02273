"""A PostgreSQL server for one scenario, with real durability (fsync is on)."""

import os
import signal
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psycopg2

import config
from faults.processes import (
    ADDRESS,
    KILLED_WITH_PARENT,
    PYTHON,
    NotReady,
    end_process,
    free_port,
    start_process,
    wait_until,
)
from projectapp.devdb import DevPostgres, supervisor

START_SECONDS = 120
STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
SETTINGS = {"unix_socket_directories": "", "max_connections": "60", "fsync": "on"}
_PIDS = "SELECT pid FROM pg_stat_activity WHERE application_name ~ '^projectapp'"


class Cluster:
    """One server on the data directory `home`; `settings` are PostgreSQL's, used at each start."""

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self.home, self.log = home, home.with_name(f"{home.name}.log")
        self.settings = dict(settings or {})
        self.address, self.port = ADDRESS, free_port()
        self.command_prefix: list[str] = []  # runs a command in the server's network namespace
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """libpq's parameters of a connection."""
        host, port = self.address, str(self.port)
        return {"host": host, "port": port, "user": "postgres", "dbname": "postgres"}

    @property
    def status(self) -> tuple[int, str]:
        """The postmaster's pid and its status, from postmaster.pid."""
        return supervisor.read_pid_file(self.home / "postmaster.pid")

    def start(self) -> None:
        """Start the server; return when it accepts connections, or raise NotReady."""
        address = {"listen_addresses": self.address, "port": str(self.port)}
        settings = {**SETTINGS, **address, **self.settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # The kernel forgets --pdeathsig when the user changes, so it is repeated.
        user = [*supervisor.unprivileged_prefix(), *KILLED_WITH_PARENT]
        command = [*self.command_prefix, *user, binaries() / "postgres", "-D", self.home, *options]
        self.process = process = start_process(command, self.log)
        ready = {(process.pid, "ready"), (process.pid, "standby")}

        def has_started_or_ended() -> bool:
            return process.poll() is not None or self.status in ready

        wait_until(has_started_or_ended, START_SECONDS, "PostgreSQL's start")
        if process.poll() is not None:
            raise NotReady("PostgreSQL ended: " + self.log.read_text(errors="replace")[-300:])

    def stop(self, mode: str = "fast") -> None:
        """Stop the server in a mode of STOP_SIGNALS; return when the postmaster is gone."""
        if self.process:
            self.process.send_signal(STOP_SIGNALS[mode])
            self.process.wait(START_SECONDS)

    def end(self) -> None:
        """Kill the server if it runs."""
        if self.process:
            end_process(self.process)

    def connect(self) -> Any:
        """Open a psycopg2 connection in autocommit mode; raise psycopg2.Error if it fails."""
        connection = psycopg2.connect(
            **self.parameters,
            connect_timeout=5,
            options="-c statement_timeout=30s",
            application_name="faults",
        )
        connection.autocommit = True
        return connection

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement on a new connection; return its rows."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def backend_pids(self) -> list[int]:
        """Return the pids of the server processes that serve projectapp."""
        return [pid for (pid,) in self.sql(_PIDS)]

    def terminate_backends(self) -> int:
        """End projectapp's connections; return how many there were."""
        pids = self.backend_pids()
        self.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", pids)
        return len(pids)


@cache
def _installation() -> DevPostgres:
    folder = os.environ.get("EMBEDDED_POSTGRES_BIN")
    return DevPostgres(Path("unused"), Path(folder) if folder else None)


def binaries() -> Path:
    """Return the folder of postgres, initdb and pg_basebackup."""
    return _installation().binaries


def make_template(folder: Path, code: Path = config.ROOT) -> Path:
    """Make a data directory in `folder`, migrated by `code`; it is copied for each scenario."""
    home = folder / str(_installation().major_version)  # initdb's options depend on this name
    home.mkdir()
    supervisor.create_data(home, binaries())
    cluster = Cluster(home / "data")
    cluster.start()
    try:
        url = f"postgresql://postgres@{cluster.address}:{cluster.port}/postgres"
        migration = run_migrations(url, code)
        if migration.returncode:
            raise NotReady("flask db upgrade: " + migration.stdout[-500:])
        cluster.stop()
    finally:
        cluster.end()
    return home / "data"


def run_migrations(url: str, code: Path) -> "subprocess.CompletedProcess[str]":
    """Run `flask db upgrade` of the release in `code`, for at most five minutes."""
    return subprocess.run(
        [PYTHON, "-m", "flask", "db", "upgrade"],
        cwd=code,
        env={**os.environ, **service_environ(url), "LOG_FORMAT": "text"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def copy_data(template: Path, home: Path) -> Path:
    """Copy a data directory with its owner; return `home`."""
    subprocess.run(["/bin/cp", "-a", template, home], check=True, timeout=300)
    return home


def service_environ(url: str) -> dict[str, str]:
    """Return the environment variables of a service on this database."""
    # An empty value counts as not set, and hides the settings of a real service.
    hidden = dict.fromkeys(config.Config.declared_settings(), "")
    return hidden | {"APP_ENV": "production", "AUTH": "none", "HOST": ADDRESS, "DATABASE_URL": url}
