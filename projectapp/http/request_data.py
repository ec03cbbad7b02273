"""Strict parsing of request bodies and query strings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qsl

from flask import current_app, request
from marshmallow import Schema, ValidationError, fields

from projectapp.problems import BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed
from projectapp.request_state import current_request, request_state
from projectapp.strict_json import InvalidJSON, parse_json

JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
CSV_TYPE = "text/csv"
UTF_8 = "utf-8"
PATCH_TYPES = ("application/merge-patch+json", JSON_TYPE)
_MAX_PARAMETERS = 50


class ItemsBody(NamedTuple):
    """How a request body with many items is read.

    `readers` maps each content type to the function that reads the items from a body. It may raise
    InvalidJSON. The items must be serializable as JSON. `validate` returns the items as the schema
    `item` loads them; it raises ValidationFailed. `max_items` is for the OpenAPI document.
    """

    item: Schema
    max_items: int
    readers: Mapping[str, Callable[[bytes, Schema], Sequence[Any]]]
    validate: Callable[[Schema, Sequence[Any]], list[Any]]


def read_body(
    schema: Schema | None,
    content_types: tuple[str, ...] = (JSON_TYPE,),
    items_body: ItemsBody | None = None,
) -> Any:
    """Return the JSON object in the body, validated by `schema`, or the list of the items in it.

    What the client sent becomes `raw_body` of the request state. Raises UnsupportedMediaType,
    PayloadTooLarge, BadRequest, or ValidationFailed, which names each invalid field.
    """
    request = current_request()
    content_type = request.mimetype
    object_types = content_types if schema else ()
    readers = items_body.readers if items_body else {}
    if content_type not in object_types and content_type not in readers:
        raise _unsupported_type({**dict.fromkeys(object_types), **readers})
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType(
            "Send the body without Content-Encoding.", headers={"Accept-Encoding": "identity"}
        )
    body = _read_whole_body(current_app.config["MAX_CONTENT_LENGTH"])
    try:
        if items_body and (content_type not in object_types or _is_array(body)):
            _require_utf_8(content_type)
            items = readers[content_type](body, items_body.item)
            request_state().raw_body = [content_type, items]
            return items_body.validate(items_body.item, items)
        value = parse_json(body)
    except InvalidJSON as error:
        raise BadRequest(f"The body {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    request_state().raw_body = value
    return validate(cast(Schema, schema), value)


def _unsupported_type(accepted: Iterable[str]) -> UnsupportedMediaType:
    header = "Accept-Patch" if request.method == "PATCH" else "Accept"
    return UnsupportedMediaType(
        f"Send the body as {' or '.join(accepted)}.", headers={header: ", ".join(accepted)}
    )


def _require_utf_8(content_type: str) -> None:
    """Raise UnsupportedMediaType for CSV in another charset. JSON types have no charset."""
    charset = request.mimetype_params.get("charset", UTF_8)
    if content_type == CSV_TYPE and charset.lower() != UTF_8:
        raise UnsupportedMediaType(f"Send {CSV_TYPE} in UTF-8, not in {charset[:100]}.")


def _is_array(body: bytes) -> bool:
    return body.lstrip(b" \t\r\n").startswith(b"[")


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
