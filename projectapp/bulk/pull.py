"""Takes over the rows of a running backend: `flask RESOURCE pull`.

The backend may be in use, so its list changes while it is read. A pull reads the whole list again
and again, and stores what has changed, until two passes agree. Only then does it delete rows.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple
from uuid import UUID

import click

from projectapp.bulk import pulled_rows
from projectapp.bulk.checks import find_invalid_items
from projectapp.bulk.item_rows import encode_items
from projectapp.bulk.items import Item
from projectapp.bulk.progress import Progress
from projectapp.bulk.pull_items import ItemReader, RejectedRow
from projectapp.bulk.pull_source import IncompleteList, PullError, PullSource
from projectapp.resources.resource import Resource

MAX_PASSES = 10
_BATCH_ROWS = 1000


class NoAgreement(PullError):
    """The list was different in each pass, because clients change it."""


class OldRow(NamedTuple):
    """A row of the old backend, and the digest of its JSON text."""

    place: int
    value: Any
    digest: bytes


class Pull:
    """A pull, and its results. The ids in the sets and dicts are as the old backend writes them.

    `rejected_rows` cannot be stored here. Rows with a reason in `skip_reasons` are different there,
    but stay as they are here. `has_read` is True when a whole pass has been read and stored.
    """

    def __init__(
        self, resource: Resource, source: PullSource, reader: ItemReader, is_dry_run: bool
    ) -> None:
        self._resource, self._source, self._reader = resource, source, reader
        self._is_dry_run = is_dry_run
        self.has_read = False
        self.old_rows: dict[str, OldRow] = {}  # of the last pass
        self.created: set[str] = set()
        self.updated: set[str] = set()
        self.deleted: set[str] = set()
        self.rejected_rows: dict[str, RejectedRow] = {}
        self.skip_reasons: dict[str, str] = {}

    def run(self, delete_missing: bool) -> None:
        """Make the rows here like those of the old backend, and check the result.

        A second call stores only what has changed in the old backend since. Raises PullError.
        """
        self._store_until_two_passes_agree()
        self._delete_missing_rows(delete_missing)
        if not self._is_dry_run:
            self._check_that_nothing_was_left_behind()

    def _store_until_two_passes_agree(self) -> None:
        """Raises NoAgreement, or PullError if not all of the list can be read."""
        digests: dict[str, bytes] | None = None
        for number in range(1, MAX_PASSES + 1):
            error: PullError | None = None
            try:
                with Progress("Read") as progress:
                    rows = self._source.read_rows(progress.update)
            except IncompleteList as incomplete:
                digests, error = None, incomplete
                click.echo(f"Pass {number}: {incomplete.message}", err=True)
                continue
            try:
                previous, digests = digests, self._store_changes(number, _index_rows(rows))
            except RecursionError:  # json.loads accepts a few levels more than json.dumps
                raise PullError(f"{self._source.url} sends rows with too many levels.") from None
            if digests == previous or self._is_dry_run:
                return
        raise error or NoAgreement(
            f"The list was different in each of {MAX_PASSES} passes: clients change it. Everything"
            " that was read is stored here, and nothing was deleted. Run the command again when"
            " fewer clients use the old backend."
        )

    def _store_changes(self, number: int, old_rows: dict[str, OldRow]) -> dict[str, bytes]:
        """Store what is new or different since the last pass; return the digest of each row."""
        known = {key: row.digest for key, row in self.old_rows.items()}
        digests = {key: row.digest for key, row in old_rows.items()}
        changed = [key for key, digest in digests.items() if digest != known.get(key)]
        for keys in _batches(changed):
            self._store({key: old_rows[key] for key in keys})
        difference = f"; {len(changed)} are new or changed" if self.has_read else ""
        self.old_rows, self.has_read = old_rows, True
        self.rejected_rows = {k: v for k, v in self.rejected_rows.items() if k in old_rows}
        self.skip_reasons = {k: v for k, v in self.skip_reasons.items() if k in old_rows}
        click.echo(
            f"Pass {number}: read {len(old_rows)} {self._resource.name}{difference}.",
            err=True,
        )
        return digests

    def _store(self, rows: dict[str, OldRow]) -> None:
        items = []
        for key, row in rows.items():
            self.rejected_rows.pop(key, None)
            self.skip_reasons.pop(key, None)
            result = self._reader.read(row.place, row.value)
            if isinstance(result, RejectedRow):
                self.rejected_rows[key] = result
            else:
                items.append(result)
        actions = self._compare(items)
        to_write = []
        for item in items:
            key, action = str(item.values["id"]), actions[str(item.values["id"])]
            if action in (pulled_rows.CREATE, pulled_rows.UPDATE):
                to_write.append(item)
            elif action != pulled_rows.SAME:
                self.skip_reasons[key] = action
        to_write = self._reject_invalid(rows, to_write)
        if to_write and not self._is_dry_run:
            encoded = encode_items(self._resource, to_write)
            pulled_rows.write_rows(self._resource, self._source.url, encoded)
        for item in to_write:
            key = str(item.values["id"])
            is_new = actions[key] == pulled_rows.CREATE
            (self.created if is_new else self.updated).add(key)

    def _compare(self, items: list[Item]) -> dict[str, str]:
        if not items:
            return {}
        encoded = encode_items(self._resource, items)
        return pulled_rows.compare_rows(self._resource, self._source.url, encoded)

    def _reject_invalid(self, rows: dict[str, OldRow], items: list[Item]) -> list[Item]:
        """Reject the items that the database would refuse, and return the others."""
        if not items:
            return []
        errors = find_invalid_items(self._resource, encode_items(self._resource, items))
        invalid = [error for error in errors if error.field != "id"]  # an id may exist here
        for error in invalid:
            key = str(items[error.number].values["id"])
            row = rows[key]
            self.rejected_rows[key] = RejectedRow(row.place, row.value, error.field, error.message)
        numbers = {error.number for error in invalid}
        return [item for number, item in enumerate(items) if number not in numbers]

    def _delete_missing_rows(self, delete_missing: bool) -> None:
        pulled = pulled_rows.find_pulled_rows(self._resource, self._source.url)
        missing = {key: may for key, may in pulled.items() if key not in self.old_rows}
        if 2 * len(missing) > len(pulled) and not delete_missing:
            raise PullError(
                f"{len(missing)} of the {len(pulled)} {self._resource.name} that came from"
                f" {self._source.url} do not exist there any more. Perhaps the old backend was"
                " restarted and has lost them. So nothing was deleted here. If they were really"
                " deleted there, run the command again with --delete-missing."
            )
        self.skip_reasons |= dict.fromkeys(missing, pulled_rows.MISSING_THERE)
        to_delete = [key for key, may_delete in missing.items() if may_delete]
        for keys in _batches(to_delete):
            ids = [UUID(key) for key in keys]
            if not self._is_dry_run:
                pulled_rows.delete_rows(self._resource, self._source.url, ids)
        for key in to_delete:
            del self.skip_reasons[key]
        self.deleted |= {*to_delete}

    def _check_that_nothing_was_left_behind(self) -> None:
        """Compare all rows of the last pass with the database."""
        count = 0
        for keys in _batches(self.old_rows):
            rows = (self.old_rows[key] for key in keys if key not in self.rejected_rows)
            items = [self._reader.read(row.place, row.value) for row in rows]
            actions = self._compare([item for item in items if isinstance(item, Item)])
            for key, action in actions.items():
                count += action in (pulled_rows.CREATE, pulled_rows.UPDATE)
                # Another program was faster than the statement that should have written the row.
                if action == pulled_rows.CHANGED_HERE and key in self.updated:
                    self.updated.remove(key)
                    self.skip_reasons[key] = action
        if count:
            raise PullError(
                f"{count} {self._resource.name} are not like those of {self._source.url}. Another"
                " program changes them at the same time. Run the command again."
            )


def _index_rows(rows: list[Any]) -> dict[str, OldRow]:
    """Return the rows by id. Rows without a usable id have their digest instead."""
    old_rows = {}
    for place, value in enumerate(rows, 1):
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
        row_id = value.get("id") if isinstance(value, dict) else None
        key = row_id.lower() if isinstance(row_id, str) else digest.hex()
        old_rows[key] = OldRow(place, value, digest)
    return old_rows


def _batches(keys: Collection[str]) -> Iterator[list[str]]:
    remaining = [*keys]
    for start in range(0, len(remaining), _BATCH_ROWS):
        yield remaining[start : start + _BATCH_ROWS]
