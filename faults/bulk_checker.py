"""Check requests for many rows, and exports, against the ledger and the history.

Each function yields sentences that say what is wrong.
"""

from collections import Counter
from collections.abc import Iterator

from faults.feed_checker import History
from faults.feed_records import FeedRecord
from faults.ledger import Attempt, group_by_operation


def check_atomicity(attempts: list[Attempt], history: History) -> Iterator[str]:
    """Check that each request changed all of its rows or none, also after repeats.

    The history names the request of each change, also of rows that were deleted later.
    """
    changes = Counter(change.request_id for row in history.values() for change in row)
    requests = (attempt for attempt in attempts if attempt.items and attempt.request_id)
    for operation, tries in group_by_operation(requests).items():
        if changes[operation] not in (0, len(tries[0].items)):
            yield f"{operation} changed {changes[operation]} of {len(tries[0].items)} rows"


def check_export(record: FeedRecord, export: Attempt, attempts: list[Attempt]) -> Iterator[str]:
    """Check that an export has each row that existed throughout, and none deleted before.

    `record` has its rows; `attempts` are those of single rows.
    """
    rows = record.readings[0].rows
    own_attempts = [attempt for attempt in attempts if attempt.caller == record.caller]
    earlier = [a for a in own_attempts if a.outcome == "ok" and (a.done_at or 0) < export.sent_at]
    created_ids = {a.id for a in earlier if a.kind == "create" and a.id}
    deleted_ids = {_deleted_id(a) for a in earlier if a.kind == "delete"}
    deletes = (a for a in own_attempts if a.kind == "delete" and a.outcome != "fail")
    perhaps_deleted_ids = {_deleted_id(a) for a in deletes if a.sent_at < (export.done_at or 0)}
    if missing_ids := created_ids - perhaps_deleted_ids - rows.keys():
        example, count = min(missing_ids), len(missing_ids)
        yield f"{count} rows that existed throughout are missing, such as {example}"
    if wrong_ids := deleted_ids & rows.keys():
        yield f"it has {len(wrong_ids)} rows that were deleted before, such as {min(wrong_ids)}"


def _deleted_id(attempt: Attempt) -> str:
    return attempt.path.rpartition("/")[2]
