"""The service under test: gunicorn as it runs in production, and the processes it is made of."""

import http.client
import json
import subprocess
from pathlib import Path

from faults.cluster import service_environ
from faults.processes import (
    ADDRESS,
    PYTHON,
    NeverReady,
    children,
    end,
    launch,
    quiet_port,
    until,
)

WORKERS, THREADS = 2, 4
START_SECONDS = 40


class Service:
    """gunicorn on `port`; `start` may be called again, as a supervisor does after a death."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log
        self.port = quiet_port()
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def master(self) -> int:
        return self.started[-1].pid

    def launch(self) -> None:
        """Start a master and do not wait for it."""
        environ = {
            **service_environ(self.url),
            "PORT": str(self.port),
            "WEB_CONCURRENCY": str(WORKERS),
            "THREADS": str(THREADS),
        }
        self.started.append(launch([PYTHON, "-m", "gunicorn", "wsgi:app"], self.log, environ))

    def start(self) -> None:
        """Start a master and return when it answers; NeverReady if it does not."""
        self.launch()
        until(self._settled, START_SECONDS, "the service's start")
        if self.started[-1].poll() is not None:
            raise NeverReady("gunicorn ended: " + self.log.read_text(errors="replace")[-500:])

    def _settled(self) -> bool:
        return self.started[-1].poll() is not None or (
            self.status("/health") == 200 and len(self.workers()) == WORKERS
        )

    def end(self) -> None:
        """Kill it all, also what a dead master left."""
        for process in self.started:
            end(process)

    def workers(self) -> list[int]:
        return children(self.master)

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
