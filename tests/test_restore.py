"""Restore: an older version of a project, or a deleted project with its id."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import PROJECTS

MISSING = "01900000-0000-7000-8000-000000000000"
CONTENT = ("name", "description", "is_active", "attributes")


def content(project):
    return {name: project[name] for name in CONTENT}


@pytest.fixture
def three_versions(client, make_project):
    """A project with the versions 1 to 3, as they were read."""
    first = make_project(description="번역", attributes={"a": {"b": 1.0}})
    path = f"{PROJECTS}/{first['id']}"
    second = client.patch(path, json={"name": "B", "attributes": {"a": None, "c": 1}}).json
    third = client.put(path, json={"name": "C", "is_active": False, "description": None}).json
    return path, [first, second, third]


def operations(client, path):
    items = client.get(f"{path}/history?page_size=100").json["items"]
    return [(item["operation"], item["version"]) for item in reversed(items)]


def test_restore_makes_the_project_what_it_was_with_a_new_version(client, three_versions):
    path, versions = three_versions
    response = client.post(f"{path}/restore", json={"version": 1})
    assert (response.status_code, response.headers["ETag"]) == (200, '"4"')
    assert content(response.json) == content(versions[0])
    assert response.json["version"] == 4
    assert response.json["created_at"] == versions[0]["created_at"]
    assert response.json["updated_at"] > versions[2]["updated_at"]
    assert client.get(path).json == response.json
    [newest, *_] = client.get(f"{path}/history").json["items"]
    assert newest["changed"] == [*CONTENT]
    assert newest["project"] == response.json
    assert operations(client, path)[2:] == [("update", 3), ("restore", 4)]


@pytest.mark.parametrize("body", [{}, {"version": 3}])
def test_restore_that_changes_nothing_keeps_the_version(client, three_versions, body):
    path, versions = three_versions
    response = client.post(f"{path}/restore", json=body)
    assert (response.status_code, response.json) == (200, versions[2])
    assert response.headers["ETag"] == '"3"'
    assert len(operations(client, path)) == 3


def test_restore_of_an_existing_project_without_a_version_writes_nothing(
    make_app, three_versions, proxy
):
    """A write could undo a change that another client makes at the same time."""
    path, versions = three_versions
    client = make_app(DATABASE_URL=proxy.url).test_client()
    client.get(path)
    for _ in range(2):
        proxy.queries.clear()
        assert client.post(f"{path}/restore", json={}).json == versions[2]
        assert not [query for query in proxy.queries if "UPDATE" in query or "INSERT" in query]


def test_restore_of_a_version_with_the_same_values_keeps_the_version(client, three_versions):
    path, _ = three_versions
    restored = client.post(f"{path}/restore", json={"version": 2}).json
    assert client.post(f"{path}/restore", json={"version": 2}).json == restored
    assert client.post(f"{path}/restore", json={"version": 4}).json == restored


@pytest.mark.parametrize(("body", "version"), [({}, 3), ({"version": 3}, 3), ({"version": 1}, 1)])
def test_restore_of_a_deleted_project_continues_its_versions(
    client, three_versions, problem, body, version
):
    path, versions = three_versions
    client.delete(path)
    response = client.post(f"{path}/restore", json=body)
    assert (response.status_code, response.headers["ETag"]) == (200, '"5"')
    assert response.json == {
        **versions[version - 1],
        "version": 5,
        "updated_at": response.json["updated_at"],
    }
    assert response.json["updated_at"] > versions[2]["updated_at"]
    assert client.get(path).json == response.json
    assert operations(client, path)[3:] == [("delete", 4), ("restore", 5)]
    [newest, *_] = client.get(f"{path}/history").json["items"]
    assert (newest["changed"], newest["project"]) == ([], response.json)
    for old in range(1, 5):
        headers = {"If-Match": f'"{old}"'}
        problem(client.put(path, json={"name": "lost"}, headers=headers), 412)


def test_restored_project_can_be_changed_deleted_and_restored_again(client, three_versions):
    path, _ = three_versions
    for _ in range(2):
        client.delete(path)
        client.post(f"{path}/restore", json={})
        client.put(path, json={"name": "again"})
        client.put(path, json={"name": "and again"})
    assert [version for _, version in operations(client, path)] == [*range(1, 12)]
    assert client.post(f"{path}/restore", json={"version": 5}).json["name"] == "C"


@pytest.mark.parametrize("is_deleted", [False, True])
@pytest.mark.parametrize("version", [4, 5, 2**31 - 1])
def test_restore_of_an_unknown_version_gets_a_404(
    client, three_versions, problem, version, is_deleted
):
    path, _ = three_versions
    if is_deleted:  # version 4 is the delete, after which there was no project
        client.delete(path)
    problem(client.post(f"{path}/restore", json={"version": version}), 404, "not_found")


@pytest.mark.parametrize("body", [{}, {"version": 1}])
def test_restore_of_an_unknown_project_gets_a_404(client, problem, body):
    problem(client.post(f"{PROJECTS}/{MISSING}/restore", json=body), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        *(({"version": value}, "version") for value in (0, -1, 2**31, "1", 1.5, True, None, [1])),
        *(({"name": "x"}, "name"), ({"version": 1, "Version": 1}, "Version")),
    ],
)
def test_restore_with_an_invalid_body_gets_a_400_that_names_the_field(
    client, three_versions, problem, body, field
):
    path, versions = three_versions
    response = client.post(f"{path}/restore", json=body)
    assert [*problem(response, 400, "validation_error")["details"]] == [field]
    assert client.get(path).json == versions[2]


def test_restore_without_json_gets_a_415(client, three_versions, problem):
    problem(client.post(f"{three_versions[0]}/restore"), 415)


@pytest.mark.parametrize("body", [{}, {"version": 1}, {"version": 3}])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        *(({"If-Match": '"3"'}, 200), ({"If-Match": "*"}, 200), ({"If-Match": '"2", "3"'}, 200)),
        *(({"If-Match": '"2"'}, 412), ({"If-None-Match": "*"}, 412)),
        *(({"If-None-Match": '"3"'}, 412), ({"If-None-Match": '"2"'}, 200)),
        ({"If-Match": "3"}, 400),
    ],
)
def test_restore_of_an_existing_project_has_the_preconditions_of_a_put(
    client, three_versions, body, headers, status
):
    path, versions = three_versions
    response = client.post(f"{path}/restore", json=body, headers=headers)
    assert response.status_code == status
    if status == 412:
        assert response.headers["ETag"] == '"3"'
    if status != 200:
        assert client.get(path).json == versions[2]


@pytest.mark.parametrize("body", [{}, {"version": 1}])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        *(({"If-Match": '"3"'}, 412), ({"If-Match": '"4"'}, 412), ({"If-Match": "*"}, 412)),
        *(({"If-None-Match": "*"}, 200), ({"If-None-Match": '"3"'}, 200)),
    ],
)
def test_restore_of_a_deleted_project_with_if_match_gets_a_412(
    client, three_versions, body, headers, status
):
    path, _ = three_versions
    client.delete(path)
    response = client.post(f"{path}/restore", json=body, headers=headers)
    assert response.status_code == status
    assert client.get(path).status_code == (404 if status == 412 else 200)


def test_restore_keeps_all_digits_of_numbers_in_attributes(client, make_project, sql):
    numbers = '{"a": 1.10, "b": 12345678901234567890.1234567890123456789, "c": ' + "9" * 5000 + "}"
    project = make_project()
    path = f"{PROJECTS}/{project['id']}"
    sql("UPDATE projects SET attributes = %s", numbers)
    stored = sql("SELECT attributes::text FROM projects")
    client.patch(path, json={"attributes": {"b": 1}})
    assert client.post(f"{path}/restore", json={"version": 2}).status_code == 200
    assert sql("SELECT attributes::text FROM projects") == stored
    client.delete(path)
    assert client.post(f"{path}/restore", json={}).status_code == 200
    assert sql("SELECT attributes::text FROM projects") == stored


def test_restore_of_values_that_are_invalid_today_gets_a_400_that_names_the_field(
    client, three_versions, problem, sql
):
    path, versions = three_versions
    name = json.dumps({"name": "x" * 201})  # an earlier release permitted it
    sql("UPDATE changes SET old_values = old_values || %s WHERE version = 2", name)
    response = client.post(f"{path}/restore", json={"version": 1})
    assert [*problem(response, 400, "validation_error")["details"]] == ["name"]
    assert client.get(path).json == versions[2]


def test_restore_sets_a_column_that_was_added_later_to_its_default(client, three_versions, sql):
    path, _ = three_versions
    sql("UPDATE changes SET old_values = old_values - 'is_active' WHERE version = 2")
    restored = client.post(f"{path}/restore", json={"version": 1}).json
    assert restored["is_active"] is True


def test_restore_of_a_version_that_a_row_made_by_hand_has_again(client, three_versions, sql):
    path, versions = three_versions
    client.delete(path)
    sql("INSERT INTO projects (id, name) VALUES (%s, 'By hand')", path.rpartition("/")[2])
    by_hand = client.get(path).json
    assert client.post(f"{path}/restore", json={"version": 1}).json == by_hand
    client.delete(path)  # which has version 2
    assert client.post(f"{path}/restore", json={}).json["version"] == 3
    restored = client.post(f"{path}/restore", json={"version": 2}).json
    assert content(restored) == content(versions[1])


def test_restore_makes_the_project_searchable_by_its_old_text(client, three_versions):
    path, _ = three_versions
    client.delete(path)
    client.post(f"{path}/restore", json={"version": 1})
    assert client.get(f"{PROJECTS}?q=번역").json["total"] == 1


def test_row_that_an_administrator_restores_belongs_to_its_last_owner(
    auth_client, auth_headers, problem
):
    alice, bob, admin = auth_headers(), auth_headers("bob"), auth_headers("carol", "projects:all")
    project = auth_client.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}"
    for caller in (alice, admin):
        auth_client.delete(path, headers=alice)
        for method, target in (("POST", "/restore"), ("GET", "/history")):
            options = {"json": {}} if method == "POST" else {}
            response = auth_client.open(path + target, method=method, headers=bob, **options)
            problem(response, 404, "not_found")
        restored = auth_client.post(f"{path}/restore", json={}, headers=caller).json
        assert restored["owner"] == "alice"
    items = auth_client.get(f"{path}/history", headers=alice).json["items"]
    assert [(item["operation"], item["caller"]) for item in items] == [
        *(("restore", "carol"), ("delete", "alice"), ("restore", "alice")),
        *(("delete", "alice"), ("create", "alice")),
    ]


def test_history_of_an_assigned_project_is_its_new_owners(auth_client, auth_headers, problem, sql):
    alice, bob = auth_headers(), auth_headers("bob")
    project = auth_client.post(PROJECTS, json={"name": "x"}, headers=alice).json
    path = f"{PROJECTS}/{project['id']}"
    created = auth_client.get(f"{path}/history", headers=alice).json["items"][0]
    sql("UPDATE projects SET owner = 'bob'")
    as_of = f"?as_of={created['at']}"
    for _ in range(2):
        for target in ("/history", as_of):
            problem(auth_client.get(path + target, headers=alice), 404)
        assert auth_client.get(path + as_of, headers=bob).json == project
        newest, first = auth_client.get(f"{path}/history", headers=bob).json["items"][-2:]
        assert (newest["changed"], first["project"]["owner"]) == (["owner"], "alice")
        response = auth_client.post(f"{path}/restore", json={"version": 1}, headers=bob)
        assert response.json["owner"] == "bob"
        auth_client.delete(path, headers=bob)


def race(count, function):
    """Call the function with the numbers from 0, in as many threads at the same time."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        return function(number)

    with ThreadPoolExecutor(count) as pool:
        return [*pool.map(run, range(count))]


def test_of_simultaneous_restores_of_a_deleted_project_one_inserts_it(app, client, make_project):
    for _ in range(10):
        path = f"{PROJECTS}/{make_project()['id']}"
        client.delete(path)
        responses = race(6, lambda _, path=path: app.test_client().post(f"{path}/restore", json={}))
        assert {response.status_code for response in responses} == {200}
        assert {response.json["version"] for response in responses} == {3}
        assert operations(client, path) == [("create", 1), ("delete", 2), ("restore", 3)]


def test_versions_are_unique_when_restores_changes_and_deletes_race(app, client, make_project):
    """Each request that reports success is in the history, once, and nothing else is."""
    project = make_project()
    path = f"{PROJECTS}/{project['id']}"
    client.put(path, json={"name": "B"})
    successes = []

    def use(number):
        client = app.test_client()
        for turn in range(25):
            name = f"{number} {turn}"
            kind = (number + turn) % 4
            if kind == 0:
                response = client.delete(path)
            elif kind == 1:
                response = client.put(path, json={"name": name})
            elif kind == 2:
                response = client.post(f"{path}/restore", json={})
            else:
                response = client.post(f"{path}/restore", json={"version": 1})
            assert response.status_code in (200, 204, 404, 409), response.text
            if response.status_code == 200:
                successes.append((kind, response.json))
            elif response.status_code == 204:
                successes.append((kind, None))

    race(6, use)
    items, cursor = [], ""
    while cursor is not None:
        page = client.get(f"{path}/history?page_size=100{cursor and f'&cursor={cursor}'}").json
        items += page["items"]
        cursor = page["next_cursor"]
    items.reverse()
    assert [item["version"] for item in items] == [*range(1, len(items) + 1)]
    exists = False
    for item in items:
        assert exists == (item["operation"] in ("update", "delete") or bool(item["changed"]))
        exists = item["operation"] != "delete"
        assert (item["project"] is not None) == exists
        if exists:
            assert item["project"]["version"] == item["version"]
    kinds = [kind for kind, _ in successes]
    assert kinds.count(0) == len([i for i in items if i["operation"] == "delete"])
    rows = {item["version"]: item["project"] for item in items}
    for _, row in successes:
        assert row is None or rows[row["version"]] == row
    for kind, row in successes:
        if kind == 1:
            assert [item["version"] for item in items].count(row["version"]) == 1


def test_of_two_restores_that_wait_for_one_delete_only_one_inserts(app, client, make_project, sql):
    """The first got its snapshot and waits for a lock. Then a restore and a delete commit."""
    path = f"{PROJECTS}/{make_project()['id']}"
    client.delete(path)
    (key,) = sql("SELECT hashtextextended('projects' || %s, 0)", path.rpartition("/")[2])[0]
    sql("SELECT pg_advisory_lock(%s)", key)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: app.test_client().post(f"{path}/restore", json={}))
        while not sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            assert not waiting.done(), waiting.result().text
        # What the other restore and the delete commit.
        sql(
            "INSERT INTO projects (id, name, version) VALUES (%s, 'other', 3);"
            " DELETE FROM projects",
            path.rpartition("/")[2],
        )
        sql("SELECT pg_advisory_unlock(%s)", key)
        response = waiting.result()
    assert (response.status_code, response.json["version"]) == (200, 5)
    assert response.json["name"] == "other"
    assert operations(client, path) == [
        *(("create", 1), ("delete", 2), ("create", 3), ("delete", 4), ("restore", 5)),
    ]


@pytest.fixture
def proxied_client(make_app, proxy, sql):
    """A client whose connections to the database lead through `proxy`."""
    client = make_app(DATABASE_URL=proxy.url).test_client()
    assert client.get("/ready").status_code == 200
    return client


@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_restore_of_a_deleted_project_with_a_lost_answer_has_one_effect(
    proxied_client, client, three_versions, proxy, fault
):
    path, _ = three_versions
    client.delete(path)
    getattr(proxy, fault).append("INSERT INTO projects")
    response = proxied_client.post(f"{path}/restore", json={"version": 2})
    assert (response.status_code, response.json["version"]) == (200, 5)
    assert proxy.lose == proxy.drop == []
    assert client.get(path).json == response.json
    assert operations(client, path)[3:] == [("delete", 4), ("restore", 5)]


def test_restore_of_a_version_with_a_lost_answer_has_one_effect(
    proxied_client, client, three_versions, proxy
):
    path, _ = three_versions
    proxy.lose.append("UPDATE projects SET")
    response = proxied_client.post(f"{path}/restore", json={"version": 2})
    assert (response.status_code, response.json["version"]) == (200, 4)
    assert proxy.lose == []
    assert operations(client, path)[3:] == [("restore", 4)]


@pytest.mark.parametrize("later", ["PUT", "DELETE"])
def test_lost_answer_of_a_restore_before_a_later_write_gets_503_outcome_unknown(
    proxied_client, client, three_versions, proxy, problem, later
):
    path, _ = three_versions
    client.delete(path)
    body = {"json": {"name": "Later"}} if later == "PUT" else {}
    proxy.lose.append("INSERT INTO projects")
    proxy.before_reset = lambda: client.open(path, method=later, **body)
    response = proxied_client.post(f"{path}/restore", json={})
    problem(response, 503, "outcome_unknown")
    last = ("update", 6) if later == "PUT" else ("delete", 6)
    assert operations(client, path)[3:] == [("delete", 4), ("restore", 5), last]


@pytest.mark.parametrize("version", [1, 2])
def test_undelivered_restore_after_another_restore_reports_what_is_stored(
    proxied_client, client, three_versions, proxy, version
):
    path, versions = three_versions
    client.delete(path)
    proxy.drop.append("INSERT INTO projects")
    proxy.before_reset = lambda: client.post(f"{path}/restore", json={"version": 1})
    response = proxied_client.post(f"{path}/restore", json={"version": version})
    assert (response.status_code, response.json["version"]) == (200, 4 + version)
    assert content(response.json) == content(versions[version - 1])
    assert client.get(path).json == response.json


def test_restore_is_two_statements(make_app, three_versions, proxy):
    path, _ = three_versions
    through_proxy = make_app(DATABASE_URL=proxy.url).test_client()
    through_proxy.get(path)
    for _ in range(3):
        for body in ({"version": 1}, {"version": 2}):
            proxy.queries.clear()
            assert through_proxy.post(f"{path}/restore", json=body).status_code == 200
            assert len(proxy.queries) == 2
        through_proxy.delete(path)
        proxy.queries.clear()
        assert through_proxy.post(f"{path}/restore", json={}).status_code == 200
        assert len(proxy.queries) == 2
