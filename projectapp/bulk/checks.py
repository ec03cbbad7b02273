"""Finds the items that the database refuses: its own errors name no item."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from projectapp import database
from projectapp.bulk.item_rows import column_values, item_types, select_items
from projectapp.resources.resource import Resource
from projectapp.resources.subqueries import DIALECT

_INTEGER_BITS = ((sa.SmallInteger, 16), (sa.BigInteger, 64), (sa.Integer, 32))
_REAL_RANGE = (7.1e-46, 3.4028235e38)  # smaller and greater numbers do not fit into a real


class InvalidItem(NamedTuple):
    """An item, by its number from 0, and what is wrong with a field of it."""

    number: int
    field: str
    message: str


class _Rule(NamedTuple):
    is_violated: sa.ColumnElement[bool]
    field: str
    message: str


def find_invalid_items(resource: Resource, encoded_items: str) -> list[InvalidItem]:
    """Return what the database refuses in the items, which `encode_items` encoded.

    It checks lengths, ranges, constraints with a message, foreign keys and unique keys. An empty
    list means that it accepts the items now.
    """
    statement, messages = _check_statement(resource)
    violations = database.execute(statement, {"items": encoded_items}).violations or []
    return [
        InvalidItem(number, *message)
        for number, *results in violations
        for message, is_violated in zip(messages, results, strict=True)
        if is_violated
    ]


@lru_cache
def _check_statement(resource: Resource) -> tuple[sa.Select[Any], list[tuple[str, str]]]:
    """Return the statement, and the field and the message of each rule.

    The statement returns a JSON array for each invalid item: its number, then whether it violates
    each rule.
    """
    types = {name: _wider_type(type_) for name, type_ in item_types(resource).items()}
    item = select_items(types)
    values = column_values(resource, item.c, keeps_read_only=True)
    columns = (value.label(name) for name, value in values.items())
    rows = sa.select(item.c.item_number, *columns).cte("item_row")
    rules = [*_rules(resource, rows)]
    checked = sa.select(
        rows.c.item_number,
        *(rule.is_violated.label(f"rule_{number}") for number, rule in enumerate(rules)),
    ).subquery("checked")
    results = [column for column in checked.c if column.key != "item_number"]
    number = checked.c.item_number
    texts: Any = sa.func.json_agg(sa.func.json_build_array(number - 1, *results))
    violations = texts.aggregate_order_by(number).label("violations")
    messages = [(rule.field, rule.message) for rule in rules]
    return sa.select(violations).where(sa.or_(*results)), messages


def _wider_type(type_: Any) -> Any:
    """Return a type that accepts every number, so that a rule can name the item with the number."""
    is_number = isinstance(type_, sa.Integer | sa.Numeric | sa.Float)
    return sa.Numeric() if is_number else type_


def _rules(resource: Resource, rows: sa.CTE) -> Iterator[_Rule]:
    for name in resource.writable:
        column, value = resource.table.c[name], rows.c[name]
        if not column.nullable:
            yield _Rule(value.is_(None), name, "Field may not be null.")
        if isinstance(column.type, sa.String) and column.type.length:
            message = f"Longer than maximum length {column.type.length}."
            yield _Rule(sa.func.char_length(value) > column.type.length, name, message)
        is_in_range = _is_in_range(column.type, value)
        if is_in_range is not None:
            yield _Rule(sa.not_(is_in_range), name, "The number is out of range.")
    for constraint in resource.table.constraints:
        if isinstance(constraint, sa.CheckConstraint) and constraint.info:
            info = constraint.info
            is_satisfied = _expression(constraint.sqltext)
            yield _Rule(sa.not_(is_satisfied), info["field"], info["message"])
    for foreign_key in resource.table.foreign_keys:
        name, referred = foreign_key.parent.key, foreign_key.column.table.alias("referred")
        value = rows.c[name]
        exists: sa.ColumnElement[bool] = sa.exists().where(
            referred.c[foreign_key.column.key] == value
        )
        if foreign_key.column.table is resource.table:  # another item may be the referred row
            exists |= value.in_(sa.select(rows.c[foreign_key.column.key]))
        message = f"There are no {foreign_key.column.table.name} with this id."
        yield _Rule(value.is_not(None) & ~exists, name, message)
    for names in _unique_keys(resource.table):
        stored = resource.table.alias("stored")
        exists = sa.exists().where(*(stored.c[name] == rows.c[name] for name in names))
        key = [rows.c[name] for name in names]
        number = sa.func.row_number().over(partition_by=key, order_by=rows.c.item_number)
        is_repeated = sa.and_(number > 1, *(value.is_not(None) for value in key))
        message = f"There are already {resource.name} with this {' and '.join(names)}."
        yield _Rule(exists | is_repeated, names[0], message)


def _is_in_range(type_: Any, value: Any) -> sa.ColumnElement[bool] | None:
    """Return the condition that a number fits into the type, or None if every number does."""
    for integer, bits in _INTEGER_BITS:
        if isinstance(type_, integer):
            limit = _number(2 ** (bits - 1))
            return sa.and_(value >= -limit, value < limit)
    if isinstance(type_, sa.REAL):
        least, greatest = map(_number, _REAL_RANGE)
        return sa.or_(value == 0, sa.func.abs(value).between(least, greatest))
    if isinstance(type_, sa.Numeric) and not isinstance(type_, sa.Float) and type_.precision:
        scale = type_.scale or 0
        rounded = sa.func.round(value, _number(scale))
        return sa.func.abs(rounded) < _number(10 ** (type_.precision - scale))
    return None


def _number(value: float) -> sa.ColumnElement[Any]:
    return sa.literal_column(str(value))


def _expression(sqltext: Any) -> sa.ColumnElement[bool]:
    """Return the condition of a constraint with columns that have no table's name."""
    options = {"include_table": False, "literal_binds": True}
    sql = str(sqltext.compile(dialect=DIALECT, compile_kwargs=options))
    return sa.literal_column(f"({sql.replace('%%', '%')})", sa.Boolean)


def _unique_keys(table: sa.Table) -> Iterator[list[str]]:
    """Yield the names of the columns of the primary key, unique constraints and unique indexes."""
    for constraint in table.constraints:
        if isinstance(constraint, sa.PrimaryKeyConstraint | sa.UniqueConstraint):
            yield [column.key for column in constraint.columns]
    for index in table.indexes:
        is_partial = index.dialect_options["postgresql"]["where"] is not None
        columns = [column for column in index.expressions if isinstance(column, sa.Column)]
        if index.unique and not is_partial and len(columns) == len(index.expressions):
            yield [column.key for column in columns]
