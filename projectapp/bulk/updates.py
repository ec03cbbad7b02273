"""Changes many rows of any resource, or none of them, in one statement and one round trip.

Only a lost answer, or a value that the database refuses, needs more statements. The statements are
built once for each resource and cached.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from projectapp import database
from projectapp.bulk.checks import Check, build_check, name_items, run_check, wider_types
from projectapp.bulk.item_rows import encode_items, item_types, select_items
from projectapp.bulk.items import Item
from projectapp.database import Row
from projectapp.problems import (
    BadRequest,
    Conflict,
    ItemsNotFound,
    ItemsPreconditionFailed,
    OutcomeUnknown,
    Problem,
    ValidationFailed,
)
from projectapp.resources.resource import Resource
from projectapp.resources.writes import build_changes, sets_searched_text

# With a space these names cannot be names of columns.
_SENT_NAMES, _CURRENT_VERSION = "sent names", "current version"


def update_items(resource: Resource, items: Sequence[Item]) -> str:
    """Merge each item into the row with its `id`; return the rows as JSON texts joined by ",".

    The items are RFC 7396 patches, as in a PATCH of one row. An item may have the `version` that
    its row must have.

    Raises ItemsNotFound if the caller does not see a row, else ItemsPreconditionFailed if a row has
    another version, and ValidationFailed if two items have the same id. The details name the items,
    and no row was changed. Raises OutcomeUnknown.
    """
    _require_distinct_ids(items)
    names = {name for item in items for name in item.values}
    sets_text = sets_searched_text(resource, names)
    statement = _update_statement(resource, sets_text)
    with_names = [
        item._replace(values={**item.values, _SENT_NAMES: [*item.values]}) for item in items
    ]
    parameters = {"items": encode_items(resource, with_names)}

    def resolve() -> Row:
        # If every item has a version, the statement takes effect at most once.
        have_versions = all("version" in item.values for item in items)
        row = database.execute(statement, parameters) if have_versions else None
        if row and row.body:
            return row
        state = database.execute(_read_back_statement(resource, sets_text), parameters)
        if state.row_count == len(items) and state.is_done:
            return state
        if row and state.is_refuted:
            return row
        raise OutcomeUnknown

    try:
        row = database.execute(statement, parameters, resolve)
    except (BadRequest, Conflict, ValidationFailed) as problem:
        invalid_items = run_check(_check_of_changes(resource), parameters["items"])
        raise name_items(problem, items, invalid_items) from problem.__cause__
    if row.body is None:
        raise _failure(resource, items, row.failures)
    return row.body


def _require_distinct_ids(items: Sequence[Item]) -> None:
    places: dict[Any, int] = {}
    field_errors = {}
    for item in items:
        first_place = places.setdefault(item.values["id"], item.place)
        if first_place != item.place:
            field_errors[f"{item.place}.id"] = [f"Item {first_place} has the same id."]
    if field_errors:
        raise ValidationFailed(field_errors)


def _failure(resource: Resource, items: Sequence[Item], failures: str) -> Problem:
    """Return why nothing was changed. `failures` is JSON: the current version by item number.

    Items are numbered from 1. The version is null if the caller sees no row with the item's id.
    """
    singular = resource.singular_name.replace("_", " ")
    versions = {items[int(n) - 1].place: version for n, version in json.loads(failures).items()}
    field_errors = {
        str(place): [
            f"There is no {singular} with this id."
            if version is None
            else f"The current version is {version}. Read the data again."
        ]
        for place, version in sorted(versions.items())
    }
    problem_class = ItemsNotFound if None in versions.values() else ItemsPreconditionFailed
    return problem_class(field_errors)


@lru_cache
def _update_statement(resource: Resource, sets_text: bool) -> sa.Select[Any]:
    """Return the statement for items with any fields; see `build_changes` for `sets_text`.

    Its row has either `body` or `failures`; the other one is null.
    """
    sent, locked = _lock_rows(resource)
    number, version = locked.c.item_number, locked.c[_CURRENT_VERSION]
    failed = (
        sa.select(sent.c.item_number.label("number"), version.label("version"))
        .outerjoin(locked, number == sent.c.item_number)
        .where(sa.or_(number.is_(None), sent.c.version != version))
        .cte("failed")
    )
    table = resource.table
    values, _ = _build_changes(resource, sets_text, locked.c)
    updated = (
        sa.update(table)
        .values(**values)
        .where(table.c.id == locked.c.id, ~sa.exists(sa.select(failed)))
        .returning(number.label("number"), resource.as_json(table.c).label("body"))
        .cte("updated")
    )
    failures = sa.cast(sa.func.json_object_agg(failed.c.number, failed.c.version), sa.Text)
    return sa.select(
        sa.select(_join_bodies(updated)).scalar_subquery().label("body"),
        sa.select(failures).scalar_subquery().label("failures"),
    )


@lru_cache
def _read_back_statement(resource: Resource, sets_text: bool) -> sa.Select[Any]:
    """Return the statement that finds out whether an update whose result was lost took effect.

    `is_done`: the rows have their new values, and their expected versions or the next ones.
    `is_refuted`: a row has its expected version, but not its new values. So the update had no
    effect on any row. (The next version without the new values proves nothing: perhaps the update
    took effect and did not change this row, and another client changed the row after it.)
    """
    _, locked = _lock_rows(resource)
    table = resource.table
    _, is_changed = _build_changes(resource, sets_text, locked.c)
    read = (
        sa.update(table)  # not a SELECT: it waits for replication
        .values(id=table.c.id)
        .where(table.c.id == locked.c.id)
        .returning(
            locked.c.item_number.label("number"),
            resource.as_json(table.c).label("body"),
            sa.not_(is_changed).label("has_new_values"),
            (table.c.version - locked.c.version).label("version_steps"),
        )
        .cte("read")
    )
    steps, has_new_values = read.c.version_steps, read.c.has_new_values
    fits = sa.func.coalesce(steps.between(0, 1), sa.true())
    return sa.select(
        _join_bodies(read),
        sa.func.count().label("row_count"),
        sa.func.bool_and(sa.and_(has_new_values, fits)).label("is_done"),
        sa.func.bool_or(sa.and_(sa.not_(has_new_values), steps == 0)).label("is_refuted"),
    )


def _lock_rows(resource: Resource) -> tuple[sa.CTE, sa.CTE]:
    """Return the items, and those of them whose rows the caller sees, with the current versions.

    The second CTE locks the rows in the order of their ids, so two bulk changes cannot deadlock. An
    UPDATE alone would lock them in any order.
    """
    c = resource.table.c
    sent = sa.select(_select_items(item_types(resource))).cte("sent")
    locked = (
        sa.select(c.version.label(_CURRENT_VERSION), *sent.c)
        .join(sent, sent.c.id == c.id)
        .where(resource.is_visible(c))
        .order_by(c.id)
        .with_for_update(key_share=True, of=resource.table)  # the lock that an UPDATE takes
    )
    return sent, locked.cte("locked")


@lru_cache
def _check_of_changes(resource: Resource) -> Check:
    """Return the check of the rows that the caller sees, with their new values."""
    c, types = resource.table.c, wider_types(resource)
    item = _select_items(types)
    values, _ = _build_changes(resource, True, item.c)
    for name in resource.writable:
        if isinstance(types[name], sa.Numeric):  # a cast to the type of the column may fail
            stored = sa.cast(c[name], types[name])
            values[name] = sa.case((_is_sent(name, item.c), item.c[name]), else_=stored)
    columns = (values.get(name, c[name]).label(name) for name in resource.fields)
    rows = sa.select(item.c.item_number, *columns).join(item, item.c.id == c.id)
    return build_check(resource, rows.where(resource.is_visible(c)), are_new=False)


def _select_items(types: dict[str, Any]) -> sa.Subquery:
    return select_items({**types, _SENT_NAMES: ARRAY(sa.Text)})


def _build_changes(
    resource: Resource, sets_text: bool, item: Any
) -> tuple[dict[str, Any], sa.ColumnElement[bool]]:
    """Call `build_changes` with the values in the columns of an item."""
    return build_changes(
        resource,
        sets_text,
        True,
        lambda column: item[column.key],
        lambda name: _is_sent(name, item),
    )


def _is_sent(name: str, item: Any) -> sa.ColumnElement[bool]:
    return sa.literal_column(f"'{name}'") == sa.any_(item[_SENT_NAMES])


def _join_bodies(rows: Any) -> sa.ColumnElement[str]:
    """Join the column `body` of these rows with commas, in the order of the items."""
    texts: Any = sa.func.string_agg(rows.c.body, sa.literal_column("','"))
    joined: sa.ColumnElement[str] = texts.aggregate_order_by(rows.c.number).label("body")
    return joined
