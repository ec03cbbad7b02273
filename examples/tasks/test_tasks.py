"""What is special about tasks: they belong to a project. tests/test_resources.py has the rest."""

import threading

import psycopg2
import pytest

from projectapp.resources.lists import _list_spec
from projectapp.tasks.models import TASKS as RESOURCE
from tests.conftest import PROJECTS, parameters_of

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


def test_a_project_lists_only_its_tasks(client, make_project, make_task):
    first, second = make_project(), make_project()
    tasks = [make_task(first), make_task(second), make_task(first)]
    assert [task["project_id"] for task in tasks] == [first["id"], second["id"], first["id"]]
    assert client.get(f"{PROJECTS}/{first['id']}/tasks").json["items"] == [tasks[2], tasks[0]]
    assert client.get(TASKS).json["items"] == tasks[::-1]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a"}])
def test_a_task_needs_a_project(client, problem, key):
    path = f"{PROJECTS}/{MISSING}/tasks"
    problem(client.get(path), 404)
    problem(client.post(path, json={"title": "x"}, headers=key), 404)
    assert client.get(TASKS).json["total"] == 0


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "a"}])
@pytest.mark.parametrize("scopes", [SCOPES, "tasks:all", "projects:read,tasks:all"])
def test_a_task_cannot_be_created_in_the_project_of_another(guarded, bearer, problem, key, scopes):
    alice = bearer("alice", SCOPES)
    project = guarded.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}/tasks"
    bob = bearer("bob", scopes)
    problem(guarded.get(path, headers=bob), 404)
    problem(guarded.post(path, json={"title": "x"}, headers={**bob, **key}), 404)
    assert guarded.get(TASKS, headers=alice).json["total"] == 0


def test_a_caller_with_all_tasks_sees_only_own_projects(guarded, bearer):
    alice, bob = bearer("alice", SCOPES), bearer("bob", "projects:read,tasks:all")
    project = guarded.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}/tasks"
    task = guarded.post(path, json={"title": "x"}, headers=alice).json
    assert guarded.get(TASKS, headers=bob).json["items"] == [task]
    assert guarded.get(PROJECTS, headers=bob).json["items"] == []
    assert guarded.get(path, headers=bob).status_code == 404


def test_a_task_gets_the_owner_of_its_project(guarded, bearer):
    alice, admin = bearer("alice", SCOPES), bearer("carol", "projects:all,tasks:all")
    project = guarded.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}/tasks"
    task = guarded.post(path, json={"title": "x"}, headers=admin).json
    assert task["owner"] == "alice"
    assert guarded.get(f"{TASKS}/{task['id']}", headers=alice).json == task


def test_the_same_key_below_two_projects_is_not_the_same_request(client, make_project, problem):
    key, first, second = {"Idempotency-Key": "a"}, make_project(), make_project()
    for project, status in ((first, 201), (second, 422), (first, 201)):
        path = f"{PROJECTS}/{project['id']}/tasks"
        assert client.post(path, json={"title": "x"}, headers=key).status_code == status
    assert client.get(TASKS).json["total"] == 1


def test_tasks_are_deleted_with_their_project(client, make_project, make_task):
    project = make_project()
    task, kept = make_task(project), make_task()
    assert client.delete(f"{PROJECTS}/{project['id']}").status_code == 204
    assert client.get(f"{TASKS}/{task['id']}").status_code == 404
    assert client.get(TASKS).json["items"] == [kept]


def test_a_project_that_must_keep_its_tasks_is_not_deleted(client, make_task, problem, sql):
    task = make_task()
    path = f"{PROJECTS}/{task['project_id']}"
    change = "ALTER TABLE tasks DROP CONSTRAINT tasks_project_id_fkey, ADD FOREIGN KEY (project_id)"
    sql(f"{change} REFERENCES projects ON DELETE RESTRICT")
    try:
        detail = problem(client.delete(path), 409, "conflict")["detail"]
        assert detail == "It still has tasks. Delete them first."
        assert client.get(path).status_code == 200
    finally:
        sql(f"{change} REFERENCES projects ON DELETE CASCADE")


def test_a_task_that_is_created_while_its_project_is_assigned_gets_the_new_owner(
    app, client, make_project, sql, direct_url
):
    project = make_project()
    path = f"{PROJECTS}/{project['id']}/tasks"
    # The row lock stands for an assignment that is not committed yet.
    assignment = psycopg2.connect(**parameters_of(direct_url))
    with assignment.cursor() as cursor:
        cursor.execute("UPDATE projects SET owner = 'bob' WHERE id = %s", (project["id"],))
    created = []
    thread = threading.Thread(
        target=lambda: created.append(app.test_client().post(path, json={"title": "x"}).json)
    )
    thread.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while sql(waiting) == [(0,)]:
        assert thread.is_alive()
    assignment.commit()
    assignment.close()
    thread.join()
    assert created[0]["owner"] == "bob"


@pytest.mark.parametrize("value", ["2026-01-31", "2026-01-31T09:00:00", 5, "9999-99-99T00:00:00Z"])
def test_an_invalid_time_is_refused(client, make_project, problem, value):
    path = f"{PROJECTS}/{make_project()['id']}/tasks"
    response = client.post(path, json={"title": "x", "due_at": value})
    assert "due_at" in problem(response, 400, "validation_error")["details"]


@pytest.mark.parametrize("value", [2**31, 1.0, "1", True, None])
def test_an_invalid_priority_is_refused(client, make_project, problem, value):
    path = f"{PROJECTS}/{make_project()['id']}/tasks"
    response = client.post(path, json={"title": "x", "priority": value})
    assert "priority" in problem(response, 400, "validation_error")["details"]


def test_a_time_is_stored_in_utc(make_task):
    task = make_task(due_at="2026-01-31T09:00:00.5+09:00")
    assert task["due_at"] == "2026-01-31T00:00:00.500000Z"


def test_an_index_serves_every_filter_of_the_list_of_a_project(client):
    spec = _list_spec(RESOURCE, frozenset({"project_id"}), (), is_restricted=True)
    assert all(filter_.follows_order for filter_ in spec.filters)
