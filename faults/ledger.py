"""The ledger: what clients sent, written before they sent it, and what they received.

Each client has a file of JSON lines. An attempt is two lines: the request, then the response. A
later line with the same number adds what only the client could see, such as a violation.

A request for many rows is one attempt with `items`. The checks of rows need an attempt for each
row: `split_items` makes these.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Literal

WRITES = frozenset({"create", "append", "change", "delete"})
Outcome = Literal["ok", "fail", "info"]


@dataclass
class Attempt:
    """One request and its response. Times are seconds of the monotonic clock.

    `operation` is a unique name. A retry is another attempt of the same operation. It is also the
    marker that the operation writes into a row.
    """

    number: int
    operation: str
    kind: str  # one of WRITES, or read, walk, feed, export, probe, trespass, revoke, hostile
    method: str
    path: str
    sent_at: float
    key: str | None = None  # the Idempotency-Key
    if_match: str | None = None
    caller: str | None = None  # the owner of the rows that this client creates
    request_id: str = ""  # of the X-Request-ID that the client sent
    # How long a long poll may wait for a change, or how long a client reads a response on purpose.
    wait_seconds: float = 0.0
    content_type: str = ""  # of a request for many rows
    # The rows of a request for many: for each row the fields of Attempt that differ from the
    # request's, such as `operation` (its marker), `path`, `if_match`, `id` and `etag`.
    items: list[dict[str, Any]] = field(default_factory=list)
    token: str = ""  # the request's token; of kind "revoke": the revoked one
    status: int | None = None
    id: str | None = None
    etag: str | None = None
    error_code: str | None = None  # the problem document's `error`
    retry_after_seconds: float = 0.0
    is_replay: bool = False
    done_at: float | None = None
    exception: str = ""  # its name, if there was no response
    violations: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """ok: it took effect. fail: it must have no effect. info: the client cannot know."""
        if self.status is None:
            return "fail" if self.exception == "ConnectionRefusedError" else "info"
        if self.status == 503:
            return "info" if self.error_code == "outcome_unknown" else "fail"
        if self.status >= 500:
            return "info"
        return "fail" if self.status >= 400 else "ok"

    @property
    def is_server_failure(self) -> bool:
        """Whether there was no response, or a 5xx."""
        return self.status is None or self.status >= 500

    @property
    def version(self) -> int:
        """The version in the ETag; 0 without one."""
        return int((self.etag or "").strip('"') or 0)

    @property
    def is_write(self) -> bool:
        return self.kind in WRITES

    @property
    def is_acknowledged_write(self) -> bool:
        return self.is_write and self.outcome == "ok"

    @property
    def duration_seconds(self) -> float:
        """From the request to the response, less the wait; 0 without a response."""
        if not self.done_at or not self.status:
            return 0.0
        return max(self.done_at - self.sent_at - self.wait_seconds, 0.0)

    def split(self) -> "list[Attempt]":
        """Return an attempt for each item; the attempt itself if it is for one row."""
        if not self.items:
            return [self]
        parts = [replace(self, items=[], violations=[], **item) for item in self.items]
        parts[0].violations = self.violations
        return parts


class Ledger:
    """Writes one file; several threads may share it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = Lock()
        self._count = 0

    def record_request(self, **values: Any) -> Attempt:
        """Start an attempt; `values` are fields of Attempt."""
        with self._lock:
            self._count += 1
            attempt = Attempt(number=self._count, **values)
        self._write({k: v for k, v in vars(attempt).items() if v not in (None, [])})
        return attempt

    def record_response(self, attempt: Attempt, **values: Any) -> None:
        """Complete an attempt; `values` are fields of Attempt."""
        for name, value in values.items():
            setattr(attempt, name, value)
        self._write({"number": attempt.number, **values})

    def add_violation(self, attempt: Attempt, sentence: str) -> None:
        attempt.violations.append(sentence)
        self._write({"number": attempt.number, "violations": attempt.violations})

    def close(self) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(line) + "\n")


def read_attempts(folder: Path) -> list[Attempt]:
    """Read all attempts of the ledgers in a folder, in the order in which they were sent."""
    names = {field.name for field in fields(Attempt)}
    attempts: list[Attempt] = []
    for path in sorted(folder.glob("*.jsonl")):
        lines: dict[int, dict[str, Any]] = {}
        for text in path.read_text().splitlines():
            line = json.loads(text)
            lines.setdefault(line["number"], {}).update(line)
        attempts += (Attempt(**line) for line in lines.values() if names.issuperset(line))
    return sorted(attempts, key=lambda attempt: attempt.sent_at)


def split_items(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return an attempt for each row of each request."""
    return [part for attempt in attempts for part in attempt.split()]


def longest_write_gap(attempts: Iterable[Attempt]) -> float:
    """Return the longest time between two acknowledged writes, in seconds."""
    times = sorted(attempt.done_at or 0 for attempt in attempts if attempt.is_acknowledged_write)
    return max((after - before for before, after in pairwise(times)), default=0.0)


def group_by_operation(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    operations: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        operations.setdefault(attempt.operation, []).append(attempt)
    return operations


def operation_outcome(attempts: Iterable[Attempt]) -> Outcome:
    """Return "ok" if an attempt of the operation was, else "info" if one was, else "fail"."""
    outcomes = {attempt.outcome for attempt in attempts}
    return next((outcome for outcome in ("ok", "info") if outcome in outcomes), "fail")
