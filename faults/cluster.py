"""A PostgreSQL of our own, with real durability: fsync is on, as it is for those who trust it."""

import os
import signal
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psycopg2

import config
from faults.processes import ADDRESS, GUARD, PYTHON, NeverReady, end, launch, quiet_port, until
from projectapp.devdb import DevPostgres, supervisor

START_SECONDS = 120
STOP = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
SETTINGS = {"unix_socket_directories": "", "max_connections": "60", "fsync": "on"}


class Cluster:
    """One server on the data in `home`; `settings` are PostgreSQL's own, given at each start."""

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self.home, self.log = home, home.with_name(f"{home.name}.log")
        self.settings = dict(settings or {})
        self.address, self.port = ADDRESS, quiet_port()
        self.inside: list[str] = []  # the prefix that runs it in another network namespace
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def status(self) -> tuple[int, str]:
        return supervisor.read_pid_file(self.home / "postmaster.pid")

    def start(self) -> None:
        """Return as soon as it accepts connections; NeverReady if it does not."""
        address = {"listen_addresses": self.address, "port": str(self.port)}
        given = {**SETTINGS, **address, **self.settings}
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        # Who becomes another user loses the guard, and takes it again.
        user = [*supervisor.unprivileged_prefix(), *GUARD]
        command = [*self.inside, *user, binaries() / "postgres", "-D", self.home, *options]
        self.process = launch(command, self.log)
        started = self.process
        serving = {(started.pid, "ready"), (started.pid, "standby")}

        def settled() -> bool:
            return started.poll() is not None or self.status in serving

        until(settled, START_SECONDS, "PostgreSQL's start")
        if started.poll() is not None:
            raise NeverReady("PostgreSQL ended: " + self.log.read_text(errors="replace")[-300:])

    def stop(self, how: str = "fast") -> None:
        """Stop it, `how` being one of STOP; return once the postmaster is gone."""
        if self.process:
            self.process.send_signal(STOP[how])
            self.process.wait(START_SECONDS)

    def end(self) -> None:
        if self.process:
            end(self.process)

    def connect(self, name: str = "faults") -> Any:
        """A psycopg2 connection in autocommit; psycopg2.Error when there is none to be had."""
        link = psycopg2.connect(
            host=self.address,
            port=self.port,
            user="postgres",
            dbname="postgres",
            connect_timeout=5,
            options="-c statement_timeout=30s",
            application_name=name,
        )
        link.autocommit = True
        return link

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own; its rows, if it gives rows."""
        link = self.connect()
        try:
            with link.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            link.close()

    def backends(self) -> list[int]:
        """The pids of the server processes that serve projectapp."""
        found = self.sql("SELECT pid FROM pg_stat_activity WHERE application_name ~ '^projectapp'")
        return [pid for (pid,) in found]


@cache
def _server() -> DevPostgres:
    wanted = os.environ.get("EMBEDDED_POSTGRES_BIN")
    return DevPostgres(Path("unused"), Path(wanted) if wanted else None)


def binaries() -> Path:
    """Return the folder of postgres, initdb and pg_basebackup."""
    return _server().binaries


def make_template(folder: Path, code: Path = config.ROOT) -> Path:
    """An empty, stopped cluster in `folder`, migrated by `code`, to be copied for each row."""
    home = folder / str(
        _server().major_version
    )  # its version's name, by which initdb's options are chosen
    home.mkdir()
    supervisor.create_data(home, binaries())
    cluster = Cluster(home / "data")
    cluster.start()
    try:
        migrated = upgrade(f"postgresql://postgres@{cluster.host}/postgres", code)
        if migrated.returncode:
            raise NeverReady("flask db upgrade: " + migrated.stdout[-500:])
        cluster.stop()
    finally:
        cluster.end()
    return home / "data"


def upgrade(url: str, code: Path) -> "subprocess.CompletedProcess[str]":
    """Have the release in `code` migrate the database, in at most five minutes."""
    return subprocess.run(
        [PYTHON, "-m", "flask", "db", "upgrade"],
        cwd=code,
        env={**os.environ, **service_environ(url), "LOG_FORMAT": "text"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def copy(template: Path, home: Path) -> Path:
    """A copy that belongs to whom the original belongs; returns `home`."""
    subprocess.run(["/bin/cp", "-a", template, home], check=True, timeout=300)
    return home


def service_environ(url: str) -> dict[str, str]:
    # Empty is as good as not set, and hides what is set for a real service.
    hidden = dict.fromkeys(config.Config.declared_settings(), "")
    return hidden | {"APP_ENV": "production", "AUTH": "none", "HOST": ADDRESS, "DATABASE_URL": url}
