"""The service under test: gunicorn as it runs in production, and the processes it is made of."""

import http.client
import json
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
    NeverReady,
    children,
    end,
    free_port,
    is_alive,
    launch,
    until,
)

WORKERS, DATABASE_POOL_SIZE = 2, 4
START_SECONDS = 90
DRAIN = 40.0  # seconds that a stop may take: graceful_timeout and some
# The script and not `python -m gunicorn`: re-executed on USR2 that has gunicorn's own folder first
# on its path, where its `http` hides the standard library's, and no worker boots.
GUNICORN = Path(PYTHON).with_name("gunicorn")


class Service:
    """gunicorn on `port`; `start` may be called again, as a supervisor does after a death.

    With a `bug` of bugs.BUGS it serves a product that has it. `code` is the folder of its release;
    if it is a link, an upgrade serves the release to which it leads by then.
    """

    def __init__(self, log: Path, bug: str = "", code: Path = config.ROOT) -> None:
        self.log, self.bug, self.code = log, bug, code
        self.url = ""  # of the database
        self.settings: Mapping[str, str] = {}  # beyond those that every service has
        self.port = free_port()
        self.started: list[subprocess.Popen[bytes]] = []
        self.master = 0  # the pid of the gunicorn that is to be signalled

    def start(self) -> None:
        """Start a master and return when all its workers serve; NeverReady if they do not."""
        environ = {
            **service_environ(self.url),
            "PORT": str(self.port),
            "WEB_CONCURRENCY": str(WORKERS),
            "DATABASE_POOL_SIZE": str(DATABASE_POOL_SIZE),
            "SEEDED_BUG": self.bug,
            # gunicorn returns to it on USR2; the system's own name for the folder follows links.
            "PWD": str(self.code),
            **self.settings,
        }
        app = "faults.seeded:app" if self.bug else "wsgi:app"
        process = launch([GUNICORN, app], self.log, environ, self.code)
        self.started.append(process)
        self.master = process.pid
        until(lambda: process.poll() is not None or self.is_whole(), START_SECONDS, "gunicorn")
        if process.poll() is not None:
            raise NeverReady("gunicorn ended: " + self.log.read_text(errors="replace")[-500:])

    def supervise(self) -> None:
        """Start masters until one stays, as a supervisor does while something holds the port."""
        for _ in range(5):
            with suppress(NeverReady):
                return self.start()
        self.start()

    def upgrade(self) -> None:
        """Have a second gunicorn take over the port; it is `master` when the first has ended."""
        old, before = self.master, set(self.workers())
        os.kill(old, signal.SIGUSR2)
        until(lambda: set(self.workers()) - before, START_SECONDS, "the new master")
        self.master = (set(self.workers()) - before).pop()
        until(self.is_whole, START_SECONDS, "the new workers")
        os.kill(old, signal.SIGTERM)
        until(lambda: not is_alive(old), DRAIN, "the old master's end")

    def is_whole(self) -> bool:
        """Whether there are as many workers as there should be, and each waits for requests."""
        workers = self.workers()
        return len(workers) == WORKERS and all(map(_waits_for_events, workers))

    def workers(self) -> list[int]:
        return children(self.master)

    def end(self) -> None:
        """Kill it all, also what a dead master left."""
        for process in self.started:
            end(process)

    def get(self, path: str, timeout: float = 12) -> tuple[int, dict[str, object]]:
        """The status and the JSON of an answer; OSError or HTTPException when there is none."""
        link = http.client.HTTPConnection(ADDRESS, self.port, timeout=timeout)
        try:
            link.request("GET", path)
            answer = link.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            link.close()

    def status(self, path: str) -> int | None:
        """The status of a GET, None when there is no answer."""
        try:
            return self.get(path)[0]
        except (OSError, http.client.HTTPException):
            return None


def _waits_for_events(pid: int) -> bool:
    """Whether a worker has come as far as to watch its sockets, which is after it has loaded."""
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(link) == "anon_inode:[eventpoll]":
                    return "tfd:" in Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
    return False
