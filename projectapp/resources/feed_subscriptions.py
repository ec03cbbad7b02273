"""The subscriptions of a feed: which changes each of them has (see feed_streams.py)."""

from collections.abc import Sequence
from typing import Any

from projectapp.request_state import Caller
from projectapp.resources.feed import FeedCursor
from projectapp.resources.feed_cursor import Snapshot
from projectapp.resources.resource import Resource


class FeedSubscription:
    """A stream, or a request that waits for the first change (a long poll).

    `cursor` says which changes it has; it is None if these are the changes of the tail.
    """

    __slots__ = ("caller", "connection", "cursor", "feed", "is_stream", "resource", "visible_owner")

    def __init__(
        self,
        feed: Any,
        resource: Resource,
        caller: Caller,
        cursor: FeedCursor,
        *,
        is_stream: bool,
    ) -> None:
        self.feed = feed
        self.resource = resource
        self.caller = caller
        self.visible_owner = None if caller.can_see_all(resource.name) else caller.subject
        self.cursor: FeedCursor | None = cursor
        self.is_stream = is_stream
        self.connection: Any = None

    def start(self, connection: Any) -> None:
        """Begin to use a connection of server/streams.py."""
        self.connection = connection
        self.feed.add(self)


class Tail:
    """The subscriptions of a resource. `cursor` says which changes all in `joined` have."""

    def __init__(self) -> None:
        self.cursor: FeedCursor | None = None  # None if the tail reads nothing
        self.complete_at = 0.0  # when it last had all changes, on the monotonic clock
        self.joined: dict[str | None, list[FeedSubscription]] = {}  # by visible owner
        self.newcomers: list[FeedSubscription] = []  # joined, with a cursor of their own
        self.waiting: list[FeedSubscription] = []  # these read pages of their own

    def subscriptions(self) -> list[FeedSubscription]:
        return [*self.waiting, *(s for group in self.joined.values() for s in group)]

    def remove_closed(self) -> None:
        self.waiting = _only_open(self.waiting)
        self.newcomers = _only_open(self.newcomers)
        open_groups = {owner: _only_open(group) for owner, group in self.joined.items()}
        self.joined = {owner: group for owner, group in open_groups.items() if group}
        if not self.joined:
            self.cursor = None

    def join(self, subscription: FeedSubscription) -> bool:
        """Add a subscription if it has all changes of the tail; else return False."""
        cursor = subscription.cursor
        if not (cursor and self.cursor) or cursor.until or self.cursor.until:
            return False
        if not _has_all_of(cursor, self.cursor):
            return False
        self.joined.setdefault(subscription.visible_owner, []).append(subscription)
        self.newcomers.append(subscription)
        return True

    def advance(self, cursor: FeedCursor) -> None:
        self.cursor = cursor
        if cursor.until is None:
            for subscription in self.newcomers:
                subscription.cursor = None
            self.newcomers.clear()


def _has_all_of(cursor: FeedCursor, other: FeedCursor) -> bool:
    """Return whether a reader at `cursor` has all changes of a reader at `other`.

    Both cursors are outside a window.
    """
    seen, other_seen = Snapshot.parse(cursor.seen), Snapshot.parse(other.seen)
    return (
        cursor.epoch == other.epoch
        and cursor.seen_seq >= other.seen_seq
        and seen.xmax >= other_seen.xmax
        and not any(other_seen.sees(xid) for xid in seen.running)
    )


def _only_open(subscriptions: Sequence[FeedSubscription]) -> list[FeedSubscription]:
    return [s for s in subscriptions if s.connection.is_open]
