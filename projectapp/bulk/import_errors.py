"""Writes the rejected items of an import, in the format of its file.

Each one is as it was in the file, with the reason why it was rejected. So the file can be corrected
and imported alone.
"""

import codecs
import fcntl
import json
import os
import re
import secrets
import stat
import sys
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import click

from projectapp.bulk.csv_reader import InvalidCSV, split_record
from projectapp.bulk.import_source import FORMATS, ImportFile, SourceItem
from projectapp.cli import escape_unprintable

# What an errors file has besides the fields of an item. `error_text` is the text of an item that
# cannot be parsed.
ERROR_FIELDS = ("error_line", "error_field", "error_reason", "error_text")
_MAX_SHOWN_ITEMS = 20


class Rejection(NamedTuple):
    """Why an item is not imported. `field` is empty if the reason is not about one field."""

    field: str
    reason: str


class Errors(Protocol):
    """Where the rejected items go.

    A batch is written before it is committed in the database. If it is not committed, the next
    `write` replaces it. `size_bytes` and `crc32` include what was written last; they are None if
    there is no file.
    """

    @property
    def size_bytes(self) -> int | None: ...
    @property
    def crc32(self) -> int | None: ...
    def resume(self, size_bytes: int, crc32: int) -> None: ...
    def write(self, items: Iterable[tuple[SourceItem, Rejection]]) -> None: ...
    def commit(self) -> None: ...


class ShownErrors:
    """Shows the first rejected items on standard error."""

    size_bytes = crc32 = None

    def __init__(self, source: ImportFile) -> None:
        self._unit = "Item" if source.format == "json" else "Line"
        self._lines: list[str] = []
        self._shown_items = 0

    def __enter__(self) -> "ShownErrors":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def resume(self, size_bytes: int, crc32: int) -> None:
        pass

    def write(self, items: Iterable[tuple[SourceItem, Rejection]]) -> None:
        # On a terminal the line replaces the bar, which is shown again after it.
        start = "\r\033[K" if sys.stderr.isatty() else ""
        self._lines = []
        for item, (field, reason) in items:
            text = f"{field}: {reason}" if field else reason
            place = f"{self._unit} {item.raw_item.place}"
            self._lines.append(f"{start}{place}: {escape_unprintable(text)}")

    def commit(self) -> None:
        for line in self._lines:
            self._shown_items += 1
            if self._shown_items <= _MAX_SHOWN_ITEMS:
                click.echo(line, err=True)
            elif self._shown_items == _MAX_SHOWN_ITEMS + 1:
                click.echo("There are more. --errors FILE writes all to a file.", err=True)
        self._lines = []


class ErrorsFile:
    """A file of rejected items. Use it in a `with` block, which deletes the file if it is empty."""

    def __init__(self, path: Path, source: ImportFile, ignored_names: Collection[str]) -> None:
        """`ignored_names` are those of the ERROR_FIELDS that are not fields of the resource."""
        self._path, self._source, self._ignored = path, source, ignored_names
        suffixes = [s for s, name in FORMATS.items() if (name == "csv") == (source.format == "csv")]
        suffixes = [suffix for suffix in suffixes if suffix != ".json"]
        if path.suffix.lower() not in suffixes:
            raise click.ClickException(
                f"The errors file must end in {' or '.join(suffixes)}, so that it can be imported."
            )
        if path.exists() and source.path.exists() and path.samefile(source.path):
            raise click.ClickException("The errors file must not be the file to import.")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise click.ClickException(f"Cannot write to {path}: {error.strerror}.") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise click.ClickException(f"{path} is not a regular file.")
        self._file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise click.ClickException(f"Another import writes to {path}.") from None
        self.size_bytes = self.crc32 = 0
        self._committed = (0, 0)
        self._is_resumed = False  # until then the file stays as it is

    def __enter__(self) -> "ErrorsFile":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        # After an error the last batch may be committed or not: the next run finds out.
        if self._is_resumed and not error:
            self._file.truncate(self._committed[0])
        if os.fstat(self._file.fileno()).st_size == 0:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def resume(self, size_bytes: int, crc32: int) -> None:
        """Cut off what an interrupted import wrote and did not commit.

        Raises a ClickException if the file is not the one of this import: then it stays as it is.
        """
        is_lost = bool(size_bytes) and os.fstat(self._file.fileno()).st_size == 0
        if is_lost:
            click.echo(
                f"{self._path} is missing or empty. The new file has only the items that are"
                " rejected from now on.",
                err=True,
            )
        elif self._read_crc32(size_bytes) != crc32:
            raise click.ClickException(
                f"{self._path} is not what the interrupted import wrote, or it was changed. Give"
                " the errors file another name: it will have the items that are rejected from now"
                " on."
            )
        self._committed = (0, 0) if is_lost else (size_bytes, crc32)
        self._file.truncate(self._committed[0])
        self._is_resumed = True

    def _read_crc32(self, size_bytes: int) -> int | None:
        """Return the checksum of the first bytes, or None if the file is shorter."""
        crc32 = 0
        self._file.seek(0)
        while size_bytes:
            block = self._file.read(min(size_bytes, 2**16))
            if not block:
                return None
            size_bytes -= len(block)
            crc32 = zlib.crc32(block, crc32)
        return crc32

    def write(self, items: Iterable[tuple[SourceItem, Rejection]]) -> None:
        size_bytes, crc32 = self._committed
        rendered = [self._render(item, rejection) for item, rejection in items]
        if rendered and not size_bytes:
            rendered.insert(0, self._head())
        encoding = self._source.encoding
        text = b"".join(text.encode(encoding, "surrogateescape") for text in rendered)
        self._file.seek(size_bytes)
        self._file.truncate()
        if text:
            try:
                self._file.write(text)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise click.ClickException(
                    f"Cannot write to {self._path}: {error.strerror}. Run the command again: it"
                    " continues."
                ) from None
        self.size_bytes, self.crc32 = size_bytes + len(text), zlib.crc32(text, crc32)

    def commit(self) -> None:
        self._committed = self.size_bytes, self.crc32

    def _head(self) -> str:
        if self._source.format != "csv":
            return ""
        cells = [name for name in self._source.columns if self._is_copied(name)]
        bom = codecs.BOM_UTF8.decode() if self._source.has_bom else ""
        return bom + self._render_record([*cells, *ERROR_FIELDS])

    def _is_copied(self, column: str) -> bool:
        return self._source.renamed.get(column, column) not in self._ignored

    def _render(self, item: SourceItem, rejection: Rejection) -> str:
        place, (field, reason) = item.raw_item.place, rejection
        errors: list[str | None] = [str(place), field or None, reason]
        if self._source.format == "csv":
            return self._render_record(self._copy_cells(item.text, errors))
        return _render_object(item, dict(zip(ERROR_FIELDS, errors, strict=False)), self._ignored)

    def _copy_cells(self, text: str, errors: list[str | None]) -> list[str | None]:
        columns = self._source.columns
        try:
            cells = split_record(text, self._source.delimiter)
            error_text = None
        except InvalidCSV:
            cells = []
        if len(cells) != len(columns):
            cells, error_text = [None] * len(columns), text
        pairs = zip(columns, cells, strict=True)
        return [cell for column, cell in pairs if self._is_copied(column)] + errors + [error_text]

    def _render_record(self, cells: Iterable[str | None]) -> str:
        quoted = ("" if cell is None else '"{}"'.format(cell.replace('"', '""')) for cell in cells)
        return self._source.delimiter.join(quoted) + "\r\n"


def _render_object(
    item: SourceItem, errors: dict[str, str | None], ignored: Collection[str]
) -> str:
    """Return a line of NDJSON: the item with its errors. All digits of its numbers are kept."""
    mark = secrets.token_hex(16)
    text = item.text.strip("\r\n").encode("utf-8", "backslashreplace").decode()
    members: dict[str, object] = {"error_text": text}
    if isinstance(item.raw_item.value, dict):
        members = json.loads(item.text, parse_float=lambda digits: mark + digits)
        members = {name: value for name, value in members.items() if name not in ignored}
    text = json.dumps({**members, **errors, "error_line": item.raw_item.place}, ensure_ascii=False)
    return re.sub(f'"{mark}([^"]*)"', r"\1", text) + "\n"
