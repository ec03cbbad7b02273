"""The values that a client sends for a row, as parameters of its insert or update.

One statement serves every selection of fields: it has a parameter for each writable column, and
`sent_names` with the names of the fields that the client sent.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from projectapp.resources.resource import Resource
from projectapp.resources.subqueries import DIALECT

_sent_names = sa.bindparam("sent_names", type_=ARRAY(sa.Text))


def value_parameters(resource: Resource, values: Mapping[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = {f"new_{name}": values.get(name) for name in resource.writable}
    return {**parameters, "sent_names": [*values]}


def new_value(column: sa.Column[Any]) -> Any:
    """Return the parameter of a writable column, with a type: PostgreSQL does not infer it."""
    type_ = value_type(column)
    return sa.cast(sa.bindparam(f"new_{column.key}", type_=type_), type_)


def value_type(column: sa.Column[Any]) -> Any:
    """Return the type of a column's values before they are stored: a text without its limit."""
    if isinstance(column.type, sa.String):
        return without_limit(column.type)
    if isinstance(column.type, sa.JSON):
        return type(column.type)(none_as_null=True)
    return column.type


def without_limit(type_: Any) -> Any:
    """Return a column's type without its limit: a cast to that type would cut or round values."""
    if isinstance(type_, sa.String) and not isinstance(type_, sa.Enum):
        return sa.Text()
    is_decimal = isinstance(type_, sa.Numeric) and not isinstance(type_, sa.Float)
    return sa.Numeric() if is_decimal else type_


def is_sent(name: str) -> sa.ColumnElement[bool]:
    return sa.literal_column(f"'{name}'") == sa.any_(_sent_names)


def default_value(column: sa.Column[Any]) -> sa.Cast[Any] | None:
    """Return the column's default as an expression."""
    compiler: Any = DIALECT.ddl_compiler
    sql = compiler(DIALECT, None).get_column_default_string(column)
    return None if sql is None else sa.cast(sa.literal_column(sql), column.type)


@lru_cache
def names_with_default(resource: Resource) -> frozenset[str]:
    """Return the names of the writable columns that have a default."""
    columns = resource.table.c
    return frozenset(name for name in resource.writable if columns[name].server_default is not None)


def comparable(value: Any) -> Any:
    """Compare JSON as text: 1 and 1.0 are equal as jsonb, but differ in the response.

    It is the text of jsonb, which has the same spaces for equal values.
    """
    return sa.cast(sa.cast(value, JSONB), sa.Text) if isinstance(value.type, sa.JSON) else value
