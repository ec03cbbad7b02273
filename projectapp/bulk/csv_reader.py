"""Reads CSV (RFC 4180) as items: a header row with the names of fields, then a row for each item.

The module csv cannot tell an empty cell, which is null, from "", the empty string.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from marshmallow import Schema, fields

from projectapp.bulk.csv_columns import FORMULA_STARTS
from projectapp.bulk.items import ExactParser, RawItem
from projectapp.strict_json import InvalidJSON

MAX_RECORD_CHARACTERS = 2**20  # a quote without an end must not collect the rest of a large file
_GUARDED = tuple(f"'{letter}" for letter in FORMULA_STARTS)  # see csv_columns.py
# Fields whose values may be other than JSON strings. Their cells are JSON values.
_JSON_FIELDS = (
    *(fields.Number, fields.Boolean, fields.Mapping, fields.List, fields.Nested, fields.Raw),
)
_BOOLEANS = {"true": True, "false": False, "TRUE": True, "FALSE": False}
_QUOTED = re.compile('"[^"]*+(?:""[^"]*+)*+"')
_UNREADABLE = re.compile("[\0\udc80-\udcff]")


class InvalidCSV(ValueError):
    """A record is not valid CSV. Its text is the reason, as a sentence."""


def parse_csv(
    lines: Iterable[str],
    schema: Schema,
    *,
    delimiter: str = ",",
    renamed: Mapping[str, str] | None = None,
) -> Iterator[RawItem]:
    """Parse CSV. The `lines` keep their line ends; bytes that could not be decoded are surrogates.

    `renamed` maps the names of columns to the names of fields. An empty cell is null, a field
    without a column is missing, and blank lines are skipped. If the header row is invalid, the only
    item has its error.
    """
    records = read_records(lines, delimiter)
    place, header = next(records, (1, InvalidCSV("The header row is missing.")))
    if isinstance(header, InvalidCSV):
        yield RawItem(place, None, str(header))
        return
    renamed = renamed or {}
    names = [renamed.get(name := column or "", name) for column in header]
    if error := _find_header_error(names):
        yield RawItem(place, None, error)
        return
    columns = [(name, isinstance(schema.fields.get(name), _JSON_FIELDS)) for name in names]
    parser = ExactParser()
    for place, record in records:
        yield _read_item(place, columns, record, parser)


def _find_header_error(names: list[str]) -> str | None:
    earlier_names = set()  # a header of 1 MiB can have 200 000 names
    for number, name in enumerate(names, 1):
        if not name:
            return f"Column {number} of the header row has no name."
        if name in earlier_names:
            return f"The header row has the column {name[:100]} twice."
        if _UNREADABLE.search(name):
            return f"Column {number} of the header row is not text in the expected encoding."
        earlier_names.add(name)
    return None


def _read_item(
    place: int,
    columns: list[tuple[str, bool]],
    record: list[str | None] | InvalidCSV,
    parser: ExactParser,
) -> RawItem:
    """Return the item in a record. The `columns` are their names, and whether they are JSON."""
    if isinstance(record, InvalidCSV):
        return RawItem(place, None, str(record))
    if len(record) != len(columns):
        error = f"The row has {len(record)} cells, but the header row has {len(columns)}."
        return RawItem(place, None, error)
    value: dict[str, Any] = {}
    exact: dict[str, str] = {}
    for (name, is_json), cell in zip(columns, record, strict=True):
        if cell is None:
            value[name] = None
        elif _UNREADABLE.search(cell):
            what = "contains U+0000" if "\0" in cell else "is not text in the expected encoding"
            return RawItem(place, None, f"The cell {what}.", name)
        elif not is_json:
            value[name] = cell[1:] if cell.startswith(_GUARDED) else cell
        elif cell in _BOOLEANS:
            value[name] = _BOOLEANS[cell]
        else:
            try:
                value[name], is_exact = parser.parse(cell.encode())
            except InvalidJSON as error:
                return RawItem(place, None, f"The cell {error}", name)
            if not is_exact:
                exact[name] = cell
    return RawItem(place, value, exact=exact or None)


def read_records(
    lines: Iterable[str], delimiter: str
) -> Iterator[tuple[int, list[str | None] | InvalidCSV]]:
    """Yield each record as the number of its first line, from 1, and its cells.

    An empty cell is None. If the record is invalid, only its first line is skipped.
    """
    source = iter(lines)
    unread: deque[str] = deque()
    place = 0
    while (line := unread.popleft() if unread else next(source, None)) is not None:
        place += 1
        if place == 1:
            line = line.removeprefix("\ufeff")  # the BOM, which Excel writes
        if not line.strip("\r\n"):
            continue
        following: list[str] = []
        record: list[str | None] | InvalidCSV
        try:
            record = split_record(line, delimiter, _take(unread, source, following))
            yield place, record
            place += len(following)
        except InvalidCSV as error:
            unread.extendleft(reversed(following))
            yield place, error


def _take(unread: deque[str], source: Iterator[str], taken: list[str]) -> Iterator[str]:
    """Yield the next lines, and append them to `taken`."""
    while (line := unread.popleft() if unread else next(source, None)) is not None:
        taken.append(line)
        yield line


def split_record(
    line: str, delimiter: str = ",", following: Iterable[str] = ()
) -> list[str | None]:
    """Return the cells of a record. An empty cell is None.

    The record may need more of the `following` lines. Raises InvalidCSV.
    """
    record = line.rstrip("\r\n")
    if '"' not in record:
        return [cell or None for cell in record.split(delimiter)]
    record, cells, position = line, [], 0
    pattern = _cell_pattern(delimiter)
    while True:
        cell = pattern.match(record, position)
        if not cell:
            if record[position] != '"':
                raise InvalidCSV("A cell has a quote, so the cell must begin and end with a quote.")
            if _QUOTED.match(record, position):
                raise InvalidCSV("A cell has text after its closing quote.")
            record += _read_to_quote(following, len(record))
            continue
        quoted, unquoted, end = cell.groups()
        cells.append(unquoted or None if quoted is None else quoted.replace('""', '"'))
        if end != delimiter:
            return cells
        position = cell.end()


@lru_cache
def _cell_pattern(delimiter: str) -> re.Pattern[str]:
    """Return the pattern of a cell with its end: a delimiter, a line end or the end of the text."""
    d = re.escape(delimiter)
    return re.compile(rf'(?:"([^"]*+(?:""[^"]*+)*+)"|([^"{d}\r\n]*))({d}|\r?\n|\r|\Z)')


def _read_to_quote(lines: Iterable[str], length: int) -> str:
    """Return the next lines up to the first that may close a quoted cell."""
    text = []
    for line in lines:
        text.append(line)
        length += len(line)
        if length > MAX_RECORD_CHARACTERS:
            break
        if line.count('"') % 2:
            return "".join(text)
    raise InvalidCSV("A cell begins with a quote, but the closing quote is missing.")
