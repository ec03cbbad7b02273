"""The service under test: gunicorn as in production, with its master and worker processes."""

import http.client
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import config
from faults.cluster import service_environ
from faults.processes import (
    ADDRESS,
    PYTHON,
    NotReady,
    child_pids,
    end_process,
    free_port,
    is_alive,
    start_process,
    wait_until,
)

WORKERS, DATABASE_POOL_SIZE = 2, 4
START_SECONDS = 90
STOP_SECONDS = 40.0  # gunicorn's graceful_timeout and a margin
# The script, not `python -m gunicorn`: after SIGUSR2 that form has gunicorn's own folder first on
# its path, whose `http` hides the standard library's, and no worker starts.
GUNICORN = Path(PYTHON).with_name("gunicorn")


class Service:
    """gunicorn on `port`. `start` can be called again, as a supervisor does after a crash.

    `mutation` is a name in mutations.MUTATIONS: the service then has this bug. `code` is the folder
    of its release; if it is a link, an upgrade serves the release that the link leads to by then.
    """

    def __init__(self, log: Path, mutation: str = "", code: Path = config.ROOT) -> None:
        self.log, self.mutation, self.code = log, mutation, code
        self.database_url = ""
        self.settings: Mapping[str, str] = {}  # in addition to those of every service
        self.port = free_port()
        self.masters: list[subprocess.Popen[bytes]] = []
        self.master_pid = 0  # of the present master

    def start(self) -> None:
        """Start a master; return when all its workers serve, or raise NotReady."""
        environ = {
            **service_environ(self.database_url),
            "PORT": str(self.port),
            "WEB_CONCURRENCY": str(WORKERS),
            "DATABASE_POOL_SIZE": str(DATABASE_POOL_SIZE),
            "MUTATION": self.mutation,
            # On SIGUSR2 gunicorn changes to this folder; os.getcwd() would have resolved the link.
            "PWD": str(self.code),
            **self.settings,
        }
        app = "faults.mutant:app" if self.mutation else "wsgi:app"
        process = start_process([GUNICORN, app], self.log, environ, self.code)
        self.masters.append(process)
        self.master_pid = process.pid
        wait_until(
            lambda: process.poll() is not None or self.has_all_workers(), START_SECONDS, "gunicorn"
        )
        if process.poll() is not None:
            raise NotReady("gunicorn ended: " + self.log.read_text(errors="replace")[-500:])

    def start_with_retries(self) -> None:
        """Start a master; retry while the port is still in use, as a supervisor does."""
        for _ in range(5):
            with suppress(NotReady):
                return self.start()
        self.start()

    def upgrade(self) -> None:
        """Let a second master take over the port; return when the first one has ended."""
        old_master, old_children = self.master_pid, set(self.worker_pids())
        os.kill(old_master, signal.SIGUSR2)
        wait_until(lambda: set(self.worker_pids()) - old_children, START_SECONDS, "the new master")
        self.master_pid = (set(self.worker_pids()) - old_children).pop()
        wait_until(self.has_all_workers, START_SECONDS, "the new workers")
        os.kill(old_master, signal.SIGTERM)
        wait_until(lambda: not is_alive(old_master), STOP_SECONDS, "the old master's end")

    def has_all_workers(self) -> bool:
        """Return whether all workers run and wait for requests."""
        pids = self.worker_pids()
        return len(pids) == WORKERS and all(map(_waits_for_events, pids))

    def worker_pids(self) -> list[int]:
        """Return the pids of the master's children; during an upgrade the new master is one."""
        return child_pids(self.master_pid)

    def end(self) -> None:
        """Kill all processes, also the workers that a dead master left behind."""
        for process in self.masters:
            end_process(process)

    def status(self, path: str) -> int | None:
        """Send a GET and return the status; None if there is no response."""
        connection = http.client.HTTPConnection(ADDRESS, self.port, timeout=12)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def _waits_for_events(pid: int) -> bool:
    """Return whether a worker watches its sockets, which it does once it has loaded."""
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(link) == "anon_inode:[eventpoll]":
                    return "tfd:" in Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
    return False
