"""Pages of any ordered list: cursors, the condition that goes on from one, Link headers (RFC 8288).

A cursor is base64url over a checksum and the JSON array of its version, its direction and the sort
values of the row it stands at. The checksum covers the list's scope too (its order and filters), so
that a cursor that was altered, or is of another list, is told from a good one. It is no secret.
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

LINK_BYTES = 2048  # of a Link header, since stock proxies refuse a long head

_VERSION = 1
_CHECKSUM = 8  # bytes


class Position(NamedTuple):
    """Right behind the row of these sort values or, if `backward`, right before it."""

    values: list[Any]
    backward: bool = False


class InvalidCursor(ValidationFailed):
    def __init__(self) -> None:
        super().__init__({"cursor": ["Not a cursor of this list, its order, filters and search."]})


def encode(position: Position, scope: Any) -> str:
    content = json.dumps([_VERSION, position.backward, *position.values], ensure_ascii=False)
    raw = content.encode()
    return urlsafe_b64encode(_checksum(raw, scope) + raw).decode().rstrip("=")


def decode(cursor: str, scope: Any) -> Position:
    """Return the position that `encode` was given; InvalidCursor if it was not for this scope."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        _, backward, *values = parse_json(raw[_CHECKSUM:])
    except (ValueError, TypeError):
        raise InvalidCursor from None
    position = Position(values, backward)
    # Encoded anew, neither the version nor the checksum nor the spelling may differ.
    if not isinstance(backward, bool) or encode(position, scope) != cursor:
        raise InvalidCursor
    return position


def _checksum(raw: bytes, scope: Any) -> bytes:
    bound = json.dumps(scope, sort_keys=True, default=str).encode()
    return hashlib.blake2b(raw, key=hashlib.sha256(bound).digest(), digest_size=_CHECKSUM).digest()


def beyond(
    keys: Sequence[tuple[sa.ColumnElement[Any], bool]], values: Sequence[Any]
) -> sa.ColumnElement[bool]:
    """The condition for rows after `values` in the order of `keys`, columns that are never null.

    Each key is a column and whether it descends. One row-value comparison where all directions
    agree; else its expansion, led by a bound that an index on the first key can use.
    """
    columns = [column for column, _ in keys]
    descends = keys[0][1]
    if all(down == descends for _, down in keys):
        row, bound = sa.tuple_(*columns), sa.tuple_(*values)
        return row < bound if descends else row > bound
    after: Any = sa.false()
    for (column, down), value in reversed(list(zip(keys, values, strict=True))):
        past = column < value if down else column > value
        after = sa.or_(past, sa.and_(column == value, after))
    first = columns[0] <= values[0] if descends else columns[0] >= values[0]
    return sa.and_(first, after)


def link_header(
    path: str,
    query: Iterable[tuple[str, str]],
    page: int | None,
    before: str | None,
    after: str | None,
) -> str:
    """Return the Link header of a page, which has a number or was found by a cursor.

    `before` and `after` are the cursors of its neighbours; all other parameters of `query` stay. A
    link that would make the header too long is left out: first before prev, and prev before next.
    """
    places = {"first": "page=1"}
    if before:
        places["prev"] = f"cursor={before}"
    elif page and page > 1:
        places["prev"] = f"page={page - 1}"
    if after:
        places["next"] = f"cursor={after}"
    kept = urlencode([pair for pair in query if pair[0] not in ("page", "cursor")])
    start = f"<{path}?{kept}{'&' if kept else ''}"
    links = {name: f'{start}{place}>; rel="{name}"' for name, place in places.items()}
    bytes_left = LINK_BYTES - len("Link: ")
    for name in ("next", "prev", "first"):
        if len(links.get(name, "")) > bytes_left:
            del links[name]
        elif name in links:
            bytes_left -= len(links[name]) + len(", ")
    return ", ".join(links.values())
