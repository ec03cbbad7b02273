"""Turns each row of an old backend into an item of a resource, or rejects it with a reason."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, NamedTuple, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

import click
from marshmallow import Schema, ValidationError

from projectapp.bulk.items import Item
from projectapp.http.fields import JSONObject, Timestamp
from projectapp.strict_json import InvalidJSON, parse_json

# The same as RFC 3339 without an offset, such as datetime.now().isoformat() writes.
_NAIVE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_TIMES = ("created_at", "updated_at")
_SHOWN_LENGTH = 60

_timestamp = Timestamp()


class RejectedRow(NamedTuple):
    """A row that cannot be stored here. `place` counts the rows of the old list from 1."""

    place: int
    row: Any
    field: str
    reason: str


class InvalidRow(Exception):
    """A row cannot be stored. Its text is the reason, as a sentence."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


class ItemReader:
    """Makes an item from each old row.

    `adapt` is called with an old row first, and returns the dict that the `schema` then validates.
    Members that are not fields go into the schema's first field that is a free-form JSON object.
    Times without a zone are in `zone`. New rows get the `owner`.
    """

    def __init__(
        self,
        schema: Schema,
        adapt: Callable[[dict[str, Any]], dict[str, Any]],
        zone: tzinfo | None,
        owner: str | None,
    ) -> None:
        self._schema, self._adapt, self._zone, self._owner = schema, adapt, zone, owner
        objects = (n for n, field in schema.load_fields.items() if isinstance(field, JSONObject))
        self._rest_name = next(objects, None)

    def read(self, place: int, row: Any) -> Item | RejectedRow:
        """Raises click.UsageError if a time has no zone and there is no `zone`."""
        try:
            return Item(place, self._read_values(row))
        except InvalidRow as error:
            return RejectedRow(place, row, error.field, error.reason)

    def _read_values(self, row: Any) -> dict[str, Any]:
        if not isinstance(row, dict):
            raise InvalidRow("", "Must be a JSON object.")
        try:
            parse_json(json.dumps(row).encode())
        except InvalidJSON as error:
            raise InvalidRow(_find_invalid_member(row), f"The value {error}") from None
        members = self._adapt(row)
        values = {"id": _read_id(members.pop("id", None)), **self._read_times(members)}
        if self._rest_name:
            members = self._collect_unknown(members)
        try:
            fields = self._schema.load(members)
        except ValidationError as error:
            _reject_first(error.messages)
        return {**fields, **values, "owner": self._owner}

    def _read_times(self, members: dict[str, Any]) -> dict[str, datetime]:
        """Remove both times from `members`. If one is missing, the other replaces it."""
        texts = {name: members.pop(name, None) for name in _TIMES}
        times = {n: self._read_time(n, text) for n, text in texts.items() if text is not None}
        if not times:
            raise InvalidRow("created_at", "Missing data for required field.")
        return {name: times.get(name, next(iter(times.values()))) for name in _TIMES}

    def _read_time(self, name: str, text: Any) -> datetime:
        if isinstance(text, str) and _NAIVE.fullmatch(text):
            if not self._zone:
                raise click.UsageError(
                    f"The old backend sends times without a time zone, such as {text}. Say which"
                    " zone it is: --time-zone UTC if it uses datetime.utcnow(), --time-zone"
                    " Asia/Seoul if it uses datetime.now() on a machine in Korea."
                )
            return self._in_zone(name, text)
        try:
            return _timestamp.deserialize(text)
        except ValidationError as error:
            raise InvalidRow(name, error.messages[0]) from None

    def _in_zone(self, name: str, text: str) -> datetime:
        try:
            time: datetime = _timestamp.deserialize(f"{text}Z")  # cuts to microseconds
            return time.replace(tzinfo=self._zone).astimezone(UTC)
        except (ValidationError, OverflowError):
            raise InvalidRow(name, "Must be a timestamp, such as 2026-01-31T09:00:00.") from None

    def _collect_unknown(self, members: dict[str, Any]) -> dict[str, Any]:
        """Move the members without a field into the free-form object, except null."""
        name = str(self._rest_name)
        fields = self._schema.load_fields
        rest = {k: v for k, v in members.items() if k not in fields and v is not None}
        members = {k: v for k, v in members.items() if k in fields}
        value = members.get(name, {})
        return members | {name: {**rest, **value} if isinstance(value, dict) else value}


def _read_id(value: Any) -> UUID:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        shown = json.dumps(value, ensure_ascii=False)[:_SHOWN_LENGTH]
        raise InvalidRow("id", f"Must be a UUID, not {shown}.")
    return UUID(value)


def _reject_first(messages: Any) -> NoReturn:
    """Raise InvalidRow for the first error. marshmallow nests the errors of lists and objects."""
    field, errors = next(iter(messages.items()))
    while isinstance(errors, dict):
        errors = next(iter(errors.values()))
    raise InvalidRow(str(field), errors[0])


def _find_invalid_member(row: dict[str, Any]) -> str:
    for name, value in row.items():
        try:
            parse_json(json.dumps({name: value}).encode())
        except InvalidJSON:
            return name
    return ""


def parse_zone(text: str | None) -> tzinfo | None:
    """Return the zone of the option --time-zone: UTC, an offset, or a name such as Asia/Seoul."""
    if text is None or text == "UTC":
        return text and UTC  # type: ignore[return-value]
    if offset := _OFFSET.fullmatch(text):
        sign, hours, minutes = offset.groups()
        delta = timedelta(hours=int(hours), minutes=int(minutes))
        if delta < timedelta(hours=24):
            return timezone(-delta if sign == "-" else delta)
    else:
        try:
            return ZoneInfo(text)
        except (OSError, ValueError, KeyError):  # KeyError: ZoneInfoNotFoundError
            pass
    message = "Must be UTC, an offset such as +09:00, or a name such as Asia/Seoul."
    raise click.BadParameter(message, param_hint="--time-zone")
