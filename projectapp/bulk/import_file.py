"""Imports a file: what the command flask RESOURCE import does."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from flask import current_app

from projectapp.bulk.import_batches import BatchReader, import_schema
from projectapp.bulk.import_errors import ErrorsFile, ShownErrors
from projectapp.bulk.import_run import BatchChecker, BatchImporter, process_batches
from projectapp.bulk.import_source import ImportFile
from projectapp.bulk.imports import finish_import, start_import
from projectapp.bulk.progress import Progress
from projectapp.problems import OutcomeUnknown, ServiceUnavailable
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import ResourceSchema


def import_file(
    resource: Resource,
    schema_class: type[ResourceSchema],
    path: str,
    *,
    dry_run: bool,
    owner: str | None,
    errors_path: Path | None,
    keep_ids: bool,
    encoding: str | None,
    renamed: dict[str, str],
    unknown_into: str | None,
    again: bool,
) -> int:
    """Import a file, or the rest of it; return the number of rejected items in this run.

    The keywords are the options of the command. Raises a ClickException.
    """
    if owner and resource.parent:
        raise click.ClickException(
            f"{resource.name} have the owners of their {resource.parent.name}: leave out --owner."
        )
    source = ImportFile(path, encoding, renamed)
    digest = source.check()  # before the header row: its names may be in another encoding
    schema = import_schema(resource, schema_class, keep_ids)
    fixed_values = {"owner": owner} if owner and keep_ids else {}
    reader = BatchReader(source, schema, unknown_into, fixed_values)
    import_id = _hash(
        [
            *(digest, resource.name, source.format, source.encoding, renamed),
            *(unknown_into, owner, keep_ids),
        ]
    )
    opened = (
        ErrorsFile(errors_path, source, reader.ignored_names)
        if errors_path
        else ShownErrors(source)
    )
    with opened as errors, _advise_to_continue(dry_run):
        processor: BatchChecker | BatchImporter = BatchChecker(resource, errors)
        if dry_run:
            errors.resume(0, 0)
            _process(reader, 0, processor, source)
        else:
            state = start_import(import_id, resource, source.name, again)
            if state.finished_at:
                click.echo(
                    f"{source.name} was imported on {state.finished_at:%Y-%m-%d}:"
                    f" {_counts(state)}. To import it again, add --again."
                )
                return 0
            if state.processed_items:
                click.echo(f"Continuing after {state.processed_items} items.", err=True)
            errors.resume(state.errors_bytes, state.errors_crc32)
            processor = BatchImporter(resource, state, errors, keep_ids, owner)
            _process(reader, state.processed_items, processor, source)
            finish_import(import_id, processor.counts.processed_items)
    counts = processor.counts
    click.echo(f"{'Would import' if dry_run else 'Imported'} {source.name}: {_counts(counts)}.")
    if counts.rejected_items and errors_path:
        click.echo(
            f"The rejected items are in {errors_path}. Correct them there, and import this file"
            " with the same options."
        )
    return int(counts.rejected_items)


@contextmanager
def _advise_to_continue(is_dry_run: bool) -> Iterator[None]:
    try:
        yield
    except ServiceUnavailable as problem:
        cause = problem.summary if isinstance(problem, OutcomeUnknown) else problem.detail
        advice = "Run the same command again" + ("." if is_dry_run else ": it continues.")
        raise click.ClickException(f"{cause} {advice}") from problem


def _process(
    reader: BatchReader, first: int, processor: BatchChecker | BatchImporter, source: ImportFile
) -> None:
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    verb = "Imported" if isinstance(processor, BatchImporter) else "Checked"
    with Progress(verb, source.size_bytes) as progress:
        process_batches(app, reader.read(first), processor, progress)


def _counts(counts: Any) -> str:
    return f"{counts.created_rows} rows, {counts.rejected_items} rejected"


def _hash(parts: list[Any]) -> str:
    """Return the id of an import, from its file and the options that change the result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
