"""Strict parsing of request bodies and query strings."""

from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qsl

from flask import Request, current_app, request
from marshmallow import Schema, ValidationError, fields

from projectapp.problems import BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed
from projectapp.request_state import request_state
from projectapp.strict_json import InvalidJSON, parse_json

JSON_TYPE = "application/json"


def read_body(schema: Schema, content_types: tuple[str, ...] = (JSON_TYPE,)) -> dict[str, Any]:
    """Return the request's JSON object as `schema` loads it; as it was sent it is kept in
    the request's state.

    Raises UnsupportedMediaType, PayloadTooLarge, BadRequest, or ValidationFailed, which names each
    invalid field.
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
            "Send the body unencoded.", headers={"Accept-Encoding": "identity"}
        )
    try:
        value = parse_json(_read(request, current_app.config["MAX_CONTENT_LENGTH"]))
    except InvalidJSON as error:
        raise BadRequest(f"The body {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    request_state().raw_body = value
    return validate(schema, value)


def read_query(schema: Schema) -> dict[str, Any]:
    """Return the query string as `schema` loads it; ValidationFailed names each wrong parameter."""
    return dict(_load_query(schema, request.query_string))


@lru_cache(maxsize=256)  # the same few lists are asked for again and again
def _load_query(schema: Schema, query: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query.decode(), True, errors="strict", max_num_fields=50)
    except ValueError:
        raise BadRequest("The query string is not percent-encoded UTF-8, or is too long.") from None
    lists = {
        field.data_key or name
        for name, field in schema.load_fields.items()
        if isinstance(field, fields.List)
    }
    given: dict[str, str] = {}
    wrong = {}
    for name, value in pairs:
        if name not in given:
            given[name] = value
        elif name in lists:
            given[name] += f",{value}"
        else:
            wrong[name] = ["Give it once."]
    wrong |= {n: ["U+0000 cannot be used."] for n, v in pairs if "\0" in n + v}
    if wrong:
        raise ValidationFailed(wrong)
    return validate(schema, given)


def validate(schema: Schema, data: dict[str, Any]) -> dict[str, Any]:
    try:
        return schema.load(data)
    except ValidationError as error:
        raise ValidationFailed(cast(dict[str, list[str]], error.messages)) from None


def _read(request: Request, limit: int) -> bytes:
    """The whole body of at most `limit` bytes.

    Werkzeug's own limit hands over a body cut at it, and a short one, as if they were whole.
    """
    too_large = PayloadTooLarge(f"The body may have at most {limit} bytes.")
    expected = request.content_length
    if expected is not None and expected > limit:
        raise too_large
    stream = request.environ["wsgi.input"]
    wanted = limit + 1 if expected is None else expected
    if expected is None and not request.environ.get("wsgi.input_terminated"):
        wanted = 0  # neither a length nor an end: there is no body
    parts, size = [], 0
    try:
        while size < wanted and (part := stream.read(wanted - size)):
            parts.append(part)
            size += len(part)
    except Exception:  # each server has its own for a broken chunk or a lost client
        raise BadRequest("The body could not be read.") from None
    if expected is not None and size != expected:
        raise BadRequest("The body is shorter than its Content-Length.")
    if size > limit:
        raise too_large
    return b"".join(parts)
