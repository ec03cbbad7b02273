"""A page of any table as one statement: filters, an order, a place in it, a total.

A list is a row of *parts*, one after the other, such as the ranks of a search; most lists are one
part. Within a part one order of columns holds, which an index can follow, and PostgreSQL comes to
the next part only while the page is not full. docs/decisions/0005 says why.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from projectapp.database import Row, rfc3339
from projectapp.resources.cursors import InvalidCursor, Position
from projectapp.resources.segments import (
    DIALECT,
    SIZE,
    SKIPPED,
    Filter,
    Parts,
    Start,
    constant,
    count,
    indexed,
    select_of,
)

__all__ = [
    "COUNT_MODES",
    "EXACT_COUNT_LIMIT",
    "Filter",
    "Listing",
    "Page",
    "Start",
    "constant",
    "read",
]

COUNT_MODES = ("auto", "exact", "none")
EXACT_COUNT_LIMIT = (
    10_000  # matches that auto counts; where the planner says twice as many, it counts none
)


class Page(NamedTuple):
    """`items` is JSON text; `before` and `after` are where the neighbouring pages begin, if any."""

    items: str
    total: int | None
    is_estimate: bool
    before: Position | None
    after: Position | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The rows of `table` that pass all `filters`, by part and then by `keys`.

    Every row is in one of the `parts`, unless there are none. `part_number` makes the number of a
    row's part; it is there for parts that no index in the list's order serves. Each key is a
    column's name and whether it descends; the last column is unique, none is ever null. `render`
    makes an item's JSON text; it, the filters, parts and keys are given the `columns`, by name.
    Where the list `hides` rows, the planner's estimate knows of them, so what it takes for many is
    counted, too.
    """

    table: sa.Table
    columns: Sequence[str]
    filters: Sequence[Filter]
    parts: Sequence[Filter]
    part_number: Callable[[Any], sa.ColumnElement[int]] | None = None
    keys: Sequence[tuple[str, bool]]
    render: Callable[[Any], sa.ColumnElement[str]]
    hides: bool

    def statement(
        self, how_many: str, start: Start | None = None, is_far: bool = False
    ) -> sa.Select[Any]:
        """Return the statement for a page: it gives one row, for `read`.

        Its parameters are `size`, the most that the page holds, and `skipped`, the rows before it.
        With `start`, a part's number and whether to go backward, the page begins beyond the row of
        the keys `at_0`, `at_1`, ... in that part. `how_many`, one of COUNT_MODES, is for the total.
        Where many rows are skipped, `is_far`, they are not fetched if an index has their keys.
        """
        by_keys = is_far and all(one.aligned for one in self.filters)
        walked = replace(self, columns=[name for name, _ in self.keys]) if by_keys else self
        first, *others = Parts(walked, start, counts=how_many != "none").selects()
        chosen = first
        if others:
            chosen, c = select_of(sa.union_all(first, *others).subquery("listed"), walked.types)
            chosen = chosen.add_columns(c.list_part, c.list_matches)
        chosen = chosen.limit(SIZE + constant(1)).offset(SKIPPED)
        rows, c = select_of(chosen.subquery("chosen"), walked.types)
        number = sa.func.row_number().over().label("list_number")
        rows = rows.add_columns(number, c.list_part, c.list_matches)
        if by_keys:
            rows = self._fetched(rows.subquery("numbered"), walked.types)
        rows, c = select_of(rows.subquery("shown"), self.types)
        comma: Any = sa.literal_column("','")
        if start and start[1]:
            comma = aggregate_order_by(comma, c.list_number.desc())
        elif by_keys:
            comma = aggregate_order_by(comma, c.list_number)
        keys = [c[name] for name, _ in self.keys]
        shown = [rfc3339(key) if isinstance(key.type, sa.DateTime) else key for key in keys]
        place = sa.cast(sa.func.json_build_array(c.list_part, *shown), sa.Text)
        page = rows.with_only_columns(
            sa.func.string_agg(self.render(c), comma).filter(c.list_number <= SIZE).label("items"),
            sa.func.count().label("found"),
            sa.func.max(c.list_matches).label("matches"),
            (sa.func.max(place).filter(c.list_number == constant(1)) if start else sa.null()).label(
                "first"
            ),
            sa.func.max(place).filter(c.list_number == SIZE).label("last"),
        ).cte("page")
        is_reached = sa.or_(page.c.found > constant(0), constant(0) == SKIPPED)
        ends_here = sa.and_(page.c.found <= SIZE, is_reached)
        known = [page.c.matches.is_not(None), *([] if start else [ends_here])]
        return sa.select(page).add_columns(*self._total(how_many, ~sa.or_(*known), page))

    @cached_property
    def types(self) -> dict[str, Any]:
        return {name: self.table.c[name].type for name in self.columns}

    def _fetched(self, numbered: sa.Subquery, types: Mapping[str, Any]) -> sa.Select[Any]:
        """Add all columns to rows that have those of `types`; the last key is unique."""
        unique, _ = self.keys[-1]
        rows, c = select_of(numbered, types)
        rest = (self.table.c[name] for name in self.columns if name not in types)
        rows = rows.add_columns(c.list_number, c.list_part, c.list_matches, *rest)
        return rows.join(self.table, self.table.c[unique] == c[unique])

    def _total(self, how_many: str, is_needed: sa.ColumnElement[bool], page: sa.CTE) -> list[Any]:
        """How many rows match, `counted` and by the planner's `estimate`, if not known already."""
        c = self.table.c
        every: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(self.table)
        matches = every.where(*(one.condition(c) for one in self.filters), *indexed(self.filters))
        counted: Any = sa.null()
        estimate: Any = sa.null()
        if how_many == "exact":
            counted = sa.case((is_needed, count(matches)))
        elif how_many == "auto":
            reckoned = sa.select(sa.case((is_needed, self._estimate(every))).label("rows"))
            rows = reckoned.select_from(page).cte("reckoned").c.rows
            estimate = sa.select(rows).scalar_subquery()
            counts = (
                estimate.is_not(None) if self.hides else estimate <= constant(2 * EXACT_COUNT_LIMIT)
            )
            counted = sa.case((counts, count(matches.limit(constant(EXACT_COUNT_LIMIT + 1)))))
        return [counted.label("counted"), estimate.label("estimate")]

    def _estimate(self, every: sa.Select[Any]) -> sa.ColumnElement[int]:
        """What the planner expects; it knows better what an index finds than what LIKE does."""
        conditions = (
            one.condition(self.table.c) if one.indexed is None else one.indexed
            for one in self.filters
        )
        compiled = every.where(*conditions).compile(dialect=DIALECT)
        names = re.findall(r"%\((\w+)\)s", str(compiled))
        query = re.sub(r"%\(\w+\)s", "%L", str(compiled))
        return sa.func.row_estimate(sa.func.format(query, *(compiled.binds[n] for n in names)))

    def parameters(self, position: Position) -> tuple[Start, dict[str, Any]]:
        """Return the `start` and the parameters of a position. Raises InvalidCursor."""
        kinds = [self.table.c[name].type.python_type for name, _ in self.keys]
        try:
            part, *values = position.values
            if type(part) is not int or part not in range(max(1, len(self.parts))):
                raise ValueError
            typed = [_typed(kind, value) for kind, value in zip(kinds, values, strict=True)]
        except (ValueError, OverflowError):
            raise InvalidCursor from None
        return (part, position.backward), {f"at_{n}": value for n, value in enumerate(typed)}


def read(row: Row, parameters: Mapping[str, Any], how_many: str, start: Start | None) -> Page:
    """Make a Page of the row that the statement gave for these."""
    goes_on = row.found > parameters["size"]
    total, is_estimate = row.matches if row.counted is None else row.counted, False
    if how_many == "none":
        total = None
    elif row.estimate is not None and (total is None or total > EXACT_COUNT_LIMIT):
        total, is_estimate = max(row.estimate, total or 0), True
    elif total is None:
        total = parameters["skipped"] + row.found
    backward = start is not None and start[1]
    near = json.loads(row.first) if row.first else None
    far = json.loads(row.last) if goes_on else None
    before, after = (far, near) if backward else (near, far)
    return Page(
        row.items or "",
        total,
        is_estimate,
        Position(before, backward=True) if before else None,
        Position(after) if after else None,
    )


def _typed(kind: type, value: Any) -> Any:
    """A value of JSON as one of a column's Python type; ValueError if it is none."""
    if kind is bool and isinstance(value, bool):
        return value
    if not isinstance(value, str) or kind is bool:
        raise ValueError
    if kind is datetime:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            raise ValueError
        return found.astimezone(UTC)  # PostgreSQL knows no offset beyond 15:59
    return UUID(value) if kind is UUID else value
