"""History and as_of: what a row was, who changed it and when."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from tests.conftest import PROJECTS

MISSING = "01900000-0000-7000-8000-000000000000"
FIELDS = ["operation", "version", "at", "caller", "credential", "request_id", "changed", "project"]


@pytest.fixture
def history_of(client):
    def read(project_id, query="?page_size=100"):
        response = client.get(f"{PROJECTS}/{project_id}/history{query}")
        assert response.status_code == 200, response.text
        return response.json["items"]

    return read


def now(sql):
    return sql(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )[0][0]


def test_history_has_each_change_with_the_project_after_it(client, make_project, history_of):
    created = make_project(attributes={"a": 1.0})
    path = f"{PROJECTS}/{created['id']}"
    headers = {"X-Request-ID": "change-1"}
    changed = client.patch(path, json={"name": "B", "attributes": {"b": [None]}}, headers=headers)
    assert client.put(path, json={"name": "B"}).json == changed.json  # not a change
    assert client.delete(path).status_code == 204
    items = history_of(created["id"])
    assert [[*item] for item in items] == [FIELDS] * 3
    assert [(i["operation"], i["version"], i["changed"], i["project"]) for i in items] == [
        ("delete", 3, [], None),
        ("update", 2, ["name", "attributes"], changed.json),
        ("create", 1, [], created),
    ]
    assert items[1]["request_id"] == "change-1"
    assert {(item["caller"], item["credential"]) for item in items} == {(None, "none")}
    times = [datetime.fromisoformat(item["at"]) for item in items]
    assert times == sorted(times, reverse=True)
    assert all(len(item["at"]) == 27 and item["at"][-1] == "Z" for item in items)


def test_history_lists_attributes_as_changed_if_only_their_notation_changes(
    client, make_project, history_of
):
    """1 and 1.0 are equal in PostgreSQL, but the project has another version."""
    project = make_project(attributes={"n": 1})
    client.put(f"{PROJECTS}/{project['id']}", json={"attributes": {"n": 1.0}})
    newest = history_of(project["id"])[0]
    assert (newest["version"], newest["changed"]) == (2, ["attributes"])
    assert '"n": 1.0' in client.get(f"{PROJECTS}/{project['id']}/history").text


def test_history_has_changes_made_with_psql(sql, client, make_project, history_of):
    created = make_project()
    sql("UPDATE projects SET name = 'By hand'")
    [by_hand, first] = history_of(created["id"])
    assert (by_hand["operation"], by_hand["version"], by_hand["changed"]) == ("update", 2, ["name"])
    assert (by_hand["caller"], by_hand["request_id"]) == (None, None)
    assert by_hand["credential"].startswith("role ")
    assert by_hand["project"] == client.get(f"{PROJECTS}/{created['id']}").json
    assert first["project"] == created


def test_pages_of_a_history_have_each_change_once_and_one_round_trip_each(
    client, make_app, make_project, proxy
):
    project = make_project()
    path = f"{PROJECTS}/{project['id']}"
    for number in range(6):
        client.patch(path, json={"name": str(number)})
    through_proxy = make_app(DATABASE_URL=proxy.url).test_client()
    through_proxy.get(path)
    versions, cursor = [], ""
    while cursor is not None:
        proxy.queries.clear()
        page = through_proxy.get(f"{path}/history?page_size=3{cursor and f'&cursor={cursor}'}")
        assert len(proxy.queries) == 1
        assert len(page.json["items"]) <= 3
        versions += [item["version"] for item in page.json["items"]]
        cursor = page.json["next_cursor"]
    assert versions == [7, 6, 5, 4, 3, 2, 1]
    assert len(client.get(f"{path}/history?page_size=7").json["items"]) == 7
    assert client.get(f"{path}/history?page_size=7").json["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "name"),
    [
        *(
            ("page_size=0", "page_size"),
            ("page_size=101", "page_size"),
            ("page_size=x", "page_size"),
        ),
        *(("cursor=", "cursor"), ("cursor=x", "cursor"), ("page=1", "page"), ("sort=at", "sort")),
        ("page_size=1&page_size=1", "page_size"),
    ],
)
def test_an_invalid_parameter_of_a_history_gets_a_400_that_names_it(
    client, make_project, problem, query, name
):
    response = client.get(f"{PROJECTS}/{make_project()['id']}/history?{query}")
    assert [*problem(response, 400, "validation_error")["details"]] == [name]


def test_a_cursor_of_another_history_or_of_a_list_gets_a_400(client, make_project, problem):
    paths = []
    for _ in range(2):
        project = make_project()
        paths.append(f"{PROJECTS}/{project['id']}")
        client.patch(paths[-1], json={"name": "B"})
    cursor = client.get(f"{paths[0]}/history?page_size=1").json["next_cursor"]
    assert client.get(f"{paths[0]}/history?cursor={cursor}").json["items"][0]["version"] == 1
    for path in (f"{paths[1]}/history", PROJECTS):
        problem(client.get(f"{path}?cursor={cursor}"), 400, "validation_error")
    cursor = client.get(f"{PROJECTS}?page_size=1").json["next_cursor"]
    problem(client.get(f"{paths[0]}/history?cursor={cursor}"), 400, "validation_error")


def test_a_project_older_than_the_history_has_an_empty_history_and_its_state(
    client, make_project, sql, history_of
):
    project = make_project()
    sql("DELETE FROM changes")
    assert history_of(project["id"]) == []
    response = client.get(f"{PROJECTS}/{project['id']}?as_of={now(sql)}")
    assert (response.status_code, response.json) == (200, project)


def test_as_of_returns_the_version_of_that_time_and_its_etag(client, make_project, sql, problem):
    before = now(sql)
    versions = [make_project()]
    path = f"{PROJECTS}/{versions[0]['id']}"
    times = [now(sql)]
    for name in ("B", "C"):
        versions.append(client.patch(path, json={"name": name}).json)
        times.append(now(sql))
    client.delete(path)
    for version, time in zip(versions, times, strict=True):
        response = client.get(f"{path}?as_of={time}")
        assert (response.status_code, response.json) == (200, version)
        assert response.headers["ETag"] == f'"{version["version"]}"'
        for etag, status in ((response.headers["ETag"], 304), ('"9"', 200)):
            headers = {"If-None-Match": etag}
            assert client.get(f"{path}?as_of={time}", headers=headers).status_code == status
    for time in (before, now(sql)):
        problem(client.get(f"{path}?as_of={time}"), 404, "not_found")


def test_as_of_the_time_of_a_change_includes_it(client, make_project, history_of):
    project = make_project()
    path = f"{PROJECTS}/{project['id']}"
    client.patch(path, json={"name": "B"})
    for item in history_of(project["id"]):
        assert client.get(f"{path}?as_of={item['at']}").json == item["project"]
        time = datetime.fromisoformat(item["at"]) - timedelta(microseconds=1)
        expected = 404 if item["version"] == 1 else 200
        response = client.get(f"{path}?as_of={quote(time.isoformat())}")
        assert response.status_code == expected


def test_as_of_accepts_offsets_and_a_space_for_a_plus(client, make_project, sql):
    project = make_project()
    seoul = now(sql)
    time = datetime.fromisoformat(seoul) + timedelta(hours=9)
    text = time.replace(tzinfo=None).isoformat(timespec="microseconds")
    for offset in ("%2B09:00", "+09:00"):
        response = client.get(f"{PROJECTS}/{project['id']}?as_of={text}{offset}")
        assert (response.status_code, response.json) == (200, project)


@pytest.mark.parametrize("value", ["", "x", "2026-01-01", "2026-01-01T00:00:00", "1767225600"])
def test_as_of_with_an_invalid_time_gets_a_400(client, make_project, problem, value):
    response = client.get(f"{PROJECTS}/{make_project()['id']}?as_of={value}")
    assert "as_of" in problem(response, 400, "validation_error")["details"]


@pytest.mark.parametrize("time", ["2999-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
@pytest.mark.parametrize("project_id", [None, MISSING])
def test_as_of_in_the_future_gets_a_400(client, make_project, problem, time, project_id):
    project_id = project_id or make_project()["id"]
    response = client.get(f"{PROJECTS}/{project_id}?as_of={time}")
    assert problem(response, 400, "validation_error")["details"] == {
        "as_of": ["Must not be in the future."]
    }


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "1969-07-20T20:17:40Z"])
def test_as_of_before_the_history_begins_gets_a_410_for_every_id(
    client, make_project, problem, sql, time
):
    """A row that the history does not know may have existed then."""
    for project_id in (make_project()["id"], MISSING):
        response = client.get(f"{PROJECTS}/{project_id}?as_of={time}")
        detail = problem(response, 410, "history_gone")["detail"]
        (starts_at,) = sql("SELECT starts_at FROM histories WHERE resource = 'projects'")[0]
        assert f"{starts_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}" in detail


def test_as_of_is_one_round_trip(client, make_app, make_project, proxy, sql):
    path = f"{PROJECTS}/{make_project()['id']}?as_of={now(sql)}"
    through_proxy = make_app(DATABASE_URL=proxy.url).test_client()
    through_proxy.get(path)
    for _ in range(3):  # also when the statement is prepared
        proxy.queries.clear()
        assert through_proxy.get(path).status_code == 200
        assert len(proxy.queries) == 1


def test_unknown_parameters_of_a_read_are_ignored_as_before(client, make_project):
    project = make_project()
    assert client.get(f"{PROJECTS}/{project['id']}?_=1").json == project


def test_history_and_as_of_are_the_same_in_every_time_zone_of_a_session(
    make_app, direct_url, client, make_project, sql
):
    project = make_project()
    path = f"{PROJECTS}/{project['id']}"
    time = now(sql)
    sql("UPDATE projects SET name = 'B', created_at = '2001-02-03 04:05:06.7+00'")
    expected = client.get(f"{path}/history").json
    separator = "&" if "?" in direct_url else "?"
    url = f"{direct_url}{separator}options={quote('-c TimeZone=Asia/Kathmandu')}"
    other = make_app(DATABASE_URL=url).test_client()
    assert other.get(f"{path}/history").json == expected
    assert other.get(f"{path}?as_of={time}").json == project
    assert other.get(f"{path}?as_of={now(sql)}").json["created_at"] == "2001-02-03T04:05:06.700000Z"
    assert expected["items"][0]["changed"] == ["name", "created_at"]


def test_old_states_have_the_default_of_a_column_that_was_added_later(
    client, make_project, history_of, sql
):
    project = make_project()
    path = f"{PROJECTS}/{project['id']}"
    time = now(sql)
    client.patch(path, json={"name": "B"})
    # The change was made before the table had these columns.
    sql("UPDATE changes SET old_values = old_values - 'attributes' - 'is_active'")
    assert client.get(f"{path}?as_of={time}").json == project
    newest, first = history_of(project["id"])
    assert (newest["changed"], first["project"]) == (["name"], project)


def test_old_states_without_a_column_that_was_dropped_later_are_read(
    client, make_project, history_of, sql
):
    project = make_project()
    client.patch(f"{PROJECTS}/{project['id']}", json={"name": "B"})
    sql("UPDATE changes SET old_values = old_values || '{\"dropped\": 1}'")
    assert history_of(project["id"])[1]["project"] == project


NUMBER = '{"a": 1.10, "b": 12345678901234567890.123456789012345678901234567890, "c": 1E-300}'


def test_numbers_of_old_attributes_keep_all_digits(client, make_project, sql):
    project = make_project()
    path = f"{PROJECTS}/{project['id']}"
    sql("UPDATE projects SET attributes = %s", NUMBER)
    text, time = client.get(path).text, now(sql)
    client.patch(path, json={"attributes": {"b": 0}})
    assert "12345678901234567890.123456789012345678901234567890" in text
    assert client.get(f"{path}?as_of={time}").text == text
    assert text in client.get(f"{path}/history").text
