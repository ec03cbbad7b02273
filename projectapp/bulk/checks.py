"""Finds the items that the database refuses, because its own errors do not name the item."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from projectapp import database
from projectapp.bulk.item_rows import column_values, item_types, select_items
from projectapp.bulk.items import Item, join_name
from projectapp.problems import Conflict, Problem, ValidationFailed
from projectapp.resources.resource import Resource
from projectapp.resources.subqueries import DIALECT

_INTEGER_BITS = ((sa.SmallInteger, 16), (sa.BigInteger, 64), (sa.Integer, 32))
_REAL_RANGE = (7.1e-46, 3.4028235e38)  # smaller and greater numbers do not fit into a real


class InvalidItem(NamedTuple):
    """An item, by its number from 0, and what is wrong with a field of it."""

    number: int
    field: str
    message: str


class ConflictingItem(InvalidItem):
    """An item that is invalid only because another row has the same key."""

    __slots__ = ()


def name_items(
    problem: Problem, items: Sequence[Item], invalid_items: Sequence[InvalidItem]
) -> Problem:
    """Return the problem of the invalid items; without any, the same problem."""
    errors: dict[str, list[str]] = {}
    for number, field, message in invalid_items:
        errors.setdefault(join_name(items[number].place, field), []).append(message)
    if not errors:
        return problem
    invalid = ValidationFailed(errors)
    if all(isinstance(invalid_item, ConflictingItem) for invalid_item in invalid_items):
        return Conflict(invalid.detail, invalid.field_errors)
    return invalid


class _Rule(NamedTuple):
    is_violated: sa.ColumnElement[bool]
    field: str
    message: str
    type_of_item: type[InvalidItem] = InvalidItem


class Check(NamedTuple):
    """A statement with the parameter `items`, and its rules.

    The statement returns a JSON array for each invalid item: its number, then whether it violates
    each rule.
    """

    statement: sa.Select[Any]
    rules: list[_Rule]


def find_invalid_items(resource: Resource, encoded_items: str) -> list[InvalidItem]:
    """Return what the database refuses in the items, which `encode_items` encoded.

    It checks lengths, ranges, constraints with a message, foreign keys and unique keys. An empty
    list means that the database would accept the items now.
    """
    return run_check(_check_of_new_rows(resource), encoded_items)


def run_check(check: Check, encoded_items: str) -> list[InvalidItem]:
    violations = database.execute(check.statement, {"items": encoded_items}).violations or []
    return [
        rule.type_of_item(number, rule.field, rule.message)
        for number, *results in violations
        for rule, is_violated in zip(check.rules, results, strict=True)
        if is_violated
    ]


@lru_cache
def _check_of_new_rows(resource: Resource) -> Check:
    item = select_items(wider_types(resource))
    values = column_values(resource, item.c, keeps_read_only=True)
    columns = (value.label(name) for name, value in values.items())
    return build_check(resource, sa.select(item.c.item_number, *columns), are_new=True)


def build_check(resource: Resource, select_rows: sa.Select[Any], are_new: bool) -> Check:
    """Return the check of rows, which have a column for each field, and `item_number`.

    They are rows to insert if they `are_new`, and otherwise stored rows with new values.
    """
    rows = _cast_numbers(resource, select_rows.cte("item_row"))
    rules = [*_rules(resource, rows, are_new)]
    checked = sa.select(
        rows.c.item_number,
        *(rule.is_violated.label(f"rule_{number}") for number, rule in enumerate(rules)),
    ).subquery("checked")
    results = [column for column in checked.c if column.key != "item_number"]
    number = checked.c.item_number
    texts: Any = sa.func.json_agg(sa.func.json_build_array(number - 1, *results))
    violations = texts.aggregate_order_by(number).label("violations")
    return Check(sa.select(violations).where(sa.or_(*results)), rules)


def wider_types(resource: Resource) -> dict[str, Any]:
    """Return the types of items with numbers of any size, so that a rule can name the item."""
    return {name: _wider_type(type_) for name, type_ in item_types(resource).items()}


def _wider_type(type_: Any) -> Any:
    is_number = isinstance(type_, sa.Integer | sa.Numeric | sa.Float)
    return sa.Numeric() if is_number else type_


def _cast_numbers(resource: Resource, rows: sa.CTE) -> sa.CTE:
    """Select the rows with the types of the columns; a number that is out of range is null.

    The column `NAME is in range` tells whether the number in NAME is.
    """
    columns: list[Any] = [rows.c.item_number]
    for name in resource.fields:
        value, type_ = rows.c[name], resource.table.c[name].type
        if (is_in_range := _is_in_range(type_, value)) is not None:
            columns.append(is_in_range.label(_in_range(name)))
            value = sa.case((is_in_range, sa.cast(value, type_))).label(name)
        columns.append(value)
    return sa.select(*columns).cte("typed_row")


def _in_range(name: str) -> str:
    return f"{name} is in range"


def _rules(resource: Resource, rows: sa.CTE, are_new: bool) -> Iterator[_Rule]:
    for name in resource.fields:
        column, value = resource.table.c[name], rows.c[name]
        type_: Any = column.type
        is_in_range = rows.c.get(_in_range(name))
        if is_in_range is not None:
            yield _Rule(sa.not_(is_in_range), name, "The number is out of range.")
        if not column.nullable and name != resource.parent_key:  # the path may have the parent's id
            sent = value if is_in_range is None else is_in_range  # null only if the value is
            yield _Rule(sent.is_(None), name, "Field may not be null.")
        is_text = isinstance(type_, sa.String) and not isinstance(type_, sa.Enum)
        if is_text and (length := type_.length):
            message = f"Longer than maximum length {length}."
            yield _Rule(sa.func.char_length(value) > length, name, message)
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
        if names == ["id"] and not are_new:
            continue
        stored = resource.table.alias("stored")
        exists = sa.exists().where(*(stored.c[name] == rows.c[name] for name in names))
        if names != ["id"]:  # a row to pull may be stored
            exists = exists.where(stored.c.id != rows.c.id)
        key = [rows.c[name] for name in names]
        number = sa.func.row_number().over(partition_by=key, order_by=rows.c.item_number)
        is_repeated = sa.and_(number > 1, *(value.is_not(None) for value in key))
        message = f"There are already {resource.name} with this {' and '.join(names)}."
        yield _Rule(exists | is_repeated, names[0], message, ConflictingItem)


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
