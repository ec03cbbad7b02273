"""The request bodies and the responses of an operation in the OpenAPI document."""

from http import HTTPStatus
from typing import Any

from apispec import APISpec
from marshmallow import Schema, fields
from werkzeug.routing import Rule

from projectapp.http.endpoint import Endpoint
from projectapp.http.headers import PROBLEM_HEADERS
from projectapp.http.request_data import JSON_TYPE
from projectapp.problems import CONTENT_TYPE as PROBLEM_TYPE


class ProblemSchema(Schema):
    """A problem of RFC 9457, with the members of the tutorial's errors."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    error = fields.String(
        metadata={"description": "A stable code for programs, such as `not_found`."}
    )
    message = fields.String(metadata={"description": "The same text as `detail`."})
    details = fields.Dict(
        metadata={"description": "The messages of each field or parameter.", "optional": True}
    )
    request_id = fields.String()


def request_content(endpoint: Endpoint) -> dict[str, Any]:
    """Return the schema of the request body for each content type; empty without a body.

    In JSON, many items are an array. In another format they are a text: JSON Schema cannot describe
    its lines.
    """
    schemas: dict[str, Any] = {}
    if endpoint.body:
        schemas = dict.fromkeys(endpoint.content_types, endpoint.body)
    if items := endpoint.items_body:
        array = {
            "type": "array",
            "items": items.item,
            "minItems": 1,
            "maxItems": items.max_items,
        }
        for content_type in items.readers:
            if content_type != JSON_TYPE:
                schemas[content_type] = {"type": "string", "minLength": 1}
            elif endpoint.body:
                schemas[JSON_TYPE] = {"oneOf": [endpoint.body, array]}
            else:
                schemas[JSON_TYPE] = array
    return {content_type: {"schema": schema} for content_type, schema in schemas.items()}


def success_responses(endpoint: Endpoint, spec: APISpec, plugin: Any) -> dict[str, Any]:
    headers = {name: name for name in ("X-Request-ID", *endpoint.response_headers)}
    has_body = bool(endpoint.body or endpoint.items_body)
    content_types = (JSON_TYPE,) if has_body else endpoint.content_types
    responses: dict[str, Any] = {}
    for status, schema in endpoint.responses.items():
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": headers}
        if schema or status == 200:
            response["content"] = {content_type: {} for content_type in content_types}
        if schema:
            schemas = schema if isinstance(schema, tuple) else (schema,)
            names = [register_response_schema(schema, spec, plugin) for schema in schemas]
            one_of: Any = names[0] if len(names) == 1 else {"oneOf": names}
            response["content"][JSON_TYPE] = {"schema": one_of}
        responses[str(status)] = response
    return responses


def problem_responses(endpoint: Endpoint, rule: Rule) -> dict[str, Any]:
    """Return the responses to errors. Most of them follow from the declaration."""
    has_body = bool(endpoint.body or endpoint.items_body)
    has_key = "Idempotency-Key" in endpoint.request_headers
    causes = {
        400: True,  # every request can be malformed
        404: rule.arguments,
        409: has_key,
        412: "If-Match" in endpoint.request_headers,
        413: has_body,
        415: has_body,
        422: has_key,
        503: endpoint.scope,  # it uses the database
    }
    statuses = {*endpoint.error_statuses, *(status for status, cause in causes.items() if cause)}
    return {str(status): problem_response(status) for status in statuses}


def problem_response(status: int) -> dict[str, Any]:
    headers = ("X-Request-ID", *PROBLEM_HEADERS.get(status, ()))
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {name: name for name in headers},
        "content": {PROBLEM_TYPE: {"schema": "Problem"}},
    }


def register_response_schema(schema: Schema, spec: APISpec, plugin: Any) -> str:
    """Register a schema and return its name. Fields are required unless marked as `optional`.

    A schema with `many` is an object whose `items` are an array of such objects.
    """
    name = type(schema).__name__.removesuffix("Schema")
    if schema.many:
        item = register_response_schema(type(schema)(), spec, plugin)
        items = {"type": "array", "items": item}
        name = f"{name}Items"
        if name not in spec.components.schemas:
            json_schema = {"type": "object", "properties": {"items": items}, "required": ["items"]}
            spec.components.schema(name, json_schema)
    elif name not in spec.components.schemas:
        json_schema = plugin.converter.schema2jsonschema(schema)
        json_schema["required"] = sorted(
            field.data_key or key
            for key, field in schema.fields.items()
            if not field.metadata.get("optional")
        )
        spec.components.schema(name, json_schema)
    return name
