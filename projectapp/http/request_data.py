"""What comes in: the body and the query string, read strictly or refused, never half.

JSON is RFC 8259 in UTF-8 as I-JSON (RFC 7493) narrows it: no duplicate names, no NaN or Infinity;
integers are exact, fractions have the precision of a double. U+0000 and unpaired surrogates, which
PostgreSQL cannot store, are refused.
"""

import json
import math
import re
from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qsl

from flask import Request, current_app, g, request
from marshmallow import Schema, ValidationError, fields

from projectapp.errors import BadRequest, Invalid, PayloadTooLarge, UnsupportedMediaType

JSON = "application/json"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def read_body(schema: Schema, content_types: tuple[str, ...] = (JSON,)) -> dict[str, Any]:
    """Return the request's JSON object as `schema` loads it; as it was sent it is kept in g.sent.

    Raises UnsupportedMediaType, PayloadTooLarge, BadRequest, or Invalid naming each wrong field.
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
    except NotJSON as error:
        raise BadRequest(f"The body {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    g.sent = value
    return load(schema, value)


def read_query(schema: Schema) -> dict[str, Any]:
    """Return the query string as `schema` loads it; Invalid names each wrong parameter."""
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
        raise Invalid(wrong)
    return load(schema, given)


def load(schema: Schema, data: dict[str, Any]) -> dict[str, Any]:
    try:
        return schema.load(data)
    except ValidationError as error:
        raise Invalid(cast(dict[str, list[str]], error.messages)) from None


class NotJSON(ValueError):
    """Says what is wrong with a text, as in "The body " + str(error)."""


def parse_json(raw: bytes) -> Any:
    """Parse one JSON text; raises NotJSON."""
    try:
        text = raw.decode("utf-8")
        value = _DECODER.decode(text)
        # Raw, neither can stand in valid JSON in UTF-8: only an escape brings one in.
        if "\\u" in text and not _storable(value):
            raise NotJSON("has U+0000 or an unpaired surrogate, which cannot be stored.")
    except UnicodeDecodeError:
        raise NotJSON("is not UTF-8.") from None
    except RecursionError:
        raise NotJSON("is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise NotJSON(f"is not valid JSON: {error}.") from None
    except NotJSON:
        raise
    except ValueError:  # Python's limit of digits in one integer
        raise NotJSON("is not valid JSON: a number is out of range.") from None
    return value


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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJSON("is not valid JSON: an object has the same name twice.")
    return found


def _refuse(constant: str) -> None:
    raise NotJSON(f"is not valid JSON: {constant} is no number.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)


def _storable(value: Any) -> bool:
    if isinstance(value, str):
        return not _UNSTORABLE.search(value)
    if isinstance(value, dict):
        return all(map(_storable, value)) and all(map(_storable, value.values()))
    return not isinstance(value, list) or all(map(_storable, value))
