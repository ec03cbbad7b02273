"""A client that sends every kind of write and read at random, and records each in the ledger.

The name of an operation is also its marker. A create, a change and an append write it into the row,
so the stored rows show which operations took effect.
"""

import random
import time
from collections.abc import Callable, Mapping
from threading import Event

from faults.client import Client
from faults.ledger import Attempt

OWN_ROWS = 40  # so many rows a writer remembers
STOP_SECONDS = 6.0  # so long a stopped writer retries its last keyed create
_FINAL_STATUSES = (401, 412)  # there is no reason to wait before the next request
_PAUSE_SECONDS = 0.008  # between operations, on average
_LONGEST_WAIT_SECONDS = 1.0  # a longer Retry-After is shortened to this


class Writer:
    """The work of one client thread.

    All writers of a caller append to the rows `shared_ids`. `foreign_ids` belong to other callers.
    The writer has two connections; it needs the second one to send a create twice at once.
    """

    def __init__(
        self,
        clients: tuple[Client, Client],
        name: str,
        shared_ids: list[str],
        foreign_ids: list[str],
        stop: Event,
        seed: int,
    ) -> None:
        self.clients, self.client, self.resource = clients, clients[0], clients[0].resource
        self.name, self.shared_ids, self.foreign_ids = name, shared_ids, foreign_ids
        self.stop = stop
        self.random = random.Random(f"{seed}{name}")  # noqa: S311 - no secret
        self.rows: dict[str, tuple[str, str]] = {}  # id: the ETag and the marker in its text
        self.deleted_ids: list[str] = []
        self._count = 0

    def run(self, weights: Mapping[str, int]) -> None:
        """Work until `stop` is set; `weights` says how often each operation (method) is chosen."""
        names = list(weights)
        while not self.stop.is_set():
            (name,) = self.random.choices(names, list(weights.values()))
            attempt: Attempt | None = getattr(self, name)()
            if attempt and attempt.outcome != "ok" and attempt.status not in _FINAL_STATUSES:
                self._wait(attempt)
            time.sleep(self.random.uniform(0, 2 * _PAUSE_SECONDS))

    def new_marker(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    def create(self) -> Attempt:
        """Create a row without a key, in one attempt."""
        return self._remember(self.client.create(self.new_marker()))

    def create_keyed(self) -> Attempt:
        """Create a row with a key; repeat the request until the outcome is known."""
        marker = self.new_marker()
        return self._repeat(lambda: self.client.create(marker, key=marker))

    def _repeat(self, send: Callable[[], Attempt]) -> Attempt:
        """Send a create with a key, and repeat it until its outcome is known."""
        deadline = None
        while True:
            attempt = send()
            if attempt.outcome == "ok" or attempt.status in (400, 413, 415, 422):
                return self._remember(attempt)
            self._wait(attempt)
            if self.stop.is_set():
                deadline = deadline or time.monotonic() + STOP_SECONDS
                if time.monotonic() > deadline:
                    return attempt

    def create_twice(self) -> Attempt:
        """Create a row with the same key on two connections at once."""
        marker = self.new_marker()
        body = self.resource.create_body(marker)
        attempts = [
            client.begin("create", marker, "POST", client.create_path, body, key=marker)
            for client in self.clients
        ]
        for client, attempt in zip(self.clients, attempts, strict=True):
            client.finish(attempt)
        return self._remember(next((a for a in attempts if a.outcome == "ok"), attempts[0]))

    def append(self) -> Attempt:
        """Append a tag to a shared row: read it, and change it only if it is still the same."""
        marker, row_id = self.new_marker(), self.random.choice(self.shared_ids)
        read, tags = self._read_tags(marker, row_id)
        if tags is None:
            return read
        method = self.random.choice(["PATCH", "PUT"])
        content = self.resource.tags_body([*tags, marker])
        return self.client.send("append", marker, method, read.path, content, if_match=read.etag)

    def _read_tags(self, marker: str, row_id: str) -> tuple[Attempt, list[str] | None]:
        """Read a shared row; return its tags, or None without an answer or without room."""
        read = self.client.send("read", marker, "GET", self._path(row_id))
        if read.outcome != "ok":
            return read, None
        tags = self.resource.read_tags(self.client.body)
        if tags is None:
            self.client.ledger.add_violation(read, f"{read.path} has lost its tags")
        elif len(tags) < self.resource.max_tags:
            return read, tags
        return read, None

    def change(self) -> Attempt | None:
        """Change a row of this writer, which no other client changes."""
        if not self.rows:
            return None
        marker, row_id = self.new_marker(), self.random.choice(list(self.rows))
        etag, _ = self.rows.pop(row_id)
        content = {self.resource.text_field: marker}
        path = self._path(row_id)
        attempt = self.client.send("change", marker, "PUT", path, content, if_match=etag)
        if attempt.outcome == "ok":
            self.rows[row_id] = (attempt.etag or "", marker)
        return attempt

    def delete(self) -> Attempt | None:
        """Delete a row of this writer, in half of the cases with If-Match."""
        if not self.rows:
            return None
        marker, row_id = self.new_marker(), self.random.choice(list(self.rows))
        etag, _ = self.rows.pop(row_id)
        if_match = etag if self.random.random() < 0.5 else None
        path = self._path(row_id)
        attempt = self.client.send("delete", marker, "DELETE", path, if_match=if_match)
        if attempt.outcome == "ok":
            self.deleted_ids = [row_id, *self.deleted_ids[:OWN_ROWS]]
        return attempt

    def read(self) -> Attempt | None:
        """Read a row that this writer created or deleted; it must be as acknowledged."""
        marker = self.new_marker()
        if self.deleted_ids and self.random.random() < 0.3:
            row_id = self.random.choice(self.deleted_ids)
            attempt = self.client.send("read", marker, "GET", self._path(row_id))
            if attempt.status == 200:
                self.client.ledger.add_violation(attempt, f"{row_id} was deleted and is back")
            return attempt if attempt.status != 404 else None
        if not self.rows:
            return None
        row_id = self.random.choice(list(self.rows))
        attempt = self.client.send("read", marker, "GET", self._path(row_id))
        state = attempt.etag, (self.client.body or {}).get(self.resource.text_field)
        if attempt.status == 404 or (attempt.status == 200 and state != self.rows[row_id]):
            sentence = f"{row_id} is not as its writer's last response showed it"
            self.client.ledger.add_violation(attempt, sentence)
        return attempt

    def trespass(self) -> Attempt | None:
        """Read, change or delete another caller's row; for this caller it must not exist."""
        marker, row_id = self.new_marker(), self.random.choice(self.foreign_ids)
        path, if_match = self._path(row_id), self.random.choice([None, '"1"'])
        text: dict[str, object] = {self.resource.text_field: marker}
        method, path, content, if_match = self.random.choice(
            [
                ("GET", path, None, None),
                ("PUT", path, text, if_match),
                ("DELETE", path, None, if_match),
                ("PATCH", self.resource.path, [{"id": row_id} | text], None),
            ]
        )
        attempt = self.client.send("trespass", marker, method, path, content, if_match=if_match)
        return attempt if attempt.is_server_failure else None

    def _path(self, row_id: str) -> str:
        return f"{self.resource.path}/{row_id}"

    def _remember(self, attempt: Attempt) -> Attempt:
        for part in attempt.split():
            if part.outcome == "ok" and part.id and len(self.rows) < OWN_ROWS:
                self.rows[part.id] = (part.etag or "", part.operation)
        return attempt

    def _wait(self, attempt: Attempt) -> None:
        seconds = min(attempt.retry_after_seconds, _LONGEST_WAIT_SECONDS) or 0.1
        time.sleep(seconds * self.random.uniform(0.5, 1))
