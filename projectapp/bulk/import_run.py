"""Runs an import: a thread inserts a batch while the next ones are read and validated."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import click
from flask import Flask

from projectapp import database
from projectapp.bulk.checks import find_invalid_items
from projectapp.bulk.import_batches import Batch, join_rejection
from projectapp.bulk.import_errors import Errors, Rejection
from projectapp.bulk.imports import find_import, insert_batch
from projectapp.bulk.item_rows import encode_items
from projectapp.bulk.progress import Progress
from projectapp.database import Row
from projectapp.metrics.definitions import IMPORTED_ROWS
from projectapp.problems import BadRequest, Conflict, ValidationFailed
from projectapp.resources.resource import Resource

_WAITING_BATCHES = 2


class BatchImporter:
    """Inserts batches in the order of the file, and records how far the import has come."""

    def __init__(
        self, resource: Resource, state: Row, errors: Errors, keeps_ids: bool, owner: str | None
    ) -> None:
        """`state` is the import as `start_import` returned it."""
        self.counts, self._resource, self._errors = state, resource, errors
        self._keeps_ids, self._owner, self._run_id = keeps_ids, owner, str(database.uuid7())

    def process(self, batch: Batch) -> None:
        """Insert the valid items of a batch, and write the rejected ones."""
        while batch.end > self.counts.processed_items:
            # Another process may import the same file: it has inserted what comes before.
            batch = batch.part(max(batch.first, self.counts.processed_items), batch.end)
            try:
                self._insert(batch)
            except (BadRequest, Conflict, ValidationFailed) as problem:
                invalid = find_rejections(self._resource, batch)
                if not invalid and len(batch.items) > 1:
                    # The check names no item: split the batch until it has one item.
                    middle = (batch.first + batch.end) // 2
                    self.process(batch.part(batch.first, middle))
                    self.process(batch.part(middle, batch.end))
                    return
                (item, *_) = batch.items
                batch.reject(invalid or {item.place: Rejection("", problem.detail)})

    def _insert(self, batch: Batch) -> None:
        state, errors = self.counts, self._errors
        errors.write(batch.rejected_items())
        progress = {
            "last_run": self._run_id,
            "processed_items": batch.end,
            "created_rows": state.created_rows + len(batch.items),
            "rejected_items": state.rejected_items + len(batch.rejections),
            "errors_bytes": errors.size_bytes,
            "errors_crc32": errors.crc32,
        }
        parameters = {
            **progress,
            "import_id": state.id,
            "first": batch.first,
            "item_count": len(batch.items),
            "items": encode_items(self._resource, batch.items),
            "owner": self._owner,
        }
        is_inserted = insert_batch(self._resource, self._keeps_ids, parameters)
        if not is_inserted:
            new_state = find_import(state.id)
            if not new_state or new_state.processed_items < batch.first:
                raise click.ClickException(
                    "The record of this import was deleted or reset while it was running."
                )
            # It is inserted if only the answer of the database was lost.
            last = new_state.last_run, new_state.processed_items
            is_inserted = last == (self._run_id, batch.end)
            self.counts = new_state
        else:
            self.counts = state._replace(**progress)
        if is_inserted:
            errors.commit()
            name = self._resource.name
            IMPORTED_ROWS.increase(name, "created", by=len(batch.items))
            IMPORTED_ROWS.increase(name, "rejected", by=len(batch.rejections))


class Counts(NamedTuple):
    """What a BatchChecker found. An import has the same fields."""

    processed_items: int = 0
    created_rows: int = 0
    rejected_items: int = 0


class BatchChecker:
    """Does what BatchImporter does, but inserts nothing."""

    def __init__(self, resource: Resource, errors: Errors) -> None:
        self._resource, self._errors = resource, errors
        self.counts = Counts()

    def process(self, batch: Batch) -> None:
        batch.reject(find_rejections(self._resource, batch))
        self._errors.write(batch.rejected_items())
        self._errors.commit()
        _, valid, rejected = self.counts
        self.counts = Counts(batch.end, valid + len(batch.items), rejected + len(batch.rejections))


def find_rejections(resource: Resource, batch: Batch) -> dict[int, Rejection]:
    """Return the items that the database would refuse now."""
    reasons: dict[int, dict[str, str]] = {}
    encoded_items = encode_items(resource, batch.items)
    for number, field, message in find_invalid_items(resource, encoded_items):
        place = batch.items[number].place
        reasons.setdefault(place, {}).setdefault(field, message)
    return {place: join_rejection(by_field) for place, by_field in reasons.items()}


def process_batches(
    app: Flask, batches: Iterator[Batch], processor: Any, progress: Progress
) -> None:
    """Process the batches in a thread, in their order, while the next ones are read."""

    def process(batch: Batch) -> None:
        with app.app_context():
            processor.process(batch)
        progress.update(len(batch.source_items), batch.position_bytes)

    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as executor:
        try:
            for batch in batches:
                if not waiting:  # an import that continues begins in the middle of the file
                    progress.update(0, batch.position_bytes if batch.first else 0)
                waiting.append(executor.submit(process, batch))
                if len(waiting) > _WAITING_BATCHES:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        finally:
            # After an error no other batch is inserted.
            executor.shutdown(cancel_futures=True)
