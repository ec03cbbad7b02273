"""The command flask RESOURCE export."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
from flask import current_app
from flask.cli import with_appcontext
from marshmallow import Schema

from projectapp import auth
from projectapp.bulk.export_pages import PAGE_BYTES, Export, Format
from projectapp.bulk.exports import filters_of
from projectapp.bulk.progress import Progress
from projectapp.cli import report_problems
from projectapp.http.request_data import parse_query
from projectapp.request_state import Caller
from projectapp.resources.resource import Resource

_COMMAND = Caller(subject=None, scopes=frozenset(), credential="command")  # sees all rows


def export_command(resource: Resource, list_query: Schema) -> click.Command:
    """Return the command that exports a resource whose list has the query `list_query`."""
    filters = filters_of(list_query)

    @click.command(
        "export",
        help=f"Write {resource.name} to FILE, in the order of their creation. The suffix of FILE is"
        " .ndjson or .csv; - is the standard output. The command import reads such a file. FILE"
        " appears when it is complete.",
    )
    @click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
    @click.option(
        "--query",
        default="",
        help="Only some rows, with the filters and the search of the list, as in a URL: for example"
        " 'q=word&created_at[gte]=2026-01-31T09:00:00Z'.",
    )
    @click.option(
        "--format",
        "format_name",
        type=click.Choice([file_format.value for file_format in Format]),
        help="The format, if the suffix of FILE is another one. For - the default is ndjson.",
    )
    @click.option("--bom", is_flag=True, help="Begin a CSV file with a byte order mark, for Excel.")
    @with_appcontext
    @report_problems
    def export(path: str, query: str, format_name: str | None, bom: bool) -> None:
        file_format = _choose_format(path, format_name)
        if bom and file_format is not Format.CSV:
            raise click.UsageError("Only a CSV file may have a byte order mark (--bom).")
        auth.act_for(_COMMAND)
        app = cast(Any, current_app)._get_current_object()
        rows = Export(app, resource, parse_query(filters, query.encode()), file_format)
        with _open_output(path) as file, Progress("Exported") as progress:
            file.write(rows.header(bom))
            count = 0
            while not rows.is_complete:
                file.write(rows.read_next_page(PAGE_BYTES))
                progress.update(rows.rows - count)
                count = rows.rows
        rate = progress.rows_per_second()
        click.echo(f"Exported {rows.rows} {resource.name}, {rate} rows/s.", err=True)
        click.echo(f"Changes-Cursor for the changes since then: {rows.changes_cursor}", err=True)

    return export


def _choose_format(path: str, name: str | None) -> Format:
    suffix = ".ndjson" if path == "-" else Path(path).suffix.lower()
    try:
        return Format(name or suffix.removeprefix("."))
    except ValueError:
        raise click.UsageError(
            f"{path} must end in .ndjson or .csv. For another name, add --format."
        ) from None


@contextmanager
def _open_output(path: str) -> Iterator[BinaryIO]:
    """Open the standard output, or a new file that gets its name at the end of the block."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = Path(f"{path}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):  # for example, the disk is full
            raise click.FileError(str(part), error.strerror) from error
        raise
