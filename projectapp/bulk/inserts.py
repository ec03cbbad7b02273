"""Inserts many rows of any resource in one statement, in one round trip."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from projectapp import auth, database
from projectapp.bulk.checks import find_invalid_items, name_items
from projectapp.bulk.item_rows import column_values, encode_items, item_types, select_items
from projectapp.bulk.items import Item
from projectapp.database import Row
from projectapp.problems import BadRequest, Conflict, ValidationFailed
from projectapp.resources.idempotency import (
    VERSION_OF_MANY,
    IdempotencyClaim,
    build_idempotent_insert,
    insert_idempotently,
)
from projectapp.resources.inserts import execute_insert
from projectapp.resources.resource import Resource
from projectapp.resources.writes import is_parent_visible


def insert_items(
    resource: Resource,
    items: Sequence[Item],
    claim: IdempotencyClaim | None = None,
    parent_id: UUID | None = None,
) -> tuple[Row | None, bool]:
    """Insert a row for each item, or none; the rules of `insert_row` apply.

    Returns a row whose `body` is the JSON texts of the rows, in the order of the items and with a
    comma between them, and whether it is the response to an earlier request with the same `claim`.
    The row is None if the caller sees no parent with `parent_id`. Raises ValidationFailed, and
    Conflict, with the items and fields that the database refuses.
    """
    encoded_items = encode_items(resource, items)
    parameters = {
        "items": encoded_items,
        "owner": auth.current_owner(),
        "parent_id": parent_id,
        "id": database.uuid7(),
    }
    try:
        if claim:
            return insert_idempotently(
                _idempotent_insert_statement(resource),
                parameters,
                claim,
                lambda: is_parent_visible(resource, parent_id),
            )
        insert_statement, repeat = _insert_statements(resource)
        return execute_insert(insert_statement, repeat, parameters), False
    except (BadRequest, Conflict, ValidationFailed) as problem:
        invalid_items = find_invalid_items(resource, encoded_items)
        raise name_items(problem, items, invalid_items) from problem.__cause__


@lru_cache
def _insert_statements(resource: Resource) -> list[sa.Select[Any]]:
    """Return two statements: one that inserts rows, and one to run if its result is lost.

    The second inserts the rows with the same ids, unless they are stored. Unlike a SELECT, it
    writes in both cases, so its commit waits until the rows are replicated.
    """
    rows = new_rows(resource)
    new = insert(resource.table).from_select(rows.selected_columns.keys(), rows)
    repeated = new.on_conflict_do_update(index_elements=["id"], set_={"id": new.excluded.id})
    columns = [resource.table.c[name] for name in resource.fields]
    inserts = [statement.returning(*columns).cte("inserted") for statement in (new, repeated)]
    return [sa.select(_body(resource, inserted)).having(_has_rows()) for inserted in inserts]


@lru_cache
def _idempotent_insert_statement(resource: Resource) -> sa.Select[Any]:
    def select_response(rows: sa.CTE) -> sa.Select[Any]:
        request_id = sa.bindparam("id", type_=sa.Uuid)
        version = sa.literal_column(str(VERSION_OF_MANY), sa.Integer)
        columns = (sa.cast(request_id, sa.Uuid).label("id"), version.label("version"))
        return sa.select(*columns, _body(resource, rows)).having(_has_rows())

    return build_idempotent_insert(resource.table, new_rows(resource), select_response)


def _body(resource: Resource, rows: sa.CTE) -> Any:
    # The ids ascend in the order of the items.
    texts: Any = sa.func.string_agg(resource.as_json(rows.c), sa.literal_column("','"))
    return texts.aggregate_order_by(rows.c.id).label("body")


def _has_rows() -> sa.ColumnElement[bool]:
    return sa.func.count() > 0


def new_rows(
    resource: Resource, keeps_read_only: bool = False, items_have_parents: bool = False
) -> sa.Select[Any]:
    """Select the rows to insert for the parameter `items`, of `encode_items`.

    The parent is the parameter `parent_id` or, if the `items_have_parents`, the value of its column
    in each item. There is no row without a visible parent. Children have their parents' owners.
    Other rows have the parameter `owner` or, with `keeps_read_only`, the owner in the item. Then
    versions and times are also those of the items.
    """
    item, parent = select_items(item_types(resource)), resource.parent
    values = column_values(resource, item.c, keeps_read_only)
    if not parent:
        return sa.select(*(value.label(name) for name, value in values.items()))
    key, p = str(resource.parent_key), parent.table.c
    is_parent = p.id == item.c[key] if items_have_parents else parent.is_row("parent_id")
    values |= {"owner": p.owner, key: p.id}
    # The lock makes the insert wait for a concurrent change of the parent's owner.
    rows = sa.select(*(value.label(name) for name, value in values.items()))
    return rows.where(is_parent).with_for_update(read=True, of=parent.table)
