"""Restores an older version of a row, or a deleted row with its id.

A restored row continues its versions, so an old ETag never becomes valid again. One statement
finds the state, then another one writes it.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from marshmallow import Schema
from sqlalchemy.dialects.postgresql import JSONB, insert

from projectapp import database
from projectapp.database import Row
from projectapp.database.models import JSONText
from projectapp.http.etags import Versions
from projectapp.http.request_data import validate
from projectapp.problems import Conflict, NotFound, OutcomeUnknown, PreconditionFailed
from projectapp.request_state import request_state
from projectapp.resources.changes import CHANGES
from projectapp.resources.resource import Resource
from projectapp.resources.states import has_history, row_now, select_changes, state_before
from projectapp.resources.values import new_value, value_parameters
from projectapp.resources.writes import (
    find_row,
    is_parent_visible,
    result_columns,
    update_row,
    update_statements,
)

_ATTEMPTS = 3  # while other requests delete and restore the row

_version = sa.bindparam("version", type_=sa.Integer)


def restore_row(
    resource: Resource,
    schema: Schema,
    row_id: UUID,
    version: int | None,
    versions: Versions | None,
    has_if_match: bool,
) -> Row | None:
    """Make a row what it was at `version`. Without it, bring back a deleted row.

    The row keeps its owner and its parent. `schema` validates the old values like those of a PUT.
    A restore that changes nothing keeps the version. Returns None if the row exists and its version
    is not one of `versions`.

    Raises NotFound if the caller sees no such row or version, PreconditionFailed for If-Match if
    the row is deleted, Conflict if its parent does not exist, ValidationFailed and OutcomeUnknown.
    """
    request_state().operation = "restore"
    for _ in range(_ATTEMPTS):
        state = database.execute(_find_state(resource), {"row_id": row_id, "version": version})
        if not state:
            raise NotFound
        if not state.is_deleted:
            # Without a version the row stays: to write the values that were read could undo a
            # change that another request has made since.
            values = {} if version is None else _load_values(resource, schema, state)
            row = update_row(resource, row_id, values, versions)
            if row or (versions is not None and find_row(resource, row_id)):
                return row
            continue
        if has_if_match:
            raise PreconditionFailed(
                "Nothing was changed, because the row is deleted and has no version. Send the"
                " request without If-Match."
            )
        values = _load_values(resource, schema, state)
        if row := _insert_deleted(resource, row_id, state, values):
            return row
        if not is_parent_visible(resource, state.parent_id):
            parent = resource.parent.singular_name  # type: ignore[union-attr]
            message = f"Its {parent} {state.parent_id} does not exist. Restore the {parent} first."
            raise Conflict(message)
    raise Conflict(
        "Other requests delete and restore this row at the same time. Try again shortly.",
        headers={"Retry-After": "1"},
    )


@lru_cache
def _find_state(resource: Resource) -> sa.Select[Any]:
    """Select the state with the parameter `version`; if it is null, the newest one.

    It has `is_deleted`, `body`, and each JSON column as text. For a deleted row,
    `deleted_version` is the version of the delete, and `parent_id` the parent it had.
    """
    now = row_now(resource)
    changes = select_changes(resource, sa.bindparam("row_id", type_=sa.Uuid))
    # The state of a version is the one before the change to the next version.
    has_next_version = sa.and_(
        CHANGES.c.version - sa.literal_column("1") == _version,
        CHANGES.c.old_values.is_not(None),
        now.row.c.version.is_distinct_from(_version),
    )
    is_delete = CHANGES.c.seq == now.newest_change.c.seq
    changes = changes.where(sa.case((_version.is_(None), is_delete), else_=has_next_version))
    next_change = changes.order_by(CHANGES.c.seq.desc()).limit(1).lateral("next_change")
    source = now.source.outerjoin(next_change, sa.true())
    state = state_before(resource, next_change, now.row, source)
    deleted = now.newest_change.c
    parent_id: Any = sa.null()
    if resource.parent_key:
        key_type = resource.table.c[resource.parent_key].type
        parent_id = sa.cast(deleted.old_values[resource.parent_key].astext, key_type)
    return (
        sa.select(
            now.row.c.id.is_(None).label("is_deleted"),
            deleted.version.label("deleted_version"),
            parent_id.label("parent_id"),
            resource.as_json(state.columns).label("body"),
            *(
                sa.cast(getattr(state.columns, name), sa.Text).label(f"json_{name}")
                for name in _json_columns(resource)
            ),
        )
        .select_from(state.source)
        .where(
            has_history(resource),
            now.is_visible(resource),
            state.is_present,
            sa.or_(_version.is_(None), state.columns.version == _version),
        )
    )


def _json_columns(resource: Resource) -> list[str]:
    return [name for name in resource.writable if isinstance(resource.table.c[name].type, JSONB)]


def _load_values(resource: Resource, schema: Schema, state: Row) -> dict[str, Any]:
    """Return the writable values of a state. No number loses digits."""
    body = json.loads(state.body, parse_float=Decimal, parse_int=_parse_integer)
    values = validate(schema, body)
    for name in _json_columns(resource):
        text = getattr(state, f"json_{name}")
        values[name] = None if text is None else JSONText(text)
    return values


def _parse_integer(text: str) -> int | Decimal:
    return int(text) if len(text) < 1000 else Decimal(text)  # int() refuses more than 4300 digits


def _insert_deleted(
    resource: Resource, row_id: UUID, state: Row, values: Mapping[str, Any]
) -> Row | None:
    """Insert a deleted row with its id and these values, if its newest change is still the delete.

    Returns None if it is not, or if the row must have a parent that the caller does not see.
    """
    statement = _insert_statement(resource, state.parent_id is not None)
    parameters = {
        **value_parameters(resource, values),
        "row_id": row_id,
        "deleted_version": state.deleted_version,
        "parent_id": state.parent_id,
    }

    def resolve() -> Row | None:
        # The delete is undone at most once, so the statement can be executed again.
        if row := database.execute(statement, parameters):
            return row
        row = database.execute(update_statements(resource, True, False).read_back, parameters)
        if not row or row.version != state.deleted_version + 1:
            raise OutcomeUnknown
        return row if row.has_new_values else None

    return database.execute(statement, parameters, resolve)


@lru_cache
def _insert_statement(resource: Resource, has_parent: bool) -> sa.Insert:
    """Return the statement that inserts a row if the delete `deleted_version` is its newest change.

    Two restores must not undo the same delete. So the SQL function locks the id, and then reads the
    newest change with a new snapshot. If the row exists, nothing is inserted.
    """
    table, parent = resource.table, resource.parent
    name: Any = sa.literal_column(f"'{resource.name}'")
    row_id = sa.bindparam("row_id", type_=sa.Uuid)
    locked: Any = sa.func.lock_newest_change(name, row_id).table_valued(
        *(sa.column(c.key, c.type) for c in CHANGES.c), name="newest_change"
    )
    values: dict[str, Any] = {
        "id": locked.c.row_id,
        "version": locked.c.version + sa.literal_column("1"),
        "created_at": locked.c.created_at,
        "updated_at": sa.func.clock_timestamp(),
        "owner": locked.c.owner,
        **{name: new_value(table.c[name]) for name in resource.writable},
    }
    conditions = [
        locked.c.version == sa.bindparam("deleted_version", type_=sa.Integer),
        locked.c.old_values.is_not(None),  # not forgotten since
        resource.is_visible(locked.c),
    ]
    if parent and has_parent:
        values |= {"owner": parent.table.c.owner, str(resource.parent_key): parent.table.c.id}
        conditions.append(parent.is_row("parent_id"))
    rows = sa.select(*(value.label(key) for key, value in values.items())).where(*conditions)
    if parent and has_parent:
        # The lock makes the insert wait for a concurrent change of the parent's owner.
        rows = rows.with_for_update(read=True, of=parent.table)
    new = insert(table).from_select([*values], rows)
    # Another unique column may conflict, too. That is an error.
    new = new.on_conflict_do_nothing(index_elements=["id"])
    return new.returning(*result_columns(resource))
