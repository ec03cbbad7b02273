"""The statements on projects: each function is one statement, each statement one round trip, and
more only if the answer to a write is lost.

A project comes back as a row of `version`, an integer, and `body`, its JSON text. The statements
are built once for each shape and kept.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from projectapp import auth, database
from projectapp.database import Row
from projectapp.http.etags import NO_VERSION, Versions
from projectapp.problems import OutcomeUnknown
from projectapp.projects.models import WRITABLE, Project, as_json, visible_to_caller
from projectapp.resources.idempotency import (
    IdempotencyClaim,
    build_idempotent_insert,
    insert_idempotently,
)

_table = Project.__table__
_body = as_json().label("body")
_this = sa.and_(Project.id == sa.bindparam("this"), visible_to_caller(_table.c))
_TEXTS = {name for name in WRITABLE if isinstance(_table.c[name].type, sa.String)}
_names = sa.bindparam("names", type_=ARRAY(sa.Text))
_at_version = (
    Project.version == sa.any_(sa.bindparam("versions", type_=sa.ARRAY(sa.Integer)))
) != sa.bindparam("is_complement", type_=sa.Boolean)

_FIND = sa.select(Project.version, _body).where(_this)
_new = insert(_table)
_made = (Project.id, Project.version, _body)
_INSERT = _new.returning(*_made)
_INSERT_AGAIN = _new.on_conflict_do_update(
    index_elements=[Project.id], set_={"id": _new.excluded.id}
).returning(*_made)
_REMOVE = sa.delete(_table).where(_this).returning(Project.id)
_REMOVE_AT_VERSION = _REMOVE.where(_at_version)

_window = (
    sa.select(Project.id, Project.owner)
    .where(
        Project.id > sa.bindparam("after", type_=sa.Uuid),
        sa.or_(
            sa.bindparam("any", type_=sa.Boolean),
            Project.id == sa.any_(sa.bindparam("some", type_=ARRAY(sa.Uuid))),
        ),
    )
    .order_by(Project.id)
    .limit(1000)
    .cte("window")
)
_giver, _taker = (sa.bindparam(name, type_=sa.Text) for name in ("giver", "taker"))
_GIVERS = sa.select(
    sa.func.array_agg(sa.cast(_window.c.id, sa.Text))
    .filter(_window.c.owner.is_not_distinct_from(_giver))
    .filter(_window.c.owner.is_distinct_from(_taker))
    .label("ids"),
    sa.func.max(sa.cast(_window.c.id, sa.Text)).label("last"),
)
_these = Project.id == sa.any_(sa.bindparam("ids", type_=ARRAY(sa.Uuid)))
_taken = (
    sa.update(_table)
    .where(_these, Project.owner.is_not_distinct_from(_giver))
    .values(owner=_taker, version=Project.version + 1, updated_at=sa.func.clock_timestamp())
    .returning(Project.id)
    .cte("taken")
)
# It counts the same when it is run again: those that it takes, and those that are taken already.
_TAKE = sa.select(sa.func.count().label("taken")).where(
    _these, sa.or_(Project.owner == _taker, Project.id.in_(sa.select(_taken.c.id)))
)


def find(project_id: UUID) -> Row | None:
    return database.execute(_FIND, {"this": project_id})


def add(values: Mapping[str, Any], claim: IdempotencyClaim | None = None) -> tuple[Row, bool]:
    """Insert a project; a field that `values` lacks gets the column's default.

    It is the caller's. Returns the row with its new `id`, and whether it is what the `claim` had
    got before.
    """
    new = {**values, "id": database.uuid7(), "owner": auth.current_owner()}
    if claim:
        return insert_idempotently(_insert_once(frozenset(new)), new, claim)
    # The same id again: it writes even where it finds the row, and so waits, as a mere look would
    # not, until what it found is as durable as its own commit.
    return database.execute(
        _INSERT, new, resolve=lambda: database.execute(_INSERT_AGAIN, new)
    ), False


@lru_cache(maxsize=8)
def _insert_once(names: frozenset[str]) -> sa.Select[Any]:
    return build_idempotent_insert(_table, names, as_json)


def change(
    project_id: UUID, values: Mapping[str, Any], versions: Versions | None, merge: bool = False
) -> Row | None:
    """Set `values`; the version and `updated_at` move only if that changes the row.

    With `merge`, `attributes` is an RFC 7396 patch. None if there is no such project, or none at
    one of `versions`, where None means any.
    """
    if versions == NO_VERSION:
        return None
    if not values:
        row = find(project_id)
        return row if row and (versions is None or row.version in versions) else None
    made = _change(not values.keys().isdisjoint(_TEXTS), merge)
    parameters = {f"new_{name}": values.get(name) for name in WRITABLE}
    parameters |= {"names": [*values], "this": project_id}
    if versions is None:
        statement = made.change
    else:
        statement = made.change_at_version
        parameters |= _condition(versions)

    def resolve() -> Any:
        # With one version expected it can be made again: that has an effect at most once.
        is_one = versions is not None and len(versions.listed) == 1 and not versions.is_complement
        again = is_one and database.execute(statement, parameters)
        return again or _resolve_change(made.look, parameters, versions)

    return database.execute(statement, parameters, resolve)


class _Change(NamedTuple):
    change: sa.Update
    change_at_version: sa.Update
    look: sa.Update


@lru_cache
def _change(sets_text: bool, merge: bool) -> _Change:
    """The statements that set those of the columns that the parameter `names` has.

    One statement serves every choice of columns. Only text is apart: PostgreSQL would make the
    search's columns again for a text that stays as it is.
    """
    changes, changed = {}, []
    for name in WRITABLE:
        if name in _TEXTS and not sets_text:
            continue
        column = _table.c[name]
        new: Any = sa.bindparam(f"new_{name}", type_=column.type)
        if merge and name == "attributes":
            new = sa.func.jsonb_merge_patch(column, new, type_=JSONB)
        is_set = sa.literal_column(f"'{name}'") == sa.any_(_names)
        changes[name] = sa.case((is_set, new), else_=column)
        changed.append(sa.and_(is_set, _shown(column).is_distinct_from(_shown(new))))
    is_changed = sa.or_(*changed)
    update = sa.update(_table).where(_this)
    change = update.values(
        **changes,
        version=Project.version + sa.cast(is_changed, sa.Integer),
        # Not now(): who waited for the row's lock would write a time before the last change's.
        updated_at=sa.case((is_changed, sa.func.clock_timestamp()), else_=Project.updated_at),
    ).returning(Project.version, _body)
    # Written, so that it waits for a change that is still under way, and for its durability.
    look = update.values(id=Project.id).returning(
        Project.version, _body, sa.not_(is_changed).label("is_as_wanted")
    )
    return _Change(change, change.where(_at_version), look)


def _condition(versions: Versions) -> dict[str, Any]:
    return {"versions": versions.listed, "is_complement": versions.is_complement}


def _resolve_change(
    look: sa.Update, parameters: Mapping[str, Any], versions: Versions | None
) -> Row | None:
    """What became of a change whose answer was lost.

    To make it again would overwrite a later editor's. A row that is as was wanted, at a version
    that may be changed or one further, is taken for the change made (RFC 9110, 13.1.1), though
    somebody may have wanted the same. None if another editor has certainly won.
    """
    seen = database.execute(look, parameters)
    if seen and seen.is_as_wanted:
        if versions is None or seen.version in versions:
            return seen
        if not versions.is_complement and seen.version - 1 in versions:
            return seen
    if not seen or versions is None or versions.is_complement:
        raise OutcomeUnknown
    if any(version + 1 < seen.version for version in versions.listed):
        raise OutcomeUnknown
    return None


def _shown(value: Any) -> Any:
    """What tells two values apart: jsonb has 1 = 1.0, but the ETag is for what is shown."""
    return sa.cast(value, sa.Text) if isinstance(value.type, JSONB) else value


def remove(project_id: UUID, versions: Versions | None) -> bool:
    """Delete a project; False as None for `change`."""
    if versions == NO_VERSION:
        return False
    statement = _REMOVE if versions is None else _REMOVE_AT_VERSION
    parameters = {"this": project_id, **(_condition(versions) if versions else {})}

    def resolve() -> Any:
        removed = database.execute(statement, parameters)
        if removed or find(project_id):
            return removed
        return database.execute(database.WAIT_FOR_REPLICATION)

    return database.execute(statement, parameters, resolve) is not None


def assign(owner: str, giver: str | None, some: Sequence[UUID] = ()) -> int:
    """Make `owner` the owner of `giver`'s projects, or of those without an owner; return how many.

    `some` limits it to these projects. It walks the table by id, at most 1000 rows a statement, so
    that each one is short and locks few rows.
    """
    people = {"taker": owner, "giver": giver}
    total, last = 0, str(UUID(int=0))
    while last:
        window = {"after": UUID(last), "some": list(some), "any": not some}
        ids, last = database.execute(_GIVERS, {**people, **window})
        if ids:
            theirs = {**people, "ids": [UUID(project_id) for project_id in ids]}
            total += database.write_repeatably(_TAKE, theirs).taken
    return total
