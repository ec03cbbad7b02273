"""The list of projects: one statement for a page of them, whatever is searched and sorted.

The statements are built once for each shape and kept.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from operator import eq, ge, gt, le, lt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from projectapp import auth, database
from projectapp.database.statements import CompiledStatement, compile_select
from projectapp.projects.models import FIELDS, Project, as_json, selected_as_json, visible_to_caller
from projectapp.resources.cursors import Position
from projectapp.resources.listing import Filter, Listing, Page, Start, constant, read

SORT_KEYS = ("name", "created_at", "updated_at", "is_active")

_table = Project.__table__
_FAR = 1000  # rows skipped, from which on it is cheaper to fetch those of the page once more

# Stands before name and description in what is searched, and in no word.
_MARK: sa.ColumnElement[str] = sa.literal_column(r"E'\x1f'")
_phrase = sa.func.search_fold(sa.bindparam("phrase"), type_=sa.Text)
_patterns = sa.func.string_to_array(
    sa.func.search_fold(sa.bindparam("patterns")), sa.literal_column("' '"), type_=ARRAY(sa.Text)
)
_BEGIN = _MARK.concat(_phrase)
_WHOLE = _BEGIN.concat(_MARK)


def _has(text: Any, sign: int) -> sa.ColumnElement[bool]:
    """That a project has all bigrams of a text or, with the sign -1, that its name has."""
    bigrams = sa.func.search_bigrams(text, sa.literal_column(str(sign)), type_=ARRAY(sa.Integer))
    return _table.c.bigrams.contains(bigrams)


def _rank(c: Any) -> sa.ColumnElement[int]:
    """The number of a match's part: how well it matches."""
    in_name = sa.func.split_part(c.search, _MARK, constant(2)).like(sa.all_(_patterns))
    whole, begin = (sa.func.starts_with(c.search, text) for text in (_WHOLE, _BEGIN))
    ranks = ((whole, constant(0)), (begin, constant(1)), (in_name, constant(2)))
    return sa.case(*ranks, else_=constant(3))


def _ranked(rank: int, indexed: sa.ColumnElement[bool]) -> Filter:
    return Filter(lambda c: _rank(c) == constant(rank), indexed=indexed)


def _compared(column: str, compare: Callable[[Any, Any], Any], parameter: str) -> Filter:
    bound = sa.bindparam(parameter, type_=_table.c[column].type)
    return Filter(lambda c: compare(c[column], bound))


_ANYWHERE = _has(_phrase, 1)
_RANKS = [
    _ranked(0, _has(_WHOLE, -1)),
    _ranked(1, _has(_BEGIN, -1)),
    _ranked(2, _has(_phrase, -1)),
    _ranked(3, _ANYWHERE),
]
_SIDES = [Filter(lambda c: sa.not_(c.is_active), True), Filter(lambda c: c.is_active, True)]
_FILTERS = {
    "is_active": _compared("is_active", eq, "is_active"),
    "name": _compared("name", eq, "name"),
    "of_owner": _compared("owner", eq, "of_owner"),
    "attributes": Filter(lambda c: c.attributes.contains(sa.bindparam("attributes", type_=JSONB))),
    "q": Filter(lambda c: c.search.like(sa.all_(_patterns)), indexed=_ANYWHERE),
    **{
        f"{column}_{word}": _compared(column, compare, f"{column}_{word}")
        for column in ("created_at", "updated_at")
        for word, compare in {"gte": ge, "gt": gt, "lte": le, "lt": lt}.items()
    },
}


def find_page(
    filters: Mapping[str, Any],
    sort: Sequence[str],
    fields: Collection[str],
    count: str,
    page_size: int,
    start: int | Position,
) -> Page:
    """Return the page of the projects that match all `filters`, from a row number or position on.

    `filters` are ProjectQuery's by name; `sort` holds SORT_KEYS, with "-" for descending, or
    nothing: then the best matches of a search come first, without a search the newest. `fields` are
    those of each project, in any order; `count` is one of COUNT_MODES. Raises InvalidCursor for a
    position that is none in this order.
    """
    can_see_all = auth.visible_owner(_table.name) is None
    has_all_fields = len(fields) == len(FIELDS)
    shape = frozenset(filters), tuple(sort), has_all_fields, can_see_all
    values = {**filters, "size": page_size, "skipped": 0 if isinstance(start, Position) else start}
    if not has_all_fields:
        values["fields"] = list(fields)
    if words := values.pop("q", "").split():
        escaped = (re.sub(r"([\\%_])", r"\\\1", word) for word in words)
        values |= {"phrase": " ".join(words), "patterns": " ".join(f"%{w}%" for w in escaped)}
    begin = None
    if isinstance(start, Position):
        begin, places = _listing(*shape).parameters(start)
        values |= places
    statement = _page(*shape, count, begin, values["skipped"] > _FAR)
    return read(database.execute(statement, values), values, count, begin)


@lru_cache(maxsize=256)  # some 10 KiB each
def _page(
    names: frozenset[str],
    sort: tuple[str, ...],
    has_all_fields: bool,
    can_see_all: bool,
    count: str,
    begin: Start | None,
    is_far: bool,
) -> CompiledStatement:
    return compile_select(
        _listing(names, sort, has_all_fields, can_see_all).statement(count, begin, is_far)
    )


def _listing(
    names: frozenset[str], sort: tuple[str, ...], has_all_fields: bool, can_see_all: bool
) -> Listing:
    keys = [(key.removeprefix("-"), key.startswith("-")) for key in sort or ["-created_at"]]
    keys.append(("id", keys[-1][1]))  # the last key's direction, so that one index serves both
    # One index has an owner's rows, the newest first; in any order one has those of either state.
    newest = ("created_at", "of_owner") if keys[0][0] == "created_at" else ()
    is_of_all = can_see_all and "of_owner" not in names
    parts: Sequence[Filter] = ()
    if "q" in names and not sort:
        parts = _RANKS
    elif keys[0][0] == "is_active":
        parts = _SIDES[::-1] if keys.pop(0)[1] else _SIDES
    served = ("is_active", keys[0][0]) if is_of_all else newest
    return Listing(
        table=_table,
        columns=[*FIELDS, *(["search"] if "q" in names else [])],
        filters=[
            Filter(visible_to_caller, aligned=can_see_all or bool(served)),
            *(
                one._replace(aligned=name.startswith(served))
                for name, one in _FILTERS.items()
                if name in names
            ),
        ],
        parts=parts,
        part_number=_rank if parts is _RANKS else None,
        keys=keys,
        render=as_json if has_all_fields else selected_as_json,
        hides=not can_see_all,
    )
