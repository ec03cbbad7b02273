"""The bodies of requests with many items, in each format."""

import json
from typing import Any

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
FORMATS = [JSON, NDJSON, CSV]
FORMULA_STARTS = (
    *"=+-@\t\r\n'",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # with the full-width ones
FIRST_PLACES = {JSON: 0, NDJSON: 1, CSV: 2}  # how errors name the first item


def body_of(content_type: str, items: list[dict[str, Any]]) -> bytes:
    """Return the body with these items. In CSV all items have the fields of the first."""
    if content_type == JSON:
        return json.dumps(items).encode()
    if content_type == NDJSON:
        return b"".join(json.dumps(item).encode() + b"\n" for item in items)
    header, rows = ",".join(items[0]), [",".join(map(cell_of, item.values())) for item in items]
    return "".join(f"{line}\r\n" for line in (header, *rows)).encode()


def cell_of(value: Any) -> str:
    """Return a CSV cell: a text in quotes, nothing for null, otherwise JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        text = f"'{value}"  # the guard against formulas, as in an export
    return '"' + text.replace('"', '""') + '"'


def replace_item(content_type: str, items: list[dict[str, Any]], index: int, item: bytes) -> bytes:
    """Return the body with these items in which one item has this text."""
    body = body_of(content_type, items)
    if content_type == JSON:
        texts = [json.dumps(other).encode() for other in items]
        texts[index] = item
        return b"[" + b",\n".join(texts) + b"]"
    lines = body.splitlines(keepends=True)
    lines[index + (content_type == CSV)] = item + b"\n"
    return b"".join(lines)
