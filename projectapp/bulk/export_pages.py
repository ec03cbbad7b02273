"""Reads an export page by page, each with a statement of its own.

The pages are in the order of `created_at` and `id`, which never change. So a row that exists during
the whole export comes exactly once, whatever runs at the same time. No transaction or snapshot
stays open while a client reads.
"""

import json
import time
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa
from flask import Flask

from projectapp import auth, database
from projectapp.bulk.csv_columns import as_csv, csv_header
from projectapp.database.statements import CompiledStatement, compile_select
from projectapp.problems import ServiceUnavailable
from projectapp.request_state import Caller, RequestState, request_state, set_request_state
from projectapp.resources.cursors import Position
from projectapp.resources.feed import read_changes
from projectapp.resources.lists import filter_values, list_spec, plan_once_if_plain
from projectapp.resources.page_statement import numbered_rows, position_of, start_parameters
from projectapp.resources.resource import Resource
from projectapp.resources.subqueries import PAGE_SIZE, ListSpec, Start, select_from

PAGE_BYTES = 2**18
MAX_RETRY_SECONDS = 30.0  # how long an export waits for an unavailable database
RETRY_INTERVAL_SECONDS = 0.5

_FIRST_PAGE_ROWS = 100
_MAX_PAGE_ROWS = 2000
_SORT = ("created_at",)

_max_bytes = sa.bindparam("max_bytes", type_=sa.BigInteger)


class Format(Enum):
    NDJSON = "ndjson"
    CSV = "csv"

    @property
    def line_end(self) -> str:
        return "\r\n" if self is Format.CSV else "\n"


class Export:
    """The rows of a resource that match `filters`, as lines of text, in UTF-8.

    A caller gets the rows that the caller sees. `filters` are those of resources.lists.find_page.
    Only one thread at a time may use an export.
    """

    def __init__(
        self, app: Flask, resource: Resource, filters: Mapping[str, Any], file_format: Format
    ) -> None:
        state = request_state()
        self.app, self.resource, self.file_format = app, resource, file_format
        self.caller = cast(Caller, state.caller)
        self.request_id = state.request_id
        self.rows = 0
        self.is_complete = False
        self._filters = dict(filters)
        self._position: Position | None = None
        self._page_rows = _FIRST_PAGE_ROWS
        self._failing_since: float | None = None
        # Read before the first row: the feed has every change that a page may not have seen.
        page = read_changes(resource, None, 1, auth.visible_owner(resource.name))
        self.changes_cursor = page.next_cursor.encode(resource.name)

    def header(self, has_bom: bool) -> bytes:
        """Return what comes before the first row: the header row of CSV."""
        if self.file_format is not Format.CSV:
            return b""
        text = csv_header(self.resource) + self.file_format.line_end
        return text.encode("utf-8-sig" if has_bom else "utf-8")

    def read_page(self, max_bytes: int) -> bytes:
        """Read the next rows: at most `max_bytes` and one row. Sets `is_complete` after the last.

        Raises ServiceUnavailable and Unauthorized.
        """
        values = {
            **filter_values(self._filters),
            "page_size": self._page_rows,
            "offset": 0,
            "max_bytes": max(1, max_bytes),
        }
        names = frozenset(self._filters)
        is_restricted = auth.visible_owner(self.resource.name) is not None
        start = None
        if self._position:
            spec = list_spec(self.resource, names, _SORT, is_restricted)
            start, start_values = start_parameters(spec, self._position)
            values |= start_values
        statement = _page(self.resource, names, is_restricted, self.file_format, start)
        row = database.execute(statement, values)
        self.is_complete = row.last is None
        if not row.lines:
            return b""
        self.rows += row.row_count
        if row.last:
            self._position = Position(json.loads(row.last))
        data = bytes(row.lines + self.file_format.line_end, "utf-8")
        self._page_rows = max(1, min(_MAX_PAGE_ROWS, max_bytes * row.row_count // len(data)))
        return data

    def read_next_page(self, max_bytes: int) -> bytes:
        """Read a page after the request has ended. Return b"" if the database is unavailable now.

        The caller of this function then tries again. Raises ServiceUnavailable if the database has
        been unavailable for MAX_RETRY_SECONDS, and Unauthorized if the token is no longer valid.
        """
        with self.app.app_context():
            deadline = time.monotonic() + self.app.config["REQUEST_TIMEOUT"]
            set_request_state(RequestState(request_id=self.request_id, deadline=deadline))
            auth.act_for(self.caller)
            try:
                data = self.read_page(max_bytes)
            except ServiceUnavailable:
                self._failing_since = self._failing_since or time.monotonic()
                if time.monotonic() > self._failing_since + MAX_RETRY_SECONDS:
                    raise
                time.sleep(RETRY_INTERVAL_SECONDS)
                return b""
            self._failing_since = None
            return data

    def read_next_pages(self) -> Iterator[bytes]:
        """Read all other pages in this thread."""
        while not self.is_complete:
            yield self.read_next_page(PAGE_BYTES)


@lru_cache(maxsize=64)
def _page(
    resource: Resource,
    filter_names: frozenset[str],
    is_restricted: bool,
    file_format: Format,
    start: Start | None,
) -> CompiledStatement:
    spec = list_spec(resource, filter_names, _SORT, is_restricted)
    statement = _page_statement(resource, spec, file_format, start)
    return compile_select(plan_once_if_plain(resource, spec, filter_names, statement))


def _page_statement(
    resource: Resource, spec: ListSpec, file_format: Format, start: Start | None
) -> sa.Select[Any]:
    """Build the statement for a page, which returns one row.

    `lines` are the lines of the page, without the last line end, or null. `row_count` is their
    number. `last` is the position after the last of them as JSON text, or null at the end of the
    export. The page has at most `page_size` rows and one more. It ends at the first row that brings
    it to `max_bytes` or more: after many small rows, rows with attributes of 16 KiB may follow.
    """
    render = as_csv if file_format is Format.CSV else Resource.as_json
    rows = numbered_rows(spec, start, False, False).subquery("shown")
    shown, c = select_from(rows, spec.types)
    key_names = [name for name, _ in spec.keys]
    # OFFSET 0 keeps PostgreSQL from rendering a row again for each use of `line`.
    lines = shown.with_only_columns(
        render(resource, c).label("line"),
        c.list_segment.label("list_segment"),
        c.list_number.label("list_number"),
        *(c[name].label(name) for name in key_names),
    ).offset(sa.literal_column("0"))
    line_rows = lines.subquery("lines")
    size = sa.func.octet_length(line_rows.c.line)
    total = sa.func.sum(size).over(rows=(None, 0))  # in the order of the rows, as list_number
    summed = sa.select(line_rows, size.label("size"), total.label("total")).subquery("summed")
    is_in_page = summed.c.total - summed.c.size < _max_bytes
    is_last = sa.or_(summed.c.total >= _max_bytes, summed.c.list_number > PAGE_SIZE)
    separator: Any = sa.literal_column("E'\\r\\n'" if file_format is Format.CSV else "E'\\n'")
    position = position_of(spec, summed.c)
    return sa.select(
        sa.func.string_agg(summed.c.line, separator).filter(is_in_page).label("lines"),
        sa.func.count().filter(is_in_page).label("row_count"),
        sa.func.max(position).filter(is_in_page, is_last).label("last"),
    )
