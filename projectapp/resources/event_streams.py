"""Event streams of a change feed, and requests that wait for a change without a thread.

Only the worker of server/ can hold connections. Its Streams are in the environ.
"""

import time
from typing import Any, cast

from flask import current_app, request

from projectapp import auth
from projectapp.http.application import Response
from projectapp.http.request_data import JSON_TYPE
from projectapp.problems import NotSupported, ServiceUnavailable
from projectapp.request_state import Caller, request_state
from projectapp.resources.feed import FeedCursor, FeedPage, read_changes
from projectapp.resources.feed_events import format_events
from projectapp.resources.feed_streams import PAGE_CHANGES, FeedStreams
from projectapp.resources.feed_subscriptions import FeedSubscription
from projectapp.resources.resource import Resource

EVENT_STREAM_TYPE = "text/event-stream"
RECONNECT_MILLISECONDS = 2000
RETRY_AFTER_SECONDS = 5


def is_event_stream_preferred() -> bool:
    """Whether the Accept header prefers text/event-stream to application/json (RFC 9110, 12.5.1).

    If it accepts both equally, or has only wildcards, the response is JSON.
    """
    accepted = request.accept_mimetypes
    return accepted.best_match([JSON_TYPE, EVENT_STREAM_TYPE], JSON_TYPE) == EVENT_STREAM_TYPE


def open_event_stream(resource: Resource, cursor: FeedCursor | None) -> Response:
    """Return a response that never ends: the changes after `cursor`, or from now on without it.

    Raises NotSupported, CursorGone and ServiceUnavailable.
    """
    streams = request.environ.get("projectapp.streams")
    if not streams:
        raise NotSupported(
            "This server cannot keep event streams open. Use wait (long polling) instead, or serve"
            " with gunicorn and its configuration gunicorn.conf.py, without TLS in gunicorn."
        )
    page = read_changes(resource, cursor, PAGE_CHANGES, auth.visible_owner(resource.name))
    subscription = _subscribe(streams, resource, page, is_stream=True)
    if request.method == "GET" and not streams.open(request.environ, subscription):
        raise _no_room()
    start = f"retry: {RECONNECT_MILLISECONDS}\n"
    if cursor is None:  # an event without data: it only gives the reader a cursor
        cursor = page.next_cursor
        start += f"id: {cursor.encode(resource.name)}\n"
    events = format_events(resource, cursor, page, subscription.visible_owner)
    # An iterator: a sequence would get a Content-Length.
    body = iter([f"{start}\n".encode() + events])
    # nginx would keep the events back until it has a full buffer.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(body, headers=headers, content_type=EVENT_STREAM_TYPE)


def can_wait_without_thread() -> bool:
    return "projectapp.streams" in request.environ


def run_again_after_change(resource: Resource, page: FeedPage, seconds: float) -> None:
    """Let this request run again when there is a change after `page`, or after some seconds.

    The response that it gives now is discarded. Raises ServiceUnavailable if there is no room.
    """
    streams = request.environ["projectapp.streams"]
    subscription = _subscribe(streams, resource, page, is_stream=False)
    if not streams.park(request.environ, subscription, time.monotonic() + seconds):
        raise _no_room()


def _subscribe(
    streams: Any, resource: Resource, page: FeedPage, *, is_stream: bool
) -> FeedSubscription:
    app = cast(Any, current_app)._get_current_object()
    feed = app.extensions.get("feed_streams")
    if not feed:  # several requests may be the first one
        feed = app.extensions.setdefault("feed_streams", FeedStreams(app, streams))
    caller = cast(Caller, request_state().caller)
    return FeedSubscription(feed, resource, caller, page.next_cursor, is_stream=is_stream)


def _no_room() -> ServiceUnavailable:
    message = "This server process holds the maximum number of streams and waiting requests."
    return ServiceUnavailable(f"{message} Try again later.", RETRY_AFTER_SECONDS, "streams_full")
