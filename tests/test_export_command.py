"""The command flask RESOURCE export."""

import json
import os
import subprocess
import sys

import pytest

import config
from projectapp.bulk import export_pages
from tests.conftest import all_items
from tests.feed_load import CHANGES
from tests.test_export import EXPORT, INSERT, insert_texts_and_numbers


@pytest.fixture
def export(app, sql):
    def run(*arguments):
        return app.test_cli_runner().invoke(args=("projects", "export", *map(str, arguments)))

    return run


@pytest.mark.parametrize(
    ("name", "arguments", "query"),
    [
        ("a.ndjson", (), "?format=ndjson"),
        ("a.csv", (), "?format=csv"),
        ("a.CSV", ("--bom",), "?format=csv&bom=true"),
        ("a.txt", ("--format", "ndjson"), "?format=ndjson"),
        ("a", ("--format", "csv"), "?format=csv"),
        ("a.csv", ("--format", "ndjson"), "?format=ndjson"),
        ("a.csv", ("--query", "q=row 1&is_active=true"), "?format=csv&q=row 1&is_active=true"),
        ("a.csv", ("--query", "owner=bob"), "?format=csv&owner=bob"),
    ],
)
def test_file_has_what_the_api_sends(client, sql, export, tmp_path, name, arguments, query):
    sql(INSERT, 300, 1500)
    result = export(tmp_path / name, *arguments)
    assert result.exit_code == 0, result.output
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == client.get(EXPORT + query).get_data()


def test_command_reports_rows_rate_and_a_cursor_of_the_feed(client, make_project, export, tmp_path):
    make_project()
    result = export(tmp_path / "a.csv")
    first, second = result.stderr.splitlines()[-2:]
    assert first.startswith("Exported 1 projects, ")
    assert first.endswith(" rows/s.")
    assert result.stdout == ""
    cursor = second.removeprefix("Changes-Cursor for the changes since then: ")
    project = make_project()
    [item] = client.get(f"{CHANGES}?since={cursor}").json["items"]
    assert item["project"] == project


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv"])
@pytest.mark.parametrize("arguments", [("--keep-ids",), ()])
def test_exported_file_that_is_imported_creates_the_same_rows(
    app, sql, export, tmp_path, name, arguments
):
    insert_texts_and_numbers(sql)
    sql("UPDATE projects SET owner = 'ann' WHERE is_active")
    columns = "name, description, is_active, attributes::text"
    if arguments:
        columns += ", id, version, created_at, updated_at, owner"
    query = f"SELECT {columns} FROM projects ORDER BY created_at, id"  # noqa: S608
    rows = sql(query)
    assert export(tmp_path / name, "--bom" if name == "a.csv" else "--format=ndjson").exit_code == 0
    sql("DELETE FROM projects")
    sql("SET session_replication_role = replica; TRUNCATE changes; RESET session_replication_role")
    command = ("projects", "import", str(tmp_path / name), *arguments)
    result = app.test_cli_runner().invoke(args=command)
    assert result.exit_code == 0, result.output
    assert sql(query) == rows


def test_export_of_all_owners_to_the_standard_output(client, sql, export):
    sql(INSERT, 1, 20)
    result = export("-")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert rows == all_items(client, "?sort=created_at")
    assert {row["owner"] for row in rows} == {"alice", "bob", None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.ndjson", "--bom"), "Only a CSV file may have a byte order mark"),
        (("a.csv", "--query", "sort=name"), "sort: Unknown parameter."),
        (("a.csv", "--query", "format=csv"), "format: Unknown parameter."),
        (("a.csv", "--query", "is_active=1"), "is_active: Not a valid boolean."),
        (("missing/a.csv",), "No such file or directory"),
        (("a.xlsx",), "a.xlsx must end in .ndjson or .csv. For another name, add --format."),
    ],
)
def test_invalid_arguments_get_a_message_and_write_no_file(
    export, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    result = export(*arguments)
    assert result.exit_code != 0
    assert message in result.stderr
    assert os.listdir(tmp_path) == []


def test_export_that_loses_the_database_keeps_the_old_file_and_leaves_no_other(
    make_app, proxy, sql, tmp_path, monkeypatch
):
    sql(INSERT, 300, 1500)
    monkeypatch.setattr(export_pages, "MAX_RETRY_SECONDS", 0)
    path = tmp_path / "a.ndjson"
    path.write_text("old")
    app = make_app(DATABASE_URL=proxy.url)
    proxy.drop += ["string_agg", "string_agg"] * 2

    def refuse():
        proxy.refuses = True

    proxy.before_reset = refuse
    result = app.test_cli_runner().invoke(args=("projects", "export", str(path)))
    assert result.exit_code == 1
    assert "flask doctor" in result.stderr
    assert os.listdir(tmp_path) == ["a.ndjson"]
    assert path.read_text() == "old"


def test_export_into_a_pipe_whose_reader_ends_has_no_traceback(database_url, sql):
    sql(INSERT, 2000, 3000)
    command = f"{sys.executable} -m flask projects export - | head -c 10"
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=config.ROOT,
        env={**os.environ, "APP_ENV": "testing", "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith('{"id" : "')
    assert len(result.stdout) == 10
    assert "Traceback" not in result.stderr
