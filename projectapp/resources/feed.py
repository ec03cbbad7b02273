"""The change feed of a resource: no change is missing, and none comes twice.

A reader gets the changes in windows: those that one snapshot sees and an earlier one does not see.
In a window they have the order of `seq`, so the changes of each row are in order: `seq` is drawn
under the row's lock, and a snapshot that sees a change also sees all earlier changes of the row.

A page walks `changes` in the order of `seq`, from the window's first change on. Nearly all changes
that a snapshot does not see have a larger `seq` than those that it sees. The others belong to
transactions that were running when the snapshot was taken. An index finds the first of them.
"""

import json
from typing import NamedTuple

from projectapp import auth, database
from projectapp.database import Row
from projectapp.problems import CursorGone, ServiceUnavailable
from projectapp.resources.feed_cursor import (
    MAX_INTEGER,
    START,
    FeedCursor,
    Snapshot,
    decode_feed_cursor,
    format_epoch,
)
from projectapp.resources.feed_statement import page_statement
from projectapp.resources.resource import Resource

__all__ = [
    "START",
    "FeedChange",
    "FeedCursor",
    "FeedPage",
    "decode_feed_cursor",
    "item_json",
    "read_changes",
]


class FeedChange(NamedTuple):
    """A change and the JSON texts of its item.

    `head` is an object without the members `operation` and the row. `row` is the row after the
    change, or None after a delete.
    """

    seq: int
    xid: int
    owner: str | None
    old_owner: str | None
    operation: str
    id: str
    head: str
    row: str | None


class FeedPage(NamedTuple):
    """A page of the feed. `has_more` is True if the reader should read the next page at once."""

    changes: list[FeedChange]
    next_cursor: FeedCursor
    has_more: bool


def read_changes(
    resource: Resource, cursor: FeedCursor | None, limit: int, visible_owner: str | None
) -> FeedPage:
    """Return the next changes after a cursor, in one statement: at most `limit`, from 1 to 1000.

    START means from the oldest change that is kept. Without a cursor the page is empty, and its
    cursor is where the feed stands now. A caller who has a `visible_owner` gets only changes of
    rows that belong to this owner, or did before the change. A page may have few changes or none
    although there are more.

    Raises CursorGone and ServiceUnavailable.
    """
    # Without a cursor: at the end of everything, so the page has no change.
    position = cursor or START._replace(last_seq=MAX_INTEGER)
    parameters = {
        "seen": position.seen,
        "seen_seq": position.seen_seq,
        "seen_next_xid": str(position.seen_next_xid),
        "until": position.until,
        "until_seq": position.until_seq,
        "last_seq": position.last_seq,
        "limit": limit,
        auth.owner_parameter(resource.name): visible_owner,
    }
    row = database.execute(page_statement(resource), parameters)
    epoch = _check_database(row)
    if position.epoch:
        _check_cursor(row, position, epoch)
    if position.until is None:
        xmax = Snapshot.parse(row.now).xmax
        position = position._replace(
            epoch=epoch,
            until=row.now,
            # The changes up to the newest one may be purged.
            until_seq=max(position.seen_seq, row.newest_seq, row.newest_purged_seq),
            # The lower 32 bits of the next id, which is not below xmax.
            until_next_xid=xmax + (row.next_xid - xmax) % 2**32,
        )
    changes = [FeedChange(*values) for values in json.loads(row.changes)]
    if row.walked_rows > limit:  # the page is full, and there is at least one more change
        last_seq = changes[-1].seq
    elif row.walk_end is not None:  # the walk had to stop before the end of the window
        last_seq = row.walk_end
    else:
        next_cursor = position.after_window()
        return FeedPage(changes, next_cursor, has_more=next_cursor.seen != row.now)
    return FeedPage(changes, position._replace(last_seq=last_seq), has_more=True)


def item_json(resource: Resource, change: FeedChange, visible_owner: str | None) -> str:
    """Render the item for a caller who sees the rows of `visible_owner`; None means all rows."""
    operation = visible_operation(change, visible_owner)
    row = change.row if change.row and operation != "delete" else "null"
    name = resource.singular_name
    return f'{{"id":"{change.id}","operation":"{operation}",{change.head[1:-1]},"{name}":{row}}}'


def visible_operation(change: FeedChange, visible_owner: str | None) -> str:
    """Return the operation as the caller sees it.

    A row that got another owner appears to the new one and disappears for the old one.
    """
    if visible_owner is None or change.operation == "delete":
        return change.operation
    if change.owner != visible_owner:
        return "delete"
    is_new = change.operation == "update" and change.old_owner != visible_owner
    return "create" if is_new else change.operation


def _check_database(row: Row | None) -> str:
    """Return the epoch. Raises ServiceUnavailable if the database cannot serve a feed."""
    if not row or not row.is_same_database:
        message = "The history belongs to another database, from which this one was restored."
        raise ServiceUnavailable(f"{message} Run: flask db upgrade.", 30, "not_ready")
    if row.timeline is None:
        # There, PostgreSQL's snapshots do not list the transactions that are running.
        message = "A standby has no change feed. Try again shortly."
        raise ServiceUnavailable(message, 5, "database_refused")
    return format_epoch(row.database_id, row.timeline, row.restored_seq)


def _check_cursor(row: Row, cursor: FeedCursor, epoch: str) -> None:
    """Raise CursorGone if the database does not have all changes after the cursor.

    Each purged change has a `seq` up to `purged_seq`. Its transaction has an id up to `purged_xid`,
    unless the change came with a dump.

    Outside a window, the reader does not have two kinds of changes: those after `seen_seq`, and
    those of transactions that `seen` does not see. In a window, it does not have those after
    `last_seq` of transactions that `seen` does not see, and all those that `until` does not see.
    """
    purged_seq, purged_xid = row.purged_seq, int(row.purged_xid)
    snapshots = [cursor.seen] if purged_seq > cursor.last_seq else []
    snapshots += [cursor.until] if cursor.until is not None else []
    is_purged = purged_seq > max(cursor.seen_seq, cursor.last_seq) or (
        purged_seq > row.restored_seq
        and any(_may_lack_purged(Snapshot.parse(s), purged_xid, row.now) for s in snapshots)
    )
    # An older copy of the database's files may have the same timeline.
    is_lost = cursor.seen_seq > max(row.newest_seq, row.newest_purged_seq)
    if cursor.epoch != epoch or is_purged or is_lost:
        raise CursorGone


def _may_lack_purged(snapshot: Snapshot, purged_xid: int, now: str) -> bool:
    """Whether there may be a purged change that the snapshot does not see.

    The changes of a transaction that is still running are not purged.
    """
    has_ended = Snapshot.parse(now).sees
    return snapshot.xmax <= purged_xid or any(
        xid <= purged_xid and has_ended(xid) for xid in snapshot.running
    )
