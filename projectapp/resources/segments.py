"""The parts of a list as selects, found in the way that suits how frequent the matches are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg2 import dialect

from projectapp.resources.cursors import beyond

if TYPE_CHECKING:
    from projectapp.resources.listing import Listing

DIALECT = dialect()  # type: ignore[no-untyped-call]
SIZE = sa.bindparam("size", type_=sa.Integer)
SKIPPED = sa.bindparam("skipped", type_=sa.BigInteger)

Start = tuple[int, bool]


def constant(number: int) -> sa.ColumnElement[int]:
    """A number in the statement's text: a parameter would cost time each time it is compiled."""
    return sa.literal_column(str(number), SIZE.type)


_reach = SIZE + SKIPPED + constant(1)
_TRIED = constant(4_000)  # rows that are tried in the list's order before matches are fetched
_RARE = constant(10)  # matches among them: with fewer, the matches of all parts are fetched at once


class Columns:
    """The columns of a subquery or CTE of a list, as attributes and items.

    They are text. Most of the time that SQLAlchemy takes to compile a statement is for columns, and
    each level of a list's statement would have all of them again.
    """

    def __init__(self, alias: str, types: Mapping[str, Any]) -> None:
        own = dict.fromkeys(("list_part", "list_matches", "list_number"), SIZE.type)
        for name, kind in {**types, **own}.items():
            setattr(self, name, sa.literal_column(_qualify(alias, name), kind))

    def __getitem__(self, name: str) -> sa.ColumnElement[Any]:
        return cast(sa.ColumnElement[Any], getattr(self, name))


def select_of(source: Any, types: Mapping[str, Any]) -> tuple[sa.Select[Any], Any]:
    """Return a select of the columns that have `types`, and all columns of `source`."""
    return sa.select(_list(source.name, types)).select_from(source), Columns(source.name, types)


def _list(alias: str, names: Iterable[str]) -> sa.ColumnElement[Any]:
    return sa.literal_column(", ".join(_qualify(alias, name) for name in names))


def _qualify(alias: str, name: str) -> str:
    return ".".join(map(DIALECT.identifier_preparer.quote, (alias, name)))


class Filter(NamedTuple):
    """A condition on the columns of a table or subquery.

    It is `aligned` if an index in the list's order serves it. `indexed` is what an index of its own
    serves, where that is not the condition itself but something that it implies.
    """

    condition: Callable[[Any], sa.ColumnElement[bool]]
    aligned: bool = False
    indexed: sa.ColumnElement[bool] | None = None


class Parts:
    """What of a listing comes after `start`, a part's number and whether to go backward.

    With `counts`, the number of all matches comes with them where all have to be fetched.
    """

    def __init__(self, listing: Listing, start: Start | None, counts: bool) -> None:
        self.table, self.filters, self.parts = listing.table, listing.filters, listing.parts
        self.part_number = listing.part_number
        self.types = listing.types
        self.is_resumed, self.counts = start is not None, counts
        self.first, self.backward = start or (0, False)
        self.keys = [(name, down != self.backward) for name, down in listing.keys]
        types = (self.table.c[name].type for name, _ in self.keys)
        self.places = [sa.bindparam(f"at_{n}", type_=kind) for n, kind in enumerate(types)]

    def selects(self) -> Iterator[sa.Select[Any]]:
        """The selects that are the list, one after the other.

        Their columns are the listing's, `part` and `matches`: all there are, where that is known.
        """
        last = max(1, len(self.parts)) - 1
        numbers = range(self.first, -1, -1) if self.backward else range(self.first, last + 1)
        if all(one.aligned for one in self.filters):
            for number in numbers:
                some = self._rows(self._filters(number)).add_columns(*_labels(number))
                yield self._ordered(some, self.table.c)
        else:
            yield from self._found(numbers)

    def _found(self, numbers: Sequence[int]) -> Iterator[sa.Select[Any]]:
        """Where no index holds both order and filters, the next rows in order are tried first.

        If matches are rare among them, all are fetched by an index of their own and sorted. If not,
        they fill the page, or with several parts those parts that are not rare themselves.
        """
        begins_here = self.is_resumed or not self.parts
        tried = self._tried(self._filters(self.first) if begins_here else self.filters)
        from_top = self._tried(self.filters, "from_top") if self.is_resumed else tried
        few = _RARE if self.parts else _reach
        walk, c = select_of(tried, self.types)
        seldom = [count(walk) < few]
        if self.parts and self.is_resumed:  # at the end of a part few are left of any word
            seldom.append(count(select_of(from_top, self.types)[0]) < few)
        is_rare = _once(sa.and_(*seldom), "rare")
        yield self._fetched(is_rare)
        if not self.parts:
            yield self._ordered(walk.add_columns(*_labels(0)).where(~is_rare), c)
            return
        for number in numbers:
            part, filters = self.parts[number], self._filters(number)
            if self.is_resumed and number == self.first:
                near = tried
            else:
                near = self._tried(filters, f"tried_{number}") if part.aligned else from_top
            hits, c = select_of(near, self.types)
            if not part.aligned:
                hits = hits.where(c.list_part == constant(number))
            is_full = _once(count(hits) >= _reach, f"full_{number}")
            hits = hits.add_columns(*_labels(number)).where(~is_rare, is_full)
            yield self._ordered(hits, c)
            rest, c = self._all(filters, indexed([part]) or indexed(self.filters))
            rest = rest.add_columns(*_labels(number)).where(~is_rare, ~is_full)
            yield self._ordered(rest, c)

    def _fetched(self, is_rare: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """All matches of all parts."""
        c = self.table.c
        part, matches = _labels(0)
        if self.part_number:
            part = self.part_number(c).label("list_part")
        elif self.parts:
            sides = ((side.condition(c), constant(n)) for n, side in enumerate(self.parts))
            part = sa.case(*sides).label("list_part")
        if self.counts:
            matches = sa.func.count().over().label("list_matches")
        rows, c = self._all(self.filters, indexed(self.filters), part, matches)
        rows = rows.add_columns(c.list_part, c.list_matches).where(is_rare)
        if self.is_resumed:
            first = constant(self.first)
            later = c.list_part < first if self.backward else c.list_part > first
            here = sa.and_(c.list_part == first, self._is_beyond(c))
            rows = rows.where(sa.or_(later, here))
        return self._ordered(rows.order_by(c.list_part.desc() if self.backward else c.list_part), c)

    def _tried(self, filters: Sequence[Filter], name: str = "tried") -> sa.CTE:
        aligned = self._rows([one for one in filters if one.aligned])
        walked = self._ordered(aligned, self.table.c, _TRIED).subquery("walked")
        matches, c = select_of(walked, self.types)
        matches = matches.where(*(one.condition(c) for one in self.filters if not one.aligned))
        if self.part_number:
            matches = matches.add_columns(self.part_number(c).label("list_part"))
        return matches.cte(name)

    def _rows(self, filters: Sequence[Filter]) -> sa.Select[Any]:
        rows = sa.select(_list(self.table.name, self.types)).select_from(self.table)
        return rows.where(*(one.condition(self.table.c) for one in filters))

    def _all(
        self, filters: Sequence[Filter], indexes: Any, *more: Any
    ) -> tuple[sa.Select[Any], Any]:
        """All that match; OFFSET 0 keeps the planner from following the order of what is around."""
        rows = self._rows(filters).where(*indexes).add_columns(*more)
        return select_of(rows.offset(constant(0)).subquery("fetched"), self.types)

    def _filters(self, number: int) -> list[Filter]:
        is_start = self.is_resumed and number == self.first
        beyond_start = [Filter(self._is_beyond, aligned=True)] if is_start else []
        return [*self.filters, *self.parts[number : number + 1], *beyond_start]

    def _is_beyond(self, c: Any) -> sa.ColumnElement[bool]:
        return beyond([(c[name], down) for name, down in self.keys], self.places)

    def _ordered(self, rows: sa.Select[Any], c: Any, most: Any = _reach) -> sa.Select[Any]:
        order = (c[name].desc() if down else c[name] for name, down in self.keys)
        return rows.order_by(*order).limit(most)


def count(rows: sa.Select[Any]) -> sa.ScalarSelect[int]:
    ones = rows.with_only_columns(sa.literal_column("1"), maintain_column_froms=True).subquery()
    return sa.select(sa.func.count()).select_from(ones).scalar_subquery()


def indexed(filters: Sequence[Filter]) -> list[sa.ColumnElement[bool]]:
    return [one.indexed for one in filters if one.indexed is not None]


def _labels(number: int) -> tuple[sa.Label[int], sa.Label[int]]:
    return constant(number).label("list_part"), sa.literal_column("NULL::bigint").label(
        "list_matches"
    )


def _once(condition: sa.ColumnElement[bool], name: str) -> sa.ScalarSelect[bool]:
    """A condition that depends on no row, evaluated when it is first asked for and then kept."""
    return sa.select(sa.select(condition.label("is")).cte(name).c["is"]).scalar_subquery()
