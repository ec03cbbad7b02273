"""A client that sends hostile requests while normal clients work.

It checks each response, that nothing of a refused request is stored, and that the normal clients
notice nothing.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from faults.environment import Environment
from faults.ledger import Attempt
from faults.raw_http import CLOSED, SILENT, RawConnection, Response
from faults.service import DATABASE_POOL_SIZE, WORKERS

JSON = "Content-Type: application/json"
MERGE_PATCH = "Content-Type: application/merge-patch+json"
OK = 200  # as an expected status it includes 201 and 204
MINIMUM_SERVED, P99_SECONDS = 0.99, 1.0  # of the normal requests
# For the response and for the end of the connection. The service itself waits 10 seconds for the
# rest of a request and 5 seconds for another one.
_RESPONSE_SECONDS, _CLOSE_SECONDS = 8.0, 4.0
_NEVER = "never-"  # markers that must not be stored begin with this
_WORDS = {CLOSED: "closed", SILENT: "silence", OK: "served"}
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_KINDS = {"POST": "create", "PUT": "change", "PATCH": "change", "DELETE": "delete"}
# Signs of a missing check in the service's log: an unexpected error, or a value that only the
# database refused (SQLSTATE class 22).
_LOG_ERRORS = ("Traceback", "unhandled ", "database error 22", "Error handling request")


class HostileRequest(NamedTuple):
    """A request; its response must have one of the `expected` statuses.

    Placeholders in `head`: <list> the path of all rows, <create> the path to POST to, <path> the
    path of a row, <PATH> the same with the id in upper case, <length> the body's length. In `body`,
    @ is a text field with a marker.
    """

    name: str
    method: str
    head: bytes
    body: bytes
    expected: Collection[int]  # statuses
    # The server cannot know where the next request begins. It must answer once and close the
    # connection; it must not execute what follows.
    breaks_framing: bool = False
    half_closes: bool = False  # after the request
    chunked: tuple[int, bytes] | None = None  # the chunks' size in bytes, and what follows the last


class HostileClient:
    """Sends hostile requests to the environment's service and collects wrong responses."""

    def __init__(self, env: Environment) -> None:
        self.env, self.client = env, env.new_client()
        self.create_path, self.ledger = self.client.create_path, env.new_ledger()
        self.statuses: Counter[int] = Counter()
        self.wrong: dict[str, list[str]] = {}  # sentences by the request's name
        self.broken_keep_alives = 0  # connections that were closed despite "keep-alive"
        self._count = 0
        self.read_path, self.write_path = self.new_row(), self.new_row()

    def new_marker(self, prefix: str = _NEVER) -> str:
        self._count += 1
        return f"{prefix}{self.env.scenario.number}-{self._count}"

    def new_row(self) -> str:
        """Create a row; return its path."""
        marker = self.new_marker("target-")
        return f"{self.env.resource.path}/{self.client.create(marker, key=marker).id}"

    def send(self, request: HostileRequest) -> None:
        """Send a request, and check the response and what the server does with the connection."""
        may_succeed = OK in request.expected
        path = self.read_path
        if request.method not in _READ_METHODS:
            path = self.new_row() if may_succeed else self.write_path
        marker = self.new_marker("may-" if may_succeed else _NEVER)
        attempt = self.record_request(request.method, path, marker, may_succeed)
        with RawConnection(self.env.service.port, _RESPONSE_SECONDS) as connection:
            data = self._encode(request, path, marker)
            connection.send(data + (self._forbidden_create() if request.breaks_framing else b""))
            if request.half_closes:
                connection.half_close()
            response = connection.read_response(request.method)
            self.record_response(attempt, response)
            self.check_status(request.name, request.method, response, request.expected)
            if request.breaks_framing:
                connection.sock.settimeout(_CLOSE_SECONDS)
                self._check_closed(request, connection.read_to_end())
                self.broken_keep_alives += isinstance(response, Response) and not response.closes
            elif isinstance(response, Response) and not response.closes and not request.half_closes:
                self._check_next_request(request, connection, response.status)

    def record_request(
        self, method: str, path: str, marker: str, may_succeed: bool, key: str | None = None
    ) -> Attempt:
        """Record a request in the ledger; as a write only if it may succeed."""
        kind = _KINDS.get(method, "hostile") if may_succeed else "hostile"
        return self.ledger.record_request(
            operation=marker,
            kind=kind,
            method=method,
            path=path,
            key=key,
            if_match='"1"' if kind in ("change", "delete") else None,
            sent_at=time.monotonic(),
        )

    def record_response(self, attempt: Attempt, response: Response | int) -> None:
        done_at = time.monotonic()
        if isinstance(response, int):
            self.ledger.record_response(attempt, done_at=done_at, exception=_WORDS[response])
            return
        self.ledger.record_response(
            attempt,
            status=response.status,
            etag=response.headers.get("ETag"),
            id=response.headers.get("Location", "").rpartition("/")[2] or None,
            done_at=done_at,
            violations=response.violations,
        )

    def check_status(
        self, name: str, method: str, response: Response | int, expected: Collection[int]
    ) -> None:
        status = response.status if isinstance(response, Response) else response
        status = OK if status in (201, 204) else status
        self.statuses[status] += 1
        if status not in expected:
            words = " or ".join(_WORDS.get(s, str(s)) for s in expected)
            self.add_wrong(name, method, f"{_WORDS.get(status, status)}, not {words}")

    def add_wrong(self, name: str, method: str, sentence: str) -> None:
        self.wrong.setdefault(name, []).append(f"{sentence} ({method})")

    def fill_in_path(self, text: str, path: str = "") -> str:
        """Replace the placeholders for paths; `path` is that of a row."""
        base = self.env.resource.path
        upper = base + path.removeprefix(base).upper()
        paths = {"<list>": base, "<create>": self.create_path, "<path>": path, "<PATH>": upper}
        for placeholder, value in paths.items():
            text = text.replace(placeholder, value)
        return text

    def finish(self, start: float) -> None:
        """Check what must hold after all requests. Normal clients have worked since `start`."""
        env = self.env
        env.fault_count = sum(n for status, n in self.statuses.items() if status != OK)
        counts = ", ".join(f"{_WORDS.get(s, s)} x {n}" for s, n in sorted(self.statuses.items()))
        env.notes.append(
            f"{self.statuses.total()} requests, {env.fault_count} were refused: {counts}"
        )
        if self.broken_keep_alives:
            env.notes.append(
                f"{self.broken_keep_alives} responses said keep-alive, and the server closed the"
                " connection"
            )
        for name, sentences in self.wrong.items():
            env.check(False, f"{name}, {len(sentences)} x: {sentences[0]}")
        ((stored,),) = env.cluster.sql(
            f"SELECT count(*) FROM {env.resource.name} AS t WHERE t::text ~ %s",  # noqa: S608
            _NEVER,
        )
        env.check(not stored, f"{stored} rows contain the marker of a refused request")
        threads = 2 * WORKERS * DATABASE_POOL_SIZE
        with ThreadPoolExecutor(threads) as pool:
            statuses = set(pool.map(env.service.status, [self.read_path] * 2 * threads))
        env.check(statuses == {200}, f"reads after the attack were answered with {statuses}")
        log = env.service.log.read_text(errors="replace")
        errors = {text: log.count(text) for text in _LOG_ERRORS if text in log}
        env.check(not errors, f"the service's log contains: {errors}")
        check_normal_clients(env, start)

    def _encode(self, request: HostileRequest, path: str, marker: str) -> bytes:
        """Fill in the placeholders of a request."""
        resource = self.env.resource
        field = resource.title_field if request.method == "POST" else resource.text_field
        body = request.body.replace(b"@", f'"{field}": "{marker}"'.encode())
        text = self.fill_in_path(request.head.decode("latin-1"), path)
        head = text.replace("<length>", str(len(body))).encode("latin-1")
        return head + (make_chunks(body, *request.chunked) if request.chunked else body)

    def _forbidden_create(self) -> bytes:
        """Return a create, for the place of the next request; the server must not execute it."""
        title = self.env.resource.title_field
        body = f'{{"{title}": "{self.new_marker()}"}}'.encode()
        head = make_head("POST", self.create_path, f"{JSON}\r\nContent-Length: {len(body)}")
        return head + body

    def _check_closed(self, request: HostileRequest, rest: bytes | None) -> None:
        if rest is None:
            self.add_wrong(request.name, request.method, "the connection stays open")
        elif b"HTTP/1." in rest:
            self.add_wrong(request.name, request.method, "the server answered what follows it")

    def _check_next_request(
        self, request: HostileRequest, connection: RawConnection, status: int
    ) -> None:
        """Check that the connection still works."""
        connection.send(make_head("GET", self.read_path, "Connection: close"))
        response = connection.read_response()
        if isinstance(response, Response) and response.status == 200:
            return
        self.broken_keep_alives += response == CLOSED
        if status != 413 or response != CLOSED:  # the server need not read a body that is too large
            self.add_wrong(request.name, request.method, "the next request gets no answer")


def make_head(method: str, path: str, fields: str = "") -> bytes:
    """Return a request's head; `fields` are header lines without the last line's end."""
    lines = [f"{method} {path} HTTP/1.1", "Host: api.test", *([fields] if fields else [])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def make_chunks(body: bytes, size: int, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return the body in chunks of `size` bytes (RFC 9112, 7.1)."""
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


def check_normal_clients(env: Environment, start: float, end: float = float("inf")) -> None:
    """Check that the requests of the load between these times were served, and in time."""
    load = f"{env.scenario.number}."
    attempts = [a for a in env.read_attempts() if a.operation.startswith(load)]
    attempts = [attempt for attempt in attempts if start <= attempt.sent_at < end]
    served = [attempt for attempt in attempts if not attempt.is_server_failure]
    durations = sorted(attempt.duration_seconds for attempt in served) or [0.0]
    p99 = durations[int(len(durations) * 0.99)]
    share = len(served) / max(1, len(attempts))
    env.check(share >= MINIMUM_SERVED, f"{share:.1%} of {len(attempts)} normal requests succeeded")
    env.check(p99 < P99_SECONDS + env.noise_seconds, f"p99 of normal requests was {p99:.2f} s")
    env.notes.append(f"{len(served)} of {len(attempts)} normal requests served, p99 {p99:.3f} s")


@contextmanager
def attack(env: Environment) -> Iterator[HostileClient]:
    """Run normal clients while the block sends hostile requests; then check everything."""
    with env.load():
        env.sleep_share(0.1)
        hostile, start = HostileClient(env), time.monotonic()
        yield hostile
        env.sleep_share(0.1)
    hostile.finish(start)
