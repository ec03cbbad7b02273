"""The items of a bulk request, or of a file to import: read, then validated by a schema."""

from typing import Any, NamedTuple


class RawItem(NamedTuple):
    """An item before it is validated.

    `place` is what errors name: the index in a JSON array, from 0, or the line in NDJSON or CSV,
    from 1. `value` is its JSON value, or what a CSV row says as a JSON object. If it could not be
    read, `error` is the reason, as the end of a sentence ("is not valid JSON: ..."). `exact` is
    JSON text of an object with the same JSON fields, and is only set if `value` has rounded a
    number of them.
    """

    place: int
    value: Any
    error: str | None = None
    exact: str | None = None


class Item(NamedTuple):
    """A validated item. `values` are the fields as the schema loads them."""

    place: int
    values: dict[str, Any]
    exact: str | None = None
