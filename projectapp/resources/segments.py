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
    order_of,
    rows_of_index,
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
                yield self._walk(number, _rows_needed).add_columns(*_segment_columns(number))
        else:
            yield from self._adaptive_selects(numbers)

    def _adaptive_selects(self, numbers: Sequence[int]) -> Iterator[sa.Select[Any]]:
        """Try the next rows in the list's order, and count the matches among them.

        If there are few, the first select fetches all matches by another index and sorts them. If
        there are many, they fill the page; with several segments, this is decided for each segment.
        If an owner has fewer rows than are tried, the matches among them are all matches.
        """
        spec = self._spec
        segments, types = spec.segments, spec.types
        tried = self._tried(self._first if self._has_start or not segments else None)
        from_top = self._tried(None, "from_top") if segments and self._has_start else tried
        matches, _ = select_from(tried, types)
        rare_conditions = [~_has_rows(matches, _RARE_MATCHES if segments else _rows_needed)]
        if from_top is not tried:  # near the end of a segment few rows are left, so few match
            matches_from_top, _ = select_from(from_top, types)
            rare_conditions.append(~_has_rows(matches_from_top, _RARE_MATCHES))
        is_complete = None
        if spec.nulls_first and (segments or not self._has_start):
            filters = [filter_ for filter_ in spec.filters if filter_.follows_order]
            rows = rows_of_index(spec, filters, _ROWS_TO_TRY)
            is_complete = evaluate_once(count_rows(rows) < _ROWS_TO_TRY, "complete")
            rare_conditions.append(~is_complete)
            matches_from_top, c = select_from(from_top, types)
            segment = c.list_segment if segments else constant(0).label("list_segment")
            yield self._all_matches(matches_from_top, segment, is_complete)
        is_rare = evaluate_once(sa.and_(*rare_conditions), "rare")
        rows = self._rows(spec.filters).where(*index_conditions(spec.filters))
        yield self._all_matches(rows, self._segment(spec.table.c), is_rare)
        is_frequent = ~is_rare if is_complete is None else sa.and_(~is_rare, ~is_complete)
        if not segments:
            matches = matches.add_columns(*_segment_columns(0)).where(is_frequent)
            yield matches.limit(_rows_needed)
            return
        for number in numbers:
            segment = segments[number]
            if self._has_start and number == self._first:
                source = tried
            elif segment.follows_order:
                source = self._tried(number, f"tried_{number}")
            else:
                source = from_top
            matches, c = select_from(source, types)
            matches = matches.where(c.list_segment == constant(number))
            fills_page = evaluate_once(_has_rows(matches, _rows_needed), f"full_{number}")
            matches = matches.add_columns(*_segment_columns(number)).where(is_frequent, fills_page)
            yield matches.limit(_rows_needed)
            conditions = index_conditions([segment]) or index_conditions(spec.filters)
            rows = self._rows(self._filters(number)).where(*conditions)
            remaining, c = self._fenced(rows)
            remaining = remaining.add_columns(*_segment_columns(number))
            yield self._ordered(remaining.where(is_frequent, ~fills_page), c)

    def _all_matches(self, matches: sa.Select[Any], segment: Any, condition: Any) -> sa.Select[Any]:
        """Select all matches of all segments, if the condition is true."""
        _, total = _segment_columns(0)
        if self._include_total:
            total = sa.func.count().over().label("list_matches")
        rows, c = self._fenced(matches.add_columns(segment, total))
        rows = rows.add_columns(c.list_segment, c.list_matches).where(condition)
        if self._has_start:
            first = constant(self._first)
            later = c.list_segment < first if self._is_backward else c.list_segment > first
            same = sa.and_(c.list_segment == first, self._is_after_start(c))
            rows = rows.where(sa.or_(later, same))
        return self._ordered(
            rows.order_by(c.list_segment.desc() if self._is_backward else c.list_segment), c
        )

    def _segment(self, c: Any) -> sa.Label[int]:
        """Return the number of a row's segment."""
        if self._spec.segment_number:
            return self._spec.segment_number(c).label("list_segment")
        cases = [(s.condition(c), constant(n)) for n, s in enumerate(self._spec.segments)]
        return (sa.case(*cases) if cases else constant(0)).label("list_segment")

    def _tried(self, number: int | None, name: str = "tried") -> sa.CTE:
        """Select the matches among the next rows in the list's order: of a segment, or of all.

        They stay in this order, because PostgreSQL stores the rows of a CTE as they come. So it
        reads only as many rows as the page needs. An ORDER BY would read all rows to try.
        """
        spec = self._spec
        walked = self._walk(number, _ROWS_TO_TRY).subquery("walked")
        matches, c = select_from(walked, spec.types)
        others = (filter_ for filter_ in spec.filters if not filter_.follows_order)
        matches = matches.where(*(filter_.condition(c) for filter_ in others))
        return matches.add_columns(self._segment(c)).cte(name)

    def _walk(self, number: int | None, limit: Any) -> sa.Select[Any]:
        """Select the first rows in the list's order, from an index: of a segment, or of all.

        Without the limit in each part, the planner would read all rows of a part and sort them.
        """
        spec, c = self._spec, self._spec.table.c
        is_one_part = (
            number is not None and bool(spec.segments) and spec.segments[number].follows_order
        )
        filters = spec.filters if number is None else self._filters(number)
        filters = [filter_ for filter_ in filters if filter_.follows_order]
        if not spec.parts or is_one_part:
            return self._ordered(self._rows(filters), c, limit)
        parts = (self._ordered(self._rows([*filters, part]), c, limit) for part in spec.parts)
        rows, c = select_from(sa.union_all(*parts).subquery("parts"), spec.types)
        return self._ordered(rows, c, limit)

    def _rows(self, filters: Sequence[Filter]) -> sa.Select[Any]:
        table = self._spec.table
        rows = sa.select(column_list(table.name, self._spec.types)).select_from(table)
        return rows.where(*(filter_.condition(table.c) for filter_ in filters))

    def _fenced(self, rows: sa.Select[Any]) -> tuple[sa.Select[Any], Any]:
        """Select from `rows`. OFFSET 0 keeps the planner from reading them in the list's order."""
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
        nulls_first = self._spec.nulls_first
        return rows.order_by(*(order_of(c[n], d, nulls_first) for n, d in self._keys)).limit(limit)


def _has_rows(rows: sa.Select[Any], number: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Are there at least `number` rows? PostgreSQL stops reading when it has so many."""
    return count_rows(rows.limit(number)) >= number


def _segment_columns(number: int) -> tuple[sa.Label[int], sa.Label[int]]:
    null: Any = sa.literal_column("NULL::bigint")
    return constant(number).label("list_segment"), null.label("list_matches")
