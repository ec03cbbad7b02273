"""Strict parsing of request bodies and query strings."""

from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qsl

from flask import current_app, request
from marshmallow import Schema, ValidationError, fields

from projectapp.problems import BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed
from projectapp.request_state import current_request, request_state
from projectapp.strict_json import InvalidJSON, parse_json

JSON_TYPE = "application/json"
PATCH_TYPES = ("application/merge-patch+json", JSON_TYPE)
_MAX_PARAMETERS = 50


def read_body(schema: Schema, content_types: tuple[str, ...] = (JSON_TYPE,)) -> dict[str, Any]:
    """Return the JSON object in the body, validated by `schema`.

    The object as the client sent it becomes `raw_body` of the request state. Raises
    UnsupportedMediaType, PayloadTooLarge, BadRequest, or ValidationFailed, which names each invalid
    field.
    """
    if request.mimetype not in content_types:
        header = "Accept-Patch" if request.method == "PATCH" else "Accept"
        raise UnsupportedMediaType(
            f"Send the body as {' or '.join(content_types)}.",
            headers={header: ", ".join(content_types)},
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
    return dict(parse_query(schema, request.query_string))


@lru_cache(maxsize=256)  # most requests have one of a few query strings
def parse_query(schema: Schema, query: bytes) -> dict[str, Any]:
    """Return the parameters of a query string, as `read_query`. Do not change the result."""
    try:
        pairs = parse_qsl(query.decode(), True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise BadRequest(
            "The query string must be percent-encoded UTF-8,"
            f" with at most {_MAX_PARAMETERS} parameters."
        ) from None
    lists = {n: f for n, f in schema.load_fields.items() if isinstance(f, fields.List)}
    list_names = {field.data_key or name for name, field in lists.items()}
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
    """Return the body. Raises PayloadTooLarge, or BadRequest if a part of it is missing."""
    request = current_request()
    length = request.content_length
    body = b""
    try:
        if length is None:  # the body is chunked, or there is none
            # Werkzeug cuts it at this limit without an error. One byte more shows the cut.
            request.max_content_length = max_bytes + 1
            body = request.get_data(cache=False)
        elif length <= max_bytes:
            body = request.environ["wsgi.input"].read(length)
    except Exception:  # each WSGI server has its own, for a broken chunk or a lost client
        raise BadRequest("The body could not be read to its end.") from None
    if max(length or 0, len(body)) > max_bytes:
        raise PayloadTooLarge(f"The body must have at most {max_bytes} bytes.")
    if length not in (None, len(body)):  # the client was lost
        raise BadRequest("The body is shorter than its Content-Length.")
    return body
