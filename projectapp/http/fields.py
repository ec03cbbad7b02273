"""Strict marshmallow fields: they convert no JSON type, and a query has one notation per type."""

import re
from datetime import UTC, datetime
from typing import Any

from marshmallow import ValidationError, fields
from marshmallow.validate import OneOf, Range

from projectapp.strict_json import InvalidJSON, parse_json

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,6})?\d*([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class StrictBoolean(fields.Boolean):
    """JSON true or false. Strings and numbers are invalid."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class JSONObject(fields.Dict):
    """A free-form JSON object of at most `max_depth` levels: {} has one, {"a": []} has two."""

    def __init__(self, max_depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_depth = max_depth
        self.metadata = {**self.metadata, "x-max-depth": max_depth}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError("Must be a JSON object.")
        if _exceeds_depth(value, self.max_depth):
            raise ValidationError(f"Must have at most {self.max_depth} levels.")
        return value


def _exceeds_depth(value: Any, max_depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return max_depth == 0 or any(_exceeds_depth(item, max_depth - 1) for item in items)


class QueryBoolean(StrictBoolean):
    """`true` or `false`."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        return super()._deserialize({"true": True, "false": False}.get(value), attr, data)


class QueryInteger(fields.Integer):
    """ASCII digits, with a sign only if negative."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(r"-?[0-9]{1,4000}", value):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data)


class Integer(fields.Integer):
    """A JSON integer that fits PostgreSQL's type `integer`. Strings and fractions are invalid."""

    def __init__(self, minimum: int = -(2**31), maximum: int = 2**31 - 1, **kwargs: Any) -> None:
        limits = Range(minimum, maximum, error="Must be from {min} to {max}.")
        super().__init__(strict=True, validate=limits, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if type(value) is float and value.is_integer():
            return int(value)  # 7.0 is an integer in JSON Schema
        if type(value) is not int:
            raise self.make_error("invalid", input=value)
        return value


class Timestamp(fields.DateTime):
    """An RFC 3339 timestamp with an offset, converted to UTC and cut to microseconds."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime:
        try:
            if not isinstance(value, str) or not (match := _RFC3339.fullmatch(value)):
                raise ValueError
            date, time, fraction, offset = match.groups()
            offset = offset.upper().replace("Z", "+00:00")
            timestamp = datetime.fromisoformat(f"{date}T{time}{fraction or ''}{offset}")
            return timestamp.astimezone(UTC)  # PostgreSQL rejects offsets beyond 15:59
        except (ValueError, OverflowError):
            raise ValidationError(
                "Must be an RFC 3339 timestamp with an offset, such as 2026-01-31T09:00:00Z."
            ) from None


class QueryTimestamp(Timestamp):
    """A timestamp whose offset may begin with a space: a `+` in a query string means a space."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime:
        value = re.sub(r" (?=\d\d:\d\d$)", "+", value)
        return super()._deserialize(value, attr, data)


class QueryList(fields.List[str]):
    """Names from `choices`: separated by commas, or in a repeated parameter."""

    def __init__(self, choices: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(fields.String(validate=OneOf(choices)), **kwargs)
        self.metadata = {**self.metadata, "minItems": 1, "uniqueItems": True}
        self.choices = choices

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[str | None]:
        names: list[str | None] = value.split(",")
        if not set(names) <= set(self.choices) or len(set(names)) < len(names):
            raise ValidationError(
                f"Must be a comma-separated list, without duplicates, of {', '.join(self.choices)}."
            )
        return names


class QueryJSONObject(JSONObject):
    """A JSON object as text, parsed as strictly as a body."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        try:
            return super()._deserialize(parse_json(value.encode()), attr, data)
        except InvalidJSON as error:
            raise ValidationError(f"The value {error}") from None
