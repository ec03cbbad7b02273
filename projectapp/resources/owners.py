"""Assigns rows to another owner, for commands such as `flask projects assign`.

A table is walked by id, in batches: each statement is short and locks few rows.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from projectapp import database
from projectapp.resources.resource import Resource

_BATCH_ROWS = 1000

_old_owner, _new_owner = (sa.bindparam(name, type_=sa.Text) for name in ("old_owner", "new_owner"))
_ids = sa.bindparam("ids", type_=ARRAY(sa.Uuid))


def assign_rows(
    resource: Resource, new_owner: str, old_owner: str | None, row_ids: Sequence[UUID] = ()
) -> int:
    """Assign the rows of `old_owner`, or those without an owner, and return how many there were.

    `row_ids` limits it to these rows. Children get the owner of their parents. It can be run again
    at any time, and then does only what is left to do.
    """
    owners = {"new_owner": new_owner, "old_owner": old_owner}
    selection = {"row_ids": list(row_ids), "all_rows": not row_ids}
    count, last = 0, str(UUID(int=0))
    while last:
        ids, last = database.execute(
            _next_rows(resource), {**owners, **selection, "after": UUID(last)}
        )
        if ids:
            rows = {**owners, "ids": [UUID(row_id) for row_id in ids]}
            count += database.write_repeatably(_assign(resource), rows).row_count
    for child in resource.children:
        _assign_to_owners_of_parents(child)
    return count


def _assign_to_owners_of_parents(resource: Resource) -> None:
    """Give every row the owner of its parent.

    Its statements run after those that changed the parents. So they also see rows that another
    transaction created in the meantime.
    """
    last = str(UUID(int=0))
    while last:
        ids, last = database.execute(_next_children(resource), {"after": UUID(last)})
        if ids:
            rows = {"ids": [UUID(row_id) for row_id in ids]}
            database.write_repeatably(_assign_children(resource), rows)
    for child in resource.children:
        _assign_to_owners_of_parents(child)


@lru_cache
def _next_rows(resource: Resource) -> sa.Select[Any]:
    c = resource.table.c
    row_ids = sa.bindparam("row_ids", type_=ARRAY(sa.Uuid))
    is_selected = sa.or_(sa.bindparam("all_rows", type_=sa.Boolean), c.id == sa.any_(row_ids))
    batch = _batch(sa.select(c.id, c.owner).where(is_selected), c.id)
    has_old_owner = batch.c.owner.is_not_distinct_from(_old_owner)
    has_other_owner = batch.c.owner.is_distinct_from(_new_owner)
    return _ids_and_last(batch, sa.and_(has_old_owner, has_other_owner))


@lru_cache
def _next_children(resource: Resource) -> sa.Select[Any]:
    child, parent = resource.table, _parent(resource)
    rows = sa.select(child.c.id, child.c.owner, parent.c.owner.label("parent_owner"))
    batch = _batch(rows.join(parent, _is_parent(resource)), child.c.id)
    return _ids_and_last(batch, batch.c.owner.is_distinct_from(batch.c.parent_owner))


def _batch(rows: sa.Select[Any], row_id: Any) -> sa.CTE:
    after = row_id > sa.bindparam("after", type_=sa.Uuid)
    return rows.where(after).order_by(row_id).limit(_BATCH_ROWS).cte("batch")


def _ids_and_last(batch: sa.CTE, condition: sa.ColumnElement[bool]) -> Any:
    """Select the ids of the rows that meet the condition, and the last id of the batch, as text."""
    row_id = sa.cast(batch.c.id, sa.Text)
    ids: Any = sa.func.array_agg(row_id).filter(condition)
    return sa.select(ids.label("ids"), sa.func.max(row_id).label("last"))


@lru_cache
def _assign(resource: Resource) -> sa.Select[Any]:
    """Assign rows. It counts the same when it is repeated: also those that are assigned already."""
    c = resource.table.c
    is_listed = c.id == sa.any_(_ids)
    assigned = (
        sa.update(resource.table)
        .where(is_listed, c.owner.is_not_distinct_from(_old_owner))
        .values(owner=_new_owner, **_changed(resource))
        .returning(c.id)
        .cte("assigned")
    )
    is_assigned = sa.or_(c.owner == _new_owner, c.id.in_(sa.select(assigned.c.id)))
    return sa.select(sa.func.count().label("row_count")).where(is_listed, is_assigned)


@lru_cache
def _assign_children(resource: Resource) -> sa.Select[Any]:
    c, parent = resource.table.c, _parent(resource)
    differs = c.owner.is_distinct_from(parent.c.owner)
    assigned = (
        sa.update(resource.table)
        .where(c.id == sa.any_(_ids), _is_parent(resource), differs)
        .values(owner=parent.c.owner, **_changed(resource))
        .returning(c.id)
        .cte("assigned")
    )
    return sa.select(sa.func.count()).select_from(assigned)


def _changed(resource: Resource) -> dict[str, Any]:
    return {"version": resource.table.c.version + 1, "updated_at": sa.func.clock_timestamp()}


def _parent(resource: Resource) -> sa.Table:
    assert resource.parent  # noqa: S101 - it is a child
    return resource.parent.table


def _is_parent(resource: Resource) -> sa.ColumnElement[bool]:
    return resource.table.c[str(resource.parent_key)] == _parent(resource).c.id
