"""Strict parsing of request bodies and query strings."""

from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qsl

from flask import current_app, request
from marshmallow import Schema, ValidationError, fields

from projectapp.problems import BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed
from projectapp.request_state import request_state
from projectapp.strict_json import InvalidJSON, parse_json

JSON_TYPE = "application/json"
_MAX_PARAMETERS = 50


def read_body(schema: Schema, content_types: tuple[str, ...] = (JSON_TYPE,)) -> dict[str, Any]:
    """Return the JSON object in the body, validated by `schema`.

    The state of the request keeps the object as it was sent. Raises UnsupportedMediaType,
    PayloadTooLarge, BadRequest, or ValidationFailed, which names each invalid field.
    """
    if request.mimetype not in content_types:
        raise UnsupportedMediaType(
            f"Send the body as {' or '.join(content_types)}.",
            headers={
                "Accept-Patch" if request.method == "PATCH" else "Accept": ", ".join(content_types)
            },
        )
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType(
            "Send the body without Content-Encoding.", headers={"Accept-Encoding": "identity"}
        )
    try:
        value = parse_json(_read_whole_body(current_app.config["MAX_CONTENT_LENGTH"]))
    except InvalidJSON as error:
        raise BadRequest(f"The body {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    request_state().raw_body = value
    return validate(schema, value)


def read_query(schema: Schema) -> dict[str, Any]:
    """Return the query parameters, validated by `schema`.

    Raises BadRequest, or ValidationFailed, which names each invalid parameter.
    """
    return dict(_parse_query(schema, request.query_string))


@lru_cache(maxsize=256)  # most requests repeat a few query strings
def _parse_query(schema: Schema, query: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query.decode(), True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise BadRequest(
            "The query string must be percent-encoded UTF-8,"
            f" with at most {_MAX_PARAMETERS} parameters."
        ) from None
    list_names = {
        field.data_key or name
        for name, field in schema.load_fields.items()
        if isinstance(field, fields.List)
    }
    values: dict[str, str] = {}
    errors = {}
    for name, value in pairs:
        if name not in values:
            values[name] = value
        elif name in list_names:
            values[name] += f",{value}"
        else:
            errors[name] = ["Must not be repeated."]
    errors |= {name: ["Must not contain U+0000."] for name, value in pairs if "\0" in name + value}
    if errors:
        raise ValidationFailed(errors)
    return validate(schema, values)


def validate(schema: Schema, data: dict[str, Any]) -> dict[str, Any]:
    """Return `data` as `schema` loads it; raises ValidationFailed."""
    try:
        return schema.load(data)
    except ValidationError as error:
        raise ValidationFailed(cast(dict[str, list[str]], error.messages)) from None


def _read_whole_body(max_bytes: int) -> bytes:
    """Return the body; raises PayloadTooLarge, and BadRequest if a part of it is missing.

    Werkzeug returns a truncated body as if it were complete: both if the body is longer than its
    limit and if the client sends less than it announced.
    """
    too_large = PayloadTooLarge(f"The body must have at most {max_bytes} bytes.")
    announced_bytes = request.content_length
    if announced_bytes is not None and announced_bytes > max_bytes:
        raise too_large
    stream = request.environ["wsgi.input"]
    wanted_bytes = max_bytes + 1 if announced_bytes is None else announced_bytes
    if announced_bytes is None and not request.environ.get("wsgi.input_terminated"):
        wanted_bytes = 0  # no Content-Length and not chunked: there is no body
    body = bytearray()
    try:
        while len(body) < wanted_bytes and (part := stream.read(wanted_bytes - len(body))):
            body += part
    except Exception:  # each WSGI server has its own, for a broken chunk or a lost client
        raise BadRequest("The body could not be read to its end.") from None
    if announced_bytes is not None and len(body) != announced_bytes:
        raise BadRequest("The body is shorter than its Content-Length.")
    if len(body) > max_bytes:
        raise too_large
    return bytes(body)
