"""Cursors of a change feed: what a reader has, as snapshots of the database.

No single number can say what a reader has, because transactions commit neither in the order of
`seq` nor in the order of their ids. A snapshot says it exactly. docs/decisions/0024 explains why.

A cursor is base64url over a checksum and a list of integers. Like those of cursors.py, it is not a
secret: a forged cursor only selects changes that the client may read anyway.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from projectapp.problems import ValidationFailed

OUTSIDE_WINDOW = -1

_VERSION = 1
_CHECKSUM_BYTES = 8
_EPOCH_BYTES = 6
MAX_INTEGER = 2**63 - 1  # of PostgreSQL's bigint


class Snapshot(NamedTuple):
    """A snapshot of PostgreSQL: it sees transactions before `xmax` that are not in `running`.

    A transaction before `xmin` is never in `running`.
    """

    xmin: int
    xmax: int
    running: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Parse PostgreSQL's text, such as "10:20:10,14,15"."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(xid) for xid in running.split(",") if xid))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    def sees(self, xid: int) -> bool:
        """Whether it sees a transaction, if that has committed at all."""
        return xid < self.xmax and xid not in self.running


class FeedCursor(NamedTuple):
    """A place in the feed of a resource.

    `epoch`: a hash of the database's identity. Transaction ids have a meaning only in it.
    `seen`: a snapshot as text. The reader has all changes that it sees.
    `seen_seq`: the largest `seq` of the changes that `seen` sees.
    `seen_next_xid`: no transaction with this id or a larger one had begun when `seen` was taken.
    The `xmax` of a snapshot is smaller: it follows the last transaction that has ended, and others
    with larger ids may be running.

    A window has the changes that `until` sees and `seen` does not see. It may have many pages.
    `last_seq`: the reader has the window's changes up to this one; -1 outside a window.
    `until_seq` and `until_next_xid` belong to `until` as `seen_seq` and `seen_next_xid` belong to
    `seen`. At the end of the window, these three become the `seen` ones. Outside a window they are
    None, 0 and 0.
    """

    epoch: str
    seen: str
    seen_seq: int
    seen_next_xid: int
    until: str | None = None
    until_seq: int = 0
    until_next_xid: int = 0
    last_seq: int = OUTSIDE_WINDOW

    def after_window(self) -> "FeedCursor":
        """Return the cursor of a reader that has all changes of the window."""
        return FeedCursor(self.epoch, str(self.until), self.until_seq, self.until_next_xid)

    def encode(self, resource: str) -> str:
        """Return the cursor as text, for the feed of the table with this name."""
        numbers = [_VERSION, int(self.epoch, 16)]
        numbers += _snapshot_numbers(self.seen, self.seen_seq, self.seen_next_xid)
        if self.until is not None:
            numbers.append(self.last_seq)
            numbers += _snapshot_numbers(self.until, self.until_seq, self.until_next_xid)
        raw = _pack(numbers)
        return urlsafe_b64encode(_checksum(raw, resource) + raw).decode().rstrip("=")


# A reader that has no change. 3 is the first transaction id. This cursor is valid in each database.
START = FeedCursor("", "3:3:", 0, 3)


class InvalidFeedCursor(ValidationFailed):
    def __init__(self) -> None:
        message = "Invalid, or of another feed. Send a next_cursor of this feed, or start."
        super().__init__({"since": [message]})


def decode_feed_cursor(text: str, resource: str) -> FeedCursor:
    """Return the encoded cursor. Raises InvalidFeedCursor, also for one of another resource."""
    try:
        numbers = _unpack(urlsafe_b64decode(text + "=" * (-len(text) % 4))[_CHECKSUM_BYTES:])
        next(numbers)  # the version; encoding checks it
        cursor = FeedCursor(f"{next(numbers):0{2 * _EPOCH_BYTES}x}", *_read_snapshot(numbers))
        last_seq = next(numbers, None)
        if last_seq is not None:
            until, until_seq, until_next_xid = _read_snapshot(numbers)
            cursor = FeedCursor(*cursor[:4], until, until_seq, until_next_xid, last_seq)
    except (ValueError, StopIteration):
        raise InvalidFeedCursor from None
    # Encoding it again must give the same text: that checks version, checksum and spelling.
    if cursor.encode(resource) != text:
        raise InvalidFeedCursor
    return cursor


def format_epoch(*identity: Any) -> str:
    """Return a short hash of what identifies the database."""
    content = repr(identity).encode()
    return hashlib.blake2b(content, digest_size=_EPOCH_BYTES).hexdigest()


def _snapshot_numbers(text: str, seq: int, next_xid: int) -> list[int]:
    """Encode the snapshot's ids as differences, which are small."""
    snapshot = Snapshot.parse(text)
    ids = [snapshot.xmin, *snapshot.running, snapshot.xmax, next_xid]
    differences = [after - before for before, after in pairwise(ids)]
    return [seq, snapshot.xmin, len(snapshot.running), *differences]


def _read_snapshot(numbers: Iterator[int]) -> tuple[str, int, int]:
    seq, xmin, count = next(numbers), next(numbers), next(numbers)
    ids = [xmin]
    for _ in range(count + 2):
        ids.append(ids[-1] + next(numbers))
    *running, xmax, next_xid = ids[1:]
    if not 0 < xmin <= next_xid <= MAX_INTEGER:
        raise ValueError
    return str(Snapshot(xmin, xmax, tuple(running))), seq, next_xid


def _pack(numbers: Iterable[int]) -> bytes:
    """Encode integers from 0 as LEB128: seven bits in each byte, the lowest ones first."""
    packed = bytearray()
    for number in numbers:
        while number > 0x7F:
            packed.append(number & 0x7F | 0x80)
            number >>= 7
        packed.append(number)
    return bytes(packed)


def _unpack(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if number > MAX_INTEGER:
            raise ValueError
        if byte < 0x80:
            yield number
            number = shift = 0
    if shift:
        raise ValueError


def _checksum(raw: bytes, resource: str) -> bytes:
    key = resource.encode()[:64]
    return hashlib.blake2b(raw, key=key, digest_size=_CHECKSUM_BYTES, person=b"feed").digest()
