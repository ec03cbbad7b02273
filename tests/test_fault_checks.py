"""The checks of the fault harness find each violation in a ledger made by hand."""

import pytest

from faults.feed_checker import check_feed, check_history
from faults.feed_records import SINCE_START, FeedRecord, FeedWriter, read_record
from faults.ledger import Attempt
from faults.resources.projects import RESOURCE
from faults.stored import StoredChange, StoredRow, make_row

ROW = "row"
OTHER = "other"


def project(row_id=ROW, version=3, owner="ann"):
    text = f"{row_id} {version}"
    return {
        "id": row_id,
        "name": row_id,
        "description": text,
        "attributes": {},
        "version": version,
        "owner": owner,
    }


def item(row_id=ROW, version=1, operation="update", **members):
    return {
        "id": row_id,
        "version": version,
        "operation": operation,
        "at": "2026-01-01T00:00:00Z",
        "caller": "ann",
        "credential": "token",
        "request_id": f"{row_id}-{version}",
        "changed": [],
        "project": None if operation == "delete" else project(row_id, version),
    } | members


def stored(row_id=ROW, version=1, operation="update", **columns):
    change = StoredChange(row_id, version, operation, "ann", "ann", "token", f"{row_id}-{version}")
    return change._replace(**columns)


def write(kind, version, row_id=ROW, **values):
    """An acknowledged write by ann in second 10."""
    path = RESOURCE.path if kind == "create" else f"{RESOURCE.path}/{row_id}"
    attempt = Attempt(
        number=1,
        operation=f"{row_id}-{version}",
        kind=kind,
        method="POST",
        path=path,
        sent_at=10.0,
        status=200,
        id=row_id if kind != "delete" else None,
        etag=f'"{version}"' if kind != "delete" else None,
        caller="ann",
        request_id=f"{row_id}-{version}",
        done_at=10.1,
    )
    for name, value in values.items():
        setattr(attempt, name, value)
    return attempt


# A row with three versions, and another row that was created and deleted.
OPERATIONS = [
    (ROW, 1, "create"),
    (OTHER, 1, "create"),
    (ROW, 2, "update"),
    (OTHER, 2, "delete"),
    (ROW, 3, "update"),
]
ITEMS = [item(*operation) for operation in OPERATIONS]
ATTEMPTS = [
    write("create", 1),
    write("create", 1, OTHER),
    write("append", 2),
    write("delete", 2, OTHER),
    write("change", 3),
]
TABLE = {ROW: make_row(RESOURCE, project())}


def history():
    return {
        row_id: [stored(*operation) for operation in OPERATIONS if operation[0] == row_id]
        for row_id in (ROW, OTHER)
    }


def sentences_about_history(changes=None, attempts=ATTEMPTS, table=TABLE, **options):
    stored_history = history() | (changes or {})
    return list(
        check_history(attempts, table, {i: c for i, c in stored_history.items() if c}, **options)
    )


@pytest.fixture
def check_reader(tmp_path):
    """Return a function that records a reader and gives the sentences of the check."""

    def check(items=ITEMS, *, rows=(), started_at=SINCE_START, again=None, **options):
        path = tmp_path / "reader.feed"
        path.unlink(missing_ok=True)
        writer = FeedWriter(path, "ann", RESOURCE)
        writer.begin(started_at, "first", rows)
        for number, change in enumerate(items):
            writer.add(f"cursor-{number}", [change])
        if again is not None:
            writer.begin(20.0, "again", again)
        writer.close()
        arguments = {"attempts": ATTEMPTS, "table": TABLE, "history": history()} | options
        return list(check_feed(read_record(path), **arguments))

    return check


# The history.


def test_complete_history_has_no_violation():
    assert sentences_about_history() == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({ROW: [stored(ROW, 1, "create"), stored(ROW, 3)]}, "changes with the versions [1, 3]"),
        ({ROW: [*history()[ROW], stored(ROW, 3)]}, "changes with the versions [1, 2, 3, 3]"),
        ({ROW: history()[ROW][1:]}, "changes with the versions [2, 3]"),
        ({ROW: history()[ROW][:2]}, "its last change is update 2"),
        ({ROW: [*history()[ROW], stored(ROW, 4, "delete")]}, "its last change is delete 4"),
        ({ROW: []}, "row has no changes"),
        ({OTHER: history()[OTHER][:1]}, "other does not exist, and its last change is create 1"),
        ({OTHER: [*history()[OTHER], stored(OTHER, 3)]}, "other has changes after its delete"),
        ({OTHER: []}, "no change for other-2, which was acknowledged"),
        (
            {ROW: [*history()[ROW][:2], stored(ROW, 3, owner="ben")]},
            "row belongs to ann, and its last change is update 3 of ben",
        ),
        (
            {ROW: [*history()[ROW][:2], stored(ROW, 3, caller="ben")]},
            "row-3 of ann has the caller ben",
        ),
        (
            {ROW: [*history()[ROW][:2], stored(ROW, 3, request_id="row-2")]},
            "row-3 has the request row-2",
        ),
    ],
)
def test_violation_in_the_history_is_reported(changes, sentence):
    assert sentence in " ".join(sentences_about_history(changes))


def test_history_younger_than_its_rows_is_allowed_only_with_an_older_release():
    of_old_release = {"caller": None, "request_id": None, "credential": "role postgres"}
    changes = {ROW: [stored(ROW, 2, **of_old_release), stored(ROW, 3)], OTHER: []}
    assert sentences_about_history(changes, has_older_release=True) == []
    assert sentences_about_history(changes) != []


def test_wrong_caller_is_reported_also_with_an_older_release():
    changes = {ROW: [*history()[ROW][:2], stored(ROW, 3, caller="ben")]}
    assert sentences_about_history(changes, has_older_release=True) == [
        "row-3 of ann has the caller ben"
    ]


# The feed.


def test_complete_feed_has_no_violation(check_reader):
    assert check_reader() == []


def test_reader_that_begins_with_a_list_may_get_changes_that_the_list_has(check_reader):
    assert check_reader(ITEMS[2:], rows=[project(version=2)], started_at=11.0) == []
    assert check_reader([], rows=[project()], started_at=11.0) == []


def test_repeated_create_may_be_older_than_the_reader(check_reader):
    first = write("create", 1, sent_at=1.0, status=None, exception="TimeoutError")
    attempts = [first, write("create", 1)]
    rows = [project(version=1)]
    assert check_reader(ITEMS[2:], rows=rows, started_at=5.0, attempts=attempts) == []
    attempts = [write("create", 1)]
    assert check_reader(ITEMS[2:], rows=rows, started_at=5.0, attempts=attempts) == [
        "row-1 was acknowledged, and the feed did not have it"
    ]


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ([*ITEMS[:3], *ITEMS[2:]], "row: version 2 came after version 2"),
        ([*ITEMS[:4], *ITEMS[3:]], "other: version 2 came after version 2"),
        ([*ITEMS[:2], *ITEMS[3:]], "row: version 3 came after version 1"),
        ([*ITEMS[:2], ITEMS[4], ITEMS[3], ITEMS[2]], "row: version 2 came after version 3"),
        (ITEMS[:4], "row-3 was acknowledged, and the feed did not have it"),
        (ITEMS[:4], "the copy has 2 of row, and the table version 3"),
        ([*ITEMS[:3], ITEMS[4]], "other-2 was acknowledged, and the feed did not have it"),
        ([*ITEMS[:3], ITEMS[4]], "the copy has other, and the table does not"),
        ([*ITEMS[:3], ITEMS[4]], "1 changes of the history did not come"),
        ([i for i in ITEMS if i["id"] != ROW], "the copy has no version of row"),
        ([*ITEMS, item(ROW, 4)], "the history does not have the update 4 of row"),
        (
            [*ITEMS[:4], item(ROW, 3, project=project(version=2))],
            "the copy has 3 of row, and the table version 3",
        ),
        (
            [*ITEMS[:4], item(ROW, 3, request_id="row-2")],
            "the update 3 of row has the request row-2, not row-3",
        ),
    ],
)
def test_violation_in_the_feed_is_reported(check_reader, items, sentence):
    assert sentence in " ".join(check_reader(items))


def test_gap_after_the_list_is_reported(check_reader):
    assert "row: version 3 came after version 1" in check_reader(
        ITEMS[4:], rows=[project(version=1)], started_at=11.0
    )


def test_unacknowledged_change_that_is_missing_from_the_start_is_reported(check_reader):
    items = [i for i in ITEMS if i["id"] != OTHER]
    assert check_reader(items, attempts=[]) == [
        f"2 changes of the history did not come, such as {(OTHER, 1, 'create')}"
    ]


def test_change_of_another_owner_is_reported(check_reader):
    foreign = stored("foreign", 1, "create", owner="ben")
    foreign_history = history() | {"foreign": [foreign]}
    foreign_row = StoredRow("foreign", "", None, 1, "ben")
    options = {"history": foreign_history, "table": TABLE | {"foreign": foreign_row}}
    assert check_reader(**options) == []
    sentences = check_reader([*ITEMS, item("foreign", 1, "create")], **options)
    assert "the create 1 of foreign belongs to ben" in sentences


def test_refused_cursor_is_a_violation_unless_the_fault_ends_cursors(check_reader):
    again = [project()]
    assert check_reader(ITEMS[:2], again=again) == ["its cursor was refused 1 times"]
    assert check_reader(ITEMS[:2], again=again, ends_cursors=True) == []


def test_cursor_that_is_accepted_although_the_fault_ends_cursors_is_a_violation(check_reader):
    assert check_reader(ends_cursors=True) == ["its cursor was refused 0 times"]


def test_record_goes_on_from_the_last_cursor(tmp_path):
    path = tmp_path / "reader.feed"
    for number in range(2):
        writer = FeedWriter(path, "ann", RESOURCE)
        if number == 0:
            writer.begin(5.0, "first", [project()])
        writer.add(f"cursor-{number}", [ITEMS[number]])
        writer.close()
    record: FeedRecord = read_record(path)
    assert (record.name, record.caller, record.cursor) == ("reader", "ann", "cursor-1")
    assert [change.id for change in record.readings[0].changes] == [ROW, OTHER]
