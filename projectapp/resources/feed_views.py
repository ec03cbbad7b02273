"""What the view of a change feed uses: its declaration, and a function for its response."""

import json
import time
from typing import Any

from flask import current_app, request
from marshmallow import Schema, fields
from marshmallow.validate import Length, Range

from projectapp import auth
from projectapp.http.application import Response
from projectapp.http.endpoint import Endpoint
from projectapp.http.fields import QueryInteger
from projectapp.http.request_data import JSON_TYPE
from projectapp.request_state import seconds_left
from projectapp.resources import event_streams
from projectapp.resources.event_streams import EVENT_STREAM_TYPE
from projectapp.resources.feed import (
    START,
    FeedPage,
    decode_feed_cursor,
    item_json,
    read_changes,
)
from projectapp.resources.history_views import change_schema
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema, doc
from projectapp.resources.views import json_response

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_WAIT_SECONDS = 30
POLL_SECONDS = 0.25
RESERVED_SECONDS = 2  # for the last poll, which also needs the time to get a connection


class _FeedQuery(Schema):
    error_messages = {"unknown": "Unknown parameter."}

    since = fields.String(
        validate=Length(1),
        metadata=doc(
            "A next_cursor of this feed, or start for the oldest change that is kept. Without it,"
            " the page is empty, and its next_cursor is where the feed stands now."
        ),
    )
    limit = QueryInteger(
        load_default=DEFAULT_LIMIT,
        validate=Range(1, MAX_LIMIT),
        metadata=doc("The maximum number of items."),
    )
    wait = QueryInteger(
        load_default=0,
        validate=Range(0, MAX_WAIT_SECONDS),
        metadata=doc("How many seconds to wait for a change if there is none. It may be less."),
    )


def changes(scope: str, resource: Resource, schema: type[ResourceSchema]) -> Endpoint:
    model = resource.model.__name__
    change = change_schema(resource, schema)
    item = change.from_dict({"id": fields.UUID()}, name=f"{model}FeedItemSchema")
    page = Schema.from_dict(
        {
            "items": fields.List(fields.Nested(item(partial=True))),
            "next_cursor": fields.String(
                metadata=doc("Send it as since to get the changes after this page.")
            ),
            "has_more": fields.Boolean(
                metadata=doc("Read the next page at once. A page with has_more may be empty.")
            ),
        },
        name=f"{model}FeedSchema",
    )
    return Endpoint(
        scope=scope,
        responses={200: page()},
        query=_FeedQuery(),
        content_types=(JSON_TYPE, EVENT_STREAM_TYPE),
        request_headers=["Last-Event-ID"],
        error_statuses=[410, 501],
    )


def changes_response(resource: Resource, query: dict[str, Any]) -> Response:
    """Return the page of the feed that the validated `query` describes.

    Raises InvalidFeedCursor and CursorGone.
    """
    since, limit, wait_seconds = query.get("since"), query["limit"], query["wait"]
    if is_stream := event_streams.is_event_stream_preferred():
        since = request.headers.get("Last-Event-ID") or since
    cursor = decode_feed_cursor(since, resource.name) if since not in (None, "start") else START
    if is_stream:
        return event_streams.open_event_stream(resource, cursor if since else None)
    visible_owner = auth.visible_owner(resource.name)
    page = read_changes(resource, cursor if since else None, limit, visible_owner)
    if since and wait_seconds and not request.environ.get("projectapp.has_waited"):
        if not event_streams.can_wait_without_thread():
            reserved_seconds = current_app.config["DATABASE_POOL_TIMEOUT"] + RESERVED_SECONDS
            deadline = time.monotonic() + min(wait_seconds, seconds_left() - reserved_seconds)
            page = _wait_for_change(resource, page, limit, visible_owner, deadline)
        elif not page.changes and not page.has_more:
            event_streams.run_again_after_change(resource, page, wait_seconds)
    items = ",".join(item_json(resource, change, visible_owner) for change in page.changes)
    members = {
        "next_cursor": page.next_cursor.encode(resource.name),
        "has_more": page.has_more,
    }
    return json_response(f'{{"items":[{items}],{json.dumps(members)[1:]}')


def _wait_for_change(
    resource: Resource, page: FeedPage, limit: int, visible_owner: str | None, deadline: float
) -> FeedPage:
    """Read the feed until there is a change, or until `deadline` on the monotonic clock."""
    while not page.changes and (seconds := deadline - time.monotonic()) > 0:
        if not page.has_more:
            time.sleep(min(POLL_SECONDS, seconds))
        page = read_changes(resource, page.next_cursor, limit, visible_owner)
    return page
