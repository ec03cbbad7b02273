"""The thread that feeds the event streams and the waiting requests of a worker.

It runs only while there are subscriptions. In each turn it reads the new changes of each resource
once, for all subscriptions together: this is the resource's tail. It renders a change once for all
streams whose callers see the same rows.

A new subscription has a cursor of its own. It joins the tail as soon as it has all changes that
the tail has read. Until then, it reads pages of its own. When it joins, it may have changes that
the tail has not read yet: in the tail's next window it gets only those that its own snapshot does
not see.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from typing import Any

from flask import Flask

from projectapp import auth, metrics
from projectapp.metrics.definitions import FEED_LAG
from projectapp.problems import CursorGone, ServiceUnavailable
from projectapp.request_state import RequestState, set_request_state
from projectapp.resources.feed import FeedCursor, FeedPage, read_changes
from projectapp.resources.feed_events import filter_changes, format_events
from projectapp.resources.feed_subscriptions import FeedSubscription, Tail
from projectapp.resources.resource import Resource

TURN_SECONDS = 0.1  # from the start of a turn to the start of the next one
MAX_BACKOFF_SECONDS = 5.0  # while the database is away
TOKEN_CHECK_SECONDS = 30.0
PAGE_CHANGES = 100
MAX_TAIL_PAGES = 50  # in a turn
OWN_PAGES_SECONDS = 0.05  # for the subscriptions of a resource that have not joined, in a turn

log = logging.getLogger(__name__)


class FeedStreams:
    """The subscriptions of a worker, and their thread. `streams` is the Streams of the worker."""

    def __init__(self, app: Flask, streams: Any) -> None:
        self._app = app
        self._streams = streams
        self._tails: defaultdict[Resource, Tail] = defaultdict(Tail)
        self._new: deque[FeedSubscription] = deque()
        self._lock = threading.Lock()  # for the start and the end of the thread
        self._is_running = False
        self._next_token_check_at = 0.0
        metrics.sample_regularly("the feed", self._sample)

    def _sample(self) -> None:
        tails, now = [*self._tails.values()], time.monotonic()
        FEED_LAG.set(max((now - t.complete_at for t in tails if t.cursor), default=0))

    def add(self, subscription: FeedSubscription) -> None:
        with self._lock:
            self._new.append(subscription)
            if not self._is_running:
                threading.Thread(target=self._run, name="feed-streams", daemon=True).start()
                self._is_running = True  # not if the system has no thread left

    def _run(self) -> None:
        backoff_seconds = 0.0
        self._next_token_check_at = time.monotonic() + TOKEN_CHECK_SECONDS
        with self._app.app_context():
            while self._update_subscriptions():
                started_at = time.monotonic()
                deadline = started_at + self._app.config["REQUEST_TIMEOUT"]
                set_request_state(RequestState(deadline=deadline))
                try:
                    self._run_turn()
                    backoff_seconds = 0.0
                except ServiceUnavailable:  # the database is away: streams wait for it
                    backoff_seconds = min(2 * backoff_seconds + TURN_SECONDS, MAX_BACKOFF_SECONDS)
                except Exception:
                    log.exception("Error in the feed of the streams")
                    backoff_seconds = MAX_BACKOFF_SECONDS
                    self._streams.finish([s.connection for s in self._subscriptions()])
                next_turn_at = started_at + TURN_SECONDS + backoff_seconds
                time.sleep(max(0.0, next_turn_at - time.monotonic()))

    def _update_subscriptions(self) -> bool:
        """Add new ones, remove closed ones. Return False if none is left: the thread ends."""
        with self._lock:
            while self._new:
                subscription = self._new.popleft()
                self._tails[subscription.resource].waiting.append(subscription)
            for resource, tail in [*self._tails.items()]:
                tail.remove_closed()
                if not (tail.joined or tail.waiting):
                    del self._tails[resource]
            self._is_running = bool(self._tails)
            return self._is_running

    def _subscriptions(self) -> list[FeedSubscription]:
        return [s for tail in self._tails.values() for s in tail.subscriptions()]

    def _run_turn(self) -> None:
        for resource, tail in self._tails.items():
            try:
                self._read_tail(resource, tail)
            except CursorGone:  # the database was replaced: the next request of each gets a 410
                self._streams.finish([s.connection for s in tail.subscriptions()])
                continue
            self._read_own_pages(resource, tail)
        if time.monotonic() >= self._next_token_check_at:
            self._end_invalid_streams()
            self._send_cursors()
            self._next_token_check_at = time.monotonic() + TOKEN_CHECK_SECONDS

    # The tail.

    def _read_tail(self, resource: Resource, tail: Tail) -> None:
        for _ in range(MAX_TAIL_PAGES):
            if tail.cursor is None:
                return
            read_at = time.monotonic()
            page = read_changes(resource, tail.cursor, PAGE_CHANGES, None)
            self._deliver(resource, tail, page)
            tail.advance(page.next_cursor)
            if not page.has_more:
                tail.complete_at = read_at
            # The next page at once, except if clients have not read this one yet: many changes in
            # one transaction would exceed what a stream may have unread.
            if not page.has_more or self._streams.pending_bytes:
                return

    def _deliver(self, resource: Resource, tail: Tail, page: FeedPage) -> None:
        messages, woken = [], []
        tail_cursor: Any = tail.cursor
        owners = {None, *(c.owner for c in page.changes), *(c.old_owner for c in page.changes)}
        for owner in owners & tail.joined.keys():
            groups: defaultdict[FeedCursor, list[FeedSubscription]] = defaultdict(list)
            for subscription in tail.joined[owner]:
                groups[subscription.cursor or tail_cursor].append(subscription)
            for cursor, group in groups.items():
                changes = filter_changes(page.changes, owner, cursor)
                if not changes:
                    continue
                woken += [s.connection for s in group if not s.is_stream]
                if connections := [s.connection for s in group if s.is_stream]:
                    own_page = page._replace(changes=changes)
                    messages.append((connections, format_events(resource, cursor, own_page, owner)))
        if woken:
            self._streams.finish(woken)
        if messages:
            self._streams.send(messages)

    # Subscriptions that have not joined.

    def _read_own_pages(self, resource: Resource, tail: Tail) -> None:
        if tail.waiting and tail.cursor is None:
            # Not the cursor of a client: if it is forged, others that join would lack changes.
            tail.complete_at = time.monotonic()
            tail.cursor = read_changes(resource, None, 1, None).next_cursor
        end = time.monotonic() + OWN_PAGES_SECONDS
        for subscription in [*tail.waiting]:
            has_more = True
            while not (has_joined := tail.join(subscription)) and has_more:
                if subscription.connection.pending_bytes or time.monotonic() > end:
                    break  # the client has not read the last page yet, or others must go on
                has_more = self._read_own_page(resource, subscription)
            tail.waiting.remove(subscription)
            if not has_joined:
                tail.waiting.append(subscription)
            if time.monotonic() > end:
                break  # the next turn begins with the others

    def _read_own_page(self, resource: Resource, subscription: FeedSubscription) -> bool:
        """Read and send the next page of a subscription. Return whether it has more."""
        connection, owner = subscription.connection, subscription.visible_owner
        cursor: Any = subscription.cursor
        try:
            page = read_changes(resource, cursor, PAGE_CHANGES, owner)
        except CursorGone:
            self._streams.finish([connection])
            return False
        subscription.cursor = page.next_cursor
        if page.changes and subscription.is_stream:
            self._streams.send([([connection], format_events(resource, cursor, page, owner))])
        elif page.changes:
            self._streams.finish([connection])
        return page.has_more

    # What is due every TOKEN_CHECK_SECONDS.

    def _end_invalid_streams(self) -> None:
        streams = [s for s in self._subscriptions() if s.is_stream]
        valid_callers = auth.find_valid_callers({s.caller for s in streams})
        self._streams.finish([s.connection for s in streams if s.caller not in valid_callers])

    def _send_cursors(self) -> None:
        """Send each stream the tail's cursor, in an event without data.

        The last cursor of a stream without events would become old, and a purge may end it. A
        browser stores the id of an event without data, but does not pass the event to the page.
        """
        for resource, tail in self._tails.items():
            if tail.cursor and tail.cursor.until is None and not tail.newcomers:
                joined = (s for group in tail.joined.values() for s in group if s.is_stream)
                data = f"id: {tail.cursor.encode(resource.name)}\n\n".encode()
                self._streams.send([([s.connection for s in joined], data)])
