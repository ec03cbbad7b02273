"""Idempotency-Key: a repeated POST has one effect and gets the first response again.

This follows draft-ietf-httpapi-idempotency-key-header-07, for requests that create rows. One
statement writes the key and the rows, so all are committed or none is, and a request that failed
leaves no key behind.
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
from projectapp.http.headers import IDEMPOTENCY_KEY_LENGTH as MAX_KEY_LENGTH
from projectapp.metrics.definitions import IDEMPOTENT_REPLAYS
from projectapp.problems import BadRequest, Conflict, IdempotencyKeyReused, LockTimeout
from projectapp.request_state import request_state

_RETENTION = "interval '24 hours'"
VERSION_OF_MANY = 0  # no row has it
_EXPIRED_PER_INSERT = 2  # expired keys that each new key deletes: faster than keys can expire


class IdempotencyKey(db.Model):  # type: ignore[name-defined,misc]
    """A key and the response to its request. `scope` is the caller, or "" with AUTH=none.

    `id` and `version` are those of the row. If the request created many rows, `id` is a new id,
    `version` is VERSION_OF_MANY, and `body` has the rows with a comma between them.
    """

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(MAX_KEY_LENGTH), primary_key=True)
    fingerprint: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), index=True)
    id: Mapped[UUID]
    version: Mapped[int]
    body: Mapped[str] = mapped_column(sa.Text)


class IdempotencyClaim(NamedTuple):
    """Identifies a request: a repetition of the request has the same claim."""

    scope: str
    key: str
    fingerprint: bytes


def read_claim() -> IdempotencyClaim | None:
    """Return the claim of the current request, or None without an Idempotency-Key.

    The body must have been read before. Raises BadRequest unless the key has 1 to 255 printable
    ASCII characters, bare or as a quoted string (RFC 9651, 3.3.3), which is the same key.
    """
    value = request.headers.get("Idempotency-Key")
    if value is None:
        return None
    bare = value.strip()
    quoted = re.fullmatch(r'"((?:[^"\\]|\\["\\])*)"', bare)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else bare
    if not re.fullmatch(rf"[ -~]{{1,{MAX_KEY_LENGTH}}}", key) or (bare[0] == '"' and not quoted):
        raise BadRequest(
            f"Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable ASCII characters, bare or"
            " quoted."
        )
    # The body as it was sent, not as it was validated: defaults may differ in the next release.
    parts: list[Any] = [request.method, str(request.url_rule), request_state().raw_body]
    if request.view_args:  # a create below /projects/A differs from one below /projects/B
        parts.append(request.view_args)
    canonical = json.dumps(parts, sort_keys=True, default=str)
    fingerprint = hashlib.sha256(canonical.encode()).digest()
    return IdempotencyClaim(current_owner() or "", key, fingerprint)


def build_idempotent_insert(
    table: sa.Table, rows: sa.Select[Any], select_response: Callable[[sa.CTE], sa.Select[Any]]
) -> sa.Select[Any]:
    """Build the statement that inserts rows and their key, unless the key is already stored.

    `rows` selects the rows, or nothing. `select_response` selects the `id`, `version` and `body` of
    the key from them, or nothing. The statement returns the response to this request or to an
    earlier one. It returns no row if a request with this key is running, or if `rows` selects
    nothing.
    """
    keys: Any = IdempotencyKey.__table__
    is_own_key = (keys.c.scope == sa.bindparam("scope"), keys.c.key == sa.bindparam("key"))
    new_rows = rows.cte("new_rows")
    new = insert(keys).from_select(
        ["scope", "key", "fingerprint", "created_at", "id", "version", "body"],
        sa.select(
            *(sa.bindparam(c.key, type_=c.type) for c in (keys.c.scope, keys.c.key)),
            sa.bindparam("fingerprint", type_=keys.c.fingerprint.type),
            sa.func.now(),
        ).add_columns(*select_response(new_rows).subquery().c),
    )
    response = (keys.c.id, keys.c.version, keys.c.body, keys.c.fingerprint)
    refreshed = {c.key: new.excluded[c.key] for c in keys.c if not c.primary_key}
    claimed = (
        new.on_conflict_do_update(
            index_elements=[*keys.primary_key], set_=refreshed, where=_has_expired(keys)
        )
        .returning(*response)
        .cte("claimed")
    )
    inserted = sa.insert(table).from_select(
        new_rows.c.keys(), sa.select(new_rows).join(claimed, sa.true())
    )
    expired = (
        sa.select(*keys.primary_key)
        .where(_has_expired(keys), sa.not_(sa.and_(*is_own_key)))
        .order_by(keys.c.created_at)
        .limit(_EXPIRED_PER_INSERT)
        .with_for_update(skip_locked=True)
    )
    purged = sa.delete(keys).where(sa.tuple_(*keys.primary_key).in_(expired))
    earlier = sa.select(*response).where(
        *is_own_key, sa.not_(_has_expired(keys)), ~sa.exists(sa.select(claimed))
    )
    result = sa.union_all(sa.select(claimed), earlier).subquery()
    return sa.select(result).add_cte(inserted.cte("inserted"), purged.cte("purged"))


def insert_idempotently(
    statement: sa.Select[Any],
    parameters: Mapping[str, Any],
    claim: IdempotencyClaim,
    can_insert: Callable[[], bool],
) -> tuple[Row | None, bool]:
    """Run a statement of `build_idempotent_insert`; `parameters` contain a new `id`.

    Returns the row, and whether it is the response to an earlier request. The row is None if the
    statement returns none and `can_insert` returns False. Raises IdempotencyKeyReused if the
    request of this key was another one, and Conflict while a request with this key is running.
    """
    parameters = {**parameters, **claim._asdict()}

    def run_twice(resolve: Callable[[], Any] | None = None) -> Any:
        # A request that ended while the first run waited for it is not in the run's snapshot.
        row = database.execute(statement, parameters, resolve)
        return row or database.execute(statement, parameters, resolve)

    try:
        row = run_twice(resolve=run_twice)
    except LockTimeout as error:
        if IdempotencyKey.__tablename__ not in error.context:
            raise
        row = None
    if not row:
        if not can_insert():
            return None, False
        raise Conflict(
            "A request with this Idempotency-Key is still in progress. Try again shortly.",
            headers={"Retry-After": "1"},
        )
    if bytes(row.fingerprint) != claim.fingerprint:
        raise IdempotencyKeyReused("This Idempotency-Key was used for another request.")
    is_replayed = row.id != parameters["id"]
    if is_replayed:
        IDEMPOTENT_REPLAYS.increase()
    return row, is_replayed


def purge() -> int:
    """Delete all expired keys, about 1000 per statement, and return their number."""
    keys: Any = IdempotencyKey.__table__
    by_age = sa.select(keys.c.created_at).where(_has_expired(keys)).order_by(keys.c.created_at)
    oldest = by_age.fetch(1000, with_ties=True).subquery()
    count_oldest = sa.select(sa.func.count(), sa.func.max(oldest.c.created_at))
    # Counted first, so that the deletion can be repeated if its result is lost.
    deleted = sa.delete(keys).where(keys.c.created_at <= sa.bindparam("until"))
    delete = sa.select(sa.func.count()).select_from(deleted.returning(keys.c.key).cte("deleted"))
    total = 0
    while True:
        count, until = database.execute(count_oldest)
        if not count:
            return total
        database.write_repeatably(delete, {"until": until})
        total += count


def _has_expired(keys: Any) -> sa.ColumnElement[bool]:
    return keys.c.created_at < sa.func.now() - sa.literal_column(_RETENTION)
