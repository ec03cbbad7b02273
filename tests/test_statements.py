"""One request, one statement: counted on the wire, as PostgreSQL sees them."""

import time

import pytest

from tests.conftest import PROJECTS


@pytest.fixture
def over_the_wire(make_app, proxy, make_project):
    """Requests through the counting proxy, on a connection that is open already."""
    project, *_ = [make_project() for _ in range(11)]
    client = make_app(DATABASE_URL=proxy.url).test_client()
    client.get(PROJECTS)
    proxy.queries.clear()
    return client, project, proxy


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "", None, 200),
        ("GET", "?page=3&page_size=50&sort=name,-created_at&is_active=true&fields=name", None, 200),
        ("GET", "?q=project here&sort=-is_active,name&count=exact", None, 200),
        ("GET", '?q=project&attributes={"a":1}&page=2&count=auto', None, 200),
        ("GET", "?cursor={cursor}", None, 200),
        ("GET", "?cursor={cursor}&count=auto", None, 200),
        ("HEAD", "", None, 200),
        ("POST", "", {"name": "x", "attributes": {"a": 1}}, 201),
        ("GET", "/{id}", None, 200),
        ("HEAD", "/{id}", None, 200),
        ("PUT", "/{id}", {"name": "x"}, 200),
        ("PUT", "/{id}", {}, 200),
        ("PATCH", "/{id}", {"attributes": {"a": 1}}, 200),
        ("DELETE", "/{id}", None, 204),
        ("DELETE", "/01900000-0000-7000-8000-000000000000", None, 404),
        ("POST", "", {"name": ""}, 400),
        ("GET", "?page=0", None, 400),
    ],
)
@pytest.mark.parametrize("tag", ['"1"', None])
def test_a_request_is_one_round_trip(over_the_wire, method, path, body, status, tag):
    client, project, proxy = over_the_wire
    more = {} if body is None else {"json": body}
    headers = {"If-Match": tag} if tag and method in ("PUT", "PATCH", "DELETE") else {}
    given = {"id": project["id"], "cursor": client.get(PROJECTS).json["next_cursor"]}
    for name, value in given.items():
        path = path.replace(f"{{{name}}}", value)
    proxy.queries.clear()
    answer = client.open(PROJECTS + path, method=method, headers=headers, **more)
    assert answer.status_code == status, answer.text
    expected = {400: 0, 404: 1 + bool(headers)}.get(status, 1)
    assert len(proxy.queries) == expected, proxy.queries


def asked(proxy):
    """What was sent for requests: beside them, and on a connection that may be a new one, the use
    of a token is recorded.
    """
    beside = ("UPDATE api_tokens", " AS limits ")
    return [query for query in proxy.queries if not any(words in query for words in beside)]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        *(("GET", "", None, 200), ("GET", "?q=project&count=exact", None, 200)),
        *(("GET", "/{id}", None, 200), ("POST", "", {"name": "x"}, 201)),
        *(("PUT", "/{id}", {"name": "x"}, 200), ("PATCH", "/{id}", {"is_active": False}, 200)),
        *(("DELETE", "/{id}", None, 204), ("GET", "/{foreign}", None, 404)),
        *(("POST", "", {"name": ""}, 400), ("GET", "?page=0", None, 400)),
        *(("POST", "", {"name": "x"}, 403), ("GET", "", None, 401)),
    ],
)
def test_a_request_with_a_token_is_one_round_trip_too(
    make_app, proxy, guarded, bearer, method, path, body, status
):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    header = bearer(scopes="projects:read" if status == 403 else "projects:read,projects:write")
    ids = {
        name: guarded.post(PROJECTS, json={"name": "x"}, headers=bearer(owner)).json["id"]
        for name, owner in (("id", "alice"), ("foreign", "bob"))
    }
    client.get(PROJECTS, headers=header)
    if status == 401:
        header = {"Authorization": f"{header['Authorization'][:-1]}_"}
    proxy.queries.clear()
    more = {} if body is None else {"json": body}
    answer = client.open(PROJECTS + path.format(**ids), method=method, headers=header, **more)
    assert answer.status_code == status, answer.text
    assert len(asked(proxy)) == (0 if status == 401 else 1), proxy.queries


def test_who_has_a_token_is_asked_once_by_each_worker(make_app, proxy, bearer):
    client = make_app(AUTH="tokens", DATABASE_URL=proxy.url).test_client()
    client.get(PROJECTS, headers=bearer("bob"))  # the connection is open
    header = bearer()
    for trips in (2, 1, 1):
        proxy.queries.clear()
        assert client.get(PROJECTS, headers=header).status_code == 200
        assert len(asked(proxy)) == trips, proxy.queries


def test_a_keyed_create_and_its_replay_are_one_round_trip_each(over_the_wire):
    client, _, proxy = over_the_wire
    for trips in (1, 2):
        client.post(PROJECTS, json={"name": "x"}, headers={"Idempotency-Key": "a"})
        assert len(proxy.queries) == trips


def test_a_304_is_one_round_trip_and_health_none(over_the_wire):
    client, project, proxy = over_the_wire
    answer = client.get(f"{PROJECTS}/{project['id']}", headers={"If-None-Match": '"1"'})
    assert (answer.status_code, len(proxy.queries)) == (304, 1)
    assert client.get("/health").status_code == 200
    assert len(proxy.queries) == 1


@pytest.mark.parametrize(("after", "pings"), [("1", ["SELECT 1"]), ("3600", [])])
def test_only_a_connection_that_idled_is_pinged(make_app, proxy, sql, after, pings):
    client = make_app(DATABASE_URL=proxy.url, DATABASE_PING_AFTER=after).test_client()
    client.get(PROJECTS)
    proxy.queries.clear()
    time.sleep(1.1)
    client.get(PROJECTS)
    assert proxy.queries[:-1] == pings


def test_a_connection_that_died_while_idle_is_replaced_unnoticed(over_the_wire):
    client, _, proxy = over_the_wire
    proxy.cut()
    time.sleep(1.1)
    assert client.get(PROJECTS).status_code == 200
    limits, _ = proxy.queries
    assert "lock_timeout" in limits, "a new connection asks for its limits and nothing else"


def test_the_first_connection_asks_for_no_types(make_app, proxy):
    make_app(DATABASE_URL=proxy.url).test_client().get(PROJECTS)
    assert not [query for query in proxy.queries if "pg_type" in query]
