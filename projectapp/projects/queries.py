"""The statements on projects: each function is one statement, each statement one round trip.

A project comes back as a row of `version`, an integer, and `body`, its JSON text. The statements
are built once for each shape and kept.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from projectapp import database
from projectapp.projects.models import Project, as_json

SORT_KEYS = ("name", "created_at", "updated_at", "is_active")

_table = Project.__table__
_body = as_json().label("body")
_this = Project.id == sa.bindparam("this")
_at_version = Project.version == sa.any_(sa.bindparam("versions", type_=sa.ARRAY(sa.Integer)))

_FIND = sa.select(Project.version, _body).where(_this)
_INSERT = sa.insert(_table).returning(Project.id, Project.version, _body)
_REMOVE = sa.delete(_table).where(_this).returning(Project.id)
_REMOVE_AT_VERSION = _REMOVE.where(_at_version)
_CONDITIONS = {
    "is_active": Project.is_active == sa.bindparam("is_active"),
    "name": Project.name == sa.bindparam("name"),
    **{
        f"{name}_{word}": compare(_table.c[name], sa.bindparam(f"{name}_{word}"))
        for name in ("created_at", "updated_at")
        for word, compare in {"gte": ge, "gt": gt, "lte": le, "lt": lt}.items()
    },
}
FILTERS = tuple(_CONDITIONS)


def find(project_id: UUID) -> sa.Row[Any] | None:
    return database.one(_FIND, {"this": project_id})


def add(values: Mapping[str, Any]) -> sa.Row[Any]:
    """Insert a project of `name`, `description`, `is_active` and `attributes`; its new `id` too."""
    return database.one(_INSERT, {**values, "id": database.uuid7()})


def find_page(
    filters: Mapping[str, Any],
    sort: Sequence[str],
    fields: Sequence[str],
    page: int,
    page_size: int,
) -> sa.Row[Any]:
    """Return one row: `total`, the number of all matches, and `items`, a page of them as JSON text.

    `filters` maps names of FILTERS to values; `sort` holds SORT_KEYS, with "-" for descending.
    """
    statement = _page(frozenset(filters), tuple(sort), frozenset(fields))
    return database.one(
        statement, {**filters, "page_limit": page_size, "page_offset": (page - 1) * page_size}
    )


@lru_cache(maxsize=512)
def _page(filters: frozenset[str], sort: tuple[str, ...], fields: frozenset[str]) -> sa.Select[Any]:
    conditions = [_CONDITIONS[name] for name in FILTERS if name in filters]
    keys = [(key.removeprefix("-"), key.startswith("-")) for key in sort]
    keys.append(("id", keys[-1][1]))  # the last key's direction, so that one index serves both
    columns = [column for column in _table.columns if column.key in fields]
    chosen = (
        sa.select(*columns)
        .where(*conditions)
        .order_by(*(_table.c[key].desc() if down else _table.c[key] for key, down in keys))
        .limit(sa.bindparam("page_limit", type_=sa.BigInteger))
        .offset(sa.bindparam("page_offset", type_=sa.BigInteger))
        .subquery("chosen")
    )
    # Rendered outside, or rows that OFFSET skips and a sort drops would be rendered too.
    items = sa.select(sa.func.string_agg(as_json(chosen.c, fields), sa.literal_column("','")))
    total = sa.select(sa.func.count()).select_from(_table).where(*conditions)
    return sa.select(total.scalar_subquery().label("total"), items.scalar_subquery().label("items"))


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
