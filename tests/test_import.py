"""flask projects import: formats, options, messages, and the rows that it creates."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import uuid
from contextlib import suppress

import pytest

import config
from projectapp.bulk import import_run, json_stream, progress
from tests.conftest import PROJECTS, all_items

COLUMNS = "name, description, is_active, attributes::text"
ITEMS = [
    {"name": "번역 Translation", "description": "한글", "is_active": False, "attributes": {"a": 1}},
    {"name": 'With "quotes", commas\nand a line', "description": "", "attributes": {}},
    {"name": "=SUM(A1)", "description": None, "is_active": True, "attributes": {"b": [1.5, None]}},
]
CSV = (
    "name,description,is_active,attributes\r\n"
    '번역 Translation,한글,false,"{""a"":1}"\r\n'
    '"With ""quotes"", commas\nand a line","",true,{}\r\n'
    '\'=SUM(A1),,TRUE,"{""b"":[1.5,null]}"\r\n'
)
ROWS = [
    ("번역 Translation", "한글", False, '{"a": 1}'),
    ('With "quotes", commas\nand a line', "", True, "{}"),
    ("=SUM(A1)", None, True, '{"b": [1.5, null]}'),
]
SOME_REJECTED = 3


@pytest.fixture
def run(app, sql):
    """Run `flask projects import`; return its exit status, standard output and standard error."""

    def run_import(*arguments, stdin=None):
        command = ["projects", "import", *map(str, arguments)]
        result = app.test_cli_runner().invoke(args=command, input=stdin)
        assert not result.exception or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.stdout.strip(), result.stderr.strip()

    return run_import


@pytest.fixture
def rows(sql):
    """Return the columns of all projects that an import sets, in the order of the file."""
    return lambda columns=COLUMNS: sql(f"SELECT {columns} FROM projects ORDER BY id")  # noqa: S608


@pytest.fixture
def write(tmp_path):
    """Write a file; return its path."""

    def write_file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def ndjson(items):
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def read_csv(path, encoding="utf-8", delimiter=","):
    text = path.read_bytes().decode(encoding)
    return [*csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)]


def read_ndjson(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


FILES = {
    "x.ndjson": ndjson(ITEMS),
    "blank_lines.jsonl": "\n" + ndjson(ITEMS).replace("\n", "\r\n\r\n"),
    "x.json": json.dumps(ITEMS),
    "pretty.json": "\n" + json.dumps(ITEMS, indent=4, ensure_ascii=False) + "\n",
    "x.csv": CSV,
    "bom.csv": "\ufeff" + CSV,
    "bom.json": "\ufeff" + json.dumps(ITEMS),
    "bom.ndjson": "\ufeff" + ndjson(ITEMS),
    "UPPER.CSV": CSV,
    "semicolons.csv": CSV.replace(",", ";").replace("; commas", ", commas").replace("5;n", "5,n"),
    "tabs.tsv": CSV.replace(",", "\t").replace("\t commas", ", commas").replace("5\tn", "5,n"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_all_formats_create_the_same_rows(run, rows, write, name):
    assert run(write(name, FILES[name])) == (0, f"Imported {name}: 3 rows, 0 rejected.", "")
    assert rows() == ROWS


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ensure_ascii", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 2, 7, 64, None])
def test_elements_of_an_array_end_anywhere_in_the_blocks_of_the_file(
    run, rows, write, monkeypatch, block_bytes, ensure_ascii, indent
):
    if block_bytes:
        monkeypatch.setattr(json_stream, "_BLOCK_BYTES", block_bytes)
    count = 20 if block_bytes else 3000  # more than a block of the usual size
    items = [7, *({"name": f'{number} 번역 \\" ]'} for number in range(count)), -1.5e3, None]
    items += range(10**8, 10**8 + 2 * count)
    content = json.dumps(items, ensure_ascii=ensure_ascii, indent=indent)
    content = content.replace("-1500.0", "-1.5E+3")
    summary = f"Imported a.json: {count} rows, {2 * count + 3} rejected."
    assert run(write("a.json", content))[1] == summary
    assert rows("name") == [(item["name"],) for item in items[1 : count + 1]]


@pytest.mark.parametrize("name", ["x.ndjson", "x.json", "x.csv"])
def test_standard_input_is_imported_in_each_format(run, rows, name):
    assert run("-", stdin=FILES[name])[0] == 0
    assert rows() == ROWS
    assert run("-", stdin=FILES[name])[1].startswith("standard input was imported on ")
    assert len(rows()) == 3


def test_cp949_file_of_excel_with_korean_columns_is_imported(run, rows, write):
    text = "이름;설명;부서\r\n번역;똠방각하;개발팀\r\n;빈 이름;영업팀\r\n"
    path, errors = write("excel.csv", text.encode("cp949")), write("errors.csv", "")
    options = ["--encoding", "cp949", "--column", "이름=name", "--column", "설명=description"]
    options += ["--unknown-into", "attributes"]
    assert run(path, *options, "--errors", errors)[0] == SOME_REJECTED
    assert rows() == [("번역", "똠방각하", True, '{"부서": "개발팀"}')]
    assert read_csv(errors, "cp949", ";") == [
        {
            **{"이름": "", "설명": "빈 이름", "부서": "영업팀", "error_line": "3"},
            **{"error_field": "name", "error_reason": "Field may not be null.", "error_text": ""},
        }
    ]
    corrected = errors.read_bytes().decode("cp949").replace('\r\n;"빈', '\r\n"새 이름";"빈')
    assert run(write("corrected.csv", corrected.encode("cp949")), *options)[0] == 0
    assert rows()[1] == ("새 이름", "빈 이름", True, '{"부서": "영업팀"}')


def test_missing_fields_get_defaults_and_empty_cells_are_null(run, rows, write):
    assert run(write("a.ndjson", '{"name": "x"}\n{"name": "y", "description": null}\n'))[0] == 0
    assert run(write("b.csv", 'name,description\nx,\ny,""\n'))[0] == 0
    texts = [("x", None), ("y", None), ("x", None), ("y", "")]
    assert rows() == [(*text, True, "{}") for text in texts]


@pytest.mark.parametrize("suffix", ["ndjson", "json", "csv"])
def test_numbers_keep_all_digits(run, rows, write, suffix):
    attributes = '{"a": 12345678901234567890123, "b": 1.10, "c": 0.12345678901234567890123}'
    text = f'{{"name": "x", "attributes": {attributes}}}'
    quoted = attributes.replace('"', '""')
    content = {"json": f"[{text}]", "csv": f'name,attributes\nx,"{quoted}"\n'}.get(suffix, text)
    assert run(write(f"a.{suffix}", content))[0] == 0
    assert rows() == [("x", None, True, attributes)]


def test_unknown_members_are_moved_with_all_digits(run, rows, write):
    path = write("a.ndjson", '{"name": "x", "budget": 1.10, "attributes": {"a": 2.50}}\n')
    assert run(path, "--unknown-into", "attributes")[0] == 0
    assert rows() == [("x", None, True, '{"a": 2.50, "budget": 1.10}')]


def test_unknown_column_with_the_name_of_a_member_is_rejected(run, rows, write, tmp_path):
    path = write("a.csv", 'name,team,attributes\nx,red,"{""team"":""blue""}"\ny,red,\n')
    errors = tmp_path / "errors.csv"
    options = ("--unknown-into", "attributes", "--errors", errors)
    assert run(path, *options)[0] == SOME_REJECTED
    assert rows() == [("y", None, True, '{"team": "red"}')]
    [error] = read_csv(errors)
    assert (error["error_line"], error["error_field"]) == ("2", "team")
    assert error["attributes"] == '{"team":"blue"}'


INVALID_LINES = [
    ('{"name": ""}', "name", "Length must be between 1 and 200."),
    ('{"name": "x", "nme": 1.50}', "nme", "Unknown field; free-form data belongs in attributes."),
    ('{"name": "x", "name": "y"}', "name", "The item is not valid JSON: an object has"),
    ("[1]", None, "Must be a JSON object."),
    ("nonsense", None, "The item is not valid JSON"),
    ('{"name": "\\u0000"}', "name", "The item contains U+0000"),
    ('{"name": "x", "is_active": 1}', "is_active", "Not a valid boolean."),
    # PostgreSQL refuses these:
    (json.dumps({"name": "x", "attributes": {"a": "b" * 16400}}), "attributes", "Longer than"),
]


def test_rejected_lines_of_ndjson_are_corrected_and_imported_alone(run, rows, write, tmp_path):
    valid = [json.dumps({"name": f"{number}"}) for number in range(1500)]
    lines = [*valid[:700], *[line for line, _, _ in INVALID_LINES], *valid[700:]]
    path, errors = write("a.ndjson", "\n".join(lines)), tmp_path / "errors.ndjson"
    status, out, _ = run(path, "--errors", errors)
    assert status == SOME_REJECTED
    assert out.splitlines() == [
        "Imported a.ndjson: 1500 rows, 8 rejected.",
        f"The rejected items are in {errors}. Correct them there, and import this file with the"
        " same options.",
    ]
    assert rows("name") == [(f"{number}",) for number in range(1500)]
    rejected = read_ndjson(errors)
    for number, (line, field, reason) in enumerate(INVALID_LINES):
        item = rejected[number]
        assert item.pop("error_line") == 701 + number
        assert item.pop("error_field") == field
        assert item.pop("error_reason").startswith(reason)
        is_text = "JSON" in reason or "U+0000" in reason
        assert item == ({"error_text": line} if is_text else json.loads(line))
    assert '"nme": 1.50,' in errors.read_text()
    # What is not corrected is rejected again, with errors of its own.
    again = tmp_path / "again.ndjson"
    assert run(errors, "--errors", again)[0] == SOME_REJECTED
    assert [item["error_line"] for item in read_ndjson(again)] == [*range(1, 9)]
    corrected = [{**item, "name": "corrected", "is_active": True} for item in rejected]
    for item in corrected:
        item.pop("nme", None)
        item.pop("attributes", None)
    assert run(write("corrected.ndjson", ndjson(corrected)))[1].endswith(": 8 rows, 0 rejected.")
    assert len(rows()) == 1508


def test_rejected_rows_of_csv_are_written_as_they_were(run, rows, write, tmp_path):
    lines = [
        "name,is_active,attributes",
        "good,true,{}",
        "bad,perhaps,{}",
        'too many,true,{},"x"',
        '"no end,true,{}',
        "'=bad,1,{}",
        '"two\nlines",,',
        "last,true,{}",
    ]
    path, errors = write("a.csv", "\r\n".join(lines)), tmp_path / "errors.csv"
    assert run(path, "--errors", errors)[0] == SOME_REJECTED
    assert rows("name") == [("good",), ("last",)]
    assert [
        (row["error_line"], row["error_field"], row["name"], row["is_active"], row["error_text"])
        for row in read_csv(errors)
    ] == [
        ("3", "is_active", "bad", "perhaps", ""),
        ("4", "", "", "", 'too many,true,{},"x"'),
        ("5", "", "", "", '"no end,true,{}'),
        ("6", "is_active", "'=bad", "1", ""),
        ("7", "is_active, attributes", "two\nlines", "", ""),
    ]
    text = errors.read_text()
    assert run(errors, "--errors", tmp_path / "again.csv")[0] == SOME_REJECTED
    assert text.splitlines()[0] == (tmp_path / "again.csv").read_text().splitlines()[0]


def test_items_of_a_json_array_are_rejected_by_their_index(run, rows, write, tmp_path):
    path, errors = write("a.json", '[{"name": "x"}, {"name": ""}, NaN]'), tmp_path / "e.ndjson"
    assert run(path, "--errors", errors)[0] == SOME_REJECTED
    assert [item["error_line"] for item in read_ndjson(errors)] == [1, 2]
    assert run(path, "--again")[2].startswith("Item 1: name: Length must be")


def test_only_the_first_rejected_items_are_shown(run, write):
    status, _, err = run(write("a.ndjson", '{"name": ""}\n' * 50))
    assert status == SOME_REJECTED
    assert err.splitlines()[19:] == [
        "Line 20: name: Length must be between 1 and 200.",
        "There are more. --errors FILE writes all to a file.",
    ]


def test_shown_errors_do_not_control_the_terminal(run, write):
    path = write("a.ndjson", '{"name": "x", "\\u001b]0;title\\u0007\\n": 1}\n')
    _, _, err = run(path)
    assert err.startswith(r"Line 1: \u001b]0;title\u0007\u000a: Unknown field")


@pytest.mark.parametrize("change", ["append", "truncate"])
def test_import_of_a_file_that_changes_stops_and_continues_when_it_is_restored(
    run, rows, write, monkeypatch, change
):
    content = ndjson({"name": f"{n}"} for n in range(5000))
    path = write("a.ndjson", content)
    insert_batch = import_run.insert_batch

    def change_file(*arguments):
        with path.open("r+b") as file:
            file.truncate(file.seek(0, 2) // 3) if change == "truncate" else file.seek(0, 2)
            file.write(b'{"name": "added"}\n' if change == "append" else b"")
        return insert_batch(*arguments)

    monkeypatch.setattr(import_run, "insert_batch", change_file)
    status, _, err = run(path)
    assert (status, "a.ndjson was changed while it was imported." in err) == (1, True)
    monkeypatch.undo()
    path.write_text(content)
    assert run(path)[0] == 0
    assert rows("name") == [(f"{n}",) for n in range(5000)]


def test_file_whose_name_is_not_utf_8_is_imported(run, rows, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.ndjson"
    with open(path, "w") as file:
        file.write('{"name": "x"}')
    assert run(os.fsdecode(path))[1] == r"Imported \udcff.ndjson: 1 rows, 0 rejected."


def test_errors_file_is_removed_if_nothing_is_rejected(run, write):
    errors = write("errors.ndjson", "")
    assert run(write("a.ndjson", '{"name": "x"}'), "--errors", errors)[0] == 0
    assert not errors.exists()


def test_lines_in_another_encoding_are_rejected_if_the_encoding_is_given(
    run, rows, write, tmp_path
):
    path = write("a.csv", "name\n한글\n".encode() + b"\xff\xfe\nx\n")
    errors = tmp_path / "errors.csv"
    assert run(path, "--encoding", "utf-8", "--errors", errors)[0] == SOME_REJECTED
    assert rows("name") == [("한글",), ("x",)]
    assert b'"\xff\xfe","3","name"' in errors.read_bytes()


def test_finished_import_is_not_repeated_without_again(run, rows, write, tmp_path):
    path = write("a.ndjson", '{"name": "x"}\n{"name": ""}\n')
    assert run(path)[0] == SOME_REJECTED
    errors = write("errors.ndjson", "precious")
    status, out, _ = run(path, "--errors", errors)
    assert status == 0
    assert out.endswith(": 1 rows, 1 rejected. To import it again, add --again.")
    assert errors.read_text() == "precious"
    assert len(rows()) == 1
    assert run(path, "--again", "--errors", errors)[0] == SOME_REJECTED
    assert len(rows()) == 2
    assert len(read_ndjson(errors)) == 1
    # Another option is another import.
    assert run(path, "--owner", "alice")[0] == SOME_REJECTED
    assert rows("owner") == [(None,), (None,), ("alice",)]


def test_dry_run_validates_also_in_the_database_and_writes_nothing(run, sql, write, tmp_path):
    large = json.dumps({"name": "x", "attributes": {"a": "b" * 16400}})
    path = write("a.ndjson", '{"name": "x"}\n{"name": ""}\n' + large)
    errors = tmp_path / "errors.ndjson"
    status, out, _ = run(path, "--dry-run", "--errors", errors)
    assert (status, out.splitlines()[0]) == (3, "Would import a.ndjson: 1 rows, 2 rejected.")
    assert [item["error_line"] for item in read_ndjson(errors)] == [2, 3]
    assert sql("SELECT count(*) FROM projects") == sql("SELECT count(*) FROM imports") == [(0,)]
    assert sql("SELECT count(*) FROM changes") == [(0,)]
    assert run(path)[1] == "Imported a.ndjson: 1 rows, 2 rejected."


def export_rows(client):
    return sorted(all_items(client, "?page_size=100"), key=lambda item: item["id"])


def test_exported_items_are_imported_with_and_without_their_ids(
    client, run, sql, write, make_project
):
    for number in range(3):
        project = make_project(name=f"{number}", attributes={"n": number})
        client.patch(f"{PROJECTS}/{project['id']}", json={"description": "=changed"})
    sql("UPDATE projects SET owner = 'alice' WHERE name = '1'")
    exported = export_rows(client)
    path = write("export.ndjson", ndjson(exported))
    sql("DELETE FROM projects")
    sql("SET session_replication_role = replica; TRUNCATE changes; RESET session_replication_role")
    assert run(path, "--keep-ids")[0] == 0
    assert export_rows(client) == exported
    # The existing ids are rejected, each by its line.
    status, out, err = run(path, "--keep-ids", "--again")
    assert (status, out) == (SOME_REJECTED, "Imported export.ndjson: 0 rows, 3 rejected.")
    assert err.splitlines()[2] == "Line 3: id: There are already projects with this id."
    assert run(path)[0] == 0
    new = export_rows(client)[3:]
    assert [item["name"] for item in new] == [item["name"] for item in exported]
    assert {(item["version"], item["owner"]) for item in new} == {(1, None)}


def test_owner_replaces_the_owners_of_the_file(run, rows, write):
    item = {"name": "x", "id": str(uuid.uuid4()), "owner": "alice"}
    path = write("a.ndjson", ndjson([item]))
    assert run(path, "--keep-ids", "--owner", "bob")[0] == 0
    assert rows("owner, id::text, version") == [("bob", item["id"], 1)]


def test_row_that_was_deleted_continues_its_versions(client, run, sql, write, make_project):
    """An ETag of the deleted project must not become valid again."""
    project = make_project(name="old")
    path = f"{PROJECTS}/{project['id']}"
    client.patch(path, json={"name": "newer"})
    etag = client.get(path).headers["ETag"]
    file = write("a.ndjson", ndjson([project]))
    assert client.delete(path).status_code == 204  # version 3
    assert run(file, "--keep-ids")[0] == 0
    assert client.get(path).json == {**project, "version": 4}
    assert client.put(path, json={"name": "x"}, headers={"If-Match": etag}).status_code == 412
    assert client.get(f"{path}/history").json["items"][0]["version"] == 4
    client.delete(path)
    newer = write("b.ndjson", ndjson([{**project, "version": 100}]))
    assert run(newer, "--keep-ids")[0] == 0
    assert client.get(path).json["version"] == 100


def test_items_with_invalid_read_only_fields_are_rejected_with_keep_ids(run, rows, write, tmp_path):
    good = {
        **{"id": str(uuid.uuid4()), "name": "good", "version": 7, "owner": None},
        **{"created_at": "2020-01-01T00:00:00Z", "updated_at": "2020-01-01T09:00:00.5+09:00"},
    }
    changes = [
        *({"id": "x"}, {"id": None}, {"version": 0}, {"version": "1"}, {"version": 2**31 - 1}),
        *({"created_at": "yesterday"}, {"updated_at": "2020-01-01"}, {"owner": "x" * 256}),
    ]
    invalid = [{**good, "id": str(uuid.uuid4()), **change} for change in changes]
    missing_id = {"name": "x"}
    items = [good, *invalid, good, missing_id]
    errors = tmp_path / "errors.ndjson"
    path = write("a.ndjson", ndjson(items))
    assert run(path, "--keep-ids", "--errors", errors)[0] == SOME_REJECTED
    assert rows(
        "name, version, updated_at::timestamptz AT TIME ZONE 'UTC' < '2020-01-01 00:01'"
    ) == [("good", 7, True)]
    fields = [item["error_field"] for item in read_ndjson(errors)]
    assert fields == [*(next(iter(change)) for change in changes), "id", "id"]
    # Without --keep-ids these fields are ignored.
    assert run(path)[1].endswith(": 11 rows, 0 rejected.")


def test_item_that_no_rule_names_is_found_and_rejected(run, rows, sql, write, tmp_path):
    """A constraint that the model does not have."""
    sql("ALTER TABLE projects ADD CONSTRAINT odd CHECK (name <> '777')")
    errors = tmp_path / "errors.ndjson"
    try:
        path = write("a.ndjson", ndjson({"name": f"{number}"} for number in range(1200)))
        assert run(path, "--errors", errors)[0] == SOME_REJECTED
    finally:
        sql("ALTER TABLE projects DROP CONSTRAINT odd")
    assert [(item["name"], item["error_line"]) for item in read_ndjson(errors)] == [("777", 778)]
    assert {*rows("name")} == {(f"{number}",) for number in range(1200) if number != 777}


def test_imported_rows_are_in_the_history(client, run, sql, write):
    assert run(write("a.csv", "name\nx\n"))[0] == 0
    [(row_id,)] = sql("SELECT id FROM projects")
    [change] = client.get(f"{PROJECTS}/{row_id}/history").json["items"]
    assert (change["operation"], change["version"]) == ("create", 1)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("no/such.csv", None, [], "Cannot read {path}: No such file or directory."),
        ("folder.csv", "folder", [], "Cannot read {path}: Is a directory."),
        (
            *("a.xlsx", "x", []),
            "a.xlsx must end in .ndjson, .jsonl, .json, .csv, .tsv. In a spreadsheet, save the"
            ' table as "CSV UTF-8".',
        ),
        ("a.csv", "\ufeff \r\n", [], "a.csv is empty."),
        ("a.json", '{"name": "x"}', [], "a.json is not a JSON array. If each of its lines is a"),
        ("a.json", '[{"name": "x"}', [], "a.json is not valid JSON after item 0."),
        ("a.json", '[{"name": "x"} 7]', [], "a.json is not valid JSON after item 0."),
        ("a.json", '[{"name": "x"},]', [], "a.json is not valid JSON: item 1 (the first is 0)"),
        ("a.json", '[{"name": "x"}] 7', [], "a.json has text after the JSON array."),
        ("a.json", b'["\xff"]', [], "a.json is not UTF-8, so it is not JSON."),
        ("a.csv", "번역,x\n", [], "The first line of a.csv must be a header with the names of"),
        ("a.csv", "name,name\nx,y\n", [], "a.csv has the column name twice."),
        ("a.csv", "name,\nx,y\n", [], "Column 2 of a.csv has no name."),
        ("a.csv", "name,nme\nx,y\n", [], "a.csv has the unknown column nme. The fields are name,"),
        ("a.csv", "description\nx\n", [], "a.csv has no column name, which each row needs."),
        ("a.csv", 'na"me\nx\n', [], "The header row of a.csv is invalid. A cell has a quote"),
        (
            *("a.csv", "name\nx\n이름\n".encode("cp949"), []),
            "Line 3 of a.csv is not UTF-8. If Excel in Korea wrote the file, add --encoding cp949.",
        ),
        (  # not an error of the names of the columns, which cannot be read
            *("a.csv", "이름\nx\n".encode("cp949"), []),
            "Line 1 of a.csv is not UTF-8. If Excel in Korea wrote the file, add --encoding cp949.",
        ),
        ("a.csv", "name\nx\n", ["--encoding", "klingon"], "The encoding klingon is not possible."),
        ("a.csv", "name\nx\n", ["--encoding", "utf-16"], "The encoding utf-16 is not possible."),
        ("a.json", "[]", ["--encoding", "cp949"], "--encoding and --column are only for CSV."),
        (
            *("a.csv", "name\nx\n", ["--column", "이름=name"]),
            "--column: a.csv has no column 이름. Its columns are name.",
        ),
        (
            *("a.csv", "이름\nx\n", ["--column", "이름=nme"]),
            "--column: there is no field nme. The fields are name,",
        ),
        (
            *("a.csv", "name\nx\n", ["--unknown-into", "name"]),
            "--unknown-into must name a field that is a JSON object: attributes.",
        ),
        (
            *("a.csv", "name\nx\n", ["--errors", "{folder}/no/errors.csv"]),
            "Cannot write to {folder}/no/errors.csv: No such file or directory.",
        ),
        (
            *("a.csv", "name\nx\n", ["--errors", "errors.ndjson"]),
            "The errors file must end in .csv or .tsv, so that it can be imported.",
        ),
        (
            *("a.csv", "name\nx\n", ["--errors", "{folder}/a.csv"]),
            "The errors file must not be the file to import.",
        ),
        ("a.csv", "name\nx\n", ["--keep-ids"], "a.csv has no column id, which each row needs."),
        ("a.csv", "name,\x1b[2J\nx,\n", [], "a.csv has the unknown column \\u001b[2J."),
        ("a.csv", "\v\n", [], "The first line of a.csv must be a header"),
        (
            "a.ndjson",
            '{"name": "x"}\n' + "x" * (2**20 + 1),
            [],
            "Line 2 of a.ndjson has more than 1048",
        ),
        (
            "a.csv",
            "name\r\r" + "x" * (2**20 + 1),
            [],
            "Line 1 of a.csv has more than 1048576 bytes",
        ),
        ("a.csv", "pipe", [], "{path} is a pipe, and the file is read twice. Use - < {path}"),
        (
            *("a.csv", "name\nx\n", ["--errors", "{folder}/pipe.csv"]),
            "{folder}/pipe.csv is not a regular file.",
        ),
    ],
)
def test_file_that_cannot_be_imported_is_one_error(
    run, rows, tmp_path, name, content, options, message
):
    path = tmp_path / name
    os.mkfifo(tmp_path / "pipe.csv")
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = [option.format(folder=tmp_path) for option in options]
    status, out, err = run(path, *options)
    assert (status, out) == (1, "")
    assert err.startswith(f"Error: {message.format(path=path, folder=tmp_path)}"), err
    assert len(err.splitlines()) == 1
    assert rows() == []
    assert content in (None, "folder", "pipe") or path.read_bytes()


def test_progress_is_plain_lines_with_a_rate_and_the_remaining_time(run, write, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_INTERVAL_SECONDS", 0)
    _, _, err = run(write("a.ndjson", ndjson({"name": f"{n}"} for n in range(1500))))
    lines = [line for line in err.splitlines() if line.startswith("Imported ")]
    assert re.fullmatch(r"Imported 1000 rows, \d+ rows/s, 6\d %, \d+:\d\d left", lines[-2])
    assert re.fullmatch(r"Imported 1500 rows, \d+ rows/s, 100 %, 0:00 left", lines[-1])


def test_progress_on_a_terminal_is_a_bar(app, sql, write, database_url):
    terminal, terminal_of_command = pty.openpty()
    path = write("a.ndjson", ndjson({"name": f"{n}"} for n in range(1500)) + '{"name": ""}')
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "projects", "import", path],
        cwd=config.ROOT,
        env={**os.environ, "APP_ENV": "testing", "DATABASE_URL": database_url},
        stdout=subprocess.DEVNULL,
        stderr=terminal_of_command,
    )
    os.close(terminal_of_command)
    output = b""
    with suppress(OSError), os.fdopen(terminal, "rb", 0) as reader:  # EIO at the end
        while block := reader.read(1024):
            output += block
    assert process.wait(60) == SOME_REJECTED
    assert re.search(rb"Imported  \[#+-*\] +\d+%.*1000 rows, \d+ rows/s", output), output
    assert b"\r\x1b[KLine 1501: name: Length must be" in output


def test_column_option_without_a_field_is_a_usage_error(run):
    status, _, err = run("a.csv", "--column", "이름")
    assert status == 2
    assert 'Must be "NAME=FIELD", such as "이름=name".' in err


def test_unreachable_database_says_that_the_command_continues(make_app, write):
    app = make_app(DATABASE_URL="postgresql://127.0.0.1:9/test")
    path = write("a.csv", "name\nx\n")
    result = app.test_cli_runner().invoke(args=["projects", "import", str(path)])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: The database cannot be reached. Try again shortly. Run the same command again: it"
        " continues.\n"
    )


def test_database_without_the_migrations_says_so(run, sql, write):
    sql("ALTER TABLE imports RENAME TO others")
    try:
        status, _, err = run(write("a.csv", "name\nx\n"))
    finally:
        sql("ALTER TABLE others RENAME TO imports")
    assert status == 1
    assert err.startswith("Error: The database schema is older than this release. Run: flask db up")
