"""What a reader of the change feed received: a file of JSON lines for each reader.

A reader begins with a reading: all rows of its caller, and a cursor. Then it follows the feed. If
its cursor is refused (410 `cursor_gone`), it begins another reading. A line with `rows` begins a
reading; a line with `changes` is a page or an event that followed.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from faults.resource import Resource
from faults.stored import make_row

_ITEM_MEMBERS = frozenset(
    ("id", "version", "operation", "at", "caller", "credential", "request_id", "changed")
)

SINCE_START = 0.0  # `started_at` of a reader that reads the feed from the oldest change


class FeedChange(NamedTuple):
    """An item of the feed; `digest` is that of the row after the change, None after a delete."""

    id: str
    version: int
    operation: str
    request_id: str | None
    digest: str | None


@dataclass
class Reading:
    """`rows` are the version and the digest of each row that a list showed, by id.

    The feed must have all changes that were made after `started_at` (on the monotonic clock).
    `changes` are all that it had since then, and `cursor` is the place where it goes on.
    """

    started_at: float
    cursor: str
    rows: dict[str, tuple[int, str]] = field(default_factory=dict)
    changes: list[FeedChange] = field(default_factory=list)

    def make_copy(self) -> dict[str, tuple[int, str]]:
        """Return the copy that the reader has now: each row's version and digest, by id."""
        copy = dict(self.rows)
        for change in self.changes:
            if change.id in copy and change.version <= copy[change.id][0]:
                continue  # the list was read later than this change was made
            if change.digest is None:
                copy.pop(change.id, None)
            else:
                copy[change.id] = change.version, change.digest
        return copy


@dataclass
class FeedRecord:
    """All readings of a reader whose caller is `caller`."""

    name: str
    caller: str | None
    readings: list[Reading] = field(default_factory=list)

    @property
    def cursor(self) -> str:
        """The place where the feed goes on; empty before the first reading."""
        return self.readings[-1].cursor if self.readings else ""

    @property
    def has_changes(self) -> bool:
        return any(reading.changes for reading in self.readings)


class FeedWriter:
    """Adds lines to the file of one reader; an existing file is continued."""

    def __init__(self, path: Path, caller: str | None, resource: Resource) -> None:
        self._file, self._caller, self._resource = path.open("a", buffering=1), caller, resource

    def begin(self, started_at: float, cursor: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record that a reading begins; `rows` are rows as a list shows them."""
        states = {row["id"]: (row["version"], self._digest(row)) for row in rows}
        self._write(started_at=started_at, cursor=cursor, rows=states)

    def add(self, cursor: str, items: Iterable[Mapping[str, Any]]) -> None:
        """Record items of the feed, and the cursor that follows them."""
        self._write(cursor=cursor, changes=[self._make_change(item) for item in items])

    def close(self) -> None:
        self._file.close()

    def _make_change(self, item: Mapping[str, Any]) -> FeedChange:
        (row_name,) = item.keys() - _ITEM_MEMBERS  # the resource decides how it calls a row
        digest = self._digest(item[row_name]) if item[row_name] else None
        return FeedChange(
            item["id"], item["version"], item["operation"], item["request_id"], digest
        )

    def _digest(self, row: Mapping[str, Any]) -> str:
        return make_row(self._resource, row).digest

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps({"caller": self._caller, **line}) + "\n")


def read_record(path: Path) -> FeedRecord:
    """Read the file of one reader."""
    record = FeedRecord(path.stem, None)
    lines, _, _ = path.read_text().rpartition("\n")  # the last line may be incomplete
    for text in lines.splitlines():
        line = json.loads(text)
        record.caller = line["caller"]
        if "rows" in line:
            rows = {row_id: (version, digest) for row_id, (version, digest) in line["rows"].items()}
            record.readings.append(Reading(line["started_at"], line["cursor"], rows))
        else:
            record.readings[-1].cursor = line["cursor"]
            record.readings[-1].changes += (FeedChange(*values) for values in line["changes"])
    return record
