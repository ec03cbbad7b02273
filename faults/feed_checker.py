"""Compare the history and the readers of the feed with the ledger and the table.

Each function yields sentences that say what is wrong.
"""

from collections.abc import Iterator, Mapping

from faults.feed_records import SINCE_START, FeedChange, FeedRecord, Reading
from faults.ledger import Attempt, group_by_operation
from faults.stored import StoredChange, StoredRow

Table = Mapping[str, StoredRow]  # by id
History = Mapping[str, list[StoredChange]]  # by the row's id, the oldest change first


def check_history(
    attempts: list[Attempt], table: Table, history: History, has_older_release: bool = False
) -> Iterator[str]:
    """Check that each version of each row has one change, and the caller and request that made it.

    `has_older_release`: rows are older than the history, and a release without callers in the
    history wrote a part of it.
    """
    for row_id, changes in history.items():
        versions = [change.version for change in changes]
        first = versions[0] if has_older_release else 1
        if versions != list(range(first, first + len(versions))):
            yield f"{row_id} has changes with the versions {versions}"
        if any(change.operation == "delete" for change in changes[:-1]):
            yield f"{row_id} has changes after its delete"
        yield from _check_last_change(changes[-1], table.get(row_id))
    if not has_older_release:
        yield from (f"{row_id} has no changes" for row_id in table if row_id not in history)
    changes_by_key = {_key(change): change for changes in history.values() for change in changes}
    for attempt in attempts:
        change = changes_by_key.get(_written_key(attempt))
        if not attempt.is_acknowledged_write or (has_older_release and _is_anonymous(change)):
            continue
        if change is None:
            yield f"no change for {attempt.operation}, which was acknowledged"
        elif change.caller != attempt.caller:
            yield f"{attempt.operation} of {attempt.caller} has the caller {change.caller}"
        elif attempt.request_id and change.request_id != attempt.request_id:
            yield f"{attempt.operation} has the request {change.request_id}"


def check_feed(
    record: FeedRecord,
    attempts: list[Attempt],
    table: Table,
    history: History,
    ends_cursors: bool = False,
) -> Iterator[str]:
    """Check that a reader received each change once and in order, and has a copy of the table.

    `ends_cursors`: after the fault the service must refuse older cursors. So the reader must have
    read all again, and only its last reading is compared with the table.
    """
    refusals = len(record.readings) - 1
    if bool(refusals) != ends_cursors:
        yield f"its cursor was refused {refusals} times"
    for reading in record.readings:
        yield from _check_order(reading)
    last = record.readings[-1]
    yield from _check_changes(last, record.caller, history)
    keys = {_key(change) for change in last.changes}
    own_writes = [a for a in attempts if a.is_write and a.caller == record.caller]
    for operation, tries in group_by_operation(own_writes).items():
        written_keys = {_written_key(a) for a in tries if a.is_acknowledged_write}
        # An earlier try may have made the change, so the first one counts.
        if tries[0].sent_at > last.started_at and not written_keys <= keys:
            yield f"{operation} was acknowledged, and the feed did not have it"
    yield from _check_copy(last, {i: row for i, row in table.items() if row.owner == record.caller})


def _check_last_change(last: StoredChange, row: StoredRow | None) -> Iterator[str]:
    change = f"its last change is {last.operation} {last.version} of {last.owner}"
    if row is None and last.operation != "delete":
        yield f"{last.id} does not exist, and {change}"
    elif row and (last.operation == "delete" or last.version != row.version):
        yield f"{last.id} has version {row.version}, and {change}"
    elif row and last.owner != row.owner:
        yield f"{last.id} belongs to {row.owner}, and {change}"


def _check_order(reading: Reading) -> Iterator[str]:
    """Check that no change comes twice, and that no version of a row is left out."""
    versions: dict[str, int] = {}  # of the last change of each row
    for change in reading.changes:
        row_id, version = change.id, change.version
        if row_id in versions:
            is_next = version == versions[row_id] + 1
        else:  # the list may be newer than the first changes
            is_next = row_id not in reading.rows or version <= reading.rows[row_id][0] + 1
        if not is_next:
            before = versions.get(row_id) or reading.rows[row_id][0]
            yield f"{row_id}: version {version} came after version {before}"
        versions[row_id] = version


def _check_changes(reading: Reading, caller: str | None, history: History) -> Iterator[str]:
    """Check that the history has what came, and that all of it came to a reader from the start."""
    stored = {change[:3]: change for changes in history.values() for change in changes}
    for change in reading.changes:
        original = stored.get(change[:3])
        name = f"{change.operation} {change.version} of {change.id}"
        if original is None:
            yield f"the history does not have the {name}"
        elif original.owner != caller:
            yield f"the {name} belongs to {original.owner}"
        elif original.request_id != change.request_id:
            yield f"the {name} has the request {change.request_id}, not {original.request_id}"
    if reading.started_at == SINCE_START:
        own = {key for key, change in stored.items() if change.owner == caller}
        if missing := own - {change[:3] for change in reading.changes}:
            yield f"{len(missing)} changes of the history did not come, such as {min(missing)}"


def _check_copy(reading: Reading, rows: Table) -> Iterator[str]:
    copy = reading.make_copy()
    expected = {row_id: (row.version, row.digest) for row_id, row in rows.items()}
    for row_id, state in expected.items():
        if copy.get(row_id) != state:
            version = copy[row_id][0] if row_id in copy else "no version"
            yield f"the copy has {version} of {row_id}, and the table version {state[0]}"
    for row_id in copy.keys() - expected.keys():
        yield f"the copy has {row_id}, and the table does not"


def _key(change: StoredChange | FeedChange) -> tuple[str, int]:
    """Return the row's id and the version after the change; 0 for a delete."""
    return change.id, 0 if change.operation == "delete" else change.version


def _written_key(attempt: Attempt) -> tuple[str, int]:
    """Return the key of the change that an acknowledged write made."""
    if attempt.kind == "create":
        return attempt.id or "", 1
    row_id = attempt.path.rpartition("/")[2]
    return row_id, 0 if attempt.kind == "delete" else attempt.version


def _is_anonymous(change: StoredChange | None) -> bool:
    return change is None or change.request_id is None
