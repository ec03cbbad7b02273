"""Deletes old changes (`flask history purge`), and the history of one row (`forget`).

Both need the role that owns the tables: the role that serves cannot change the history.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, distinct_on

from projectapp import database
from projectapp.resources.changes import CHANGES, HISTORIES
from projectapp.resources.idempotency import VERSION_OF_MANY, IdempotencyKey
from projectapp.resources.resource import Resource

_BATCH_ROWS = 1000
_SCAN_ROWS = 10_000  # of all resources, in search of the children of a row

_after = sa.bindparam("after", type_=sa.BigInteger)
_last = sa.bindparam("last", type_=sa.BigInteger)
_ids = sa.bindparam("ids", type_=ARRAY(sa.Uuid))

_batch = (
    sa.select(CHANGES.c.seq, CHANGES.c.at)
    .where(CHANGES.c.seq > _after)
    .order_by(CHANGES.c.seq)
    .limit(_BATCH_ROWS)
    .subquery()
)
_is_old = _batch.c.at < sa.func.now() - sa.bindparam("retention", type_=sa.Interval)
# `is_old` is true for the changes before the first one that is new enough.
_old = sa.select(
    _batch.c.seq, sa.func.bool_and(_is_old).over(order_by=_batch.c.seq).label("is_old")
).subquery()
_COUNT_OLD = sa.select(
    sa.func.count().label("row_count"), sa.func.max(_old.c.seq).label("last")
).where(_old.c.is_old)

# One statement deletes changes and moves the limits, so no reader sees only one of the two.
_deleted = (
    sa.delete(CHANGES)
    .where(CHANGES.c.seq > _after, CHANGES.c.seq <= _last)
    .returning(CHANGES.c.seq, CHANGES.c.xid, CHANGES.c.at)
    .cte("deleted")
)
_limits = sa.select(
    sa.func.max(_deleted.c.seq).label("seq"), sa.func.max(_deleted.c.at).label("at")
).subquery()
# Changes that came with a dump have ids of another database. PostgreSQL 15 has no max(xid8).
_last_xid = (
    sa.select(_deleted.c.xid)
    .where(_deleted.c.seq > HISTORIES.c.restored_seq)
    .order_by(_deleted.c.xid.desc())
    .limit(1)
    .correlate(HISTORIES)
    .scalar_subquery()
)
_PURGE = (
    sa.update(HISTORIES)
    .values(
        purged_seq=sa.func.greatest(HISTORIES.c.purged_seq, _limits.c.seq),
        purged_xid=sa.func.greatest(HISTORIES.c.purged_xid, _last_xid),
        starts_at=sa.func.greatest(HISTORIES.c.starts_at, _limits.c.at),
    )
    .where(_limits.c.seq.is_not(None))
    .returning(HISTORIES.c.resource)
)


def purge_changes(retention: timedelta) -> Iterator[int]:
    """Delete the changes that are older than `retention`; yield how many, after each batch.

    A batch is a short statement. It locks no row that the service writes. The function can be
    called again at any time, and by two processes at once.
    """
    total = last = 0
    while True:
        # The count comes first, so that the deletion can be repeated if its result is lost.
        parameters = {"after": last, "retention": retention}
        row_count, next_last = database.execute(_COUNT_OLD, parameters)
        if not row_count:
            return
        database.write_repeatably(_PURGE, {"after": last, "last": next_last})
        last, total = next_last, total + row_count
        yield total


def forget_row(resource: Resource, row_id: UUID) -> bool:
    """Delete a row and erase what the database has about it; return False if there is nothing.

    The function also erases what the database has about its deleted children. For each row, the
    deletion remains in the history, without values, so that readers of the change feed delete their
    copies. The function can be called again at any time.
    """
    # First the history: without the privilege for it, the function has no effect.
    is_known = _erase(resource, [row_id])
    deletion = _delete_row(resource)
    is_known = bool(database.write_repeatably(deletion, {"ids": [row_id]})) or is_known
    # The deletion is in the history now. A client may just be restoring the row: the lock waits for
    # that, and later restores find no values.
    newest_change = sa.select(sa.func.lock_newest_change(resource.name, row_id))
    while _erase(resource, [row_id]):
        database.execute(newest_change)
        if not database.write_repeatably(deletion, {"ids": [row_id]}):
            break
    _forget_children(resource, [row_id])
    return is_known


def _forget_children(resource: Resource, parent_ids: Sequence[UUID]) -> None:
    for child in resource.children:
        last: int | None = 0
        while last is not None:
            parameters = {"after": last, "ids": parent_ids}
            child_ids, last = database.execute(_find_deleted_children(child), parameters)
            if child_ids:
                ids = [UUID(child_id) for child_id in child_ids]
                _erase(child, ids)
                _forget_children(child, ids)


def _erase(resource: Resource, ids: Sequence[UUID]) -> bool:
    """Erase the history of rows and the stored responses; return whether there was history."""
    row = database.write_repeatably(_erase_rows(resource), {"ids": ids})
    return bool(row.row_count)


@lru_cache
def _delete_row(resource: Resource) -> Any:
    c = resource.table.c
    return sa.delete(resource.table).where(c.id == sa.any_(_ids)).returning(c.id)


@lru_cache
def _erase_rows(resource: Resource) -> Any:
    c, keys = CHANGES.c, IdempotencyKey.__table__
    is_selected = sa.and_(c.resource == resource.name, c.row_id == sa.any_(_ids))
    last = (
        sa.select(c.seq, c.operation)
        .where(is_selected)
        .ext(distinct_on(c.row_id))
        .order_by(c.row_id, c.seq.desc())
        .cte("last")
    )
    last_deletion = c.seq.in_(sa.select(last.c.seq).where(last.c.operation == "delete"))
    null = dict.fromkeys(("created_at", "old_updated_at", "caller", "request_id"), sa.null())
    emptied = (
        sa.update(CHANGES)
        .where(is_selected, last_deletion)
        .values(**null, old_values=sa.null(), credential="forgotten")
    )
    deleted = sa.delete(CHANGES).where(is_selected, sa.not_(last_deletion))
    responses = sa.delete(keys).where(sa.or_(keys.c.id == sa.any_(_ids), _has_selected_row(keys)))
    return sa.select(sa.func.count().label("row_count"), sa.func.max(last.c.seq)).add_cte(
        emptied.cte("emptied"), deleted.cte("deleted"), responses.cte("responses")
    )


def _has_selected_row(keys: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a response with many rows has one of the rows `ids`."""
    row_id = sa.func.unnest(_ids).column_valued("row_id")
    # How `Resource.as_json` begins each row.
    start = sa.literal_column("""'{"id" : "'""").concat(sa.cast(row_id, sa.Text))
    has_row = sa.exists().where(sa.func.strpos(keys.c.body, start) > 0)
    return sa.and_(keys.c.version == VERSION_OF_MANY, has_row)


@lru_cache
def _find_deleted_children(child: Resource) -> sa.Select[Any]:
    """Select the ids of children that do not exist, from _SCAN_ROWS changes, and the last `seq`."""
    columns = (CHANGES.c.seq, CHANGES.c.row_id, CHANGES.c.resource, CHANGES.c.old_values)
    scanned = sa.select(*columns).where(CHANGES.c.seq > _after)
    batch = scanned.order_by(CHANGES.c.seq).limit(_SCAN_ROWS).cte("batch")
    parent_id = sa.cast(batch.c.old_values[child.parent_key].astext, sa.Uuid)
    exists = sa.exists().where(child.table.c.id == batch.c.row_id)
    is_deleted_child = sa.and_(
        batch.c.resource == child.name, parent_id == sa.any_(_ids), sa.not_(exists)
    )
    # They are texts: the driver does not parse an array of uuid.
    ids: Any = sa.func.array_agg(sa.distinct(sa.cast(batch.c.row_id, sa.Text)))
    return sa.select(
        ids.filter(is_deleted_child).label("ids"), sa.func.max(batch.c.seq).label("last")
    )
