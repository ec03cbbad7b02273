"""`flask projects pull` with servers that imitate the four backends of the tutorial."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime

import psycopg2
import pytest

import config
from faults.processes import free_port
from projectapp.bulk import pull_source
from projectapp.bulk.import_command import SOME_REJECTED
from projectapp.database import uuid7
from tests.conftest import PROJECTS, all_items, parameters_of, with_long_timeouts
from tests.tutorial_backends import (
    BACKENDS,
    LIST_PATH,
    FastAPIBackend,
    GoBackend,
    HonoBackend,
    NaiveBackend,
    serving,
    write_once,
    writing,
)

MEMBERS = {"id", "name", "description", "created_at", "updated_at"}


@pytest.fixture
def pull(app, sql):
    """Run `flask projects pull`; return the exit status, the standard output and error."""

    def run(url, *arguments):
        result = app.test_cli_runner().invoke(args=["projects", "pull", url, *arguments])
        assert not result.exception or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def backend():
    with serving(FastAPIBackend()) as backend:
        yield backend


@contextmanager
def pulling(database_url, url, *arguments):
    """Run the command in a process of its own, and kill it at the end of the block."""
    settings = config.Config.declared_settings()
    environ = {name: value for name, value in os.environ.items() if name not in settings}
    environ |= {"APP_ENV": "testing", "DATABASE_URL": database_url}
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "projects", "pull", url, *arguments],
        cwd=config.ROOT,
        env=with_long_timeouts(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until_enter_is_expected(process):
    text = ""
    while "press Enter" not in text:
        line = process.stderr.readline()
        assert line, text
        text += line


def cut_to_microseconds(text):
    """Return a time of an old backend in the format of this service."""
    digits = text.partition(".")[2]
    fraction = ""
    while digits[:1].isdigit():
        fraction, digits = fraction + digits[0], digits[1:]
    time = datetime.fromisoformat(text.replace(f".{fraction}", "").replace("Z", "+00:00"))
    time = time.replace(microsecond=int(f"{fraction[:6]:0<6}"))
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def as_here(project):
    """Return a project of an old backend as this service has to show it, without the version."""
    return {
        "id": project["id"],
        "name": project["name"],
        "description": project["description"],
        "is_active": project.get("status") != "archived",
        "attributes": {k: v for k, v in project.items() if k not in MEMBERS},
        "created_at": cut_to_microseconds(project["created_at"]),
        "updated_at": cut_to_microseconds(project["updated_at"]),
        "owner": None,
    }


def projects_here(client):
    items = all_items(client, "?page_size=100")
    return {item["id"]: {k: v for k, v in item.items() if k != "version"} for item in items}


def projects_there(backend):
    with backend.lock:
        return {key: as_here(project) for key, project in backend.projects.items()}


def counts(report):
    """Return the numbers of a report: created, updated, deleted, kept, rejected."""
    lines = [line.split(": ") for line in report.splitlines() if line.startswith("  ")]
    return [int(parts[1]) for parts in lines if parts[1:] and parts[1].isdigit()]


def fill(backend, count):
    return [backend.create(f"프로젝트 {number}", f"설명 {number}") for number in range(count)]


@pytest.mark.parametrize("name", BACKENDS)
def test_pull_while_clients_write_then_cut_over_leaves_no_difference(
    name, client, sql, database_url
):
    with serving(BACKENDS[name](name)) as backend:
        fill(backend, 250)
        with pulling(database_url, backend.url, "--cut-over") as process:
            with writing(backend):
                read_until_enter_is_expected(process)
                for _ in range(50):  # the last users of the old backend
                    write_once(backend)
                for row_id in [*backend.projects][:3]:
                    backend.delete(row_id)
            assert projects_here(client) != projects_there(backend)
            report, errors = process.communicate("\n", timeout=300)
        assert process.returncode == 0, errors
        assert projects_here(client) == projects_there(backend)
        assert "Nothing was left behind" in report
        assert backend.requests.keys() == {"GET"}


@pytest.mark.parametrize("name", BACKENDS)
def test_second_pull_changes_nothing(name, pull, client, sql):
    with serving(BACKENDS[name](name)) as backend:
        fill(backend, 120)
        code, report, _ = pull(backend.url)
        assert (code, counts(report)) == (0, [len(backend.projects), 0, 0, 0, 0])
        before = all_items(client, "?page_size=100")
        changes = sql("SELECT count(*) FROM changes")
        code, report, _ = pull(backend.url)
        assert (code, counts(report)) == (0, [0, 0, 0, 0, 0])
        assert all_items(client, "?page_size=100") == before
        assert sql("SELECT count(*) FROM changes") == changes


def test_projects_change_while_pages_are_read_until_two_passes_agree(pull, client):
    """A deletion between two pages makes a pass miss a project: the next pass finds it."""
    backend = FastAPIBackend()
    ids = fill(backend, 350)
    original, newest = backend.respond, [*reversed(ids)]

    def respond(target):
        if "page=2&" in target and len(newest) > 345:
            backend.delete(newest.pop(0))
        return original(target)

    backend.respond = respond
    with serving(backend):
        code, report, errors = pull(backend.url)
    assert code == 0, errors
    assert projects_here(client) == projects_there(backend)
    assert counts(report) == [350, 0, 5, 0, 0]


def test_active_writers_end_the_pull_without_deletions(pull, client):
    backend = FastAPIBackend()
    fill(backend, 30)
    original = backend.respond

    def respond(target):
        backend.delete(next(iter(backend.projects)))
        backend.create("New")
        return original(target)

    backend.respond = respond
    with serving(backend):
        code, report, errors = pull(backend.url)
    assert code == 1
    assert "The list was different in each of 10 passes" in errors
    assert counts(report)[2] == 0
    assert projects_there(backend).items() <= projects_here(client).items()
    assert len(projects_here(client)) > 30


def test_pull_that_is_killed_between_two_batches_is_completed_by_the_next_one(
    backend, pull, client, sql, database_url, direct_url
):
    """An uncommitted row with the id of one of them stops the pull at its second batch."""
    ids = fill(backend, 2500)
    with closing(psycopg2.connect(**parameters_of(direct_url))) as blocker:
        insert = "INSERT INTO projects (id, name) VALUES (%s, 'Blocks')"
        blocker.cursor().execute(insert, (ids[1000],))
        with pulling(database_url, backend.url) as process:
            while sql("SELECT count(*) FROM projects") != [(1000,)]:
                assert process.poll() is None
            process.kill()
            process.wait()
    assert sql("SELECT count(*) FROM projects") == [(1000,)]
    backend.delete(ids[-1])
    backend.update(ids[-2], name="Changed since")
    code, report, errors = pull(backend.url)
    assert (code, counts(report)) == (0, [1500, 1, 1, 0, 0]), errors
    assert projects_here(client) == projects_there(backend)
    assert counts(pull(backend.url)[1]) == [0, 0, 0, 0, 0]


# The rules.


def test_ids_times_and_unknown_members_are_kept(pull, client, sql):
    with serving(GoBackend()) as backend:
        row_id = backend.create(
            "번역",
            status="archived",
            owner_id=7,
            nothing=None,
            created_at="2026-01-31T09:00:00.1234567+09:00",
            updated_at="2026-02-01T00:00:00.999999999+09:00",
        )
        assert pull(backend.url)[0] == 0
    project = client.get(f"{PROJECTS}/{row_id}").json
    assert project == {
        "id": row_id,
        "name": "번역",
        "description": "",
        "is_active": False,
        "attributes": {"status": "archived", "owner_id": 7},
        "version": 1,
        "created_at": "2026-01-31T00:00:00.123456Z",
        "updated_at": "2026-01-31T15:00:00.999999Z",
        "owner": None,
    }


def test_history_names_the_role_and_no_caller(backend, pull, client, sql):
    row_id = backend.create("Old")
    pull(backend.url)
    backend.update(row_id, name="New")
    pull(backend.url)
    history = client.get(f"{PROJECTS}/{row_id}/history").json["items"]
    role = sql("SELECT 'role ' || current_user")[0][0]
    assert [(h["operation"], h["version"], h["caller"], h["credential"]) for h in history] == [
        ("update", 2, None, role),
        ("create", 1, None, role),
    ]
    assert client.get(f"{PROJECTS}/{row_id}").json["updated_at"] == cut_to_microseconds(
        backend.projects[row_id]["updated_at"]
    )


def test_changes_in_the_same_millisecond_are_pulled(pull, client):
    with serving(HonoBackend()) as backend:
        row_id = backend.create("First")
        pull(backend.url)
        for version, name in ((2, "Second"), (3, "Third")):
            backend.projects[row_id]["name"] = name
            assert counts(pull(backend.url)[1]) == [0, 1, 0, 0, 0]
            project = client.get(f"{PROJECTS}/{row_id}").json
            assert (project["name"], project["version"]) == (name, version)
            assert project["updated_at"] == project["created_at"]


def test_older_state_of_the_old_backend_changes_nothing(backend, pull, client):
    row_id = backend.create("Newer")
    pull(backend.url)
    backend.update(row_id, name="Older", updated_at="2001-01-01T00:00:00Z")
    code, report, _ = pull(backend.url)
    assert (code, counts(report)) == (0, [0, 0, 0, 1, 0])
    assert client.get(f"{PROJECTS}/{row_id}").json["name"] == "Newer"


@pytest.mark.parametrize("zone", ["Asia/Seoul", "+09:00"])
def test_naive_times_are_in_the_given_time_zone(pull, client, zone):
    with serving(NaiveBackend()) as backend:
        row_id = backend.create(
            "Naive", created_at="2026-01-31T09:00:00", updated_at="2026-01-31T09:00:00.5"
        )
        assert pull(backend.url, "--time-zone", zone)[0] == 0
    project = client.get(f"{PROJECTS}/{row_id}").json
    assert project["created_at"] == "2026-01-31T00:00:00.000000Z"
    assert project["updated_at"] == "2026-01-31T00:00:00.500000Z"


def test_naive_times_without_a_time_zone_are_an_error(pull, client):
    with serving(NaiveBackend()) as backend:
        backend.create("Naive")
        code, _, errors = pull(backend.url)
    assert code == 2
    assert "--time-zone" in errors
    assert not projects_here(client)


@pytest.mark.parametrize("zone", ["Korea/Nowhere", "+9", "+25:00", "../../etc/passwd", ""])
def test_unknown_time_zone_is_an_error(backend, pull, zone):
    code, _, errors = pull(backend.url, "--time-zone", zone)
    assert code == 2
    assert "or a name such as Asia/Seoul" in errors
    assert not backend.requests


def test_id_in_upper_case_is_the_same_id(backend, pull, client):
    first, *_ = fill(backend, 3)
    pull(backend.url)
    backend.projects[first] |= {"id": first.upper()}
    assert counts(pull(backend.url)[1]) == [0, 0, 0, 0, 0]
    assert len(projects_here(client)) == 3


def test_missing_time_is_replaced_by_the_other_one(backend, pull, client):
    row_id = backend.create("One time", updated_at=None)
    pull(backend.url)
    project = client.get(f"{PROJECTS}/{row_id}").json
    assert project["updated_at"] == project["created_at"]


REJECTED = [
    ({"name": None}, "name", "Field may not be null."),
    ({"name": ""}, "name", "Length must be between 1 and 200."),
    ({"name": "x" * 300}, "name", "Length must be between 1 and 200."),
    (
        {"name": "a\0b"},
        "name",
        "The value contains U+0000 or an unpaired surrogate, which cannot be stored.",
    ),
    (
        {"name": "\ud800"},
        "name",
        "The value contains U+0000 or an unpaired surrogate, which cannot be stored.",
    ),
    ({"rating": float("nan")}, "rating", "The value is not valid JSON: NaN is not a JSON number."),
    ({"name": 12}, "name", "Not a valid string."),
    ({"description": "x" * 1001}, "description", "Longer than maximum length 1000."),
    ({"id": "7"}, "id", 'Must be a UUID, not "7".'),
    ({"id": 7}, "id", "Must be a UUID, not 7."),
    ({"id": None}, "id", "Must be a UUID, not null."),
    ({"notes": "x" * 16384}, "attributes", "Longer than 16384 bytes as JSON."),
    ({"created_at": None, "updated_at": None}, "created_at", "Missing data for required field."),
    (
        {"updated_at": "yesterday"},
        "updated_at",
        "Must be an RFC 3339 timestamp with an offset, such as 2026-01-31T09:00:00Z.",
    ),
]


@pytest.mark.parametrize(("members", "field", "reason"), REJECTED)
def test_rejected_project_is_reported_and_the_others_are_pulled(
    backend, pull, client, tmp_path, members, field, reason
):
    fill(backend, 3)
    project = backend.projects[backend.create("Rejected")]
    project |= members
    errors_file = tmp_path / "errors.ndjson"
    code, report, _ = pull(backend.url, "--errors", str(errors_file))
    assert (code, counts(report)) == (SOME_REJECTED, [3, 0, 0, 0, 1])
    assert f"{field}: {reason}" in report
    assert len(projects_here(client)) == 3
    [line] = errors_file.read_text().splitlines()
    error = json.loads(line)
    assert error.pop("error_line") in (1, 4)  # the newest comes first, then those without a time
    assert (error.pop("error_field"), error.pop("error_reason")) == (field, reason)
    assert json.dumps(error) == json.dumps(project)


def test_row_that_is_no_object_is_rejected(pull, client, tmp_path):
    backend = GoBackend()
    backend.list_body = lambda query: [*backend.projects.values(), 7]
    errors_file = tmp_path / "errors.ndjson"
    with serving(backend):
        code, report, _ = pull(backend.url, "--errors", str(errors_file))
    assert (code, counts(report)) == (SOME_REJECTED, [3, 0, 0, 0, 1])
    assert "row 4: Must be a JSON object." in report
    assert json.loads(errors_file.read_text())["error_text"] == "7"


def test_rejected_project_that_is_corrected_there_is_pulled(backend, pull, client):
    row_id = backend.create(None)
    assert pull(backend.url)[0] == SOME_REJECTED
    backend.update(row_id, name="Corrected")
    assert pull(backend.url)[0] == 0
    assert projects_here(client) == projects_there(backend)


def test_pulled_project_that_becomes_invalid_there_stays_here(backend, pull, client):
    row_id = backend.create("Valid")
    pull(backend.url)
    backend.update(row_id, name=None)
    assert pull(backend.url)[0] == SOME_REJECTED
    assert client.get(f"{PROJECTS}/{row_id}").json["name"] == "Valid"


def test_change_made_here_stays_and_is_reported(backend, pull, client):
    row_id = backend.create("There")
    pull(backend.url)
    client.put(f"{PROJECTS}/{row_id}", json={"name": "Here"})
    backend.update(row_id, name="There, later", updated_at="2101-01-01T00:00:00Z")
    code, report, _ = pull(backend.url)
    assert (code, counts(report)) == (0, [0, 0, 0, 1, 0])
    assert f"{row_id} was changed here" in report
    assert client.get(f"{PROJECTS}/{row_id}").json["name"] == "Here"


def wait_until_blocked(sql, result):
    blocked = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    while sql(blocked) == [(0,)]:
        assert not result.done(), result.result()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("UPDATE projects SET name = 'Here' WHERE id = %s", "Here"),
        ("DELETE FROM projects WHERE id = %s", None),
    ],
)
def test_change_that_is_made_here_while_the_pull_writes_stays(
    backend, pull, client, sql, direct_url, change, name
):
    """The change holds the row's lock, so that the pull's statement waits for it."""
    row_id = backend.create("There")
    pull(backend.url)
    backend.update(row_id, name="There, later", updated_at="2101-01-01T00:00:00Z")
    with (
        ThreadPoolExecutor() as pool,
        closing(psycopg2.connect(**parameters_of(direct_url))) as other,
    ):
        other.cursor().execute(change, (row_id,))
        result = pool.submit(pull, backend.url)
        try:
            wait_until_blocked(sql, result)
        finally:
            other.commit()
        code, report, errors = result.result()
    assert code == 0, errors
    assert client.get(f"{PROJECTS}/{row_id}").json.get("name") == name
    if name:
        assert counts(report) == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_lost_answers_of_the_database_do_not_change_the_result(
    backend, make_app, proxy, pull, client, sql, fault, times
):
    ids = fill(backend, 4)
    pull(backend.url)
    backend.update(ids[0], name="Changed")
    backend.delete(ids[1])
    backend.create("New")
    for words in ("INSERT INTO pulled_rows", "DELETE FROM projects"):
        getattr(proxy, fault).extend([words] * times)
    getattr(proxy, fault).append("json_object_agg")
    app = make_app(DATABASE_URL=proxy.url)
    result = app.test_cli_runner().invoke(args=["projects", "pull", backend.url])
    assert result.exit_code == 0, result.stderr
    assert getattr(proxy, fault) == []
    assert counts(result.stdout) == [1, 1, 1, 0, 0]
    assert projects_here(client) == projects_there(backend)
    assert sql("SELECT version, count(*) FROM projects GROUP BY 1 ORDER BY 1") == [(1, 3), (2, 1)]


def test_deletion_made_here_stays_and_is_reported(backend, pull, client):
    first, second = fill(backend, 2)
    pull(backend.url)
    client.delete(f"{PROJECTS}/{first}")
    backend.update(first, name="There, later")
    code, report, _ = pull(backend.url)
    assert (code, counts(report)) == (0, [0, 0, 0, 1, 0])
    assert f"{first} was deleted here" in report
    assert projects_here(client).keys() == {second}


def test_project_deleted_here_stays_deleted_also_under_another_url(backend, pull, client):
    first, second = fill(backend, 2)
    pull(backend.url)
    client.delete(f"{PROJECTS}/{first}")
    assert "was deleted here" in pull(backend.url.replace("127.0.0.1", "localhost"))[1]
    assert projects_here(client).keys() == {second}


def test_projects_that_the_pull_did_not_create_stay(backend, pull, client, make_project, sql):
    mine = make_project(name="Mine")["id"]
    same_id, *_ = fill(backend, 3)
    sql("INSERT INTO projects (id, name) VALUES (%s, 'Imported')", same_id)
    code, report, _ = pull(backend.url)
    assert (code, counts(report)) == (0, [2, 0, 0, 1, 0])
    assert f"{same_id} is a row that was not pulled from there" in report
    backend.delete(same_id)
    assert counts(pull(backend.url)[1]) == [0, 0, 0, 0, 0]
    names = {row_id: project["name"] for row_id, project in projects_here(client).items()}
    assert (names[mine], names[same_id], len(names)) == ("Mine", "Imported", 4)


def test_project_deleted_there_is_deleted_here(backend, pull, client):
    ids = fill(backend, 4)
    pull(backend.url)
    backend.delete(ids[0])
    assert counts(pull(backend.url)[1]) == [0, 0, 1, 0, 0]
    assert projects_here(client) == projects_there(backend)


def test_project_deleted_there_and_changed_here_stays_and_is_reported(backend, pull, client):
    ids = fill(backend, 4)
    pull(backend.url)
    client.put(f"{PROJECTS}/{ids[0]}", json={"name": "Here"})
    backend.delete(ids[0])
    code, report, _ = pull(backend.url)
    assert (code, counts(report)) == (0, [0, 0, 0, 1, 0])
    assert f"{ids[0]} is missing there, but was changed" in report
    assert client.get(f"{PROJECTS}/{ids[0]}").json["name"] == "Here"


def test_projects_of_two_backends_do_not_delete_each_other(backend, pull, client):
    fill(backend, 3)
    with serving(HonoBackend()) as other:
        fill(other, 3)
        for url in (backend.url, other.url, backend.url):
            code, report, _ = pull(url)
            assert code == 0
        assert counts(report) == [0, 0, 0, 0, 0]
        assert projects_here(client) == projects_there(backend) | projects_there(other)


def test_restarted_backend_without_its_projects_deletes_nothing(backend, pull, client):
    fill(backend, 5)
    pull(backend.url)
    before = projects_here(client)
    backend.projects.clear()
    code, _, errors = pull(backend.url)
    assert code == 1
    assert "Perhaps the old backend was restarted" in errors
    assert projects_here(client) == before
    assert counts(pull(backend.url, "--delete-missing")[1]) == [0, 0, 5, 0, 0]
    assert not projects_here(client)


def test_dry_run_reports_and_writes_nothing(backend, pull, client, sql):
    ids = fill(backend, 4)
    backend.create(None)
    code, report, _ = pull(backend.url, "--dry-run")
    assert (code, counts(report)) == (SOME_REJECTED, [4, 0, 0, 0, 1])
    assert "would be created: 4" in report
    assert not projects_here(client)
    assert sql("SELECT count(*) FROM pulled_rows") == [(0,)]
    pull(backend.url)
    backend.update(ids[0], name="Changed")
    backend.delete(ids[1])
    before = projects_here(client)
    assert counts(pull(backend.url, "--dry-run")[1]) == [0, 1, 1, 0, 1]
    assert projects_here(client) == before
    assert pull(backend.url, "--dry-run", "--cut-over")[0] == 2


def test_owner_gets_the_new_projects(pull, backend, auth_app, auth_client, auth_headers):
    row_id = backend.create("Alice's")
    assert pull(backend.url, "--owner", "alice")[0] == 0
    headers = auth_headers("alice")
    assert auth_client.get(f"{PROJECTS}/{row_id}", headers=headers).json["owner"] == "alice"
    backend.update(row_id, name="Still Alice's")
    assert counts(pull(backend.url, "--owner", "bob")[1]) == [0, 1, 0, 0, 0]
    assert auth_client.get(f"{PROJECTS}/{row_id}", headers=headers).json["owner"] == "alice"


# Cut-over.


def test_cut_over_pulls_what_changed_until_the_switch_and_keeps_what_changed_here(
    backend, client, database_url
):
    unchanged, there, here, both, gone, deleted = fill(backend, 6)
    with pulling(database_url, backend.url, "--cut-over") as process:
        read_until_enter_is_expected(process)
        backend.update(there, name="There")
        backend.update(both, name="There")
        late = backend.create("Late")
        backend.delete(gone)
        for row_id in (here, both):
            client.put(f"{PROJECTS}/{row_id}", json={"name": "Here"})
        client.delete(f"{PROJECTS}/{deleted}")
        new = client.post(PROJECTS, json={"name": "New"}).json["id"]
        report, errors = process.communicate("\n", timeout=300)
    assert process.returncode == 0, errors
    names = {row_id: project["name"] for row_id, project in projects_here(client).items()}
    assert names == {
        **{unchanged: "프로젝트 0", there: "There", here: "Here", both: "Here"},
        **{late: "Late", new: "New"},
    }
    assert counts(report) == [7, 0, 1, 1, 0]  # `there` and `gone` were created before
    assert f"{both} was changed here" in report
    assert "Nothing was left behind" in report


def test_cut_over_without_an_enter_is_an_error_and_the_next_pull_completes_it(
    backend, pull, client, database_url
):
    fill(backend, 3)
    with pulling(database_url, backend.url, "--cut-over") as process:
        read_until_enter_is_expected(process)
        late = backend.create("Late")
        _, errors = process.communicate("", timeout=300)
    assert process.returncode == 1
    assert "After the switch, run the command again" in errors
    assert late not in projects_here(client)
    assert pull(backend.url)[0] == 0
    assert projects_here(client) == projects_there(backend)


def test_pull_checks_that_no_project_is_missing_here_at_its_end(backend, pull, client, sql):
    """Another program deletes a project, and all traces of it, after the first pass."""
    ids = fill(backend, 3)
    original = backend.respond

    def respond(target):
        if backend.requests["GET"] == 2:
            sql("DELETE FROM projects WHERE id = %s", ids[0])
            sql("DELETE FROM changes; DELETE FROM pulled_rows")
        return original(target)

    backend.respond = respond
    code, report, errors = pull(backend.url)
    assert code == 1
    assert "1 projects are not like those" in errors
    assert "Nothing was left behind" not in report


# The list of the old backend.


@pytest.mark.parametrize("suffix", ["", "/", LIST_PATH, f"{LIST_PATH}/"])
def test_url_may_have_the_path_of_the_list_and_a_trailing_slash(backend, pull, client, suffix):
    fill(backend, 2)
    for other in ("", suffix):
        assert pull(backend.url + other)[0] == 0
    assert projects_here(client) == projects_there(backend)
    backend.delete(next(iter(backend.projects)))
    assert counts(pull(backend.url + suffix)[1]) == [0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "ftp://localhost", "http://", "http://[::1", "http://a:99999", "x"),
        *("http://user:secret@localhost", "http://localhost/?page=1", "http://localhost/#a"),
        *("http://local host", "http://번역", "http://localhost\n", "http://localhost:0"),
    ],
)
def test_invalid_url_is_an_error(pull, url):
    code, _, errors = pull(url)
    assert code == 1
    assert "Error: The URL must" in errors
    assert "secret" not in errors


def respond_with(status, body, content_type="application/json"):
    return lambda target: (status, content_type, body)


def page_of(total, *items, **members):
    body = {"items": [*items], "total": total, "page": 1, "page_size": 100, **members}
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b'{"detail":"Not Found"}', "answers with status 404"),
        (500, b"Internal Server Error", "answers with status 500"),
        (401, b"", "answers with status 401"),
        (307, b"", "redirects to"),
        (200, b"<!doctype html><div id=app></div>", "sends an HTML page"),
        (200, b'{"items": [', "sends no valid JSON"),
        (200, b"", "sends no valid JSON"),
        (200, b"\xff\xfe", "sends no valid JSON"),
        (200, b"[" * 100_000, "sends no valid JSON"),
        (200, b'"text"', "sends no list"),
        (200, b'{"status": "ok"}', "sends no list"),
        (200, b'{"items": 7, "total": 1}', "sends no list"),
        (200, b'{"items": []}', "sends no list"),
        (200, page_of(0, next_cursor=None), "is the service projectapp itself"),
        (200, page_of(250), "The list ends early"),
        (200, page_of(10**9, *[{"id": 1}] * 100), "are the same, so the list does not end"),
    ],
)
def test_response_that_is_no_list_is_an_error(backend, pull, sql, status, body, message):
    backend.respond = respond_with(status, body)
    code, _, errors = pull(backend.url)
    assert code == 1
    assert message in errors
    assert backend.url in errors


def test_list_of_another_instance_of_this_service_is_an_error(server, pull, make_project):
    make_project()
    code, _, errors = pull(f"http://127.0.0.1:{server.port}")
    assert code == 1
    assert "use the commands export and import" in errors


def test_backend_that_does_not_run_is_an_error(pull):
    with serving(FastAPIBackend()) as backend:
        pass
    code, _, errors = pull(backend.url)
    assert code == 1
    assert "Check that the old backend runs" in errors


def test_error_in_a_later_page_keeps_what_was_stored_and_deletes_nothing(backend, pull, client):
    fill(backend, 250)
    pull(backend.url)
    before = projects_here(client)
    for row_id in [*backend.projects][:50]:
        backend.delete(row_id)
    original = backend.respond
    backend.respond = lambda target: (
        (503, "text/plain", b"") if "page=2&" in target else original(target)
    )
    code, _, errors = pull(backend.url)
    assert (code, projects_here(client)) == (1, before), errors


@pytest.mark.parametrize(
    ("limit", "value", "body", "message"),
    [
        ("MAX_RESPONSE_BYTES", 1000, b" " * 1001, "longer than 1000 bytes"),
        ("MAX_LIST_BYTES", 1000, b"[" + b" " * 1000 + b"]", "more than 1000 bytes"),
        ("MAX_ROWS", 10, json.dumps([{}] * 11).encode(), "more than 10 rows"),
    ],
)
def test_huge_response_is_an_error(backend, pull, monkeypatch, limit, value, body, message):
    monkeypatch.setattr(pull_source, limit, value)
    backend.respond = respond_with(200, body)
    code, _, errors = pull(backend.url)
    assert code == 1
    assert message in errors


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("MAX_ROWS", 1000, "or it does not end"), ("MAX_LIST_BYTES", 50_000, "more than 50000 bytes")],
)
def test_list_that_does_not_end_is_an_error(backend, pull, monkeypatch, limit, value, message):
    monkeypatch.setattr(pull_source, limit, value)

    def respond(target):
        items = [{"id": str(uuid7())} for _ in range(100)]
        return 200, "application/json", page_of(10**12, *items)

    backend.respond = respond
    code, _, errors = pull(backend.url)
    assert code == 1
    assert message in errors


@contextmanager
def raw_server(*parts):
    """Accept connections, send the parts, then close, or wait if the last part is None."""
    stop = threading.Event()

    def serve(listener):
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65536)
                    for part in parts:
                        if part is None:
                            while not stop.wait(0.02):
                                connection.sendall(b"x")
                        else:
                            connection.sendall(part)

    with socket.create_server(("127.0.0.1", free_port())) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [(None,), (HEAD, None), (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n", None)],
    ids=["status line", "body", "chunk"],
)
def test_response_that_never_ends_is_an_error(pull, monkeypatch, parts):
    monkeypatch.setattr(pull_source, "RESPONSE_DEADLINE_SECONDS", 0.5)
    with raw_server(*parts) as url:
        code, _, errors = pull(url)
    assert code == 1
    assert "the response took 0.5 s or more" in errors


def test_response_that_does_not_begin_is_an_error(pull, monkeypatch):
    monkeypatch.setattr(pull_source, "READ_TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        code, _, errors = pull(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert code == 1
    assert "timed out" in errors


@pytest.mark.parametrize("parts", [(HEAD, b"[]"), (b"",), (b"SSH-2.0-OpenSSH\r\n",)])
def test_response_that_is_cut_off_is_an_error(pull, parts):
    with raw_server(*parts) as url:
        code, _, errors = pull(url)
    assert code == 1
    assert "cannot be read" in errors


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 302 Found\r\nLocation: http://x/\x1b[2J\r\n\r\n", b"SSH\x1b]0;title\x07\r\n"],
)
def test_response_head_is_printed_without_control_characters(pull, head):
    with raw_server(head) as url:
        code, _, errors = pull(url)
    assert code == 1
    assert "\\u001b" in errors
    assert "\x1b" not in errors


def test_row_of_any_depth_is_rejected_or_an_error(backend, pull):
    for depth in range(900, 1000):  # which one is too much depends on the version of Python
        value = b"[" * depth + b"]" * depth
        backend.respond = respond_with(200, b'[{"id": 7, "name": "x", "a": ' + value + b"}]")
        code, report, errors = pull(backend.url)
        is_rejected = code == SOME_REJECTED and "rejected: 1" in report
        assert is_rejected or "no valid JSON" in errors or "too many levels" in errors


def test_rejected_text_is_printed_without_control_characters(backend, pull):
    backend.create("Bad", id="\x1b[2J\n")
    report = pull(backend.url)[1]
    assert "\x1b" not in report
    assert "\\u001b[2J\\u000a" in report
