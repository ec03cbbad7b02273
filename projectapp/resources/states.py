"""SQL for the states of a row: what it was before and after a change.

A change has the row as it was before. So the state after a change is the state before the next
change of the row or, if there is none, the row itself. After a delete there is no state.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, array

from projectapp.database import rfc3339
from projectapp.resources.changes import CHANGES, HISTORIES
from projectapp.resources.resource import Resource
from projectapp.resources.values import comparable, default_value, without_limit

# An item of a history lists the other fields that changed.
_UNLISTED_FIELDS = ("id", "version", "updated_at")
_NO_NAMES: sa.ColumnElement[Any] = sa.literal_column("'{}'::text[]")


class State(NamedTuple):
    """A state of a row. `source` is the FROM clause that the other members need.

    `is_present` is the condition that there was a row. `columns` has its fields as attributes, like
    `table.c`.
    """

    source: sa.FromClause
    is_present: sa.ColumnElement[bool]
    columns: Any


class RowNow(NamedTuple):
    """The row as it is now, and its newest change. `source` is the FROM clause that they need.

    The columns of `row` are null if the row is deleted; otherwise those of `newest_change` are.
    """

    source: sa.FromClause
    row: Any
    newest_change: Any

    def is_visible(self, resource: Resource) -> sa.ColumnElement[bool]:
        """Return the condition that the caller sees the row or, if deleted, was its last owner."""
        deleted, change = self.row.c.id.is_(None), self.newest_change.c
        return sa.case(
            (deleted, sa.and_(change.seq.is_not(None), resource.is_visible(change))),
            else_=resource.is_visible(self.row.c),
        )


class Items(NamedTuple):
    """The JSON texts of changes. `source` is the FROM clause that they need.

    `head` is the object of an item without the members `operation` and the row. `row` is the row as
    it was after the change, and null after a delete.
    """

    source: sa.FromClause
    head: sa.ColumnElement[str]
    row: sa.ColumnElement[str]


def select_changes(resource: Resource, row_id: Any, changes: Any = CHANGES) -> sa.Select[Any]:
    """Select the changes of one row from the table `changes` or an alias of it."""
    return sa.select(changes).where(changes.c.row_id == row_id, _is_of_resource(resource, changes))


def _is_of_resource(resource: Resource, changes: Any) -> sa.ColumnElement[bool]:
    is_equal: sa.ColumnElement[bool] = changes.c.resource == sa.literal_column(f"'{resource.name}'")
    return is_equal


def row_now(resource: Resource) -> RowNow:
    """Return the row with the id of the parameter `row_id`. `source` also has the `histories` row.

    A statement also needs the condition `has_history`.
    """
    row_id = sa.bindparam("row_id", type_=sa.Uuid)
    row = resource.table.alias("current_row")
    changes = select_changes(resource, row_id).where(row.c.id.is_(None))
    newest_change = changes.order_by(CHANGES.c.seq.desc()).limit(1).lateral("newest_change")
    source = HISTORIES.outerjoin(row, row.c.id == row_id).outerjoin(newest_change, sa.true())
    return RowNow(source, row, newest_change)


def has_history(resource: Resource) -> sa.ColumnElement[bool]:
    return HISTORIES.c.resource == sa.literal_column(f"'{resource.name}'")


def state_before(resource: Resource, change: Any, row: Any, source: sa.FromClause) -> State:
    """Return the state before `change` or, if there is no such change, the state `row`.

    Both are subqueries or aliases: `change` of the table `changes`, `row` of the resource's table.
    `source` contains them. Their columns are null if there is no change or no row.
    """
    source, old = _join_old_columns(resource, change, source, "old_row")
    is_newest = change.c.seq.is_(None)
    columns = {
        name: sa.case((is_newest, row.c[name]), else_=getattr(old, name))
        for name in resource.fields
    }
    is_present = sa.case((is_newest, row.c.id.is_not(None)), else_=change.c.old_values.is_not(None))
    return State(source, is_present, SimpleNamespace(**columns))


def render_items(resource: Resource, changes: Any) -> Items:
    """Render the changes of a subquery, which has all columns of the table `changes`."""
    c, row = changes.c, resource.table.alias("current_row")
    later = CHANGES.alias("later_changes")  # `changes` may have the name of the table
    # The conditions and the order of the index on `row_id` and `seq`. With `row_id = ...` and the
    # order of `seq` alone, PostgreSQL walks all later changes if its statistics have few rows.
    key, key_of_change = sa.tuple_(later.c.row_id, later.c.seq), sa.tuple_(c.row_id, c.seq)
    later_changes = (
        sa.select(later)
        .where(key > key_of_change, later.c.row_id <= c.row_id, _is_of_resource(resource, later))
        .order_by(later.c.row_id, later.c.seq)
    )
    next_change = later_changes.limit(1).lateral("next_change")
    source = changes.outerjoin(next_change, sa.true()).outerjoin(
        row, sa.and_(row.c.id == c.row_id, next_change.c.seq.is_(None))
    )
    after = state_before(resource, next_change, row, source)
    source, before = _join_old_columns(resource, changes, after.source, "row_before")
    names: list[sa.ColumnElement[Any]] = []
    for name in resource.fields:
        if name not in _UNLISTED_FIELDS:
            old, new = (comparable(getattr(state, name)) for state in (before, after.columns))
            names.append(sa.case((old.is_distinct_from(new), sa.literal_column(f"'{name}'"))))
    changed = sa.case(
        (sa.or_(c.old_values.is_(None), c.operation == sa.literal_column("'delete'")), _NO_NAMES),
        else_=sa.func.array_remove(array(names), sa.null()),
    )
    members: dict[str, Any] = {
        "version": c.version,
        "at": rfc3339(c.at),
        "caller": c.caller,
        "credential": c.credential,
        "request_id": c.request_id,
        "changed": changed,
    }
    pairs: list[Any] = []
    for name, value in members.items():
        pairs += [sa.literal_column(f"'{name}'"), value]
    head = sa.cast(sa.func.json_build_object(*pairs), sa.Text)
    return Items(source, head, sa.case((after.is_present, resource.as_json(after.columns))))


def _join_old_columns(
    resource: Resource, change: Any, source: sa.FromClause, alias: str
) -> tuple[sa.FromClause, Any]:
    """Return `source` with the row before `change`, and the columns of that row, with their types.

    A column that the table did not have at the time of the change has its default.
    """
    c = change.c
    columns: dict[str, Any] = {
        "id": c.row_id,
        "version": c.version - sa.literal_column("1"),
        "created_at": c.created_at,
        "updated_at": c.old_updated_at,
        "owner": c.old_owner,
    }
    stored = [resource.table.c[name] for name in resource.fields if name not in columns]
    defaults: list[Any] = []
    for column in stored:
        if (default := default_value(column)) is not None:
            defaults += [sa.literal_column(f"'{column.key}'"), default]
    values = sa.func.jsonb_build_object(*defaults, type_=JSONB).concat(c.old_values)
    # Old values may be longer than the column permits today.
    typed = (sa.column(column.key, without_limit(column.type)) for column in stored)
    old = sa.func.jsonb_to_record(values).table_valued(*typed, name=alias)
    old = old.render_derived(with_types=True)
    columns |= {column.key: old.c[column.key] for column in stored}
    return source.outerjoin(old, sa.true()), SimpleNamespace(**columns)
