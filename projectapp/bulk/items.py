"""The items of a bulk request, or of a file to import: read, then validated by a schema."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError

from projectapp.strict_json import InvalidJSON, make_decoder, parse_json

MAX_ITEMS = 1000
_MAX_DIGITS = 4300  # on each side of the decimal point: Python's limit for integers
_MAX_EXACT_INTEGER = 2**53  # of a double
_LENIENT = json.JSONDecoder(strict=False)  # finds where a JSON value ends
_SPACE = re.compile(r"[ \t\n\r]*")


class RawItem(NamedTuple):
    """An item before it is validated.

    `place` is what errors name: the index in a JSON array, from 0, or the line in NDJSON or CSV,
    from 1. `value` is its JSON value; a row of CSV becomes an object. If the item could not be
    read, `error` is the reason, as a sentence, and `field` is the field with the error, if it is in
    one field. If a number in `value` is rounded, `exact` maps the fields to their JSON texts.
    """

    place: int
    value: Any
    error: str | None = None
    field: str | None = None
    exact: Mapping[str, str] | None = None


class Item(NamedTuple):
    """A validated item. `values` are the fields as the schema loads them."""

    place: int
    values: dict[str, Any]
    exact: Mapping[str, str] | None = None


def parse_array(body: bytes) -> list[RawItem]:
    """Return the elements of a JSON array.

    An element that is not valid JSON has an `error`. After MAX_ITEMS + 1 elements the rest is left
    out. Raises InvalidJSON if the body is no array, or is invalid between the elements.
    """
    try:
        values = parse_json(body)
    except InvalidJSON:
        raw_items = _parse_elements(body.decode("utf-8", "surrogateescape"))
        if not any(raw_item.error for raw_item in raw_items):
            raise
        return raw_items
    if not isinstance(values, list):
        raise InvalidJSON("is not a JSON array.")
    return [RawItem(place, value) for place, value in enumerate(values[: MAX_ITEMS + 1])]


def parse_lines(lines: Iterable[bytes]) -> Iterator[RawItem]:
    """Parse NDJSON: one JSON value on each line. Blank lines are skipped."""
    parse = ExactParser().parse
    for place, line in enumerate(lines, 1):
        if line.strip():
            yield _parse_item(place, line, parse)


def load_items(
    schema: Schema, raw_items: Iterable[RawItem]
) -> tuple[list[Item], dict[str, list[str]]]:
    """Validate items. Returns those that are valid, and the errors of the others.

    The name of an error is the item's place and the field, as in "2.name", or only the place.
    """
    items: list[Item] = []
    errors: dict[str, list[str]] = {}
    for place, value, error, field, exact in raw_items:
        if error:
            errors[join_name(place, field)] = [error]
        elif not isinstance(value, dict):
            errors[str(place)] = ["Must be a JSON object."]
        else:
            try:
                items.append(Item(place, schema.load(value), exact))
            except ValidationError as invalid:
                errors |= _flatten(str(place), invalid.messages)
    return items, errors


def join_name(place: int, field: str | None) -> str:
    """Return how errors name a field of an item, or the whole item."""
    return f"{place}.{field}" if field else str(place)


def _flatten(name: str, messages: Any) -> dict[str, list[str]]:
    if isinstance(messages, list):
        return {name: messages}
    errors: dict[str, list[str]] = {}
    for key, value in messages.items():
        errors |= _flatten(f"{name}.{key}", value)
    return errors


class ExactParser:
    """Parses JSON and finds out whether the value has all digits of the text."""

    def __init__(self) -> None:
        self._is_exact = True
        self._decoder = make_decoder(self._parse_fraction)

    def parse(self, raw: bytes) -> tuple[Any, bool]:
        """Return the value of a JSON text, and whether it is exact; raises InvalidJSON."""
        self._is_exact = True
        return parse_json(raw, self._decoder), self._is_exact

    def _parse_fraction(self, text: str) -> float:
        number = float(text)
        if repr(number) == text:
            return number
        self._is_exact = False
        if len(text) > _MAX_DIGITS or abs(Decimal(text).adjusted()) >= _MAX_DIGITS:
            raise ValueError
        is_integer = number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER
        return number if is_integer else _RoundedNumber(text)


class _RoundedNumber(float):
    """A double with the text from which it was rounded: fields.Decimal loads str(number)."""

    def __new__(cls, text: str) -> "_RoundedNumber":
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text


def _parse_elements(text: str) -> list[RawItem]:
    """Parse the elements of an array of which at least one may be invalid."""
    if not text[_skip_space(text, 0) :].startswith("["):
        return []
    return [
        _parse_item(index, element.encode("utf-8", "surrogateescape"), _parse_rounded)
        for index, element in itertools.islice(_split_json(text), MAX_ITEMS + 1)
    ]


def _parse_rounded(raw: bytes) -> tuple[Any, bool]:
    return parse_json(raw), True


def _parse_item(place: int, raw: bytes, parse: Callable[[bytes], tuple[Any, bool]]) -> RawItem:
    try:
        value, is_exact = parse(raw)
    except InvalidJSON as error:
        text = raw.decode("utf-8", "surrogateescape")
        return RawItem(place, None, f"The item {error}", _find_invalid_member(text, parse))
    if is_exact or not isinstance(value, dict):
        return RawItem(place, value)
    return RawItem(place, value, exact=dict(_split_json(raw.decode())))


def _find_invalid_member(text: str, parse: Callable[[bytes], Any]) -> str | None:
    """Return the name of the first member of a JSON object that makes it invalid, if there is one.

    A member with a name that cannot be stored has none.
    """
    names = set()
    for name, member in _split_json(text) if text[_skip_space(text, 0) :].startswith("{") else ():
        try:
            parse(member.encode("utf-8", "surrogateescape"))
            parse(json.dumps(name).encode())
        except InvalidJSON:
            return name if name.isprintable() else None
        if name in names:
            return name
        names.add(name)
    return None


def _split_json(text: str) -> Iterator[tuple[Any, str]]:
    """Yield the names and the texts of an object's members, or the indexes and texts of an array's.

    The last text is the rest of `text` if it is not a JSON value before a comma or a bracket.
    """
    end = _skip_space(text, 0)
    is_object = text[end] == "{"
    for name in itertools.count():
        start = _skip_space(text, end + 1)  # after the bracket or the comma
        if text[start : start + 1] in ("]", "}"):
            return
        member: Any = name
        try:
            if is_object:
                member, start = _LENIENT.raw_decode(text, start)
                start = _skip_space(text, _skip_space(text, start) + 1)  # after the colon
            value_end = _LENIENT.raw_decode(text, start)[1]
            end = _skip_space(text, value_end)
        except (ValueError, RecursionError):
            value_end = end = len(text)
        if text[end : end + 1] not in (",", "]", "}"):
            value_end = len(text)
        if not is_object or isinstance(member, str):
            yield member, text[start:value_end]
        if text[end : end + 1] != ",":
            return


def _skip_space(text: str, start: int) -> int:
    space: Any = _SPACE.match(text, start)
    return int(space.end())
