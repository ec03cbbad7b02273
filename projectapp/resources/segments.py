"""The segments of a list as selects. The plan depends on how frequent the matches are.

If one index serves the order and all filters, a segment is read from it. Otherwise the best index
depends on the stored rows, so the statement decides while it runs. docs/lists.md shows the SQL of a
search.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from projectapp.resources.cursors import rows_after
from projectapp.resources.subqueries import (
    OFFSET,
    PAGE_SIZE,
    Filter,
    ListSpec,
    Start,
    column_list,
    constant,
    count_rows,
    evaluate_once,
    index_conditions,
    select_from,
)

_rows_needed = PAGE_SIZE + OFFSET + constant(1)
_ROWS_TO_TRY = constant(4_000)  # in the list's order, before an index of the matches is used
_RARE_MATCHES = constant(10)  # with fewer among the tried rows, all segments are fetched at once


class SegmentSelects:
    """Builds the selects of a list that begins at `start`.

    With `include_total`, the select that fetches all matches also returns their number.
    """

    def __init__(self, spec: ListSpec, start: Start | None, include_total: bool) -> None:
        self._spec, self._include_total = spec, include_total
        self._has_start = start is not None
        self._first, self._is_backward = start or (0, False)
        self._keys = [(name, descends != self._is_backward) for name, descends in spec.keys]
        types = (spec.table.c[name].type for name, _ in spec.keys)
        self._start_values = [sa.bindparam(f"at_{n}", type_=type_) for n, type_ in enumerate(types)]

    def build(self) -> Iterator[sa.Select[Any]]:
        """Yield selects whose results, one after the other, are the list.

        Their columns are those of the spec, `list_segment`, and `list_matches`: the number of all
        matches, or null.
        """
        last = max(1, len(self._spec.segments)) - 1
        backward, forward = range(self._first, -1, -1), range(self._first, last + 1)
        numbers = backward if self._is_backward else forward
        if all(filter_.follows_order for filter_ in self._spec.filters):
            for number in numbers:
                yield self._walk(self._filters(number)).add_columns(*_segment_columns(number))
        else:
            yield from self._adaptive_selects(numbers)

    def _adaptive_selects(self, numbers: Sequence[int]) -> Iterator[sa.Select[Any]]:
        """Try the next rows in the list's order, and count the matches among them.

        If there are few, the first select fetches all matches by another index and sorts them. If
        there are many, they fill the page; with several segments, this is decided for each segment.
        """
        segments, types = self._spec.segments, self._spec.types
        starts_in_segment = self._has_start or not segments
        tried = self._tried(self._filters(self._first) if starts_in_segment else self._spec.filters)
        tried_from_top = self._tried(self._spec.filters, "from_top") if self._has_start else tried
        matches, _ = select_from(tried, types)
        rare_conditions = [~_has_rows(matches, _RARE_MATCHES if segments else _rows_needed)]
        if segments and self._has_start:  # near its end few rows are left, so few match
            matches_from_top, _ = select_from(tried_from_top, types)
            rare_conditions.append(~_has_rows(matches_from_top, _RARE_MATCHES))
        is_rare = evaluate_once(sa.and_(*rare_conditions), "rare")
        yield self._all_matches(is_rare)
        if not segments:
            matches = matches.add_columns(*_segment_columns(0)).where(~is_rare)
            yield matches.limit(_rows_needed)
            return
        for number in numbers:
            segment, filters = segments[number], self._filters(number)
            if self._has_start and number == self._first:
                source = tried
            elif segment.follows_order:
                source = self._tried(filters, f"tried_{number}")
            else:
                source = tried_from_top
            matches, c = select_from(source, types)
            if not segment.follows_order:
                matches = matches.where(c.list_segment == constant(number))
            fills_page = evaluate_once(_has_rows(matches, _rows_needed), f"full_{number}")
            matches = matches.add_columns(*_segment_columns(number)).where(~is_rare, fills_page)
            yield matches.limit(_rows_needed)
            conditions = index_conditions([segment]) or index_conditions(self._spec.filters)
            remaining, c = self._fenced(filters, conditions)
            remaining = remaining.add_columns(*_segment_columns(number))
            yield self._ordered(remaining.where(~is_rare, ~fills_page), c)

    def _all_matches(self, is_rare: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """Select all matches of all segments, if they are rare."""
        spec = self._spec
        c = spec.table.c
        segment, total = _segment_columns(0)
        if spec.segment_number:
            segment = spec.segment_number(c).label("list_segment")
        elif spec.segments:
            cases = ((s.condition(c), constant(n)) for n, s in enumerate(spec.segments))
            segment = sa.case(*cases).label("list_segment")
        if self._include_total:
            total = sa.func.count().over().label("list_matches")
        conditions = index_conditions(spec.filters)
        rows, c = self._fenced(spec.filters, conditions, segment, total)
        rows = rows.add_columns(c.list_segment, c.list_matches).where(is_rare)
        if self._has_start:
            first = constant(self._first)
            later = c.list_segment < first if self._is_backward else c.list_segment > first
            same = sa.and_(c.list_segment == first, self._is_after_start(c))
            rows = rows.where(sa.or_(later, same))
        return self._ordered(
            rows.order_by(c.list_segment.desc() if self._is_backward else c.list_segment), c
        )

    def _tried(self, filters: Sequence[Filter], name: str = "tried") -> sa.CTE:
        """Select the matches among the next rows in the list's order.

        They stay in this order, because PostgreSQL stores the rows of a CTE as they come. So it
        reads only as many rows as the page needs: to sort them again, it would read all.
        """
        spec = self._spec
        in_order = [filter_ for filter_ in filters if filter_.follows_order]
        walked = self._walk(in_order, _ROWS_TO_TRY).subquery("walked")
        matches, c = select_from(walked, spec.types)
        others = (filter_ for filter_ in spec.filters if not filter_.follows_order)
        matches = matches.where(*(filter_.condition(c) for filter_ in others))
        if spec.segment_number:
            matches = matches.add_columns(spec.segment_number(c).label("list_segment"))
        return matches.cte(name)

    def _walk(self, filters: Sequence[Filter], limit: Any = _rows_needed) -> sa.Select[Any]:
        """Select the first rows in the list's order, from an index that serves the filters.

        The limit of each part keeps the planner from reading all of a part and sorting it.
        """
        spec, c = self._spec, self._spec.table.c
        if not spec.parts:
            return self._ordered(self._rows(filters), c, limit)
        parts = (self._ordered(self._rows([*filters, part]), c, limit) for part in spec.parts)
        rows, c = select_from(sa.union_all(*parts).subquery("parts"), spec.types)
        return self._ordered(rows, c, limit)

    def _rows(self, filters: Sequence[Filter]) -> sa.Select[Any]:
        table = self._spec.table
        rows = sa.select(column_list(table.name, self._spec.types)).select_from(table)
        return rows.where(*(filter_.condition(table.c) for filter_ in filters))

    def _fenced(
        self, filters: Sequence[Filter], conditions: Any, *more_columns: Any
    ) -> tuple[sa.Select[Any], Any]:
        """Select all matches. OFFSET 0 keeps the planner from reading them in the list's order."""
        rows = self._rows(filters).where(*conditions).add_columns(*more_columns)
        return select_from(rows.offset(constant(0)).subquery("fetched"), self._spec.types)

    def _filters(self, number: int) -> list[Filter]:
        """Return the filters of one segment."""
        is_start = self._has_start and number == self._first
        after_start = [Filter(self._is_after_start, follows_order=True)] if is_start else []
        return [*self._spec.filters, *self._spec.segments[number : number + 1], *after_start]

    def _is_after_start(self, c: Any) -> sa.ColumnElement[bool]:
        keys = [(c[name], descends) for name, descends in self._keys]
        return rows_after(keys, self._start_values)

    def _ordered(self, rows: sa.Select[Any], c: Any, limit: Any = _rows_needed) -> sa.Select[Any]:
        order = [c[name].desc() if descends else c[name].asc() for name, descends in self._keys]
        if self._spec.nulls_first:
            order = [
                k.nulls_last() if d else k.nulls_first()
                for k, (_, d) in zip(order, self._keys, strict=True)
            ]
        return rows.order_by(*order).limit(limit)


def _has_rows(rows: sa.Select[Any], number: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Are there so many rows? PostgreSQL stops to read them when it has found so many."""
    return count_rows(rows.limit(number)) >= number


def _segment_columns(number: int) -> tuple[sa.Label[int], sa.Label[int]]:
    null: Any = sa.literal_column("NULL::bigint")
    return constant(number).label("list_segment"), null.label("list_matches")
