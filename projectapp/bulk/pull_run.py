"""Pulls the rows of a running backend, and prints a report: what flask RESOURCE pull does."""

import json
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, TextIO

import click
from marshmallow import Schema

from projectapp.bulk import pulled_rows
from projectapp.bulk.import_errors import ERROR_FIELDS
from projectapp.bulk.pull import NoAgreement, Pull
from projectapp.bulk.pull_items import ItemReader, RejectedRow, parse_zone
from projectapp.bulk.pull_source import PullError, PullSource
from projectapp.cli import escape_unprintable
from projectapp.resources.resource import Resource

_SHOWN_ROWS = 20  # of each kind
_SKIP_REASONS = {
    pulled_rows.CHANGED_HERE: "was changed here, and stays as it is here",
    pulled_rows.DELETED_HERE: "was deleted here, and stays deleted",
    pulled_rows.OTHER_ROW: "is a row that was not pulled from there, and stays as it is here",
    pulled_rows.MISSING_THERE: "is missing there, but was changed or is in use here, and stays",
}


def pull_rows(
    resource: Resource,
    schema: Schema,
    path: str,
    adapt: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    url: str,
    time_zone: str | None,
    owner: str | None,
    errors_file: TextIO | None,
    cut_over: bool,
    delete_missing: bool,
    dry_run: bool,
) -> int:
    """Pull rows, and print a report; return the number of rejected rows.

    The keywords are the arguments and options of the command; `pull_command` explains the others.
    Raises a ClickException.
    """
    name = resource.name
    if cut_over and dry_run:
        raise click.UsageError("Use either --cut-over or --dry-run, not both.")
    source = PullSource(url, path)
    reader = ItemReader(schema, adapt, parse_zone(time_zone), owner)
    this_pull = Pull(resource, source, reader, dry_run)
    try:
        if cut_over:
            with suppress(NoAgreement):  # after the switch, clients do not change it any more
                this_pull.run(delete_missing)
            _wait_for_switch(name, len(this_pull.rejected_rows))
        this_pull.run(delete_missing)
    finally:
        if this_pull.has_read:
            _print_report(name, source.url, this_pull, dry_run)
        if errors_file:
            _write_errors(errors_file, this_pull.rejected_rows.values())
    if not dry_run:
        _print_conclusion(name, source.url, this_pull)
    return len(this_pull.rejected_rows)


def _wait_for_switch(name: str, rejected_count: int) -> None:
    exception = f", except {rejected_count} that were rejected" if rejected_count else ""
    click.echo(
        f"The {name} are here{exception}. Now switch the front end: set VITE_API_URL to the address"
        " of this service, and start or deploy the front end again. Then press Enter: the command"
        " pulls what has changed there until then.",
        err=True,
    )
    if not sys.stdin.readline():
        raise PullError(
            "The standard input ended before an Enter, so changes since the last pass are not"
            " here. After the switch, run the command again: it pulls them."
        )


def _print_report(name: str, url: str, this_pull: Pull, is_dry_run: bool) -> None:
    would = "would be " if is_dry_run else ""
    click.echo(f"{url}: {len(this_pull.old_rows)} {name}")
    for verb, ids in (
        ("created", this_pull.created),
        ("updated", this_pull.updated - this_pull.created),
    ):
        click.echo(f"  {would}{verb}: {len(ids)}")
    click.echo(f"  {would}deleted: {len(this_pull.deleted)}")
    click.echo(f"  skipped: {len(this_pull.skip_reasons)}")
    _print_some(
        [
            f"    {row_id} {_SKIP_REASONS[reason]}"
            for row_id, reason in this_pull.skip_reasons.items()
        ]
    )
    click.echo(f"  rejected: {len(this_pull.rejected_rows)}")
    _print_some([f"    {_describe(row)}" for row in this_pull.rejected_rows.values()])


def _print_conclusion(name: str, url: str, this_pull: Pull) -> None:
    if this_pull.rejected_rows:
        click.echo(
            f"All {name} of {url} are here, except the rejected ones. Correct these there, and run"
            " the command again."
        )
    else:
        click.echo(f"Nothing was left behind: all {name} of {url} are here.")


def _print_some(lines: Collection[str]) -> None:
    for line in [*lines][:_SHOWN_ROWS]:
        click.echo(line)
    if len(lines) > _SHOWN_ROWS:
        click.echo(f"    and {len(lines) - _SHOWN_ROWS} more")


def _describe(rejected: RejectedRow) -> str:
    row_id = rejected.row.get("id") if isinstance(rejected.row, dict) else None
    parts = [str(row_id or f"row {rejected.place}"), rejected.field, rejected.reason]
    return escape_unprintable(": ".join(part for part in parts if part))


def _write_errors(file: TextIO, rejected_rows: Collection[RejectedRow]) -> None:
    """Write the rows as they were, with the place, the field and the reason, as an import does."""
    for place, row, *error in rejected_rows:
        members = row if isinstance(row, dict) else {"error_text": json.dumps(row)}
        members = members | dict(zip(ERROR_FIELDS, [place, *error], strict=False))
        # A surrogate becomes \ud800, which is also JSON: see `errors` of the file.
        file.write(f"{json.dumps(members, ensure_ascii=False)}\n")
