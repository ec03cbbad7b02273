"""What one client does all day: every kind of write and read, at random, each in the ledger.

An operation's name is also its marker: the name of a project it creates, the description that it
changes one to, the tag that it appends. So what is stored says which operations took effect.
"""

import random
import time
from collections.abc import Callable, Mapping
from threading import Event

from faults.client import PROJECTS, Client
from faults.ledger import Attempt

OWN = 40  # rows that a client remembers
LIST_LENGTH = 900  # tags that fit into a project's attributes
AFTER_STOP = 6.0  # seconds in which a stopped client still asks what became of its last create
FINAL = (401, 412)  # there is nothing to wait for
_THINK = 0.008  # seconds between operations, on average
_PATIENCE = 1.0  # the longest Retry-After that is honoured in full, in seconds


def create_body(marker: str) -> dict[str, object]:
    """A create's body: the same for each attempt, since the same key must mean the same body."""
    return {"name": marker, "description": marker, "attributes": {"made": marker}}


class Worker:
    """One client thread's work; `lists` are the ids of the rows that all of its caller append to.

    `foreign` are those of other callers.

    It has two connections, of which the second is for what is asked twice at once.
    """

    def __init__(
        self,
        pair: tuple[Client, Client],
        name: str,
        lists: list[str],
        foreign: list[str],
        stop: Event,
        seed: int,
    ) -> None:
        self.pair, self.name, self.lists, self.foreign, self.stop = pair, name, lists, foreign, stop
        self.client = pair[0]
        self.random = random.Random(f"{seed}{name}")  # noqa: S311 - no secret
        self.rows: dict[str, tuple[str, str]] = {}  # id: its ETag and its description
        self.deleted: list[str] = []
        self._count = 0

    def run(self, weights: Mapping[str, int]) -> None:
        """Work until `stop` is set; `weights` says how often each method of OPERATIONS is due."""
        names = list(weights)
        while not self.stop.is_set():
            (name,) = self.random.choices(names, list(weights.values()))
            attempt = OPERATIONS[name](self)
            if attempt is not None and attempt.outcome != "ok" and attempt.status not in FINAL:
                self._wait(attempt)
            time.sleep(self.random.uniform(0, 2 * _THINK))

    def marker(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    def create(self) -> Attempt:
        """Create without a key: one attempt, whatever comes of it."""
        op = self.marker()
        attempt = self.client.send("create", op, "POST", PROJECTS, create_body(op))
        return self._created(attempt)

    def create_keyed(self) -> Attempt:
        """Create with a key, again and again until somebody says what became of it."""
        op = self.marker()
        last = None
        while True:
            attempt = self.client.send("create", op, "POST", PROJECTS, create_body(op), key=op)
            if attempt.outcome == "ok" or attempt.status in (400, 413, 415, 422):
                return self._created(attempt)
            self._wait(attempt)
            if self.stop.is_set():
                last = last or time.monotonic() + AFTER_STOP
                if time.monotonic() > last:
                    return attempt

    def create_twice(self) -> Attempt:
        """Create with one key on two connections at once."""
        op = self.marker()
        more = {"content": create_body(op), "key": op}
        both = [(one, one.begin("create", op, "POST", PROJECTS, **more)) for one in self.pair]
        for client, attempt in both:
            client.finish(attempt)
        won = [attempt for _, attempt in both if attempt.outcome == "ok"]
        return self._created(won[0] if won else both[0][1])

    def append(self) -> Attempt | None:
        """Append a tag to a shared list by reading it and changing exactly what was read."""
        op, path = self.marker(), f"{PROJECTS}/{self.random.choice(self.lists)}"
        read = self.client.send("read", op, "GET", path)
        if read.outcome != "ok":
            return read
        tags = self.client.body["attributes"]["tags"]
        if len(tags) >= LIST_LENGTH:
            return None
        method = self.random.choice(["PATCH", "PUT"])
        content = {"attributes": {"tags": [*tags, op]}}
        return self.client.send("append", op, method, path, content, if_match=read.etag)

    def change(self) -> Attempt | None:
        """Change a row of its own, which nobody else changes."""
        if not self.rows:
            return None
        op, row = self.marker(), self.random.choice(list(self.rows))
        etag, _ = self.rows.pop(row)
        content = {"description": op}
        attempt = self.client.send("change", op, "PUT", f"{PROJECTS}/{row}", content, if_match=etag)
        if attempt.outcome == "ok":
            self.rows[row] = (attempt.etag or "", op)
        return attempt

    def delete(self) -> Attempt | None:
        """Delete a row of its own, half of the times only at the version it knows."""
        if not self.rows:
            return None
        op, row = self.marker(), self.random.choice(list(self.rows))
        etag, _ = self.rows.pop(row)
        known = etag if self.random.random() < 0.5 else None
        attempt = self.client.send("delete", op, "DELETE", f"{PROJECTS}/{row}", if_match=known)
        if attempt.outcome == "ok":
            self.deleted = [row, *self.deleted[:OWN]]
        return attempt

    def read(self) -> Attempt | None:
        """Read a row of its own, or one that it deleted: it must see what it was told."""
        op = self.marker()
        if self.deleted and self.random.random() < 0.3:
            row = self.random.choice(self.deleted)
            attempt = self.client.send("read", op, "GET", f"{PROJECTS}/{row}")
            if attempt.status == 200:
                self.client.ledger.note(attempt, f"{row} was deleted and is read again")
            return attempt if attempt.status != 404 else None
        if not self.rows:
            return None
        row = self.random.choice(list(self.rows))
        etag, description = self.rows[row]
        attempt = self.client.send("read", op, "GET", f"{PROJECTS}/{row}")
        told = attempt.etag, (self.client.body or {}).get("description")
        if attempt.status == 404 or (attempt.status == 200 and told != (etag, description)):
            self.client.ledger.note(attempt, f"{row} is not what its writer was told it is")
        return attempt

    def trespass(self) -> Attempt | None:
        """Ask for another caller's row, which must not be there, or change or delete it."""
        op, path = self.marker(), f"{PROJECTS}/{self.random.choice(self.foreign)}"
        method = self.random.choice(["GET", "PUT", "DELETE"])
        content = {"description": op} if method == "PUT" else None
        known = None if method == "GET" else self.random.choice([None, '"1"'])
        attempt = self.client.send("trespass", op, method, path, content, if_match=known)
        return attempt if attempt.failed else None

    def _created(self, attempt: Attempt) -> Attempt:
        if attempt.outcome == "ok" and attempt.id and len(self.rows) < OWN:
            self.rows[attempt.id] = (attempt.etag or "", attempt.op)
        return attempt

    def _wait(self, attempt: Attempt) -> None:
        seconds = min(attempt.wait, _PATIENCE) or 0.1
        time.sleep(seconds * self.random.uniform(0.5, 1))


OPERATIONS: dict[str, Callable[[Worker], Attempt | None]] = {
    "create": Worker.create,
    "create_keyed": Worker.create_keyed,
    "create_twice": Worker.create_twice,
    "append": Worker.append,
    "change": Worker.change,
    "delete": Worker.delete,
    "read": Worker.read,
    "trespass": Worker.trespass,
}
MIXED = {
    "create": 20,
    "create_keyed": 30,
    "create_twice": 4,
    "append": 25,
    "change": 8,
    "delete": 5,
    "read": 10,
}
