"""The checks of the fault harness find each violation in a ledger made by hand."""

import json

import pytest

from faults.bulk_checker import check_atomicity, check_export
from faults.checker import check
from faults.exporters import parse_export
from faults.feed_checker import check_feed, check_history
from faults.feed_records import SINCE_START, FeedRecord, FeedWriter, Reading, read_record
from faults.ledger import Attempt, Ledger, read_attempts, split_items
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


# Requests for many rows.


def create_many(outcome, ids=("a", "b"), **values):
    """A request that creates the rows first and second, with the ids of its response."""
    items = [{"operation": "first"}, {"operation": "second"}]
    if outcome == "ok":
        states = [{"id": row_id, "etag": '"1"'} for row_id in ids]
        items = [item | state for item, state in zip(items, states, strict=True)]
    status = {"ok": 201, "fail": 503, "info": None}[outcome]
    members = {"operation": "many", "request_id": "many", "id": None, "etag": None}
    return write("create", 1, **members | {"status": status, "items": items} | values)


def stored_rows(*titles, **ids):
    rows = {"a": "first", "b": "second"}
    chosen = {row_id: title for row_id, title in rows.items() if title in titles} | ids
    return {row_id: StoredRow(title, title, None, 1, "ann") for row_id, title in chosen.items()}


def all_findings(attempts, table):
    findings = check(split_items(attempts), table, {"ann": table.keys()})
    return findings, " ".join(findings.lost + findings.duplicated + findings.contradictions)


def test_ledger_has_one_attempt_for_a_request_and_the_checks_one_for_each_row(tmp_path):
    ledger = Ledger(tmp_path / "client.jsonl")
    items = [{"operation": "first"}, {"operation": "second"}]
    attempt = ledger.record_request(
        operation="many", kind="create", method="POST", path="/", sent_at=1.0, items=items
    )
    assert [part.outcome for part in split_items(read_attempts(tmp_path))] == ["info", "info"]
    answered = [items[0] | {"id": "a", "etag": '"1"'}, items[1] | {"status": 400}]
    ledger.record_response(attempt, status=201, items=answered, done_at=2.0, violations=["wrong"])
    ledger.close()
    [attempt] = read_attempts(tmp_path)
    parts = split_items([attempt])
    assert [(p.operation, p.id, p.outcome) for p in parts] == [
        ("first", "a", "ok"),
        ("second", None, "fail"),
    ]
    assert [part.violations for part in parts] == [["wrong"], []]


def test_acknowledged_rows_of_one_request_are_counted():
    findings, sentences = all_findings([create_many("ok")], stored_rows("first", "second"))
    assert (findings.acknowledged, sentences) == (2, "")


@pytest.mark.parametrize(
    ("attempts", "table", "sentence"),
    [
        ([create_many("ok")], stored_rows("first"), "the create second was acknowledged as b"),
        (
            [create_many("ok")],
            stored_rows("first", "second", c="second"),
            "second is stored 2 times",
        ),
        (
            [create_many("ok"), create_many("ok", ("c", "d"))],
            stored_rows("first", "second", c="first", d="second"),
            "first is stored 2 times",
        ),
        (
            [create_many("fail")],
            stored_rows("second"),
            "second was refused (503) and is stored",
        ),
    ],
)
def test_wrong_row_of_a_request_for_many_is_reported(attempts, table, sentence):
    _, sentences = all_findings(attempts, table)
    assert sentence in sentences


def test_rejected_row_of_an_import_must_not_be_stored():
    imported = create_many("ok")
    imported.items[1] = {"operation": "second", "status": 400}
    assert all_findings([imported], stored_rows("first"))[1] == ""
    sentences = all_findings([imported], stored_rows("first", "second"))[1]
    assert "second was refused (400) and is stored" in sentences


def history_of_request(*row_ids):
    return {row_id: [stored(row_id, 1, "create", request_id="many")] for row_id in row_ids}


@pytest.mark.parametrize("outcome", ["ok", "info"])
def test_request_with_an_effect_on_some_of_its_rows_is_reported(outcome):
    attempts = [create_many(outcome)]
    assert list(check_atomicity(attempts, history_of_request("a", "b"))) == []
    assert list(check_atomicity(attempts, history_of_request("a"))) == ["many changed 1 of 2 rows"]


def test_repeated_request_with_a_second_effect_is_reported():
    attempts, row_ids = [create_many("info"), create_many("ok")], "abcd"
    assert list(check_atomicity(attempts, {})) == []
    assert list(check_atomicity(attempts, history_of_request(*row_ids))) == [
        "many changed 4 of 2 rows"
    ]


def test_import_may_have_an_effect_on_some_of_its_rows():
    imported = create_many("info", request_id="")
    assert list(check_atomicity([imported], history_of_request("a"))) == []


# Exports.

EXPORT = write("export", 0, sent_at=20.0, done_at=30.0, operation="export")


def sentences_about_export(row_ids, attempts):
    rows = dict.fromkeys(row_ids, (1, "digest"))
    record = FeedRecord("export", "ann", [Reading(21.0, "cursor", rows)])
    return list(check_export(record, EXPORT, attempts))


def test_export_has_each_row_that_existed_throughout():
    attempts = split_items([create_many("ok")])
    assert sentences_about_export("ab", attempts) == []
    assert sentences_about_export("a", attempts) == [
        "1 rows that existed throughout are missing, such as b"
    ]


@pytest.mark.parametrize(
    "attempt",
    [
        write("create", 1, "other", caller="ben"),
        write("create", 1, "other", sent_at=19.0, done_at=21.0),
        write("create", 1, "other", status=503),
    ],
)
def test_export_may_lack_a_row_of_another_owner_and_one_that_perhaps_came_later(attempt):
    assert sentences_about_export([], [attempt]) == []


@pytest.mark.parametrize("values", [{"sent_at": 25.0, "done_at": 26.0}, {"status": None}])
def test_export_may_have_or_lack_a_row_that_was_perhaps_deleted_during_it(values):
    attempts = [write("create", 1), write("delete", 2, **values)]
    assert sentences_about_export([], attempts) == sentences_about_export([ROW], attempts) == []


def test_export_without_a_row_whose_delete_was_refused_is_reported():
    attempts = [write("create", 1), write("delete", 2, status=503)]
    assert len(sentences_about_export([], attempts)) == 1


def test_export_with_a_row_that_was_deleted_before_is_reported():
    attempts = [write("create", 1), write("delete", 2)]
    assert sentences_about_export([], attempts) == []
    assert sentences_about_export([ROW], attempts) == [
        "it has 1 rows that were deleted before, such as row"
    ]


def test_export_and_feed_must_give_a_copy_of_the_table(check_reader):
    rows = [project(version=2), project(OTHER, 1)]
    assert check_reader(ITEMS[2:], rows=rows, started_at=11.0) == []
    sentences = check_reader(ITEMS[2:], rows=[*rows, project("third", 1)], started_at=11.0)
    assert sentences == ["the copy has third, and the table does not"]


CSV = 'id,name,version,owner,attributes\r\n"row","a,""b""",3,,"{""tags"": []}"\r\n'


def test_exported_csv_and_ndjson_give_the_same_row():
    row = {"id": "row", "name": 'a,"b"', "version": 3, "owner": None, "attributes": {"tags": []}}
    assert parse_export(RESOURCE, "csv", CSV.encode()) == [row]
    assert parse_export(RESOURCE, "ndjson", json.dumps(row).encode() + b"\n") == [row]


@pytest.mark.parametrize("text", ["", CSV[:-8], CSV + '"row'])
def test_incomplete_csv_is_refused(text):
    with pytest.raises(ValueError, match=r"CSV|values to unpack"):
        parse_export(RESOURCE, "csv", text.encode())


def test_incomplete_ndjson_is_refused():
    with pytest.raises(ValueError, match="Expecting value"):
        parse_export(RESOURCE, "ndjson", b'{"id": "row"}\n{"id": ')
