"""What is special about tasks: they belong to a project. tests/test_resources.py has the rest."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest

from projectapp.resources.lists import list_spec
from projectapp.tasks.models import TASKS as RESOURCE
from tests.conftest import PROJECTS, parameters_of
from tests.plans import compare_plans

MISSING = "01900000-0000-7000-8000-000000000000"
TASKS = "/api/v1/tasks"
SCOPES = "projects:read,projects:write,tasks:read,tasks:write"


@pytest.fixture
def make_task(client, make_project):
    def make(project=None, **values):
        project = project or make_project()
        path = f"{PROJECTS}/{project['id']}/tasks"
        response = client.post(path, json={"title": "A task", **values})
        assert response.status_code == 201, response.text
        return response.json

    return make


def test_the_list_of_a_project_has_only_its_tasks(client, make_project, make_task):
    first, second = make_project(), make_project()
    tasks = [make_task(first), make_task(second), make_task(first)]
    assert [task["project_id"] for task in tasks] == [first["id"], second["id"], first["id"]]
    assert client.get(f"{PROJECTS}/{first['id']}/tasks").json["items"] == [tasks[2], tasks[0]]
    assert client.get(TASKS).json["items"] == tasks[::-1]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a"}])
def test_the_tasks_of_a_missing_project_get_a_404(client, problem, key):
    path = f"{PROJECTS}/{MISSING}/tasks"
    problem(client.get(path), 404, "not_found")
    problem(client.post(path, json={"title": "x"}, headers=key), 404, "not_found")
    assert client.get(TASKS).json["total"] == 0


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a"}])
def test_many_tasks_are_created_in_the_project_of_the_path(client, make_project, problem, key):
    project, other = make_project(), make_project()
    items = [{"title": f"{n}", "project_id": other["id"], "priority": n} for n in range(1000)]
    path = f"{PROJECTS}/{project['id']}/tasks"
    tasks = client.post(path, json=items, headers=key).json["items"]
    assert [(task["title"], task["priority"]) for task in tasks] == [
        (item["title"], item["priority"]) for item in items
    ]
    assert {task["project_id"] for task in tasks} == {project["id"]}
    missing = f"{PROJECTS}/{MISSING}/tasks"
    for headers in ({}, {"Idempotency-Key": "b"}):
        problem(client.post(missing, json=items, headers=headers), 404, "not_found")
    assert client.get(TASKS).json["total"] == 1000


def test_a_project_id_in_a_body_is_ignored(client, make_project, make_task):
    other = make_project()
    task = make_task(project_id=other["id"])
    assert task["project_id"] != other["id"]
    for method in ("PUT", "PATCH"):
        body = {"project_id": other["id"]}
        assert client.open(f"{TASKS}/{task['id']}", method=method, json=body).json == task


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a"}])
@pytest.mark.parametrize("scopes", [SCOPES, "tasks:all", "projects:read,tasks:all"])
def test_a_task_in_a_project_of_another_owner_gets_a_404_and_is_not_stored(
    auth_client, auth_headers, problem, sql, key, scopes
):
    alice = auth_headers("alice", SCOPES)
    project = auth_client.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}/tasks"
    bob = auth_headers("bob", scopes)
    problem(auth_client.get(path, headers=bob), 404, "not_found")
    for body in ({"title": "x"}, [{"title": "x"}, {"title": "y"}]):
        response = auth_client.post(path, json=body, headers={**bob, **key})
        problem(response, 404, "not_found")
    assert sql("SELECT count(*) FROM tasks") == [(0,)]
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


def test_a_caller_with_tasks_all_sees_all_tasks_but_only_own_projects(auth_client, auth_headers):
    alice, bob = auth_headers("alice", SCOPES), auth_headers("bob", "projects:read,tasks:all")
    project = auth_client.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}/tasks"
    task = auth_client.post(path, json={"title": "x"}, headers=alice).json
    assert auth_client.get(TASKS, headers=bob).json["items"] == [task]
    assert auth_client.get(PROJECTS, headers=bob).json["items"] == []
    assert auth_client.get(path, headers=bob).status_code == 404


def test_a_caller_with_projects_all_sees_all_projects_but_only_own_tasks(auth_client, auth_headers):
    alice, bob = (
        auth_headers("alice", SCOPES),
        auth_headers("bob", "projects:all,tasks:read,tasks:write"),
    )
    project = auth_client.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}/tasks"
    task = auth_client.post(path, json={"title": "x"}, headers=alice).json
    assert auth_client.get(PROJECTS, headers=bob).json["items"] == [project]
    for list_path in (path, TASKS):
        assert auth_client.get(list_path, headers=bob).json["items"] == []
    assert auth_client.get(f"{TASKS}/{task['id']}", headers=bob).status_code == 404
    assert auth_client.delete(f"{TASKS}/{task['id']}", headers=bob).status_code == 404
    assert auth_client.get(path, headers=alice).json["items"] == [task]


def test_a_task_that_an_admin_creates_gets_the_owner_of_its_project(auth_client, auth_headers):
    alice, admin = auth_headers("alice", SCOPES), auth_headers("carol", "projects:all,tasks:all")
    project = auth_client.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}/tasks"
    task = auth_client.post(path, json={"title": "x"}, headers=admin).json
    assert task["owner"] == "alice"
    assert auth_client.get(f"{TASKS}/{task['id']}", headers=alice).json == task


def test_a_key_that_was_used_in_another_project_gets_a_422(client, make_project, problem):
    def create(project):
        path = f"{PROJECTS}/{project['id']}/tasks"
        return client.post(path, json={"title": "x"}, headers={"Idempotency-Key": "a"})

    first, second = make_project(), make_project()
    task = create(first).json
    problem(create(second), 422, "idempotency_key_reused")
    assert create(first).json == task
    assert client.get(TASKS).json["items"] == [task]


def test_tasks_are_deleted_with_their_project(client, make_project, make_task):
    project = make_project()
    task, other_task = make_task(project), make_task()
    assert client.delete(f"{PROJECTS}/{project['id']}").status_code == 204
    assert client.get(f"{TASKS}/{task['id']}").status_code == 404
    assert client.get(TASKS).json["items"] == [other_task]


def test_a_delete_of_a_project_with_restricted_tasks_gets_a_409(client, make_task, problem, sql):
    task = make_task()
    path = f"{PROJECTS}/{task['project_id']}"
    change = "ALTER TABLE tasks DROP CONSTRAINT tasks_project_id_fkey, ADD FOREIGN KEY (project_id)"
    sql(f"{change} REFERENCES projects ON DELETE RESTRICT")
    try:
        detail = problem(client.delete(path), 409, "conflict")["detail"]
        assert detail == "It still has tasks. Delete them first."
        assert client.get(path).status_code == 200
        assert client.get(TASKS).json["items"] == [task]
    finally:
        sql(f"{change} REFERENCES projects ON DELETE CASCADE")


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a"}])
def test_a_task_created_while_its_project_is_assigned_gets_the_new_owner(
    app, make_project, sql, direct_url, key
):
    path = f"{PROJECTS}/{make_project()['id']}/tasks"
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with closing(psycopg2.connect(**parameters_of(direct_url))) as connection:
        with connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
            cursor.execute("UPDATE projects SET owner = 'bob'")  # an assignment, not yet committed
            create = pool.submit(app.test_client().post, path, json={"title": "x"}, headers=key)
            while sql(waiting) == [(0,)]:
                assert not create.done(), "the create waits for the assignment"
            connection.commit()
        assert create.result().json["owner"] == "bob"
    assert sql("SELECT owner FROM tasks") == [("bob",)]


@pytest.mark.parametrize("value", ["2026-01-31", "2026-01-31T09:00:00", 5, "9999-99-99T00:00:00Z"])
def test_an_invalid_due_at_gets_a_400(client, make_project, problem, value):
    path = f"{PROJECTS}/{make_project()['id']}/tasks"
    response = client.post(path, json={"title": "x", "due_at": value})
    assert "due_at" in problem(response, 400, "validation_error")["details"]


def test_an_integer_with_a_fraction_of_zero_is_an_integer(make_task):
    assert make_task(priority=7.0)["priority"] == 7


@pytest.mark.parametrize("value", [2**31, 1.5, "1", True, None])
def test_an_invalid_priority_gets_a_400(client, make_project, problem, value):
    path = f"{PROJECTS}/{make_project()['id']}/tasks"
    response = client.post(path, json={"title": "x", "priority": value})
    assert "priority" in problem(response, 400, "validation_error")["details"]


def test_due_at_is_returned_in_utc(make_task):
    task = make_task(due_at="2026-01-31T09:00:00.5+09:00")
    assert task["due_at"] == "2026-01-31T00:00:00.500000Z"


def test_an_index_serves_every_filter_of_a_projects_list(client):
    spec = list_spec(RESOURCE, frozenset({"project_id"}), (), is_restricted=True)
    assert all(filter_.follows_order for filter_ in spec.filters)


def test_a_prepared_list_of_tasks_reads_no_more_than_its_text(client, make_project, sql):
    sql(
        "INSERT INTO tasks (id, project_id, title, is_done, created_at)"
        " SELECT gen_random_uuid(), %s, md5(n::text), n %% 10 <> 0, now() + n / 10 * interval '1 s'"
        " FROM generate_series(1, 50000) AS n",
        make_project()["id"],
    )
    sql("VACUUM ANALYZE tasks")
    for sort in ("-created_at", "title", "-is_done,title"):
        for state in ("", "&is_done=true", "&is_done=false"):
            compare_plans(client, [("GET", f"{TASKS}?sort={sort}{state}", {})] * 3)


def test_the_feed_of_tasks_has_only_their_changes(client, make_project, make_task):
    task = make_task()
    task_path = f"{TASKS}/{task['id']}"
    changed = client.put(task_path, json={"is_done": True}).json
    client.delete(f"{PROJECTS}/{task['project_id']}")  # and its task with it
    items = client.get(f"{TASKS}/changes?since=start").json["items"]
    assert [(item["operation"], item["task"]) for item in items] == [
        ("create", task),
        ("update", changed),
        ("delete", None),
    ]


def test_tasks_are_imported_into_the_projects_that_their_lines_name(
    app, client, make_project, sql, tmp_path
):
    first, second = make_project(), make_project()
    sql("UPDATE projects SET owner = 'alice' WHERE id = %s", second["id"])
    lines = [
        "project_id,title,priority",
        f"{first['id']},first,7",
        f"{second['id']},second,",
        f"{second['id']},third,1",
        f"{MISSING},of no project,1",
        "x,of no project,1",
    ]
    path, errors = tmp_path / "tasks.csv", tmp_path / "errors.csv"
    path.write_text("\n".join(lines))
    command = ["tasks", "import", str(path), "--errors", str(errors)]
    result = app.test_cli_runner().invoke(args=command)
    assert result.stdout.startswith("Imported tasks.csv: 2 rows, 3 rejected.")
    assert sql("SELECT project_id::text, title, priority, owner FROM tasks ORDER BY id") == [
        (first["id"], "first", 7, None),
        (second["id"], "third", 1, "alice"),
    ]
    rejected = errors.read_text().splitlines()[1:]
    assert '"3","priority","Field may not be null."' in rejected[0]
    assert '"5","project_id","There are no projects with this id."' in rejected[1]
    assert '"6","project_id","Not a valid UUID."' in rejected[2]
    result = app.test_cli_runner().invoke(args=[*command, "--owner", "bob"])
    assert result.exit_code == 1
    assert "tasks have the owners of their projects: leave out --owner." in result.stderr


@pytest.mark.parametrize("suffix", ["ndjson", "csv"])
def test_tasks_that_are_changed_and_exported_are_imported_again(
    app, client, make_project, make_task, sql, tmp_path, suffix
):
    first, second = make_project(), make_project()
    sql("UPDATE projects SET owner = 'alice' WHERE id = %s", second["id"])
    tasks = [
        make_task(first, title="=1+1", notes="", due_at="2026-01-31T09:00:00.5+09:00"),
        make_task(second, title="번역", notes=None, priority=7),
        make_task(second, title="not exported"),
    ]
    items = [{"id": task["id"], "version": 1, "is_done": True} for task in tasks[:2]]
    changed = client.patch(TASKS, json=items).json["items"]
    assert [(task["title"], task["is_done"], task["version"]) for task in changed] == [
        ("=1+1", True, 2),
        ("번역", True, 2),
    ]
    lines = client.get(f"{TASKS}/export?is_done=true").text.splitlines()
    assert [json.loads(line) for line in lines] == changed
    path = str(tmp_path / f"tasks.{suffix}")
    runner = app.test_cli_runner()
    assert runner.invoke(args=["tasks", "export", path, "--query", "is_done=true"]).exit_code == 0
    stored = "SELECT project_id, title, notes, is_done, priority, due_at, owner FROM tasks"
    rows = sql(f"{stored} WHERE is_done ORDER BY id")
    sql("DELETE FROM tasks")
    result = runner.invoke(args=["tasks", "import", path])
    assert result.exit_code == 0, result.output
    assert sql(f"{stored} ORDER BY id") == rows
