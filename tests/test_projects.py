"""The fields of a project, and what a create, a read and a write do with them.

tests/test_resources.py has what is the same for every resource.
"""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from tests.conftest import PROJECTS

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
SOME_ID = "01900000-0000-7000-8000-000000000000"


def test_post_gets_a_201_with_all_fields_and_headers(client):
    response = client.post(PROJECTS, json={"name": "번역"})
    project = response.json
    assert response.status_code == 201
    assert response.content_type == "application/json"
    assert response.headers["ETag"] == '"1"'
    assert response.headers["Location"] == f"{PROJECTS}/{project['id']}"
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
def test_timestamps_are_utc_with_microseconds_in_any_session_time_zone(
    make_app, direct_url, make_project, sql, zone
):
    app = make_app(DATABASE_URL=f"{direct_url}&options=-c%20timezone%3D{zone}")
    project = make_project()
    [(stored,)] = sql("SELECT created_at AT TIME ZONE 'UTC' FROM projects")
    created_at = app.test_client().get(PROJECTS).json["items"][0]["created_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", created_at)
    assert created_at == project["created_at"] == stored.isoformat(timespec="microseconds") + "Z"


@pytest.mark.parametrize(
    "name",
    [" ", " padded ", "𝄞" * 200, "e\u0301", "é", "\u202eabc", "a\nb", "%_\\'\";--", "\ufffe"],
)
def test_a_name_is_stored_exactly_as_sent(client, make_project, name):
    project = make_project(name=name)
    assert project["name"] == name
    assert client.get(f"{PROJECTS}/{project['id']}").json["name"] == name


@pytest.mark.parametrize("description", [None, "", "x" * 1000])
def test_a_null_empty_or_long_description_is_returned_as_sent(make_project, description):
    assert make_project(description=description)["description"] == description


def test_attributes_are_returned_as_sent(client, make_project):
    attributes = {"팀": ["a", 1, 1.5, None, True, {"": {}}], "big": 12345678901234567890}
    project = make_project(attributes=attributes)
    assert client.get(f"{PROJECTS}/{project['id']}").json["attributes"] == attributes


def test_put_replaces_the_fields_sent_and_keeps_the_others(client, make_project):
    project = make_project(description="before", attributes={"a": 1, "b": {"c": 2}})
    response = client.put(
        f"{PROJECTS}/{project['id']}", json={"name": "after", "attributes": {"b": {"d": 3}}}
    )
    changed = response.json
    assert response.headers["ETag"] == '"2"'
    assert changed["version"] == 2
    assert changed["updated_at"] > project["updated_at"]
    assert changed["created_at"] == project["created_at"]
    assert (changed["name"], changed["description"]) == ("after", "before")
    assert changed["attributes"] == {"b": {"d": 3}}


@pytest.mark.parametrize("method", ["put", "patch"])
@pytest.mark.parametrize(
    "body",
    [{}, {"name": "A project"}, {"attributes": {"a": 1}}, {"version": 9}, {"description": None}],
)
def test_a_write_of_equal_values_keeps_version_and_updated_at(client, make_project, method, body):
    project = make_project(attributes={"a": 1})
    response = getattr(client, method)(f"{PROJECTS}/{project['id']}", json=body)
    assert response.status_code == 200
    assert response.json == project
    assert response.headers["ETag"] == '"1"'


@pytest.mark.parametrize("method", ["put", "patch"])
def test_a_write_of_1_0_over_1_is_a_change(client, make_project, method):
    project = make_project(attributes={"a": 1})
    url = f"{PROJECTS}/{project['id']}"
    changed = getattr(client, method)(url, json={"attributes": {"a": 1.0}})
    assert '"a": 1.0' in changed.text
    assert changed.headers["ETag"] == '"2"'


def test_a_write_that_waited_for_another_has_a_later_updated_at(app, client, make_project, sql):
    project = make_project()
    sql("BEGIN")
    sql("SELECT FROM projects FOR UPDATE")
    with ThreadPoolExecutor(1) as pool:
        url = f"{PROJECTS}/{project['id']}"
        later_put = pool.submit(app.test_client().put, url, json={"name": "later"})
        while sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
            time.sleep(0.01)
        sql("UPDATE projects SET name = 'earlier', updated_at = clock_timestamp()")
        page = client.get(PROJECTS).json  # a read does not wait; it returns the old row
        [(earlier_time,)] = sql("SELECT updated_at AT TIME ZONE 'UTC' FROM projects")
        sql("COMMIT")
        put = later_put.result().json
    assert page["items"] == [project]
    assert put["name"] == "later"
    assert put["updated_at"] > earlier_time.isoformat(timespec="microseconds") + "Z"


# RFC 7396, appendix A: its examples whose documents are objects.
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
def test_patch_merges_attributes_recursively(client, make_project, before, patch, after):
    project = make_project(attributes=before)
    response = client.patch(
        f"{PROJECTS}/{project['id']}", json={"attributes": patch}, headers=MERGE_PATCH
    )
    expected = {**before, **patch} if after is None else after
    assert response.json["attributes"] == expected
    assert response.json["version"] == 2


def test_a_patch_with_a_too_large_result_gets_a_400(client, make_project, problem):
    project = make_project(attributes={"a": "x" * 10_000})
    response = client.patch(f"{PROJECTS}/{project['id']}", json={"attributes": {"b": "x" * 10_000}})
    assert "attributes" in problem(response, 400, "validation_error")["details"]
    assert client.get(f"{PROJECTS}/{project['id']}").json == project


@pytest.mark.parametrize("path", ["", "/{id}"])
def test_head_gets_the_headers_of_get_and_no_body(client, make_project, path):
    path = PROJECTS + path.format(id=make_project()["id"])
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.data) == (200, b"")
    for response in (get, head):
        del response.headers["X-Request-ID"]
    assert [*head.headers] == [*get.headers]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (PROJECTS, "GET HEAD OPTIONS PATCH POST"),
        (f"{PROJECTS}/{SOME_ID}", "DELETE GET HEAD OPTIONS PATCH PUT"),
        ("/health", "GET HEAD OPTIONS"),
    ],
)
def test_options_and_a_405_have_an_allow_header(client, problem, path, methods):
    response = client.options(path)
    assert response.status_code == 200
    assert sorted(response.allow) == methods.split()
    not_allowed = client.open(path, method="PROPFIND")
    problem(not_allowed, 405, "method_not_allowed")
    assert sorted(not_allowed.allow) == methods.split()


def test_options_has_an_accept_patch_header(client):
    response = client.options(f"{PROJECTS}/{SOME_ID}")
    assert response.headers["Accept-Patch"] == "application/merge-patch+json, application/json"
    assert client.options(PROJECTS).headers["Accept-Patch"] == "application/json"


@pytest.mark.parametrize("path", [f"{PROJECTS}/", f"{PROJECTS}/{{id}}/", "/health/"])
def test_a_path_with_a_trailing_slash_gets_a_200(client, make_project, path):
    assert client.get(path.format(id=make_project()["id"])).status_code == 200


def test_an_uppercase_id_finds_the_same_row(client, make_project):
    project = make_project()
    assert client.get(f"{PROJECTS}/{project['id'].upper()}").json == project
