"""Changes the requests of schemathesis where the document cannot describe a valid one."""

import json
import urllib.request
from datetime import UTC, datetime

import schemathesis
from marshmallow import ValidationError

from projectapp.http.fields import QueryTimestamp

schemathesis.serializer.alias("application/x-ndjson", "text/plain")  # or it is never sent


def is_timestamp(value):
    try:
        return bool(isinstance(value, str) and QueryTimestamp().deserialize(value))
    except ValidationError:
        return False


def row_ids(case):
    """Return the ids of at most 100 stored rows of the collection."""
    url = f"{case.operation.base_url.rstrip('/')}{case.path}?page_size=100"
    with urllib.request.urlopen(url) as response:  # noqa: S310 - http
        return [row["id"] for row in json.load(response)["items"]]


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.query:
        case.query.pop("cursor", None)  # only a response of the same list contains a valid one
        if case.query.get("since") != "start":  # the same is true for the cursors of a feed
            case.query.pop("since", None)
        if str(case.query.get("wait")) in map(str, range(31)):
            case.query["wait"] = 0  # a feed without changes would wait
        if is_timestamp(case.query.get("as_of")):
            # It must be between the beginning of the history and now.
            case.query["as_of"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    if not case.meta.generation.mode.is_positive:
        return
    # The document calls it a string, which client generators need, but it must be a JSON object.
    if case.query and "attributes" in case.query:
        case.query["attributes"] = json.dumps({"text": case.query["attributes"][:100]})
    # Only a CSV file may have a byte order mark.
    if case.query and case.query.get("format") != "csv":
        case.query.pop("bom", None)
    # schemathesis removes the characters of an ETag, so its header would be empty.
    for name in ("If-Match", "If-None-Match"):
        if case.headers and case.headers.get(name) == "":
            del case.headers[name]
    # The document calls NDJSON and CSV a text. Here it is the name of the only item.
    if isinstance(case.body, str):
        name = case.body[:200] or "x"
        if case.media_type == "application/x-ndjson":
            case.body = json.dumps({"name": name})
        elif case.media_type == "text/csv":
            case.body = 'name\r\n"{}"\r\n'.format(name.replace('"', '""'))
    # The ids of a bulk change must be distinct, and should be those of rows.
    if case.method == "PATCH" and isinstance(case.body, list):
        ids = row_ids(case)
        del case.body[max(1, len(ids)) :]
        for item, row_id in zip(case.body, ids, strict=False):
            item["id"] = row_id
