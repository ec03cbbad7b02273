"""What the views of all resources use: declarations of endpoints, and functions for responses.

`routes.py` of a resource adds the path and the docstring, which the OpenAPI document contains.
"""

import json
from typing import Any
from urllib.parse import quote
from uuid import UUID

from flask import request
from marshmallow import EXCLUDE, Schema

from projectapp import auth
from projectapp.database import Row
from projectapp.http.application import Response
from projectapp.http.endpoint import Endpoint
from projectapp.http.etags import (
    WRITE_CONDITION_HEADERS,
    Versions,
    allowed_versions,
    format_etag,
    not_modified_response,
)
from projectapp.http.fields import QueryTimestamp
from projectapp.http.request_data import JSON_TYPE, PATCH_TYPES
from projectapp.problems import NotFound, PreconditionFailed
from projectapp.resources.cursors import decode_cursor, encode_cursor, link_header
from projectapp.resources.history import find_row_at
from projectapp.resources.idempotency import read_claim
from projectapp.resources.inserts import insert_row
from projectapp.resources.lists import find_page
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema, doc, page_schema
from projectapp.resources.writes import delete_row, find_row, is_parent_visible, update_row


class _ReadQuery(Schema):
    class Meta:
        unknown = EXCLUDE

    as_of = QueryTimestamp(
        metadata=doc("Read the row as it was at this time, also if it is deleted now.")
    )


def listing(scope: str, schema: type[ResourceSchema], query: Schema) -> Endpoint:
    return Endpoint(
        scope=scope,
        responses={200: page_schema(schema)},
        query=query,
        response_headers=["Link"],
    )


def creation(scope: str, schema: type[ResourceSchema]) -> Endpoint:
    return Endpoint(
        scope=scope,
        responses={201: schema()},
        body=schema(),
        request_headers=["Idempotency-Key"],
        response_headers=["ETag", "Location", "Idempotency-Replayed"],
    )


def reading(scope: str, schema: type[ResourceSchema]) -> Endpoint:
    return Endpoint(
        scope=scope,
        responses={200: schema(), 304: None},
        query=_ReadQuery(),
        request_headers=["If-None-Match"],
        response_headers=["ETag"],
        error_statuses=[410],
    )


def update(scope: str, schema: type[ResourceSchema], *, merge: bool = False) -> Endpoint:
    return Endpoint(
        scope=scope,
        responses={200: schema()},
        body=schema(partial=True),
        content_types=PATCH_TYPES if merge else (JSON_TYPE,),
        request_headers=WRITE_CONDITION_HEADERS,
        response_headers=["ETag"],
    )


def deletion(scope: str) -> Endpoint:
    return Endpoint(
        scope=scope,
        responses={204: None},
        request_headers=WRITE_CONDITION_HEADERS,
        error_statuses=[409],
    )


def list_response(
    resource: Resource, query: dict[str, Any], parent_id: UUID | None = None
) -> Response:
    """Return a page of the list that the validated `query` describes.

    With `parent_id`, the list has only the children of that row. Raises NotFound if the caller does
    not see the parent.
    """
    query = dict(query)
    page_size, sort = query.pop("page_size"), query.pop("sort", [])
    fields = {"id", *query.pop("selected_fields")}
    cursor = query.pop("cursor", None)
    page_number = query.pop("page", None if cursor else 1)
    count_mode = query.pop("count", "none" if cursor else "auto")
    if parent_id:
        query[str(resource.parent_key)] = parent_id
    list_key = {**query, "sort": sort, "resource": resource.name}
    if owner := auth.visible_owner(resource.name):
        list_key["visible_owner"] = owner
    start = decode_cursor(cursor, list_key) if cursor else (page_number - 1) * page_size
    page = find_page(resource, query, sort, fields, count_mode, page_size, start)
    if not page.items and not is_parent_visible(resource, parent_id):
        raise NotFound
    previous_cursor, next_cursor = (
        position and encode_cursor(position, list_key) for position in (page.previous, page.next)
    )
    page_info = {
        "total": page.total,
        **({"total_is_estimate": True} if page.is_estimate else {}),
        "page": page_number,
        "page_size": page_size,
        "next_cursor": next_cursor,
    }
    path = quote(request.script_root + request.path)
    parameters = request.args.items(multi=True)
    links = link_header(path, parameters, page_number, previous_cursor, next_cursor)
    body = f'{{"items":[{page.items}],{json.dumps(page_info)[1:]}'
    return json_response(body, headers={"Link": links} if links else None)


def create_response(
    resource: Resource, body: dict[str, Any], path: str, parent_id: UUID | None = None
) -> Response:
    """Create a row; with `parent_id`, as a child of that row. Its Location is `path`/ID.

    Raises NotFound if the caller does not see the parent.
    """
    row, is_replayed = insert_row(resource, body, read_claim(), parent_id)
    if not row:
        raise NotFound
    headers = {
        "ETag": format_etag(row.version),
        "Location": f"{request.script_root}{path}/{row.id}",
        **({"Idempotency-Replayed": "true"} if is_replayed else {}),
    }
    return json_response(row.body, 201, headers)


def read_response(resource: Resource, row_id: UUID, query: dict[str, Any]) -> Response:
    """Return a row or, with `as_of` in the query, what it was at that time."""
    time = query.get("as_of")
    row = find_row_at(resource, row_id, time) if time else find_row(resource, row_id)
    if not row:
        raise NotFound
    return not_modified_response(row.version) or row_response(row)


def update_response(
    resource: Resource, row_id: UUID, body: dict[str, Any], *, merge: bool = False
) -> Response:
    versions = allowed_versions()
    row = update_row(resource, row_id, body, versions, merge)
    if not row:
        raise no_match(resource, row_id, versions)
    return row_response(row)


def delete_response(resource: Resource, row_id: UUID) -> Response:
    versions = allowed_versions()
    if not delete_row(resource, row_id, versions):
        raise no_match(resource, row_id, versions)
    return Response(status=204)


def no_match(
    resource: Resource, row_id: UUID, versions: Versions | None
) -> NotFound | PreconditionFailed:
    """Return why a write found no row. Only a request with a precondition needs another query."""
    row = find_row(resource, row_id) if versions is not None else None
    if not row:
        return NotFound()
    return PreconditionFailed(
        f"Nothing was changed, because the current version is {row.version}. Read the data again.",
        headers={"ETag": format_etag(row.version)},
    )


def row_response(row: Row) -> Response:
    return json_response(row.body, headers={"ETag": format_etag(row.version)})


def json_response(body: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, content_type=JSON_TYPE)
