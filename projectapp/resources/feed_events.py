"""Changes as server-sent events (HTML standard, 9.2)."""

from collections.abc import Iterable

from projectapp.resources.feed import FeedChange, FeedCursor, FeedPage, item_json, visible_operation
from projectapp.resources.feed_cursor import Snapshot
from projectapp.resources.resource import Resource


def format_events(
    resource: Resource, cursor: FeedCursor, page: FeedPage, visible_owner: str | None
) -> bytes:
    """Render the page after `cursor` as server-sent events.

    The id of an event is the cursor of a reader that has this change and those before it.
    """
    next_cursor, events = page.next_cursor, []
    # The slices are seen, seen_seq, seen_next_xid (1:4) and until, until_seq, until_next_xid (4:7).
    window = next_cursor[4:7] if next_cursor.until is not None else next_cursor[1:4]
    for change in page.changes:
        position = FeedCursor(next_cursor.epoch, *cursor[1:4], *window, change.seq)
        if change is page.changes[-1] and next_cursor.until is None:
            position = next_cursor
        operation = visible_operation(change, visible_owner)
        item = item_json(resource, change, visible_owner)
        events.append(f"id: {position.encode(resource.name)}\nevent: {operation}\ndata: {item}\n\n")
    return "".join(events).encode()


def filter_changes(
    changes: Iterable[FeedChange], visible_owner: str | None, cursor: FeedCursor
) -> list[FeedChange]:
    """Return the changes that a caller may see, and that the cursor's reader does not have yet."""
    seen = Snapshot.parse(cursor.seen)
    return [
        change
        for change in changes
        if visible_owner in (None, change.owner, change.old_owner)
        and (change.seq > cursor.seen_seq or not seen.sees(change.xid))
    ]
