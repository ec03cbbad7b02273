"""Renders a row as a line of CSV (RFC 4180), in the database.

A null is an empty cell, and an empty text is `""`. A text has quotes, unless it is an id or a time.
Booleans, numbers and other values are JSON, as in the JSON object of the row.

A spreadsheet runs a cell that begins with certain characters as a formula (OWASP, "CSV Injection").
With an East Asian language, these may also be the full-width forms of = + - and @. So a text that
begins with one of FORMULA_STARTS gets an apostrophe in front. A text that begins with an apostrophe
gets one, too, so that csv_reader.py knows which of them to remove.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from projectapp.database import rfc3339
from projectapp.resources.resource import Resource

FORMULA_STARTS = "=+-@\uff1d\uff0b\uff0d\uff20\t\r\n'"  # with the full-width = + - @

_EMPTY: Any = sa.literal_column("''")
_QUOTE: Any = sa.literal_column("'\"'")
_TWO_QUOTES: Any = sa.literal_column("'\"\"'")
_APOSTROPHE: Any = sa.literal_column("''''")
_starts: list[Any] = [sa.literal_column(str(ord(letter))) for letter in FORMULA_STARTS]


def csv_header(resource: Resource) -> str:
    return ",".join(resource.fields)


def as_csv(resource: Resource, row: Any) -> sa.ColumnElement[str]:
    """Render a row as a line without its end."""
    cells = (_cell(getattr(row, name)) for name in resource.fields)
    first, *others = (sa.func.coalesce(cell, _EMPTY) for cell in cells)
    line: Any = first
    for cell in others:
        line = line.concat(sa.literal_column("','")).concat(cell)
    return line


def _cell(value: Any) -> sa.ColumnElement[str]:
    """Render a value as the text of a cell; null stays null."""
    type_ = value.type
    if isinstance(type_, sa.DateTime):
        return rfc3339(value)
    if isinstance(type_, sa.Uuid | sa.Boolean | sa.Integer):
        return sa.cast(value, sa.Text)
    if isinstance(type_, sa.Numeric | sa.Float | sa.JSON | ARRAY):
        return _quote(sa.cast(sa.func.to_json(value), sa.Text))
    text: Any = sa.cast(value, sa.Text)
    if not isinstance(type_, sa.String):
        # The text that JSON has, which does not depend on settings such as DateStyle.
        text = sa.func.to_json(value).op("#>>")(sa.literal_column("'{}'"))
    is_formula = sa.func.ascii(text).in_(_starts)
    return _quote(sa.case((is_formula, _APOSTROPHE.concat(text)), else_=text))


def _quote(text: Any) -> Any:
    return _QUOTE.concat(sa.func.replace(text, _QUOTE, _TWO_QUOTES)).concat(_QUOTE)
