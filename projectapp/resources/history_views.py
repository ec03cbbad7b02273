"""What the views of history and restore use: declarations of endpoints, functions for responses."""

import json
from typing import Any
from uuid import UUID

from flask import request
from marshmallow import Schema, fields
from marshmallow.validate import Length, OneOf, Range

from projectapp.http.application import Response
from projectapp.http.endpoint import Endpoint
from projectapp.http.etags import WRITE_CONDITION_HEADERS, allowed_versions
from projectapp.http.fields import Integer, QueryInteger
from projectapp.problems import NotFound
from projectapp.resources.cursors import InvalidCursor, Position, decode_cursor, encode_cursor
from projectapp.resources.history import MAX_SEQ, find_history_page
from projectapp.resources.resource import Resource
from projectapp.resources.restore import restore_row
from projectapp.resources.schemas import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, ResourceSchema, doc
from projectapp.resources.views import json_response, no_match, row_response


class _HistoryQuery(Schema):
    error_messages = {"unknown": "Unknown parameter."}

    page_size = QueryInteger(load_default=DEFAULT_PAGE_SIZE, validate=Range(1, MAX_PAGE_SIZE))
    cursor = fields.String(validate=Length(1), metadata=doc("A next_cursor of this history."))


class RestoreSchema(Schema):
    """Which version to restore. {} brings back a deleted row."""

    error_messages = {"unknown": "Unknown field."}

    version = Integer(minimum=1, metadata=doc("A version in the history, other than a delete."))


class ChangeSchema(Schema):
    """A change of a row."""

    version = fields.Integer(metadata=doc("After the change; a delete also adds 1."))
    operation = fields.String(validate=OneOf(("create", "update", "delete", "restore")))
    at = fields.DateTime()
    caller = fields.String(
        allow_none=True, metadata=doc("Null with AUTH=none, and for a change outside the API.")
    )
    credential = fields.String(
        metadata=doc("The public name of the token; role NAME for a change outside the API.")
    )
    request_id = fields.String(allow_none=True, metadata=doc("Null for a change outside the API."))
    changed = fields.List(
        fields.String(),
        metadata=doc("The names of the fields that changed, other than version and updated_at."),
    )


def change_schema(resource: Resource, schema: type[ResourceSchema]) -> type[Schema]:
    """Return the schema of a change of these rows."""
    description = doc("The row after the change; null after a delete.")
    row = fields.Nested(schema(partial=True), allow_none=True, metadata=description)
    name = f"{resource.model.__name__}ChangeSchema"
    return ChangeSchema.from_dict({resource.singular_name: row}, name=name)


def history(scope: str, resource: Resource, schema: type[ResourceSchema]) -> Endpoint:
    items = fields.List(fields.Nested(change_schema(resource, schema)(partial=True)))
    name = f"{resource.model.__name__}HistorySchema"
    page = Schema.from_dict(
        {"items": items, "next_cursor": fields.String(allow_none=True)}, name=name
    )
    return Endpoint(scope=scope, responses={200: page()}, query=_HistoryQuery())


def restore(scope: str, schema: type[ResourceSchema]) -> Endpoint:
    return Endpoint(
        scope=scope,
        responses={200: schema()},
        body=RestoreSchema(),
        request_headers=WRITE_CONDITION_HEADERS,
        response_headers=["ETag"],
        error_statuses=[409],
    )


def history_response(resource: Resource, row_id: UUID, query: dict[str, Any]) -> Response:
    """Return a page of the changes of a row, the newest first."""
    list_key = {"resource": resource.name, "history_of": row_id}
    cursor = query.get("cursor")
    before_seq = _seq_of(decode_cursor(cursor, list_key)) if cursor else MAX_SEQ
    page = find_history_page(resource, row_id, query["page_size"], before_seq)
    if not page:
        raise NotFound
    next_cursor = encode_cursor(Position([page.last_seq]), list_key) if page.last_seq else None
    return json_response(f'{{"items":[{page.items}],"next_cursor":{json.dumps(next_cursor)}}}')


def _seq_of(position: Position) -> int:
    """Return the number of the change at which a page ended. Raises InvalidCursor."""
    seq = position.sort_values[0] if len(position.sort_values) == 1 else None
    if position.is_backward or type(seq) is not int or not 0 < seq <= MAX_SEQ:
        raise InvalidCursor
    return seq


def restore_response(
    resource: Resource, schema: type[ResourceSchema], row_id: UUID, body: dict[str, Any]
) -> Response:
    """Restore the version in the body or, without a version, a deleted row."""
    versions, has_if_match = allowed_versions(), "If-Match" in request.headers
    validator = schema(partial=True)
    row = restore_row(resource, validator, row_id, body.get("version"), versions, has_if_match)
    if not row:
        raise no_match(resource, row_id, versions)
    return row_response(row)
