"""An HTTP client that records every request in a ledger before it sends it."""

import http.client
import itertools
import json
import re
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from faults.ledger import Attempt, Ledger
from faults.processes import ADDRESS
from faults.resource import Resource

TIMEOUT_SECONDS = 12.0  # more than the service's slowest response
PROBLEM = "application/problem+json"
JSON, NDJSON = "application/json", "application/x-ndjson"
_PART_BYTES = 16 * 1024  # of a response that a client reads slowly
_INTERNALS = re.compile(
    rb"Traceback|File \\?\"|psycopg2|sqlalchemy|\bSELECT \b|\bINSERT INTO\b|\bDELETE FROM\b"
    rb"|\bUPDATE \w+ SET\b|\bFROM \w+ WHERE\b|127\.0\.0\.1|localhost|gunicorn/"
)


class Caller(NamedTuple):
    """The owner of the rows that a client creates, and the owner's tokens.

    With AUTH=none there is neither. `parent_id` is the row under which new rows are created, for a
    resource that has a parent.
    """

    name: str | None = None
    tokens: Sequence[str] = ("",)
    parent_id: str | None = None


class Client:
    """A keep-alive connection to 127.0.0.1, for one thread.

    It sends the tokens of its caller in turn, also those that are revoked.
    """

    def __init__(self, port: int, ledger: Ledger, resource: Resource, caller: Caller) -> None:
        self.ledger, self.resource, self.caller = ledger, resource, caller
        self.create_path = resource.create_path(caller.parent_id)
        self.body: Any = None  # the JSON of the last response
        self._tokens = itertools.cycle(caller.tokens)
        self._streaming_socket: socket.socket | None = None
        self._connection = http.client.HTTPConnection(ADDRESS, port, timeout=TIMEOUT_SECONDS)

    def send(
        self, kind: str, operation: str, method: str, path: str, content: Any = None, **options: Any
    ) -> Attempt:
        """Send a request and wait; the attempt has the result, `body` the response's JSON."""
        attempt = self.begin(kind, operation, method, path, content, **options)
        self.finish(attempt)
        return attempt

    def create(self, operation: str, key: str | None = None) -> Attempt:
        """Create a row that is marked with the operation's name."""
        body = self.resource.create_body(operation)
        return self.send("create", operation, "POST", self.create_path, body, key=key)

    def create_many(
        self, operation: str, count: int, key: str | None = None, content_type: str = JSON
    ) -> Attempt:
        """Create `count` rows with one request; their markers are `operation`, a dot, a number."""
        markers = [f"{operation}.{n}" for n in range(count)]
        return self.send(
            "create",
            operation,
            "POST",
            self.create_path,
            [self.resource.create_body(marker) for marker in markers],
            key=key,
            content_type=content_type,
            items=[{"operation": marker} for marker in markers],
        )

    def begin(
        self,
        kind: str,
        operation: str,
        method: str,
        path: str,
        content: Any = None,
        key: str | None = None,
        if_match: str | None = None,
        content_type: str = JSON,
        wait_seconds: float = 0.0,
        headers: Mapping[str, str] | None = None,
        items: Sequence[dict[str, Any]] = (),
    ) -> Attempt:
        """Send a request; `finish`, `read_lines` or `read_slowly` must follow.

        `items` are those of Attempt, for a request with many rows.
        """
        headers = {"X-Request-ID": operation, **(headers or {})}
        headers |= {"Content-Type": content_type} if content is not None else {}
        headers |= {"Idempotency-Key": key} if key else {}
        headers |= {"If-Match": if_match} if if_match else {}
        token = next(self._tokens)
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        body = _encode(content, content_type) if content is not None else None
        self._close_if_server_has()
        attempt = self.ledger.record_request(
            operation=operation,
            kind=kind,
            method=method,
            path=path,
            key=key,
            if_match=if_match,
            caller=self.caller.name,
            token=token,
            request_id=operation,
            wait_seconds=wait_seconds,
            content_type=content_type if items else None,
            items=list(items),
            sent_at=time.monotonic(),
        )
        try:
            self._connection.request(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._record_exception(attempt, error)
        return attempt

    def finish(self, attempt: Attempt) -> None:
        """Wait for the response to the request of `begin` and record it."""
        self.body = None
        if attempt.done_at:
            return
        try:
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._record_exception(attempt, error)
        else:
            self._record_response(attempt, response, text)

    def read_lines(self, attempt: Attempt) -> Iterator[bytes]:
        """Do the same, but yield the lines of a successful response as they arrive.

        The iteration ends with the response, or when the connection breaks.
        """
        if attempt.done_at:
            return
        try:
            response = self._connection.getresponse()
            text = b"" if response.status == 200 else response.read()
            self._record_response(attempt, response, text)
            if response.status == 200:
                self._streaming_socket = self._connection.sock
                yield from iter(response.readline, b"")
        except (OSError, http.client.HTTPException) as error:
            if not attempt.done_at:
                self._record_exception(attempt, error)
        finally:
            self._streaming_socket = None
            self._connection.close()

    def read_slowly(
        self, attempt: Attempt, bytes_per_second: float
    ) -> tuple[http.client.HTTPMessage, bytes] | None:
        """Read a long response; return its headers and body, or None if it is not a complete 200.

        The time from the first to the last byte is the attempt's `wait_seconds`.
        """
        if attempt.done_at:
            return None
        body = b""
        try:
            response = self._connection.getresponse()
            head_at = time.monotonic()
            # http.client raises IncompleteRead if the last chunk is missing.
            while part := response.read(_PART_BYTES):
                body += part
                time.sleep(len(part) / bytes_per_second)
        except (OSError, http.client.HTTPException) as error:
            self._record_exception(attempt, error)
            return None
        self._record_response(attempt, response, b"" if response.status == 200 else body)
        reading_seconds = (attempt.done_at or head_at) - head_at
        self.ledger.record_response(attempt, wait_seconds=reading_seconds)
        return (response.headers, body) if response.status == 200 else None

    def interrupt_stream(self) -> None:
        """Let `read_lines` end, also while it waits in another thread for a line."""
        if sock := self._streaming_socket:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    def _record_response(
        self, attempt: Attempt, response: http.client.HTTPResponse, text: bytes
    ) -> None:
        done_at = time.monotonic()
        with suppress(ValueError):
            self.body = json.loads(text)
        members = self.body if isinstance(self.body, dict) else {}
        retry_after = response.headers.get("Retry-After", "")
        items, violations = attempt.items, find_violations(response, text)
        if items and response.status < 300:
            items, more_violations = self._complete_items(items, members.get("items", []))
            violations += more_violations
        self.ledger.record_response(
            attempt,
            status=response.status,
            id=members.get("id"),
            etag=response.headers.get("ETag"),
            error_code=members.get("error"),
            retry_after_seconds=float(retry_after) if retry_after.isdigit() else 0.0,
            is_replay=response.headers.get("Idempotency-Replayed") == "true",
            done_at=done_at,
            items=items,
            violations=[*violations, *self._find_foreign_rows(members)],
        )

    def _complete_items(
        self, items: list[dict[str, Any]], rows: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Add the id and the ETag of each row to its item; return the items and violations."""
        if len(rows) != len(items):
            return items, [f"a response with {len(rows)} rows for {len(items)} items"]
        completed_items, violations = [], []
        for item, row in zip(items, rows, strict=True):
            own_path = f"{self.resource.path}/{row['id']}"
            is_created = "path" not in item and item["operation"] == row[self.resource.title_field]
            if not is_created and item.get("path") != own_path:
                violations.append(f"a response with another row instead of {item}")
            completed_items.append(item | {"id": row["id"], "etag": f'"{row["version"]}"'})
        return completed_items, violations

    def _find_foreign_rows(self, members: dict[str, Any]) -> list[str]:
        own = self.caller.name
        owners = {row.get("owner", own) for row in members.get("items", [members])}
        return [f"{own} was shown a row of {owner}" for owner in owners - {own}]

    def _record_exception(self, attempt: Attempt, error: Exception) -> None:
        self._connection.close()
        name = type(error).__name__
        self.ledger.record_response(attempt, done_at=time.monotonic(), exception=name)

    def _close_if_server_has(self) -> None:
        """Close a connection that the server has closed while it was idle."""
        if self._connection.sock and select.select([self._connection.sock], [], [], 0)[0]:
            self._connection.close()


def _encode(content: Any, content_type: str) -> str:
    if content_type == NDJSON:
        return "".join(f"{json.dumps(item)}\n" for item in content)
    return json.dumps(content)


def find_violations(response: http.client.HTTPResponse, text: bytes) -> list[str]:
    """Return what is wrong with a response; these rules hold under every fault."""
    violations = []
    retry_after = response.headers.get("Retry-After", "")
    if response.status >= 400 and response.headers.get_content_type() != PROBLEM:
        violations.append(f"a {response.status} that is not a problem document")
    if response.status == 503 and not retry_after.isdigit():
        violations.append(f"a 503 whose Retry-After is {retry_after!r}")
    if internals := _INTERNALS.search(text):
        violations.append(f"a {response.status} that contains {internals[0].decode()!r}")
    return violations
