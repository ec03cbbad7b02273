"""The statements on projects: each function is one statement, each statement one round trip.

A project comes back as a row of `version`, an integer, and `body`, its JSON text. The statements
are built once for each shape and kept.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import eq, ge, gt, le, lt
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from projectapp import database
from projectapp.listing import Filter, Listing, Page, Start, read
from projectapp.pagination import Position
from projectapp.projects.models import FIELDS, Project, as_json

SORT_KEYS = ("name", "created_at", "updated_at", "is_active")

_table = Project.__table__
_body = as_json().label("body")
_this = Project.id == sa.bindparam("this")
_at_version = Project.version == sa.any_(sa.bindparam("versions", type_=sa.ARRAY(sa.Integer)))

_FIND = sa.select(Project.version, _body).where(_this)
_INSERT = sa.insert(_table).returning(Project.id, Project.version, _body)
_REMOVE = sa.delete(_table).where(_this).returning(Project.id)
_REMOVE_AT_VERSION = _REMOVE.where(_at_version)


def find(project_id: UUID) -> sa.Row[Any] | None:
    return database.one(_FIND, {"this": project_id})


def add(values: Mapping[str, Any]) -> sa.Row[Any]:
    """Insert a project of `name`, `description`, `is_active` and `attributes`; its new `id` too."""
    return database.one(_INSERT, {**values, "id": database.uuid7()})


def change(
    project_id: UUID, values: Mapping[str, Any], versions: Sequence[int] | None, merge: bool = False
) -> sa.Row[Any] | None:
    """Set `values`; the version and `updated_at` move only if that changes the row.

    With `merge`, `attributes` is an RFC 7396 patch. None if there is no such project, or none at
    one of `versions`, where None means any.
    """
    if not values:
        row = find(project_id)
        return row if row and (versions is None or row.version in versions) else None
    statement = _change(frozenset(values), versions is not None, merge)
    new = {f"new_{name}": value for name, value in values.items()}
    return database.one(statement, new | _target(project_id, versions))


@lru_cache(maxsize=64)
def _change(names: frozenset[str], at_version: bool, merge: bool) -> sa.Update:
    new: dict[str, Any] = {
        n: sa.bindparam(f"new_{n}", type_=_table.c[n].type) for n in sorted(names)
    }
    if merge and "attributes" in new:
        merged = sa.func.jsonb_merge_patch(Project.attributes, new["attributes"], type_=JSONB)
        new["attributes"] = merged
    changed = sa.or_(*(_shown(_table.c[n]).is_distinct_from(_shown(v)) for n, v in new.items()))
    return (
        sa.update(_table)
        .where(_this, *([_at_version] if at_version else []))
        .values(
            **new,
            version=Project.version + sa.cast(changed, sa.Integer),
            # Not now(): who waited for the row's lock would write a time before the last change's.
            updated_at=sa.case((changed, sa.func.clock_timestamp()), else_=Project.updated_at),
        )
        .returning(Project.version, _body)
    )


def _shown(value: Any) -> Any:
    """What tells two values apart: jsonb has 1 = 1.0, but the ETag is for what is shown."""
    return sa.cast(value, sa.Text) if isinstance(value.type, JSONB) else value


def remove(project_id: UUID, versions: Sequence[int] | None) -> bool:
    """Delete a project; False as None for `change`."""
    statement = _REMOVE if versions is None else _REMOVE_AT_VERSION
    return database.one(statement, _target(project_id, versions)) is not None


def _target(project_id: UUID, versions: Sequence[int] | None) -> dict[str, Any]:
    return {"this": project_id} if versions is None else {"this": project_id, "versions": versions}


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
    return Project.bigrams.contains(bigrams)


def _ranked(rank: int, indexed: sa.ColumnElement[bool]) -> Filter:
    def condition(c: Any) -> sa.ColumnElement[bool]:
        in_name = sa.func.split_part(c.search, _MARK, 2).like(sa.all_(_patterns))
        whole, begin = (sa.func.starts_with(c.search, text) for text in (_WHOLE, _BEGIN))
        found = sa.case((whole, 0), (begin, 1), (in_name, 2), else_=3)
        return found == sa.literal_column(str(rank))

    return Filter(condition, indexed=indexed)


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
    fields: Sequence[str],
    count: str,
    page_size: int,
    start: int | Position,
) -> Page:
    """Return the page of the projects that match all `filters`, from a row number or position on.

    `filters` are ProjectQuery's by name; `sort` holds SORT_KEYS, with "-" for descending, or
    nothing: then the best matches of a search come first, without a search the newest. `count` is
    one of COUNTS. Raises WrongCursor for a position that is none in this order.
    """
    shape = frozenset(filters), tuple(sort), frozenset(fields)
    values = {**filters, "size": page_size, "skipped": 0 if isinstance(start, Position) else start}
    if words := values.pop("q", "").split():
        escaped = (re.sub(r"([\\%_])", r"\\\1", word) for word in words)
        values |= {"phrase": " ".join(words), "patterns": " ".join(f"%{w}%" for w in escaped)}
    begin = None
    if isinstance(start, Position):
        begin, places = _listing(*shape).parameters(start)
        values |= places
    return read(database.one(_page(*shape, count, begin), values), values, count, begin)


@lru_cache(maxsize=32)
def _page(
    names: frozenset[str],
    sort: tuple[str, ...],
    fields: frozenset[str],
    count: str,
    begin: Start | None,
) -> sa.Select[Any]:
    return _listing(names, sort, fields).statement(count, begin)


def _listing(names: frozenset[str], sort: tuple[str, ...], fields: frozenset[str]) -> Listing:
    keys = [(key.removeprefix("-"), key.startswith("-")) for key in sort or ["-created_at"]]
    keys.append(("id", keys[-1][1]))  # the last key's direction, so that one index serves both
    parts: Sequence[Filter] = ()
    if "q" in names and not sort:
        parts = _RANKS
    elif keys[0][0] == "is_active":
        parts = _SIDES[::-1] if keys.pop(0)[1] else _SIDES
    in_order = ("is_active", keys[0][0])
    return Listing(
        table=_table,
        columns=[*FIELDS, *(["search"] if "q" in names else [])],
        filters=[
            one._replace(aligned=name.startswith(in_order))
            for name, one in _FILTERS.items()
            if name in names
        ],
        parts=parts,
        keys=keys,
        render=lambda c: as_json(c, fields),
    )
