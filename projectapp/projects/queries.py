"""The statements on projects: each function is one statement, each statement one round trip, and
more only if the answer to a write is lost.

A project comes back as a row of `version`, an integer, and `body`, its JSON text. The statements
are built once for each shape and kept.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from operator import eq, ge, gt, le, lt
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from projectapp import auth, database
from projectapp.errors import OutcomeUnknown
from projectapp.idempotency import Claim, insert_once, insert_row
from projectapp.listing import Filter, Listing, Page, Start, read
from projectapp.pagination import Position
from projectapp.projects.models import FIELDS, Project, as_json

SORT_KEYS = ("name", "created_at", "updated_at", "is_active")

_table = Project.__table__
_body = as_json().label("body")
_mine = partial(auth.mine, resource=_table.name)
_this = sa.and_(Project.id == sa.bindparam("this"), _mine(_table.c.owner))
_at_version = Project.version == sa.any_(sa.bindparam("versions", type_=sa.ARRAY(sa.Integer)))

_FIND = sa.select(Project.version, _body).where(_this)
_new = insert(_table)
_made = (Project.id, Project.version, _body)
_INSERT = _new.returning(*_made)
_INSERT_AGAIN = _new.on_conflict_do_update(
    index_elements=[Project.id], set_={"id": _new.excluded.id}
).returning(*_made)
_INSERT_ONCE = insert_once(
    _table, {"id", "owner", "name", "description", "is_active", "attributes"}, as_json
)
_REMOVE = sa.delete(_table).where(_this).returning(Project.id)
_REMOVE_AT_VERSION = _REMOVE.where(_at_version)


def find(project_id: UUID) -> sa.Row[Any] | None:
    return database.one(_FIND, {"this": project_id})


def add(values: Mapping[str, Any], claim: Claim | None = None) -> tuple[sa.Row[Any], bool]:
    """Insert a project of `name`, `description`, `is_active` and `attributes`.

    It is the caller's. Returns the row with its new `id`, and whether it is what the `claim` had
    got before.
    """
    new = {**values, "id": database.uuid7(), "owner": auth.subject()}
    if claim:
        return insert_row(_INSERT_ONCE, new, claim)
    # The same id again: it writes even where it finds the row, and so waits, as a mere look would
    # not, until what it found is as durable as its own commit.
    return database.one(_INSERT, new, settle=lambda: database.one(_INSERT_AGAIN, new)), False


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
    made = _change(frozenset(values), merge)
    parameters = {f"new_{name}": value for name, value in values.items()} | {"this": project_id}
    if versions is None:
        statement = made.change
    else:
        statement, parameters["versions"] = made.change_at_version, versions

    def settle() -> Any:
        # With one version expected it can be made again: that has an effect at most once.
        again = len(versions or ()) == 1 and database.one(statement, parameters)
        return again or _find_out(made.look, parameters)

    return database.one(statement, parameters, settle)


class _Change(NamedTuple):
    change: sa.Update
    change_at_version: sa.Update
    look: sa.Update


@lru_cache(maxsize=32)
def _change(names: frozenset[str], merge: bool) -> _Change:
    new: dict[str, Any] = {
        n: sa.bindparam(f"new_{n}", type_=_table.c[n].type) for n in sorted(names)
    }
    if merge and "attributes" in new:
        merged = sa.func.jsonb_merge_patch(Project.attributes, new["attributes"], type_=JSONB)
        new["attributes"] = merged
    changed = sa.or_(*(_shown(_table.c[n]).is_distinct_from(_shown(v)) for n, v in new.items()))
    update = sa.update(_table).where(_this)
    change = update.values(
        **new,
        version=Project.version + sa.cast(changed, sa.Integer),
        # Not now(): who waited for the row's lock would write a time before the last change's.
        updated_at=sa.case((changed, sa.func.clock_timestamp()), else_=Project.updated_at),
    ).returning(Project.version, _body)
    # Written, so that it waits for a change that is still under way, and for its durability.
    look = update.values(id=Project.id).returning(
        Project.version, _body, sa.not_(changed).label("is_as_wanted")
    )
    return _Change(change, change.where(_at_version), look)


def _find_out(look: sa.Update, parameters: Mapping[str, Any]) -> sa.Row[Any] | None:
    """What became of a change whose answer was lost.

    To make it again would overwrite a later editor's. A row that is as was wanted, one version
    further, is taken for the change made (RFC 9110, 13.1.1), though somebody may have wanted the
    same. None if another editor has certainly won.
    """
    seen = database.one(look, parameters)
    versions = parameters.get("versions")
    if seen and seen.is_as_wanted and (versions is None or seen.version - 1 in versions):
        return seen
    if not seen or versions is None or any(version + 1 < seen.version for version in versions):
        raise OutcomeUnknown
    return None


def _shown(value: Any) -> Any:
    """What tells two values apart: jsonb has 1 = 1.0, but the ETag is for what is shown."""
    return sa.cast(value, sa.Text) if isinstance(value.type, JSONB) else value


def remove(project_id: UUID, versions: Sequence[int] | None) -> bool:
    """Delete a project; False as None for `change`."""
    statement = _REMOVE if versions is None else _REMOVE_AT_VERSION
    parameters: dict[str, Any] = {"this": project_id}
    if versions is not None:
        parameters["versions"] = versions

    def settle() -> Any:
        removed = database.one(statement, parameters)
        if removed or find(project_id):
            return removed
        return database.one(database.BARRIER)

    return database.one(statement, parameters, settle) is not None


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
    sees_all = auth.sees(_table.name) is None
    shape = frozenset(filters), tuple(sort), frozenset(fields), sees_all
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
    sees_all: bool,
    count: str,
    begin: Start | None,
) -> sa.Select[Any]:
    return _listing(names, sort, fields, sees_all).statement(count, begin)


def _listing(
    names: frozenset[str], sort: tuple[str, ...], fields: frozenset[str], sees_all: bool
) -> Listing:
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
            Filter(lambda c: _mine(c.owner), aligned=sees_all or keys[0][0] == "created_at"),
            *(
                one._replace(aligned=name.startswith(in_order))
                for name, one in _FILTERS.items()
                if name in names
            ),
        ],
        parts=parts,
        keys=keys,
        render=lambda c: as_json(c, fields),
    )
