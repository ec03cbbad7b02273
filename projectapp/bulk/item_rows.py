"""Items as one parameter of a statement, a JSON array, from which PostgreSQL makes rows."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from projectapp import database
from projectapp.bulk.items import Item
from projectapp.resources.models import READ_ONLY
from projectapp.resources.resource import Resource
from projectapp.resources.subqueries import DIALECT
from projectapp.resources.values import default_value, names_with_default, value_type

_ITEMS = sa.bindparam("items", type_=sa.Text)


def encode_items(resource: Resource, items: Sequence[Item]) -> str:
    """Return the JSON array of the parameter `items`, with an object for each item.

    An object has the values of the item: JSON values, or texts that PostgreSQL casts to the types
    of the columns. Its member `default_names` lists the columns that get their defaults. An item
    without an id gets a new id; the new ids ascend in the order of the items.
    """
    encoders, default_names = _encoders(resource), names_with_default(resource)
    json_names = _json_names(resource)
    new_ids = sorted(database.uuid7() for _ in items)
    texts = []
    for new_id, (_, values, exact) in zip(new_ids, items, strict=True):
        members: dict[str, Any] = {"id": new_id, **values}
        for name, encode in encoders.items():
            if name in members:
                members[name] = encode(members[name])
        if not values.keys() >= default_names:
            members["default_names"] = [*default_names - values.keys()]
        text = _encode(members)
        if exact and (exact_names := json_names & exact.keys() & values.keys()):
            others = {name: members[name] for name in members.keys() - exact_names}
            exact_members = (f"{_encode(name)}:{exact[name]}" for name in exact_names)
            text = f"{_encode(others)[:-1]},{','.join(exact_members)}}}"
        texts.append(text)
    return f"[{','.join(texts)}]"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


@lru_cache
def _encoders(resource: Resource) -> dict[str, Any]:
    """Return the functions that SQLAlchemy applies to values, such as the members of an enum."""
    encoders = {}
    for name in resource.fields:
        type_ = resource.table.c[name].type
        element_type = type_.item_type if isinstance(type_, sa.ARRAY) else type_
        if not isinstance(element_type, sa.JSON):
            encoders[name] = type_.dialect_impl(DIALECT).bind_processor(DIALECT)
    return {name: encode for name, encode in encoders.items() if encode}


@lru_cache
def _json_names(resource: Resource) -> frozenset[str]:
    columns = resource.table.c
    return frozenset(name for name in resource.fields if isinstance(columns[name].type, sa.JSON))


def item_types(resource: Resource) -> dict[str, Any]:
    """Return the types of the values of an item, by the names of their columns."""
    types = {name: value_type(resource.table.c[name]) for name in resource.fields}
    return {**types, "default_names": ARRAY(sa.Text)}


def select_items(types: Mapping[str, Any]) -> sa.Subquery:
    """Return the members of the parameter `items` as columns of these types.

    The column `item_number` counts the items from 1.
    """
    quote, compile_type = DIALECT.identifier_preparer.quote, DIALECT.type_compiler_instance.process
    definitions = ", ".join(f"{quote(name)} {compile_type(type_)}" for name, type_ in types.items())
    names = ", ".join(map(quote, types))
    rows = sa.text(
        "SELECT * FROM ROWS FROM"  # noqa: S608 - the names of columns and types
        f" (json_to_recordset(CAST(:items AS json)) AS ({definitions}))"
        f" WITH ORDINALITY AS item ({names}, item_number)"
    ).bindparams(_ITEMS)
    columns = [sa.column(name, type_) for name, type_ in types.items()]
    return rows.columns(*columns, sa.column("item_number", sa.BigInteger)).subquery("item")


def column_values(resource: Resource, item: Any, keeps_read_only: bool) -> dict[str, Any]:
    """Return the values of the columns of an item's row.

    With `keeps_read_only`, the item may have a version, times and an owner. Otherwise they are the
    defaults and the parameter `owner`.
    """
    values: dict[str, Any] = {}
    for name in resource.fields:
        column = resource.table.c[name]
        default = default_value(column)
        values[name] = item[name]
        if name in READ_ONLY[1:]:
            if not keeps_read_only:
                owner = sa.cast(sa.bindparam("owner", type_=column.type), column.type)
                values[name] = owner if default is None else default
            elif default is not None:
                values[name] = sa.func.coalesce(item[name], default, type_=column.type)
        elif default is not None and name in resource.writable:
            uses_default = sa.literal_column(f"'{name}'") == sa.any_(item.default_names)
            values[name] = sa.case((uses_default, default), else_=item[name])
    return values
