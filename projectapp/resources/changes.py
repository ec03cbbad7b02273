"""The tables of the history. Triggers write them: see migration 0014.

`changes` has a row for each change of a row of any resource. It has the row as it was *before* the
change: the newest state is in the resource's own table. docs/decisions/0023 gives the reasons.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from projectapp.database import db
from projectapp.database.models import XID8


class Change(db.Model):  # type: ignore[name-defined,misc]
    """A change of a row.

    `seq` is drawn under the row's lock, so it has the order of the changes of each row. `xid` is
    the transaction, `at` the time of the change on the database's clock. `operation` is create,
    update, delete or restore. `caller`, `credential` and `request_id` say who made it; the
    credential of a change outside the API is "role NAME".

    After the change the row has `version` and `owner`. A delete also counts as a change: it has the
    last version plus 1 and the last owner. Before the change the row had `version` - 1,
    `created_at`, `old_updated_at`, `old_owner` and, in all other columns, `old_values`. These are
    null if there was no row.
    """

    __tablename__ = "changes"

    seq: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    xid: Mapped[str] = mapped_column(XID8, index=True)
    at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))
    row_id: Mapped[UUID]
    version: Mapped[int]
    created_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    old_updated_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    resource: Mapped[str] = mapped_column(sa.Text)
    operation: Mapped[str] = mapped_column(sa.Text)
    owner: Mapped[str | None] = mapped_column(sa.Text)
    old_owner: Mapped[str | None] = mapped_column(sa.Text)
    caller: Mapped[str | None] = mapped_column(sa.Text)
    credential: Mapped[str] = mapped_column(sa.Text)
    request_id: Mapped[str | None] = mapped_column(sa.Text)
    old_values: Mapped[dict[str, Any] | None] = mapped_column(JSONB)

    __table_args__ = (sa.Index("changes_row_id_seq_idx", "row_id", "seq"),)


class History(db.Model):  # type: ignore[name-defined,misc]
    """What the history of a resource has: all changes since `starts_at`.

    Changes up to `purged_seq`, of transactions up to `purged_xid`, are purged. Transaction ids
    belong to the database `database_id`; changes up to `restored_seq` came with a dump from another
    database.
    """

    __tablename__ = "histories"

    resource: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))
    purged_seq: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    purged_xid: Mapped[str] = mapped_column(XID8, server_default="0")
    database_id: Mapped[str] = mapped_column(sa.Text)
    restored_seq: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")


CHANGES: Any = Change.__table__
HISTORIES: Any = History.__table__
