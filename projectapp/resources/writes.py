"""Reads, updates and deletes one row of any resource; inserts.py inserts one.

Each function runs one statement in one round trip, and more only if the result of a write is lost.
A row is returned as `version`, an integer, and `body`, its JSON text. The statements are built once
for each resource and cached.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from projectapp import database
from projectapp.database import Row
from projectapp.http.etags import NO_VERSION, Versions
from projectapp.problems import Conflict, OutcomeUnknown, UnknownReference
from projectapp.resources.resource import Resource
from projectapp.resources.values import comparable, is_sent, new_value, value_parameters


def find_row(resource: Resource, row_id: UUID) -> Row | None:
    return database.execute(_find_statement(resource), {"row_id": row_id})


@lru_cache
def _find_statement(resource: Resource) -> sa.Select[Any]:
    row = sa.select(*result_columns(resource)).where(resource.is_row("row_id"))
    return database.plan_once(row)


def result_columns(resource: Resource) -> tuple[Any, Any]:
    """Return the columns `version` and `body` that statements return for a row."""
    c = resource.table.c
    return c.version, resource.as_json(c).label("body")


def is_parent_visible(resource: Resource, parent_id: UUID | None) -> bool:
    """Return whether the caller sees the parent; True without a `parent_id`."""
    return not (resource.parent and parent_id) or bool(find_row(resource.parent, parent_id))


def update_row(
    resource: Resource,
    row_id: UUID,
    values: Mapping[str, Any],
    versions: Versions | None,
    merge: bool = False,
) -> Row | None:
    """Set the fields in `values`. The version and `updated_at` change only if a value does.

    With `merge`, JSON objects are RFC 7396 patches. Returns None if the caller sees no such row, or
    if its version is not one of `versions`. None allows every version.
    """
    if versions == NO_VERSION:
        return None
    if not values:
        row = find_row(resource, row_id)
        return row if row and (versions is None or row.version in versions) else None
    sets_text = sets_searched_text(resource, values)
    statements = update_statements(resource, sets_text, merge)
    parameters = {**value_parameters(resource, values), "row_id": row_id}
    statement = statements.update
    if versions is not None:
        statement = statements.update_at_version
        parameters |= _version_parameters(versions)

    def resolve() -> Row | None:
        # With exactly one expected version the update takes effect at most once.
        has_one_version = (
            versions is not None and len(versions.listed) == 1 and not versions.is_complement
        )
        row = database.execute(statement, parameters) if has_one_version else None
        return row or _find_lost_update(statements.read_back, parameters, versions)

    return database.execute(statement, parameters, resolve)


class UpdateStatements(NamedTuple):
    update: sa.Update
    update_at_version: sa.Update
    read_back: sa.Update


@lru_cache
def update_statements(resource: Resource, sets_text: bool, merge: bool) -> UpdateStatements:
    """Return the statements that set the columns that the parameter `sent_names` lists.

    One statement serves every selection of columns.
    """
    c = resource.table.c
    values, is_changed = build_changes(resource, sets_text, merge, new_value, is_sent)
    row = database.plan_once(sa.update(resource.table).where(resource.is_row("row_id")))
    update = row.values(**values).returning(*result_columns(resource))
    # An UPDATE, not a SELECT: it waits for concurrent changes and for replication.
    read_back = row.values(id=c.id).returning(
        *result_columns(resource), sa.not_(is_changed).label("has_new_values")
    )
    return UpdateStatements(update, update.where(_has_version(resource)), read_back)


def build_changes(
    resource: Resource,
    sets_text: bool,
    merge: bool,
    new_value: Callable[[sa.Column[Any]], Any],
    is_sent: Callable[[str], sa.ColumnElement[bool]],
) -> tuple[dict[str, Any], sa.ColumnElement[bool]]:
    """Return the values of the columns of an UPDATE, and the condition that a value changes.

    `new_value` returns the value that the client sent for a column, if `is_sent` is true for its
    name. An UPDATE sets searched texts only with `sets_text`: PostgreSQL computes the search
    columns again even if the texts stay the same.
    """
    c = resource.table.c
    values: dict[str, Any] = {}
    differences = []
    for name in resource.writable:
        if name in _searched_texts(resource) and not sets_text:
            continue
        new = new_value(c[name])
        if merge and isinstance(c[name].type, JSONB):
            merged = sa.func.jsonb_merge_patch(c[name], new, type_=JSONB)
            new = sa.case((new.is_not(None), merged)) if c[name].nullable else merged
        values[name] = sa.case((is_sent(name), new), else_=c[name])
        differs = comparable(c[name]).is_distinct_from(comparable(new))
        differences.append(sa.and_(is_sent(name), differs))
    is_changed = sa.or_(*differences)
    values["version"] = c.version + sa.cast(is_changed, sa.Integer)
    # Not now(), the statement's start: it may be before the change that held the row's lock.
    values["updated_at"] = sa.case((is_changed, sa.func.clock_timestamp()), else_=c.updated_at)
    return values, is_changed


def sets_searched_text(resource: Resource, names: Iterable[str]) -> bool:
    """Return whether one of the columns is a text from which search columns are computed."""
    return not _searched_texts(resource).isdisjoint(names)


def _find_lost_update(
    read_back: sa.Update, parameters: Mapping[str, Any], versions: Versions | None
) -> Row | None:
    """Find out whether an update whose result was lost took effect.

    The update cannot be repeated, because it might overwrite a later one. If the row has the new
    values, and one of the expected versions or the next one, the update counts as done, although
    another client may have set the same values (RFC 9110, 13.1.1). Returns None if an update of
    another client certainly came first. Raises OutcomeUnknown.
    """
    row = database.execute(read_back, parameters)
    if row and row.has_new_values:
        if versions is None or row.version in versions:
            return row
        if not versions.is_complement and row.version - 1 in versions:
            return row
    if not row or versions is None or versions.is_complement:
        raise OutcomeUnknown
    if any(version + 1 < row.version for version in versions.listed):
        raise OutcomeUnknown
    return None


def delete_row(resource: Resource, row_id: UUID, versions: Versions | None) -> bool:
    """Delete a row. Returns False in the cases in which `update_row` returns None.

    Raises Conflict if rows of another table still refer to it and the model forbids that.
    """
    if versions == NO_VERSION:
        return False
    statement = _delete_statements(resource)[versions is not None]
    parameters = {"row_id": row_id, **(_version_parameters(versions) if versions else {})}

    def resolve() -> Any:
        deleted = database.execute(statement, parameters)
        if deleted or find_row(resource, row_id):
            return deleted
        return database.execute(database.WAIT_FOR_REPLICATION)

    try:
        return database.execute(statement, parameters, resolve) is not None
    except UnknownReference as error:
        raise Conflict(f"It still has {error.table}. Delete them first.") from error


@lru_cache
def _delete_statements(resource: Resource) -> tuple[Any, Any]:
    """Return the statements without and with a condition on the version."""
    rows = database.plan_once(sa.delete(resource.table).where(resource.is_row("row_id")))
    delete = rows.returning(resource.table.c.id)
    return delete, delete.where(_has_version(resource))


@lru_cache
def _searched_texts(resource: Resource) -> frozenset[str]:
    """Return the writable columns from which the search columns may be computed."""
    if not resource.is_searchable:
        return frozenset()
    columns = (resource.table.c[name] for name in resource.writable)
    return frozenset(column.key for column in columns if isinstance(column.type, sa.String))


def _has_version(resource: Resource) -> sa.ColumnElement[bool]:
    versions = sa.bindparam("versions", type_=ARRAY(sa.Integer))
    is_listed = resource.table.c.version == sa.any_(versions)
    return is_listed != sa.bindparam("is_complement", type_=sa.Boolean)


def _version_parameters(versions: Versions) -> dict[str, Any]:
    return {"versions": versions.listed, "is_complement": versions.is_complement}
