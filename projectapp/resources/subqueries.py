"""Small selects from which the statement of a list is built.

Their columns are literal text. SQLAlchemy would need most of its time to compile column objects,
because each level of the statement repeats all columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg2 import dialect

DIALECT = dialect()  # type: ignore[no-untyped-call]
PAGE_SIZE = sa.bindparam("page_size", type_=sa.Integer)
OFFSET = sa.bindparam("offset", type_=sa.BigInteger)


class Filter(NamedTuple):
    """A condition on the columns of a table or subquery.

    `follows_order` says that an index in the list's order also serves this condition.
    `index_condition` is a condition that follows from this one and that has an index of its own.
    """

    condition: Callable[[Any], sa.ColumnElement[bool]]
    follows_order: bool = False
    index_condition: sa.ColumnElement[bool] | None = None


class Start(NamedTuple):
    """Where a page begins: in this segment, after the cursor's row, or before it."""

    segment: int
    is_backward: bool


@dataclass(frozen=True, kw_only=True)
class ListSpec:
    """Which rows a list has, in which order.

    They are the rows of `table` that pass all `filters`, ordered by segment and then by `keys`. A
    row belongs to exactly one of the `segments`; a list without segments counts as one segment.

    - `columns`: the names of the columns that filters, segments, keys and items use.
    - `segment_number` computes the number of a row's segment. Segments that an index has in order
      need no such function.
    - `keys`: names of columns, and whether they descend. No key is ever null; the last is unique.
    - `parts`: none, or two conditions, and each row meets exactly one of them. The list's index has
      the rows of each part in the list's order, but not all rows. So PostgreSQL merges the parts.
    - `consecutive_by`: the column that divides the rows into the parts. The index has the parts one
      after the other in its order, so one scan counts both. None if a filter is a range of the
      first key: then each part has a range of its own in the index.
    - `nulls_first`: the list's index is one of an owner, and has its keys with NULLS FIRST. The
      list is sorted in the same way, so the planner cannot use another index for the order.
    - `is_restricted`: the caller sees only some rows. The planner's estimate covers the rows of all
      owners, so the service counts before it shows an estimate.
    """

    table: sa.Table
    columns: Sequence[str]
    filters: Sequence[Filter]
    segments: Sequence[Filter]
    segment_number: Callable[[Any], sa.ColumnElement[int]] | None = None
    keys: Sequence[tuple[str, bool]]
    parts: Sequence[Filter] = ()
    consecutive_by: str | None = None
    nulls_first: bool = False
    is_restricted: bool

    @cached_property
    def types(self) -> dict[str, Any]:
        return {name: self.table.c[name].type for name in self.columns}

    def with_keys_only(self) -> "ListSpec":
        return replace(self, columns=[name for name, _ in self.keys])


class Columns:
    """The columns of a subquery or CTE of a list, as attributes and as items."""

    def __init__(self, alias: str, types: Mapping[str, Any]) -> None:
        own_columns = ("list_segment", "list_matches", "list_number")
        for name, type_ in {**types, **dict.fromkeys(own_columns, PAGE_SIZE.type)}.items():
            setattr(self, name, sa.literal_column(_qualify(alias, name), type_))

    def __getitem__(self, name: str) -> sa.ColumnElement[Any]:
        return cast(sa.ColumnElement[Any], getattr(self, name))


def constant(number: int) -> sa.ColumnElement[int]:
    """Return a number as SQL text: a parameter would cost time at each compilation."""
    return sa.literal_column(str(number), PAGE_SIZE.type)


def select_from(source: Any, types: Mapping[str, Any]) -> tuple[sa.Select[Any], Any]:
    """Return a select of the columns named in `types`, and all columns of `source`."""
    rows = sa.select(column_list(source.name, types)).select_from(source)
    return rows, Columns(source.name, types)


def column_list(alias: str, names: Iterable[str]) -> sa.ColumnElement[Any]:
    return sa.literal_column(", ".join(_qualify(alias, name) for name in names))


def _qualify(alias: str, name: str) -> str:
    return ".".join(map(DIALECT.identifier_preparer.quote, (alias, name)))


def count_rows(rows: sa.Select[Any]) -> sa.ScalarSelect[int]:
    ones = rows.with_only_columns(sa.literal_column("1"), maintain_column_froms=True).subquery()
    return sa.select(sa.func.count()).select_from(ones).scalar_subquery()


def rows_of_index(
    spec: ListSpec, filters: Sequence[Filter], limit: sa.ColumnElement[int]
) -> sa.Select[Any]:
    """Select up to `limit` rows that pass the filters, for a count by the index of the list.

    The order keeps the planner from other indexes, and from reading the whole table. The lowest
    keys, such as the oldest rows, come first: VACUUM has probably seen these rows, and then
    PostgreSQL need not read them.
    """
    c = spec.table.c
    rows: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(spec.table)
    rows = rows.where(*(filter_.condition(c) for filter_ in filters))
    order = [order_of(c[spec.keys[0][0]], False, spec.nulls_first)]
    if spec.consecutive_by:
        return rows.order_by(c[spec.consecutive_by], *order).limit(limit)
    rows = rows.order_by(*order).limit(limit)
    if not spec.parts:
        return rows
    parts = (rows.where(part.condition(c)) for part in spec.parts)
    union = sa.union_all(*parts).subquery("parts")
    return sa.select(sa.literal_column("1")).select_from(union).limit(limit)


def order_of(column: Any, descends: bool, nulls_first: bool) -> Any:
    """Return the order of a key. An index with NULLS FIRST that is read backward has NULLS LAST."""
    if not nulls_first:
        return column.desc() if descends else column
    return column.desc().nulls_last() if descends else column.nulls_first()


def index_conditions(filters: Sequence[Filter]) -> list[sa.ColumnElement[bool]]:
    return [filter_.index_condition for filter_ in filters if filter_.index_condition is not None]


def evaluate_once(condition: sa.ColumnElement[bool], name: str) -> sa.ScalarSelect[bool]:
    """Put a condition that depends on no row into a CTE: it is evaluated at most once."""
    return sa.select(sa.select(condition.label("is")).cte(name).c["is"]).scalar_subquery()
