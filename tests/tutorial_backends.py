"""Small servers that imitate the four backends of the tutorial: FastAPI, Hono, Nest and Go.

They have the formats and the order of the originals' lists, keep their projects in memory, and
count the requests of each method. A writer changes the projects while they are read.
"""

import json
import random
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from faults.processes import free_port

LIST_PATH = "/api/v1/projects"
SEOUL = timezone(timedelta(hours=9))


class Backend(ABC):
    """Projects in memory. The subclasses have the formats of the originals."""

    def __init__(self, seed: str = "") -> None:
        self.lock = threading.RLock()
        self.random = random.Random(seed)  # noqa: S311
        self.projects: dict[str, dict[str, Any]] = {}
        self.requests: Counter[str] = Counter()
        self.url = ""

    @abstractmethod
    def now(self) -> str:
        """Return the present time in the backend's format."""

    def create(self, name: Any, description: str | None = None, **members: Any) -> str:
        with self.lock:
            now = self.now()
            project = {
                "id": str(uuid4()),
                "name": name,
                "description": description,
                **{"created_at": now, "updated_at": now},
                **members,
            }
            self.projects[project["id"]] = project
            return str(project["id"])

    def update(self, project_id: str, **members: Any) -> None:
        with self.lock:
            self.projects[project_id] |= {"updated_at": self.now(), **members}

    def delete(self, project_id: str) -> None:
        with self.lock:
            del self.projects[project_id]

    def list_body(self, query: dict[str, list[str]]) -> Any:
        page = int(query.get("page", ["1"])[0])
        page_size = int(query.get("page_size", ["10"])[0])
        # As in the originals the order is that of creation, and equal times stay in this order.
        projects = sorted(self.projects.values(), key=lambda p: p["created_at"] or "", reverse=True)
        return {
            "items": projects[(page - 1) * page_size : page * page_size],
            "total": len(projects),
            "page": page,
            "page_size": page_size,
        }

    def respond(self, target: str) -> tuple[int, str, bytes]:
        """Return the status, the content type and the body of the response to a GET."""
        parts = urlsplit(target)
        if parts.path != LIST_PATH:
            return 404, "application/json", b'{"detail":"Not Found"}'
        with self.lock:
            body = self.list_body(parse_qs(parts.query))
            return 200, "application/json", json.dumps(body).encode()


class FastAPIBackend(Backend):
    """Microseconds, Z, and no fraction if it is 0, as Pydantic writes times."""

    def now(self) -> str:
        return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class HonoBackend(Backend):
    """Milliseconds, so many times are equal."""

    def now(self) -> str:
        return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class NestBackend(HonoBackend):
    pass


class GoBackend(Backend):
    """A bare array in random order, nanoseconds with a local offset, a status, three seed rows.

    An empty description is "", and never null.
    """

    def __init__(self, seed: str = "") -> None:
        super().__init__(seed)
        for name, status in (("E-commerce", "active"), ("CRM", "active"), ("Reports", "planning")):
            self.create(name, f"About {name}", status=status)

    def now(self) -> str:
        time = datetime.now(SEOUL)
        nanoseconds = f"{time.microsecond:06}{self.random.randrange(1000):03}".rstrip("0")
        fraction = f".{nanoseconds}" if nanoseconds else ""
        return f"{time:%Y-%m-%dT%H:%M:%S}{fraction}+09:00"

    def create(self, name: Any, description: str | None = None, **members: Any) -> str:
        return super().create(name, description or "", **{"status": "active", **members})

    def list_body(self, query: dict[str, list[str]]) -> Any:
        projects = [*self.projects.values()]
        self.random.shuffle(projects)
        return projects


class NaiveBackend(FastAPIBackend):
    """FastAPI with datetime.now() on a machine in Korea: times without a zone."""

    def now(self) -> str:
        return datetime.now(SEOUL).replace(tzinfo=None).isoformat()


BACKENDS = {
    "FastAPI": FastAPIBackend,
    "Hono": HonoBackend,
    "Nest": NestBackend,
    "Go": GoBackend,
}


@contextmanager
def serving(backend: Backend) -> Iterator[Backend]:
    """Serve a backend on 127.0.0.1 while a `with` block runs, and set its `url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            backend.requests["GET"] += 1
            status, content_type, body = backend.respond(self.path)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refuse(self) -> None:
            backend.requests[self.command] += 1
            self.send_error(405)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = refuse

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
    server.daemon_threads = True
    backend.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield backend
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def writing(backend: Backend, pause_seconds: float = 0.004) -> Iterator[None]:
    """Create, change and delete projects of the backend until the `with` block ends."""
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(pause_seconds):
            write_once(backend)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def write_once(backend: Backend) -> None:
    """Make one random change, as a user of the front end does."""
    with backend.lock:
        number = backend.random.random()
        if number < 0.5 or not backend.projects:
            backend.create(f"새 프로젝트 {number}", backend.random.choice([None, "", "설명"]))
            return
        project_id = backend.random.choice([*backend.projects])
        if number < 0.95:
            backend.update(project_id, name=f"바뀐 이름 {number}")
        else:
            backend.delete(project_id)
