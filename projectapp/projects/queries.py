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
from projectapp.errors import OutcomeUnknown
from projectapp.idempotency import Claim, insert_once, insert_row
from projectapp.projects.models import Project, as_json, mine

_table = Project.__table__
_body = as_json().label("body")
_this = sa.and_(Project.id == sa.bindparam("this"), mine(_table.c))
_TEXTS, _OTHERS = ("name", "description"), ("is_active", "attributes")
_names = sa.bindparam("names", type_=ARRAY(sa.Text))
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

_looked_at = (
    sa.select(Project.id)
    .where(
        Project.id > sa.bindparam("after", type_=sa.Uuid),
        sa.or_(
            sa.bindparam("any", type_=sa.Boolean),
            Project.id == sa.any_(sa.bindparam("some", type_=ARRAY(sa.Uuid))),
        ),
    )
    .order_by(Project.id)
    .limit(1000)
    .cte("looked_at")
)
_taken = (
    sa.update(_table)
    .where(
        Project.id.in_(sa.select(_looked_at.c.id)),
        Project.owner.is_not_distinct_from(sa.bindparam("giver", type_=sa.Text)),
        Project.owner.is_distinct_from(sa.bindparam("taker", type_=sa.Text)),
    )
    .values(
        owner=sa.bindparam("taker"),
        version=Project.version + 1,
        updated_at=sa.func.clock_timestamp(),
    )
    .returning(Project.id)
    .cte("taken")
)
_ASSIGN = sa.select(
    sa.select(sa.func.count()).select_from(_taken).scalar_subquery().label("moved"),
    sa.select(sa.func.max(sa.cast(_looked_at.c.id, sa.Text))).scalar_subquery().label("last"),
)


def find(project_id: UUID) -> Row | None:
    return database.one(_FIND, {"this": project_id})


def add(values: Mapping[str, Any], claim: Claim | None = None) -> tuple[Row, bool]:
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
) -> Row | None:
    """Set `values`; the version and `updated_at` move only if that changes the row.

    With `merge`, `attributes` is an RFC 7396 patch. None if there is no such project, or none at
    one of `versions`, where None means any.
    """
    if not values:
        row = find(project_id)
        return row if row and (versions is None or row.version in versions) else None
    made = _change(not values.keys().isdisjoint(_TEXTS), merge)
    parameters = {f"new_{name}": values.get(name) for name in (*_TEXTS, *_OTHERS)}
    parameters |= {"names": [*values], "this": project_id}
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


@lru_cache
def _change(sets_text: bool, merge: bool) -> _Change:
    """The statements that set those of the columns that the parameter `names` has.

    One statement serves every choice of columns. Only text is apart: PostgreSQL would make the
    search's columns again for a text that stays as it is.
    """
    changes, changed = {}, []
    for name in (*_TEXTS, *_OTHERS) if sets_text else _OTHERS:
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


def _find_out(look: sa.Update, parameters: Mapping[str, Any]) -> Row | None:
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


def assign(owner: str, giver: str | None, some: Sequence[UUID] = ()) -> int:
    """Make `owner` the owner of `giver`'s projects, or of nobody's, and of `some` of them alone.

    The table is walked by id, a few rows at a time, so that nobody waits for them and no statement
    takes longer than another; return how many there were.
    """
    values = {"taker": owner, "giver": giver, "some": list(some), "any": not some}
    total, last = 0, str(UUID(int=0))
    while last:
        moved, last = database.one(_ASSIGN, {**values, "after": UUID(last)})
        total += moved
    return total
