"""The rows that pulls have created, and the statements that compare, write and delete them.

A pull changes and deletes only rows that it created and that have not changed here since. So a
change or a deletion that was made here is never lost.
"""

from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Mapped, mapped_column

from projectapp import database
from projectapp.bulk.inserts import new_rows
from projectapp.database import db
from projectapp.resources.changes import CHANGES
from projectapp.resources.resource import Resource
from projectapp.resources.values import comparable

# What a pull has to do for a row of the old backend, or why it does nothing.
CREATE, UPDATE, SAME = "create", "update", "same"
CHANGED_HERE, DELETED_HERE, OTHER_ROW = "changed_here", "deleted_here", "other_row"
MISSING_THERE = "missing_there"  # and changed here, or a row here refers to it


class PulledRow(db.Model):  # type: ignore[name-defined,misc]
    """A row that a pull has created.

    `source` is the address of the list from which the row came. The pull gave the row `version`. If
    the row has another version now, it was changed here.
    """

    __tablename__ = "pulled_rows"

    source: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    row_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(server_default=sa.text("1"))  # of a new row


_PULLED: Any = PulledRow.__table__
_source = sa.bindparam("source", type_=sa.Text)
_ids = sa.bindparam("ids", type_=ARRAY(sa.Uuid))


def compare_rows(resource: Resource, source: str, encoded_items: str) -> dict[str, str]:
    """Return by id what a pull has to do for the items: one of the constants above."""
    parameters = {"source": source, "items": encoded_items}
    return dict(database.execute(_compare(resource), parameters).actions or {})


def write_rows(resource: Resource, source: str, encoded_items: str) -> None:
    """Create the items, or make the rows like them, unless they were changed here."""
    database.write_repeatably(_write(resource), {"source": source, "items": encoded_items})


def find_pulled_rows(resource: Resource, source: str) -> dict[str, bool]:
    """Return the ids of the rows from `source` that exist; True: the pull may delete the row."""
    return dict(database.execute(_find(resource), {"source": source}).rows or {})


def delete_rows(resource: Resource, source: str, ids: list[UUID]) -> None:
    """Delete rows that came from `source`, except those that were changed here."""
    database.write_repeatably(_delete(resource), {"source": source, "ids": ids})


@lru_cache
def _compare(resource: Resource) -> sa.Select[Any]:
    new, c = new_rows(resource, keeps_read_only=True).cte("new"), resource.table.c
    was_deleted = sa.or_(
        _PULLED.c.row_id.is_not(None),
        sa.exists().where(CHANGES.c.row_id == new.c.id, CHANGES.c.resource == resource.name),
    )
    action = sa.case(
        (c.id.is_(None) & was_deleted, DELETED_HERE),
        (c.id.is_(None), CREATE),
        (sa.not_(_is_different(resource, new.c)), SAME),
        (_PULLED.c.row_id.is_(None), OTHER_ROW),
        (_may_update(resource, new.c), UPDATE),
        else_=CHANGED_HERE,
    )
    is_pulled = sa.and_(_PULLED.c.source == _source, _PULLED.c.row_id == new.c.id)
    rows = new.outerjoin(resource.table, c.id == new.c.id).outerjoin(_PULLED, is_pulled)
    actions = sa.func.json_object_agg(sa.cast(new.c.id, sa.Text), action)
    return sa.select(actions.label("actions")).select_from(rows)


@lru_cache
def _write(resource: Resource) -> sa.Select[Any]:
    """Insert rows that no pull from this source has created, and update the others.

    Each row is either inserted or updated, so a row that was deleted here is not created again.
    """
    table, c = resource.table, resource.table.c
    new = new_rows(resource, keeps_read_only=True).cte("new")
    pulled = sa.select(_PULLED).where(_PULLED.c.source == _source).cte("pulled")
    is_pulled = sa.exists().where(pulled.c.row_id == new.c.id)
    names = [name for name in resource.fields if name != "version"]
    created = (
        insert(table)
        .from_select(names, sa.select(*(new.c[name] for name in names)).where(~is_pulled))
        .on_conflict_do_nothing()
        .returning(c.id, c.version)
        .cte("created")
    )
    copied = [name for name in names if name not in ("id", "owner")]
    updated = (
        sa.update(table)
        .values({name: new.c[name] for name in copied} | {"version": c.version + 1})
        .where(c.id == new.c.id, pulled.c.row_id == c.id, pulled.c.version == c.version)
        .where(new.c.updated_at >= c.updated_at, _is_different(resource, new.c))
        .returning(c.id, c.version)
        .cte("updated")
    )
    written = sa.union_all(sa.select(created), sa.select(updated)).subquery("written")
    rows = insert(_PULLED).from_select(
        ["source", "row_id", "version"], sa.select(_source, written.c.id, written.c.version)
    )
    recorded = rows.on_conflict_do_update(
        index_elements=["source", "row_id"], set_={"version": rows.excluded.version}
    ).returning(_PULLED.c.row_id)
    return sa.select(sa.func.count().label("row_count")).select_from(recorded.cte("recorded"))


@lru_cache
def _find(resource: Resource) -> sa.Select[Any]:
    c = resource.table.c
    rows = sa.func.json_object_agg(sa.cast(c.id, sa.Text), _may_delete(resource))
    pulled = resource.table.join(_PULLED, _PULLED.c.row_id == c.id)
    return sa.select(rows.label("rows")).select_from(pulled).where(_PULLED.c.source == _source)


@lru_cache
def _delete(resource: Resource) -> sa.Select[Any]:
    c = resource.table.c
    deleted = (
        sa.delete(resource.table)
        .where(_PULLED.c.source == _source, _PULLED.c.row_id == c.id)
        .where(c.id == sa.any_(_ids), _may_delete(resource))
        .returning(c.id)
        .cte("deleted")
    )
    return sa.select(sa.func.count().label("row_count")).select_from(deleted)


def _is_different(resource: Resource, new: Any) -> sa.ColumnElement[bool]:
    names = (*resource.writable, "created_at", "updated_at")
    c = resource.table.c
    return sa.or_(*(comparable(c[n]).is_distinct_from(comparable(new[n])) for n in names))


def _may_update(resource: Resource, new: Any) -> sa.ColumnElement[bool]:
    """Not changed here, and not newer. Two changes may have the same time, in milliseconds."""
    c = resource.table.c
    return sa.and_(_PULLED.c.version == c.version, new.updated_at >= c.updated_at)


def _may_delete(resource: Resource) -> sa.ColumnElement[bool]:
    """Not changed here, and no row refers to it: that row may have been created here."""
    c, tables = resource.table.c, resource.table.metadata.tables.values()
    references = (
        sa.exists().where(table.alias("referring").c[key.parent.key] == c.id)
        for table in tables
        for key in table.foreign_keys
        if key.column is c.id
    )
    return sa.and_(_PULLED.c.version == c.version, *(~exists for exists in references))
