"""The ledger: what clients asked, written before they asked, and what they were told.

A file of JSON lines for each client, outside the service. An attempt is two lines, the second with
what came back; a later line with the same number `n` adds a flaw that only the client could see.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

WRITES = frozenset({"create", "append", "change", "delete"})


@dataclass
class Attempt:
    """One request. Times are seconds of the machine's monotonic clock.

    `op` names the operation, which is several attempts when it is retried, and is also the unique
    marker that the operation leaves in what it writes.
    """

    n: int
    op: str
    kind: str  # one of WRITES, or read, walk, probe, trespass, revoke
    method: str
    path: str
    sent: float
    key: str | None = None
    if_match: str | None = None
    caller: str | None = None  # who asks: the owner of what they make
    token: str = ""  # that was shown, or, by a `revoke`, ended
    status: int | None = None
    id: str | None = None
    etag: str | None = None
    code: str | None = None  # the problem document's `error`
    wait: float = 0.0  # Retry-After
    replayed: bool = False
    done: float | None = None
    failure: str = ""  # the exception's name, where there was no answer
    flaws: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """ok, fail (it must have had no effect) or info (nobody told)."""
        if self.status is None:
            return "fail" if self.failure == "ConnectionRefusedError" else "info"
        if self.status == 503:
            return "info" if self.code == "outcome_unknown" else "fail"
        if self.status >= 500:
            return "info"
        return "fail" if self.status >= 400 else "ok"

    @property
    def failed(self) -> bool:
        """Whether no answer came, or one that says that the server could not."""
        return self.status is None or self.status >= 500

    @property
    def version(self) -> int:
        """The version that the ETag names; 0 without one."""
        return int((self.etag or "").strip('"') or 0)

    @property
    def is_write(self) -> bool:
        return self.kind in WRITES

    @property
    def seconds(self) -> float:
        """From sending to the answer; 0 when none came."""
        return self.done - self.sent if self.done and self.status else 0.0


class Ledger:
    """Writes one client's file; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = Lock()
        self._count = 0

    def before(self, **known: Any) -> Attempt:
        with self._lock:
            self._count += 1
            attempt = Attempt(n=self._count, **known)
        told = {name: value for name, value in vars(attempt).items() if value not in (None, [])}
        self._write(told)
        return attempt

    def after(self, attempt: Attempt, **learnt: Any) -> None:
        for name, value in learnt.items():
            setattr(attempt, name, value)
        self._write({"n": attempt.n, **learnt})

    def note(self, attempt: Attempt, flaw: str) -> None:
        attempt.flaws.append(flaw)
        self._write({"n": attempt.n, "flaws": attempt.flaws})

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(line) + "\n")


def read(folder: Path) -> list[Attempt]:
    """All attempts in the ledgers of a folder, by the time they were sent."""
    names = {one.name for one in fields(Attempt)}
    found: list[Attempt] = []
    for path in sorted(folder.glob("*.jsonl")):
        lines: dict[int, dict[str, Any]] = {}
        for text in path.read_text().splitlines():
            line = json.loads(text)
            lines.setdefault(line["n"], {}).update(line)
        found += (Attempt(**line) for line in lines.values() if names.issuperset(line))
    return sorted(found, key=lambda attempt: attempt.sent)


def longest_gap(attempts: Iterable[Attempt]) -> float:
    """The longest time between two acknowledged writes, in seconds."""
    told = sorted(one.done or 0 for one in attempts if one.is_write and one.outcome == "ok")
    return max((after - before for before, after in pairwise(told)), default=0.0)


def operations(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    """The attempts by their operation."""
    found: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault(attempt.op, []).append(attempt)
    return found


def outcome(attempts: Iterable[Attempt]) -> str:
    """What is known of an operation: one ok is ok, else one info is info, else fail."""
    seen = {attempt.outcome for attempt in attempts}
    return next((word for word in ("ok", "info") if word in seen), "fail")
