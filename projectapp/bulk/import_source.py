"""The file of an import: its format, and its items, each with its text in the file."""

import codecs
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click
from marshmallow import Schema

from projectapp.bulk.csv_reader import InvalidCSV, parse_csv, read_records
from projectapp.bulk.items import RawItem, parse_lines
from projectapp.bulk.json_stream import InvalidArray, split_array
from projectapp.cli import escape_unprintable

FORMATS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json", ".csv": "csv", ".tsv": "csv"}
_DELIMITERS = ",;\t"  # if two are equally frequent, the first wins
_BLOCK_BYTES = 2**18
_MAX_LINE_BYTES = 2**20  # bounds the memory


class SourceItem(NamedTuple):
    """An item, and its text in the file. Bytes that cannot be decoded are surrogates."""

    raw_item: RawItem
    text: str


class ImportFile:
    """A file to import. Raises a ClickException if nothing of the file can be imported.

    Messages call it `name`. `encoding` is the one that the user names: then a line that cannot be
    decoded is rejected. Without it, the whole file must be UTF-8. `renamed` maps columns to fields.
    """

    def __init__(
        self, path: str, encoding: str | None = None, renamed: dict[str, str] | None = None
    ) -> None:
        self.name = "standard input" if path == "-" else escape_unprintable(Path(path).name)
        self.path, self.renamed, self._has_encoding = Path(path), renamed or {}, bool(encoding)
        self.encoding = _check_encoding(encoding or "utf-8")
        if path != "-":
            self._find_format()
        self._file: BinaryIO = _copy_standard_input() if path == "-" else self._open()
        self._state = self._read_state()
        click.get_current_context().call_on_close(self._file.close)
        start = self._file.read(_BLOCK_BYTES)
        self.has_bom = start.startswith(codecs.BOM_UTF8)
        text = start.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
        if not text:
            raise click.ClickException(f"{self.name} is empty.")
        if path == "-":
            self.format = {b"[": "json", b"{": "ndjson"}.get(text[:1], "csv")
        if self.format != "csv" and (encoding or renamed):
            raise click.ClickException("--encoding and --column are only for CSV.")
        if self.format == "json" and text[:1] != b"[":
            raise click.ClickException(
                f"{self.name} is not a JSON array. If each of its lines is a JSON object, rename"
                " the file to .ndjson."
            )

    def _find_format(self) -> None:
        suffix = self.path.suffix.lower()
        self.format = FORMATS.get(suffix, "")
        if not self.format:
            raise click.ClickException(
                f"{self.name} must end in {', '.join(FORMATS)}. In a spreadsheet, save the table"
                ' as "CSV UTF-8".'
            )

    def _open(self) -> BinaryIO:
        try:
            if self.path.is_fifo():
                raise click.ClickException(
                    f"{self.path} is a pipe, and the file is read twice. Use - < {self.path}"
                )
            return self.path.open("rb")
        except OSError as error:
            raise click.ClickException(f"Cannot read {self.path}: {error.strerror}.") from None

    @property
    def size_bytes(self) -> int:
        return self._file.seek(0, 2)

    @property
    def position_bytes(self) -> int:
        """How far the items have been read."""
        return self._file.tell()

    def _read_state(self) -> tuple[int, int]:
        """Return the size of the file and the time of its last change."""
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def require_same_state(self) -> None:
        """Raise a ClickException if the file was changed since it was opened."""
        if self._read_state() != self._state:
            raise click.ClickException(
                f"{self.name} was changed while it was imported. Restore it, and run the same"
                " command again: it continues."
            )

    def check(self) -> str:
        """Read the whole file; return its SHA-256. Raises a ClickException if it is invalid."""
        digest = hashlib.sha256()
        decoder = None
        if self.format == "csv" and not self._has_encoding:
            decoder = codecs.getincrementaldecoder("utf-8")()
        line = 1
        line_bytes = 0  # that have been read of it
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            digest.update(block)
            try:
                if decoder:
                    decoder.decode(block)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise click.ClickException(
                    f"Line {line} of {self.name} is not UTF-8. If Excel in Korea wrote the file,"
                    " add --encoding cp949. To reject such lines and import the others, add"
                    " --encoding utf-8."
                ) from None
            # A CSV file may have the line ends of old Macs. A JSON array may be a single line.
            ends = block.replace(b"\r", b"\n") if self.format == "csv" else block
            line_bytes += ends.find(b"\n") + 1 or len(block)
            if line_bytes > _MAX_LINE_BYTES and self.format != "json":
                raise click.ClickException(
                    f"Line {line} of {self.name} has more than {_MAX_LINE_BYTES} bytes, so it"
                    " cannot be an item."
                )
            if b"\n" in ends:
                line_bytes = len(block) - ends.rfind(b"\n") - 1
            line += block.count(b"\n")
        if self.format == "json":
            # An array that is invalid after many items is found here, before any is imported.
            for _ in self._json_elements():
                pass
        return digest.hexdigest()

    @cached_property
    def delimiter(self) -> str:
        line = next((line for line in self._lines() if line.strip("\r\n")), "")
        unquoted = re.sub(r'"[^"]*"?', "", line)
        return max(_DELIMITERS, key=unquoted.count)

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns of a CSV file as its header row has them."""
        _, header = next(read_records(self._lines(), self.delimiter), (1, []))
        if isinstance(header, InvalidCSV):
            raise click.ClickException(f"The header row of {self.name} is invalid. {header}")
        return [name or "" for name in header]

    def items(self, schema: Schema) -> Iterator[SourceItem]:
        """Yield all items. The fields of `schema` decide which cells of a CSV file are text."""
        if self.format == "csv":
            return self._csv_items(schema)
        return self._json_items() if self.format == "json" else self._line_items()

    def _json_items(self) -> Iterator[SourceItem]:
        elements: deque[bytes] = deque(maxlen=1)
        for raw_item in parse_lines(_record(self._json_elements(), elements)):
            place = raw_item.place - 1  # in an array from 0
            yield SourceItem(raw_item._replace(place=place), elements[0].decode())

    def _json_elements(self) -> Iterator[bytes]:
        self._file.seek(0)
        try:
            yield from split_array(self._file)
        except InvalidArray as error:
            raise click.ClickException(f"{self.name} {error}") from None

    def _line_items(self) -> Iterator[SourceItem]:
        lines: deque[bytes] = deque(maxlen=1)
        self._file.seek(len(codecs.BOM_UTF8) if self.has_bom else 0)
        for raw_item in parse_lines(_record(self._file, lines)):
            yield SourceItem(raw_item, lines[0].decode("utf-8", "surrogateescape"))

    def _csv_items(self, schema: Schema) -> Iterator[SourceItem]:
        """Yield the records with their texts.

        A record ends where the next one begins: the parser may have read more lines.
        """
        lines: deque[str] = deque()
        raw_items = parse_csv(
            _record(self._lines(), lines), schema, delimiter=self.delimiter, renamed=self.renamed
        )
        line_number = 1  # of lines[0]
        end = RawItem(sys.maxsize, None)
        for raw_item, next_item in pairwise(_append(raw_items, end)):
            skipped, count = raw_item.place - line_number, next_item.place - raw_item.place
            taken = [lines.popleft() for _ in range(min(skipped + count, len(lines)))]
            line_number = next_item.place
            yield SourceItem(raw_item, "".join(taken[skipped:]).rstrip("\r\n"))

    def _lines(self) -> Iterator[str]:
        """Yield the lines of a CSV file. They keep their line ends."""
        self._file.seek(len(codecs.BOM_UTF8) if self.has_bom else 0)
        wrapper = TextIOWrapper(self._file, self.encoding, errors="surrogateescape", newline="")
        try:
            # If the caller stops early, `yield from wrapper` would close the file.
            yield from map(str, wrapper)
        finally:
            if not self._file.closed:
                wrapper.detach()


def _record(lines: Any, recorded: deque[Any]) -> Iterator[Any]:
    for line in lines:
        recorded.append(line)
        yield line


def _append(raw_items: Iterator[RawItem], end: RawItem) -> Iterator[RawItem]:
    yield from raw_items
    yield end


def _check_encoding(name: str) -> str:
    try:
        if "a,\n".encode(name) == b"a,\n":
            return codecs.lookup(name).name
    except LookupError:
        pass
    raise click.ClickException(
        f"The encoding {name} is not possible. Use utf-8 or cp949, or another one that contains"
        " ASCII."
    )


def _copy_standard_input() -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the command runs
    shutil.copyfileobj(sys.stdin.buffer, copy)
    copy.seek(0)
    return copy
