"""Inserts one row of any resource, in one round trip unless the database's answer is lost.

The statements are built once for each resource and cached.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from projectapp import auth, database
from projectapp.database import Row
from projectapp.problems import OutcomeUnknown
from projectapp.resources.idempotency import (
    IdempotencyClaim,
    build_idempotent_insert,
    insert_idempotently,
)
from projectapp.resources.resource import Resource
from projectapp.resources.values import (
    default_value,
    is_sent,
    names_with_default,
    new_value,
    value_parameters,
)
from projectapp.resources.writes import is_parent_visible, result_columns


def insert_row(
    resource: Resource,
    values: Mapping[str, Any],
    claim: IdempotencyClaim | None = None,
    parent_id: UUID | None = None,
) -> tuple[Row | None, bool]:
    """Insert a row; a field that is not in `values` gets its column's default.

    The owner is the caller or, for a child, the owner of the parent. Returns the row with its `id`,
    and whether it is the response to an earlier request with the same `claim`. The row is None if
    the caller sees no parent with `parent_id`.
    """
    parameters = value_parameters(resource, values)
    parameters |= {"id": database.uuid7(), "owner": auth.current_owner(), "parent_id": parent_id}
    uses_defaults = not values.keys() >= names_with_default(resource)
    if claim:
        statement = _idempotent_insert_statement(resource, uses_defaults)
        return insert_idempotently(
            statement, parameters, claim, lambda: is_parent_visible(resource, parent_id)
        )
    return execute_insert(*_insert_statements(resource, uses_defaults), parameters), False


def execute_insert(statement: Any, repeat: Any, parameters: Mapping[str, Any]) -> Row | None:
    """Execute a statement that inserts rows with new ids; if its result is lost, execute `repeat`.

    `repeat` inserts the same rows unless they are stored. Returns the row of the statement, or None
    if the caller sees no parent. Raises OutcomeUnknown.
    """

    def resolve() -> Row:
        row = database.execute(repeat, parameters)
        if not row:  # the parent may have been visible when the rows were inserted
            raise OutcomeUnknown
        return row

    return database.execute(statement, parameters, resolve)


@lru_cache
def _insert_statements(resource: Resource, uses_defaults: bool) -> tuple[sa.Insert, sa.Insert]:
    """Return the statement that inserts a row, and the one to run if its result is lost.

    The second inserts the row with the same id, unless it is stored. Unlike a SELECT, it writes in
    both cases, so its commit waits until the row is replicated.
    """
    rows = _new_row(resource, uses_defaults)
    new = insert(resource.table).from_select(rows.selected_columns.keys(), rows)
    new = database.plan_once(new)
    result = (resource.table.c.id, *result_columns(resource))
    repeated = new.on_conflict_do_update(index_elements=["id"], set_={"id": new.excluded.id})
    return new.returning(*result), repeated.returning(*result)


@lru_cache
def _idempotent_insert_statement(resource: Resource, uses_defaults: bool) -> sa.Select[Any]:
    rows = _new_row(resource, uses_defaults)

    def select_response(row: sa.CTE) -> sa.Select[Any]:
        return sa.select(row.c.id, row.c.version, resource.as_json(row.c))

    return database.plan_once(build_idempotent_insert(resource.table, rows, select_response))


def _new_row(resource: Resource, uses_defaults: bool) -> sa.Select[Any]:
    """Select the values of a new row, as columns with their types: PostgreSQL infers none here.

    With `uses_defaults`, a field that the client did not send gets its column's default.
    """
    table, parent = resource.table, resource.parent
    values: dict[str, Any] = {}
    for name in resource.fields:
        column = table.c[name]
        default = default_value(column)
        if name in resource.writable:
            values[name] = new_value(column)
            if uses_defaults and default is not None:
                values[name] = sa.case((is_sent(name), values[name]), else_=default)
        elif name in ("id", "owner"):
            values[name] = sa.cast(sa.bindparam(name, type_=column.type), column.type)
        elif default is not None:
            values[name] = default
    if not parent:
        return sa.select(*(value.label(name) for name, value in values.items()))
    values |= {"owner": parent.table.c.owner, str(resource.parent_key): parent.table.c.id}
    # The lock makes the insert wait for a concurrent change of the parent's owner.
    rows = sa.select(*(value.label(name) for name, value in values.items()))
    return rows.where(parent.is_row("parent_id")).with_for_update(read=True, of=parent.table)
