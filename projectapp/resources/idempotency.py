"""Idempotency-Key: the same POST again has one effect and gets the first answer again.

As draft-ietf-httpapi-idempotency-key-header-07 has it, for what creates one row. The key's row and
its effect are written by one statement, so they commit together or not at all, and no key is ever
left behind by a request that failed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from flask import request
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from projectapp import database
from projectapp.auth import current_owner
from projectapp.database import Row, db
from projectapp.http.headers import IDEMPOTENCY_KEY_LENGTH as KEY_LENGTH
from projectapp.problems import BadRequest, Conflict, IdempotencyKeyReused, LockTimeout
from projectapp.request_state import request_state

_KEPT = "interval '24 hours'"
_SWEPT = 2  # expired keys that go with each new one: more than come, and nothing one would notice


class IdempotencyKey(db.Model):  # type: ignore[name-defined,misc]
    """A key and the answer it got; `scope` is the caller whose key it is, "" while AUTH is none."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(KEY_LENGTH), primary_key=True)
    fingerprint: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), index=True)
    id: Mapped[UUID]
    version: Mapped[int]
    body: Mapped[str] = mapped_column(sa.Text)


class IdempotencyClaim(NamedTuple):
    """What makes two requests the same one."""

    scope: str
    key: str
    fingerprint: bytes


def read_claim() -> IdempotencyClaim | None:
    """The claim of the current request, whose body is read; None without an Idempotency-Key.

    Raises BadRequest unless the key has 1 to 255 printable ASCII characters, bare or as a quoted
    string (RFC 9651, 3.3.3), which is the same key.
    """
    value = request.headers.get("Idempotency-Key")
    if value is None:
        return None
    bare = value.strip()
    quoted = re.fullmatch(r'"((?:[^"\\]|\\["\\])*)"', bare)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else bare
    if not re.fullmatch(rf"[ -~]{{1,{KEY_LENGTH}}}", key) or (bare[0] == '"' and not quoted):
        raise BadRequest(
            f"Idempotency-Key must be 1 to {KEY_LENGTH} printable ASCII characters, bare or quoted."
        )
    # As it was sent: what is loaded of it may be more in the next release.
    parts: list[Any] = [request.method, str(request.url_rule), request_state().raw_body]
    if request.view_args:  # a create below /projects/A differs from one below /projects/B
        parts.append(request.view_args)
    canonical = json.dumps(parts, sort_keys=True, default=str)
    return IdempotencyClaim(current_owner() or "", key, hashlib.sha256(canonical.encode()).digest())


def build_idempotent_insert(
    table: sa.Table, given: frozenset[str], render: Callable[[Any], sa.ColumnElement[str]]
) -> sa.Select[Any]:
    """The statement that inserts a row unless its claim has been answered.

    `given` names the columns that have parameters; the others get their server's defaults.
    `render` makes the answer's text of a row's columns.
    """
    keys: Any = IdempotencyKey.__table__
    mine = (keys.c.scope == sa.bindparam("scope"), keys.c.key == sa.bindparam("key"))
    columns = [c for c in table.c if not c.computed]
    row = sa.select(*(_value(c, c.key in given) for c in columns)).cte("row")
    new = insert(keys).from_select(
        ["scope", "key", "fingerprint", "created_at", "id", "version", "body"],
        sa.select(
            *(_value(c, True) for c in (keys.c.scope, keys.c.key, keys.c.fingerprint)),
            sa.func.now(),
            row.c.id,
            row.c.version,
            render(row.c),
        ),
    )
    answer = (keys.c.id, keys.c.version, keys.c.body, keys.c.fingerprint)
    replaced = {c.key: new.excluded[c.key] for c in keys.c if not c.primary_key}
    claimed = (
        new.on_conflict_do_update(
            index_elements=[*keys.primary_key], set_=replaced, where=_is_old(keys)
        )
        .returning(*answer)
        .cte("claimed")
    )
    made = sa.insert(table).from_select(
        [c.key for c in columns], sa.select(row).join(claimed, sa.true())
    )
    others = _expired(_SWEPT, sa.not_(sa.and_(*mine)))
    swept = sa.delete(keys).where(_key(keys).in_(others))
    before = sa.select(*answer).where(*mine, sa.not_(_is_old(keys)), ~sa.exists(sa.select(claimed)))
    found = sa.union_all(sa.select(claimed), before).subquery()
    return sa.select(found).add_cte(made.cte("made"), swept.cte("swept"))


def _value(column: Any, is_given: bool) -> sa.ColumnElement[Any]:
    if is_given:  # not cast: that would cut a text to its column's length
        return sa.bindparam(column.key, type_=column.type).label(column.key)
    default: Any = sa.null()
    if column.server_default:
        default = sa.literal_column(str(column.server_default.arg))
    return sa.cast(default, column.type).label(column.key)


def insert_idempotently(
    statement: sa.Select[Any], values: Mapping[str, Any], claim: IdempotencyClaim
) -> tuple[Row, bool]:
    """Run an `build_idempotent_insert` statement for `values`, with a new `id` among them.

    Returns the `id`, `version` and `body` of the row, and whether they are an earlier request's.
    Raises IdempotencyKeyReused if that was not the same request, Conflict while it still runs.
    """
    parameters = {**values, **claim._asdict()}

    def run() -> Any:
        return database.execute(statement, parameters)

    def look() -> Any:
        # A twin that ended while the statement waited for it is not in what that one saw.
        return run() or run()

    try:
        row = database.execute(statement, parameters, look)
        row = row or database.execute(statement, parameters, look)
    except LockTimeout as error:
        if IdempotencyKey.__tablename__ not in error.context:
            raise
        row = None
    if not row:
        raise Conflict(
            "A request with this Idempotency-Key is running. Try again shortly.",
            headers={"Retry-After": "1"},
        )
    if bytes(row.fingerprint) != claim.fingerprint:
        raise IdempotencyKeyReused("This Idempotency-Key was used for another request.")
    return row, row.id != values["id"]


def purge() -> int:
    """Delete all expired keys, about 1000 a statement; return how many there were."""
    keys: Any = IdempotencyKey.__table__
    by_age = sa.select(keys.c.created_at).where(_is_old(keys)).order_by(keys.c.created_at)
    oldest = by_age.fetch(1000, with_ties=True).subquery()
    look = sa.select(sa.func.count(), sa.func.max(oldest.c.created_at))
    # Counted before, so that a deletion can be repeated when its answer is lost.
    gone = sa.delete(keys).where(keys.c.created_at <= sa.bindparam("until")).returning(keys.c.key)
    delete = sa.select(sa.func.count()).select_from(gone.cte("gone"))
    total = 0
    while True:
        count, until = database.execute(look)
        if not count:
            return total
        database.write_repeatably(delete, {"until": until})
        total += count


def _key(keys: Any) -> sa.Tuple:
    return sa.tuple_(keys.c.scope, keys.c.key)


def _is_old(keys: Any) -> sa.ColumnElement[bool]:
    return keys.c.created_at < sa.func.now() - sa.literal_column(_KEPT)


def _expired(limit: int, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """The keys of the oldest expired rows that nobody else is deleting."""
    keys: Any = IdempotencyKey.__table__
    return (
        sa.select(keys.c.scope, keys.c.key)
        .where(_is_old(keys), *conditions)
        .order_by(keys.c.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
