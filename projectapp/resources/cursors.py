"""Keyset pagination: cursors, their WHERE condition, and Link headers (RFC 8288).

A cursor is base64url over a checksum and a JSON array: its version, its direction, and the sort
values of a row. The checksum also covers the list: its resource, sort, filters and search. So a
cursor that was modified, or that belongs to another list, is refused. The checksum is not a secret:
a forged cursor only addresses a position in a list that the client may read anyway.
"""

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import sqlalchemy as sa

from projectapp.problems import ValidationFailed
from projectapp.strict_json import parse_json

MAX_LINK_BYTES = 2048  # common proxies refuse responses with a long head

_VERSION = 1
_CHECKSUM_BYTES = 8
# json.dumps() would make a new encoder for each call with these options.
_encode_content = json.JSONEncoder(ensure_ascii=False).encode
_encode_key = json.JSONEncoder(sort_keys=True, default=str).encode


class Position(NamedTuple):
    """A place in a list: just after the row with these sort values, or just before it."""

    sort_values: list[Any]
    is_backward: bool = False


class InvalidCursor(ValidationFailed):
    def __init__(self) -> None:
        message = "Invalid, or of another list, sort, filter or search. Read the first page again."
        super().__init__({"cursor": [message]})


def encode_cursor(position: Position, list_key: Any) -> str:
    """Encode a position in the list that `list_key`, a JSON value, identifies."""
    content = [_VERSION, position.is_backward, *position.sort_values]
    raw = _encode_content(content).encode()
    return urlsafe_b64encode(_checksum(raw, list_key) + raw).decode().rstrip("=")


def decode_cursor(cursor: str, list_key: Any) -> Position:
    """Return the encoded position. Raises InvalidCursor, also for a cursor of another list."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        _, is_backward, *sort_values = parse_json(raw[_CHECKSUM_BYTES:])
    except (ValueError, TypeError):
        raise InvalidCursor from None
    position = Position(sort_values, is_backward)
    # Encoding it again must give the same text: that checks version, checksum and spelling.
    if not isinstance(is_backward, bool) or encode_cursor(position, list_key) != cursor:
        raise InvalidCursor
    return position


def _checksum(raw: bytes, list_key: Any) -> bytes:
    key = hashlib.sha256(_encode_key(list_key).encode()).digest()
    return hashlib.blake2b(raw, key=key, digest_size=_CHECKSUM_BYTES).digest()


def rows_after(
    keys: Sequence[tuple[sa.ColumnElement[Any], bool]], values: Sequence[Any]
) -> sa.ColumnElement[bool]:
    """Return the condition for rows after `values` in the order of `keys`, which are never null.

    A key is a column and whether it descends. If all keys have the same direction, the condition
    compares rows; otherwise it is the expansion into AND and OR, with a bound on the first column
    so that an index can be used.
    """
    columns = [column for column, _ in keys]
    first_descends = keys[0][1]
    if all(descends == first_descends for _, descends in keys):
        row, bound_row = sa.tuple_(*columns), sa.tuple_(*values)
        return row < bound_row if first_descends else row > bound_row
    tail: Any = sa.false()
    for (column, descends), value in reversed(list(zip(keys, values, strict=True))):
        is_after = column < value if descends else column > value
        tail = sa.or_(is_after, sa.and_(column == value, tail))
    index_bound = columns[0] <= values[0] if first_descends else columns[0] >= values[0]
    return sa.and_(index_bound, tail)


def link_header(
    path: str,
    query: Iterable[tuple[str, str]],
    page: int | None,
    previous_cursor: str | None,
    next_cursor: str | None,
) -> str:
    """Return the Link header of a page that was requested by its number or by a cursor.

    The links keep all other parameters of `query`. A link that would make the header longer than
    MAX_LINK_BYTES is left out: `first` before `prev`, and `prev` before `next`.
    """
    targets = {"first": "page=1"}
    if previous_cursor:
        targets["prev"] = f"cursor={previous_cursor}"
    elif page and page > 1:
        targets["prev"] = f"page={page - 1}"
    if next_cursor:
        targets["next"] = f"cursor={next_cursor}"
    other_parameters = urlencode([pair for pair in query if pair[0] not in ("page", "cursor")])
    start = f"<{path}?{other_parameters}{'&' if other_parameters else ''}"
    links = {name: f'{start}{target}>; rel="{name}"' for name, target in targets.items()}
    bytes_left = MAX_LINK_BYTES - len("Link: ")
    for name in ("next", "prev", "first"):
        if len(links.get(name, "")) > bytes_left:
            del links[name]
        elif name in links:
            bytes_left -= len(links[name]) + len(", ")
    return ", ".join(links.values())
