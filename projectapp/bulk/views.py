"""What the views of many rows use: declarations of endpoints, and functions for responses.

`routes.py` of a resource adds the path and the docstring, which the OpenAPI document contains.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import request
from marshmallow import Schema, fields

from projectapp.bulk.csv_reader import parse_csv
from projectapp.bulk.inserts import insert_items
from projectapp.bulk.items import MAX_ITEMS, Item, RawItem, load_items, parse_array, parse_lines
from projectapp.bulk.updates import update_items
from projectapp.http.application import Response
from projectapp.http.endpoint import Endpoint
from projectapp.http.etags import WRITE_CONDITION_HEADERS
from projectapp.http.fields import Integer
from projectapp.http.request_data import CSV_TYPE, JSON_TYPE, NDJSON_TYPE, ItemsBody
from projectapp.problems import BadRequest, NotFound, ValidationFailed
from projectapp.resources import views
from projectapp.resources.idempotency import read_claim
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema, doc


def creation(scope: str, schema: type[ResourceSchema]) -> Endpoint:
    """Declare a view that creates one row, or many rows in one request."""
    readers = {JSON_TYPE: _read_array, NDJSON_TYPE: _read_lines, CSV_TYPE: _read_csv}
    return replace(
        views.creation(scope, schema),
        responses={201: (schema(), schema(many=True))},
        items_body=ItemsBody(schema(), MAX_ITEMS, readers, _validate),
    )


def update(scope: str, schema: type[ResourceSchema]) -> Endpoint:
    """Declare a view that changes many rows in one request."""
    return Endpoint(
        scope=scope,
        responses={200: schema(many=True)},
        items_body=ItemsBody(
            _change_schema(schema), MAX_ITEMS, {JSON_TYPE: _read_array}, _validate
        ),
        error_statuses=[404, 412],
    )


def create_response(
    resource: Resource,
    body: dict[str, Any] | list[Item],
    path: str,
    parent_id: UUID | None = None,
) -> Response:
    """Create a row or, if the body is a list, a row for each item; see `views.create_response`."""
    if isinstance(body, dict):
        return views.create_response(resource, body, path, parent_id)
    row, is_replayed = insert_items(resource, body, read_claim(), parent_id)
    if not row:
        raise NotFound
    headers = {"Idempotency-Replayed": "true"} if is_replayed else {}
    return views.json_response(_render_items(row.body), 201, headers)


def update_response(resource: Resource, body: list[Item]) -> Response:
    """Merge the items into their rows, or change no row.

    Raises BadRequest if the request has a condition on the one version of a row.
    """
    if header := next((name for name in WRITE_CONDITION_HEADERS if name in request.headers), None):
        raise BadRequest(
            f"{header} is only for a request that changes one row. Send the expected version of"
            " each row as the member version of its item."
        )
    return views.json_response(_render_items(update_items(resource, body)))


def _render_items(items: str) -> str:
    return f'{{"items":[{items}]}}'


def _change_schema(schema: type[ResourceSchema]) -> Schema:
    """Return the schema of an item that changes a row: like a PATCH, and with the id of the row."""
    version = Integer(
        minimum=1,
        metadata=doc("The expected version. If a row has another one, no row is changed."),
    )
    members: dict[str, fields.Field[Any]] = {"id": fields.UUID(required=True), "version": version}
    name = f"{schema.__name__.removesuffix('Schema')}WithIdSchema"
    with_id = schema.from_dict(members, name=name)
    return with_id(partial=[name for name in with_id().load_fields if name != "id"])


def _read_array(body: bytes, schema: Schema) -> list[RawItem]:
    return parse_array(body)


def _read_lines(body: bytes, schema: Schema) -> list[RawItem]:
    return _read_some(parse_lines(io.BytesIO(body)))


def _read_csv(body: bytes, schema: Schema) -> list[RawItem]:
    text = body.decode("utf-8", "surrogateescape")  # parse_csv names the lines with other bytes
    return _read_some(parse_csv(io.StringIO(text, newline=""), schema))


def _read_some(raw_items: Iterator[RawItem]) -> list[RawItem]:
    """Read one item more than is allowed: a small body can have 500 000, and they take seconds."""
    return [*itertools.islice(raw_items, MAX_ITEMS + 1)]


def _validate(schema: Schema, raw_items: Sequence[RawItem]) -> list[Item]:
    """Return the validated items. Raises BadRequest for their number, and ValidationFailed."""
    if not 0 < len(raw_items) <= MAX_ITEMS:
        count = "more" if raw_items else "none"
        raise BadRequest(f"Send from 1 to {MAX_ITEMS} items. The body has {count}.")
    items, field_errors = load_items(schema, raw_items)
    if field_errors:
        raise ValidationFailed(field_errors)
    return items
