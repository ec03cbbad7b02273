"""One statement for a page of a list: its rows as JSON, the neighbouring cursors, and the total.

A list is a sequence of *segments*, such as the ranks of a search; most lists have one segment.
Within a segment, rows are ordered by columns, so an index can serve the order. PostgreSQL begins
the next segment only if the page is not full yet. docs/decisions/0005 gives the reasons.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from projectapp.database import Row, rfc3339
from projectapp.resources.cursors import InvalidCursor, Position
from projectapp.resources.segments import SegmentSelects
from projectapp.resources.subqueries import (
    DIALECT,
    OFFSET,
    PAGE_SIZE,
    ListSpec,
    Start,
    constant,
    count_rows,
    index_conditions,
    rows_of_index,
    select_from,
)

COUNT_MODES = ("auto", "exact", "none")
EXACT_COUNT_LIMIT = 10_000  # `auto` counts up to it, unless the planner expects twice as many


class Page(NamedTuple):
    """`items` is JSON text; `previous` and `next` are where the neighbouring pages begin."""

    items: str
    total: int | None
    is_estimate: bool
    previous: Position | None
    next: Position | None


def page_statement(
    spec: ListSpec,
    render_json: Callable[[Any], sa.ColumnElement[str]],
    count_mode: str,
    start: Start | None = None,
    skips_many: bool = False,
) -> sa.Select[Any]:
    """Build the statement for a page. It returns one row, for `page_from_row`.

    Its parameters are `page_size`, the most rows of the page, and `offset`, the number of rows to
    skip. With `start`, the page begins after the row with the keys `at_0`, `at_1`, ... in that
    segment. `count_mode` is one of COUNT_MODES. `render_json` makes the JSON text of an item from
    its columns. With `skips_many`, skipped rows are not fetched if an index has their keys.
    """
    fetches_late = skips_many and all(filter_.follows_order for filter_ in spec.filters)
    rows = numbered_rows(spec, start, count_mode != "none", fetches_late)
    shown, c = select_from(rows.subquery("shown"), spec.types)
    comma: Any = sa.literal_column("','")
    if start and start.is_backward:
        comma = aggregate_order_by(comma, c.list_number.desc())
    elif fetches_late:
        comma = aggregate_order_by(comma, c.list_number)
    position = position_of(spec, c)
    first_position: Any = sa.null()
    if start:
        first_position = sa.func.max(position).filter(c.list_number == constant(1))
    page = shown.with_only_columns(
        sa.func.string_agg(render_json(c), comma).filter(c.list_number <= PAGE_SIZE).label("items"),
        sa.func.count().label("row_count"),
        sa.func.max(c.list_matches).label("matches"),
        first_position.label("first"),
        sa.func.max(position).filter(c.list_number == PAGE_SIZE).label("last"),
    ).cte("page")
    is_reached = sa.or_(page.c.row_count > constant(0), constant(0) == OFFSET)
    is_last_page = sa.and_(page.c.row_count <= PAGE_SIZE, is_reached)
    total_is_known = sa.or_(page.c.matches.is_not(None), *([] if start else [is_last_page]))
    return sa.select(page).add_columns(*_total(spec, count_mode, ~total_is_known, page))


def numbered_rows(
    spec: ListSpec, start: Start | None, include_total: bool, fetches_late: bool
) -> sa.Select[Any]:
    """Select the rows of the page and one row more, with their numbers from 1.

    With `fetches_late`, an index finds them by their keys before they are fetched.
    """
    walk_spec = spec.with_keys_only() if fetches_late else spec
    first, *others = SegmentSelects(walk_spec, start, include_total).build()
    rows = first
    if others:
        rows, c = select_from(sa.union_all(first, *others).subquery("listed"), walk_spec.types)
        rows = rows.add_columns(c.list_segment, c.list_matches)
    rows = rows.limit(PAGE_SIZE + constant(1)).offset(OFFSET)
    rows, c = select_from(rows.subquery("chosen"), walk_spec.types)
    number = sa.func.row_number().over().label("list_number")
    rows = rows.add_columns(number, c.list_segment, c.list_matches)
    if not fetches_late:
        return rows
    unique_key, _ = spec.keys[-1]
    rows, c = select_from(rows.subquery("numbered"), walk_spec.types)
    other_columns = (spec.table.c[name] for name in spec.columns if name not in walk_spec.types)
    rows = rows.add_columns(c.list_number, c.list_segment, c.list_matches, *other_columns)
    return rows.join(spec.table, spec.table.c[unique_key] == c[unique_key])


def position_of(spec: ListSpec, row: Any) -> sa.ColumnElement[str]:
    """Render the `sort_values` of the Position after a row, as JSON text."""
    sort_values = (_sort_value(row[name]) for name, _ in spec.keys)
    return sa.cast(sa.func.json_build_array(row.list_segment, *sort_values), sa.Text)


def _sort_value(key: Any) -> Any:
    """Render a key for a cursor, a decimal as text: as a number of JSON it would be rounded."""
    if isinstance(key.type, sa.DateTime):
        return rfc3339(key)
    return sa.cast(key, sa.Text) if key.type.python_type in (Decimal, float) else key


def _total(
    spec: ListSpec, count_mode: str, is_needed: sa.ColumnElement[bool], page: sa.CTE
) -> list[Any]:
    """Return the columns `counted` and `estimate`: the number of matches, where it is needed."""
    all_rows: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(spec.table)
    conditions = (filter_.condition(spec.table.c) for filter_ in spec.filters)
    matches = all_rows.where(*conditions, *index_conditions(spec.filters))
    limit = constant(EXACT_COUNT_LIMIT + 1)
    if spec.nulls_first and all(filter_.follows_order for filter_ in spec.filters):
        limited = count_rows(rows_of_index(spec, spec.filters, limit))
    else:
        limited = count_rows(matches.limit(limit))
    counted: Any = sa.null()
    estimate: Any = sa.null()
    if count_mode == "exact":
        counted = sa.case((is_needed, count_rows(matches)))
    elif count_mode == "auto" and spec.is_restricted:
        counted = _evaluate_once(sa.case((is_needed, limited)), page, "counted")
        estimate = sa.case((counted > constant(EXACT_COUNT_LIMIT), _estimate(spec, all_rows)))
    elif count_mode == "auto":
        estimate = _evaluate_once(sa.case((is_needed, _estimate(spec, all_rows))), page, "estimate")
        counted = sa.case((estimate <= constant(2 * EXACT_COUNT_LIMIT), limited))
    return [counted.label("counted"), estimate.label("estimate")]


def _evaluate_once(rows: sa.Case[Any], page: sa.CTE, name: str) -> sa.ScalarSelect[Any]:
    cte = sa.select(rows.label("rows")).select_from(page).cte(f"{name}_rows")
    return sa.select(cte.c.rows).scalar_subquery()


def _estimate(spec: ListSpec, all_rows: sa.Select[Any]) -> sa.ColumnElement[int]:
    """Ask the planner. Its estimate for an index condition is better than the one for LIKE."""
    conditions = (
        filter_.condition(spec.table.c)
        if filter_.index_condition is None
        else filter_.index_condition
        for filter_ in spec.filters
    )
    compiled = all_rows.where(*conditions).compile(dialect=DIALECT)
    names = re.findall(r"%\((\w+)\)s", str(compiled))
    query = re.sub(r"%\(\w+\)s", "%L", str(compiled))
    return sa.func.row_estimate(sa.func.format(query, *(compiled.binds[n] for n in names)))


def start_parameters(spec: ListSpec, position: Position) -> tuple[Start, dict[str, Any]]:
    """Return the start of a cursor's position and its parameters. Raises InvalidCursor."""
    types = [spec.table.c[name].type.python_type for name, _ in spec.keys]
    try:
        segment, *values = position.sort_values
        if type(segment) is not int or segment not in range(max(1, len(spec.segments))):
            raise ValueError
        typed = [_coerce(type_, value) for type_, value in zip(types, values, strict=True)]
    except (ValueError, OverflowError):
        raise InvalidCursor from None
    parameters = {f"at_{n}": value for n, value in enumerate(typed)}
    return Start(segment, position.is_backward), parameters


def _coerce(type_: type, value: Any) -> Any:
    """Return a sort value of a cursor as a value for a column's type. Raises ValueError."""
    if type_ in (bool, int) and type(value) is type_:
        return value
    if not isinstance(value, str) or type_ in (bool, int):
        raise ValueError
    if type_ is datetime:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise ValueError
        return time.astimezone(UTC)  # PostgreSQL rejects offsets beyond 15:59
    return UUID(value) if type_ is UUID else value


def page_from_row(
    row: Row, parameters: Mapping[str, Any], count_mode: str, start: Start | None
) -> Page:
    """Return the Page for the row that the statement returned for these parameters."""
    has_more = row.row_count > parameters["page_size"]
    total, is_estimate = row.matches if row.counted is None else row.counted, False
    if count_mode == "none":
        total = None
    elif row.estimate is not None and (total is None or total > EXACT_COUNT_LIMIT):
        total, is_estimate = max(row.estimate, total or 0), True
    elif total is None:
        total = parameters["offset"] + row.row_count
    before = json.loads(row.first) if row.first else None
    after = json.loads(row.last) if has_more else None
    if start and start.is_backward:
        before, after = after, before
    return Page(
        row.items or "",
        total,
        is_estimate,
        Position(before, is_backward=True) if before else None,
        Position(after) if after else None,
    )
