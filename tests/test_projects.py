"""Create, read, change and delete: the contract of a project."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from tests.conftest import PROJECTS

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
SOME_ID = "01900000-0000-7000-8000-000000000000"


def test_a_created_project_has_the_contracts_fields_and_headers(client):
    answer = client.post(PROJECTS, json={"name": "번역"})
    project = answer.json
    assert answer.status_code == 201
    assert answer.content_type == "application/json"
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Location"] == f"{PROJECTS}/{project['id']}"
    assert UUID(project.pop("id")).version == 7
    assert project.pop("created_at") == project.pop("updated_at")
    assert project == {
        "name": "번역",
        "description": None,
        "is_active": True,
        "attributes": {},
        "version": 1,
        "owner": None,
    }


@pytest.mark.parametrize("zone", ["Asia/Seoul", "America/St_Johns", "UTC"])
def test_timestamps_are_utc_in_microseconds_whatever_the_sessions_zone(
    make_app, direct_url, make_project, sql, zone
):
    elsewhere = make_app(DATABASE_URL=f"{direct_url}&options=-c%20timezone%3D{zone}")
    project = make_project()
    [(stored,)] = sql("SELECT created_at AT TIME ZONE 'UTC' FROM projects")
    shown = elsewhere.test_client().get(PROJECTS).json["items"][0]["created_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shown)
    assert shown == project["created_at"] == stored.isoformat(timespec="microseconds") + "Z"


@pytest.mark.parametrize(
    "name",
    [" ", " padded ", "𝄞" * 200, "e\u0301", "é", "\u202eabc", "a\nb", "%_\\'\";--", "\ufffe"],
)
def test_a_name_is_kept_exactly_as_sent(client, make_project, name):
    project = make_project(name=name)
    assert project["name"] == name
    assert client.get(f"{PROJECTS}/{project['id']}").json["name"] == name


@pytest.mark.parametrize("description", [None, "", "x" * 1000])
def test_null_empty_and_long_descriptions_differ(make_project, description):
    assert make_project(description=description)["description"] == description


def test_attributes_come_back_as_sent(client, make_project):
    attributes = {"팀": ["a", 1, 1.5, None, True, {"": {}}], "big": 12345678901234567890}
    project = make_project(attributes=attributes)
    assert client.get(f"{PROJECTS}/{project['id']}").json["attributes"] == attributes


def test_what_was_read_can_be_sent_back(client, make_project):
    project = make_project(attributes={"a": 1})
    answer = client.put(f"{PROJECTS}/{project['id']}", json=project)
    assert answer.status_code == 200
    assert answer.json == project


def test_read_only_fields_in_a_body_are_ignored(make_project):
    project = make_project(id=SOME_ID, version=7, created_at="yesterday", updated_at=None)
    assert project["id"] != SOME_ID
    assert project["version"] == 1


def test_put_replaces_the_fields_sent_and_keeps_the_omitted(client, make_project):
    project = make_project(description="before", attributes={"a": 1, "b": {"c": 2}})
    answer = client.put(
        f"{PROJECTS}/{project['id']}", json={"name": "after", "attributes": {"b": {"d": 3}}}
    )
    changed = answer.json
    assert answer.headers["ETag"] == '"2"'
    assert changed["version"] == 2
    assert changed["updated_at"] > project["updated_at"]
    assert changed["created_at"] == project["created_at"]
    assert (changed["name"], changed["description"]) == ("after", "before")
    assert changed["attributes"] == {"b": {"d": 3}}


def test_put_null_clears_a_description(client, make_project):
    project = make_project(description="before")
    assert client.put(f"{PROJECTS}/{project['id']}", json={"description": None}).json[
        "description"
    ] is (None)


@pytest.mark.parametrize("method", ["put", "patch"])
@pytest.mark.parametrize(
    "body",
    [{}, {"name": "A project"}, {"attributes": {"a": 1}}, {"version": 9}, {"description": None}],
)
def test_what_changes_nothing_leaves_version_and_updated_at(client, make_project, method, body):
    project = make_project(attributes={"a": 1})
    answer = getattr(client, method)(f"{PROJECTS}/{project['id']}", json=body)
    assert answer.status_code == 200
    assert answer.json == project
    assert answer.headers["ETag"] == '"1"'


@pytest.mark.parametrize("method", ["put", "patch"])
def test_what_is_shown_differently_is_a_change(client, make_project, method):
    project = make_project(attributes={"a": 1})
    url = f"{PROJECTS}/{project['id']}"
    changed = getattr(client, method)(url, json={"attributes": {"a": 1.0}})
    assert '"a": 1.0' in changed.text
    assert changed.headers["ETag"] == '"2"'


def test_a_change_that_waited_for_another_is_dated_after_it(app, client, make_project, sql):
    project = make_project()
    sql("BEGIN")
    sql("SELECT FROM projects FOR UPDATE")
    with ThreadPoolExecutor(1) as pool:
        url = f"{PROJECTS}/{project['id']}"
        waiting = pool.submit(app.test_client().put, url, json={"name": "later"})
        while sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
            time.sleep(0.01)
        sql("UPDATE projects SET name = 'earlier', updated_at = clock_timestamp()")
        earlier = client.get(PROJECTS)  # the row before: nobody waits to read
        [(between,)] = sql("SELECT updated_at AT TIME ZONE 'UTC' FROM projects")
        sql("COMMIT")
        later = waiting.result().json
    assert earlier.json["items"] == [project]
    assert later["name"] == "later"
    assert later["updated_at"] > between.isoformat(timespec="microseconds") + "Z"


# RFC 7396, appendix A, as far as its documents are objects.
@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({"a": "foo"}, {"a": {"b": 1, "c": None}}, {"a": {"b": 1}}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": None}}}, {"a": {"b": {"d": 2}}}),
        ({"a": [None, {"b": None}]}, {"c": [None, {"d": None}]}, None),
    ],
)
def test_patch_merges_attributes_deeply(client, make_project, before, patch, after):
    project = make_project(attributes=before)
    answer = client.patch(
        f"{PROJECTS}/{project['id']}", json={"attributes": patch}, headers=MERGE_PATCH
    )
    expected = {**before, **patch} if after is None else after
    assert answer.json["attributes"] == expected
    assert answer.json["version"] == 2


def test_patch_takes_plain_json_too_and_null_clears_the_description(client, make_project):
    project = make_project(description="before")
    changed = client.patch(f"{PROJECTS}/{project['id']}", json={"description": None}).json
    assert (changed["description"], changed["name"]) == (None, "A project")


def test_a_merge_that_grows_past_the_limit_changes_nothing(client, make_project, problem):
    project = make_project(attributes={"a": "x" * 10_000})
    answer = client.patch(f"{PROJECTS}/{project['id']}", json={"attributes": {"b": "x" * 10_000}})
    assert "attributes" in problem(answer, 400, "validation_error")["details"]
    assert client.get(f"{PROJECTS}/{project['id']}").json == project


def test_delete_answers_204_and_then_404(client, make_project, problem):
    project = make_project()
    answer = client.delete(f"{PROJECTS}/{project['id']}")
    assert (answer.status_code, answer.data) == (204, b"")
    problem(client.delete(f"{PROJECTS}/{project['id']}"), 404, "not_found")
    problem(client.get(f"{PROJECTS}/{project['id']}"), 404, "not_found")


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
def test_an_unknown_id_is_404(client, problem, method):
    body = {} if method in ("get", "delete") else {"json": {"name": "x"}}
    problem(getattr(client, method)(f"{PROJECTS}/{SOME_ID}", **body), 404, "not_found")


@pytest.mark.parametrize("path", ["", "/{id}"])
def test_head_is_get_without_the_body(client, make_project, path):
    path = PROJECTS + path.format(id=make_project()["id"])
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.data) == (200, b"")
    varying = {"X-Request-ID"}
    assert [h for h in head.headers if h[0] not in varying] == [
        h for h in got.headers if h[0] not in varying
    ]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (PROJECTS, "GET HEAD OPTIONS POST"),
        (f"{PROJECTS}/{SOME_ID}", "DELETE GET HEAD OPTIONS PATCH PUT"),
        ("/health", "GET HEAD OPTIONS"),
    ],
)
def test_options_and_405_carry_allow(client, problem, path, methods):
    answer = client.options(path)
    assert answer.status_code == 200
    assert sorted(answer.allow) == methods.split()
    refused = client.open(path, method="PROPFIND")
    problem(refused, 405, "method_not_allowed")
    assert sorted(refused.allow) == methods.split()


def test_options_names_the_patch_formats(client):
    answer = client.options(f"{PROJECTS}/{SOME_ID}")
    assert answer.headers["Accept-Patch"] == "application/merge-patch+json, application/json"


@pytest.mark.parametrize("path", [f"{PROJECTS}/", f"{PROJECTS}/{{id}}/", "/health/"])
def test_a_trailing_slash_is_no_redirect(client, make_project, path):
    assert client.get(path.format(id=make_project()["id"])).status_code == 200


def test_an_uppercase_id_is_the_same_id(client, make_project):
    project = make_project()
    assert client.get(f"{PROJECTS}/{project['id'].upper()}").json == project
