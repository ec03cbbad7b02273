"""The table of imports. It records how far each import has come, so that it can continue."""

from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from projectapp import database
from projectapp.bulk.inserts import new_rows
from projectapp.database import Row, db
from projectapp.resources.changes import CHANGES
from projectapp.resources.resource import Resource


class Import(db.Model):  # type: ignore[name-defined,misc]
    """An import of a file.

    `id` is the SHA-256 of the file and of the options that change its result. The first
    `processed_items` items of the file are processed: each is either a row now, or rejected.
    `last_run` is the process that processed the last batch. After it, the errors file of this
    process had `errors_bytes` bytes with the checksum `errors_crc32`.
    """

    __tablename__ = "imports"

    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    resource: Mapped[str] = mapped_column(sa.Text)
    file_name: Mapped[str] = mapped_column(sa.Text)
    processed_items: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    created_rows: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    rejected_items: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    last_run: Mapped[str | None] = mapped_column(sa.Text)
    errors_bytes: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    errors_crc32: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    started_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    finished_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


_IMPORTS: Any = Import.__table__
# The columns that each batch changes.
_PROGRESS = (
    *("processed_items", "created_rows", "rejected_items"),
    *("last_run", "errors_bytes", "errors_crc32"),
)

_is_import = _IMPORTS.c.id == sa.bindparam("import_id", type_=sa.Text)
_FIND = sa.select(_IMPORTS).where(_is_import)
_FINISH = (
    sa.update(_IMPORTS)
    .where(
        _is_import, _IMPORTS.c.processed_items == sa.bindparam("item_count", type_=sa.BigInteger)
    )
    .values(finished_at=sa.func.coalesce(_IMPORTS.c.finished_at, sa.func.clock_timestamp()))
    .returning(_IMPORTS.c.id)
)


def _start_statement() -> Any:
    new = insert(_IMPORTS).values(
        id=sa.bindparam("import_id", type_=sa.Text),
        resource=sa.bindparam("resource", type_=sa.Text),
        file_name=sa.bindparam("file_name", type_=sa.Text),
    )
    columns = (*_PROGRESS, "started_at", "finished_at")
    restarts = sa.and_(
        sa.cast(sa.bindparam("again", type_=sa.Boolean), sa.Boolean),
        _IMPORTS.c.finished_at.is_not(None),
    )
    # A restarted import gets the values of a new one.
    values = {
        name: sa.case((restarts, new.excluded[name]), else_=_IMPORTS.c[name]) for name in columns
    }
    return new.on_conflict_do_update(index_elements=["id"], set_=values).returning(_IMPORTS)


_START = _start_statement()


def start_import(import_id: str, resource: Resource, file_name: str, again: bool) -> Row:
    """Return the row of an import, and create it if there is none.

    With `again` a finished import begins again. An import that is not finished continues.
    """
    names = {"resource": resource.name, "file_name": file_name}
    parameters = {"import_id": import_id, "again": again, **names}
    return database.write_repeatably(_START, parameters)


def find_import(import_id: str) -> Row | None:
    return database.execute(_FIND, {"import_id": import_id})


def finish_import(import_id: str, item_count: int) -> None:
    """Record the end of an import, if `item_count` items are processed.

    Another process may have begun it again.
    """
    database.write_repeatably(_FINISH, {"import_id": import_id, "item_count": item_count})


def insert_batch(resource: Resource, keeps_ids: bool, parameters: dict[str, Any]) -> bool:
    """Insert items and record them as processed, in one statement.

    Return False, without an effect, unless exactly the `first` items of the file are processed.

    The parameters are `import_id`, `first`, the values of _PROGRESS after the batch, and for
    `new_rows` `items` and `owner`; `item_count` is the number of the `items`. If the database
    refuses an item, the statement has no effect and raises a Problem.

    If the answer is lost, the statement is executed again, and has an effect only if it had none
    before. So False may also mean that this batch is inserted: `find_import` returns how far the
    import has come.
    """
    return bool(database.write_repeatably(_batch_statement(resource, keeps_ids), parameters).claims)


@lru_cache
def _batch_statement(resource: Resource, keeps_ids: bool) -> sa.Select[Any]:
    columns = _IMPORTS.c
    # A process without an errors file sends null: then the size of another process's file stays.
    progress = {
        name: sa.func.coalesce(sa.bindparam(name, type_=columns[name].type), columns[name])
        for name in _PROGRESS
    }
    item_count = sa.bindparam("item_count", type_=sa.BigInteger)
    claim = (
        sa.update(_IMPORTS)
        .where(
            _is_import,
            _IMPORTS.c.processed_items == sa.bindparam("first", type_=sa.BigInteger),
            _IMPORTS.c.finished_at.is_(None),
        )
        .values(progress)
        .returning(_IMPORTS.c.id)
        .cte("claim")
    )
    is_claimed = sa.exists(sa.select(claim.c.id))
    rows = new_rows(resource, keeps_ids, items_have_parents=True).where(is_claimed)
    if keeps_ids:
        rows = _continue_versions(resource, rows)
    inserted = (
        sa.insert(resource.table)
        .from_select(rows.selected_columns.keys(), rows)
        .returning(resource.table.c.id)
        .cte("inserted")
    )
    claims = sa.select(sa.func.count()).select_from(claim).scalar_subquery()
    # An item without a parent makes no row. Then the division by 0 makes the statement fail.
    is_complete = sa.func.count(inserted.c.id) == claims * item_count
    check = sa.literal_column("1") / sa.case((is_complete, 1), else_=0)
    return sa.select(claims.label("claims"), check.label("check")).select_from(inserted)


def _continue_versions(resource: Resource, rows: sa.Select[Any]) -> sa.Select[Any]:
    """Continue the versions of rows that were deleted: an old ETag must not become valid again.

    An item whose row exists gets the version null, so the statement fails. This is also right if
    the row is deleted at this moment: the statement would not see its newest version.
    """
    row = rows.subquery("new_row")
    newest = (
        sa.select(sa.func.max(CHANGES.c.version) + 1)
        .where(CHANGES.c.row_id == row.c.id, CHANGES.c.resource == resource.name)
        .scalar_subquery()
    )
    exists = sa.exists().where(resource.table.c.id == row.c.id)
    version = sa.case((~exists, sa.func.greatest(row.c.version, newest)))
    columns = [version.label(c.key) if c.key == "version" else c for c in row.c]
    return sa.select(*columns)
