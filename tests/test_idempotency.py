"""Idempotency-Key: a request that is sent repeatedly has one effect and one response."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from projectapp.resources import idempotency
from tests.conftest import PROJECTS


@pytest.fixture
def post(client):
    return make_post(client)


@pytest.fixture
def impatient_post(make_app, sql):
    """Like `post`, but the service waits for a lock for one second only."""
    return make_post(make_app(DATABASE_LOCK_TIMEOUT="1").test_client())


def make_post(client):
    def send(key, body=None, **headers):
        body = {"name": "A project"} if body is None else body
        return client.post(PROJECTS, json=body, headers={"Idempotency-Key": key, **headers})

    return send


def comparable(response):
    """Return what is equal in the responses to a request and to its repetitions."""
    names = ("ETag", "Location", "Content-Type", "Cache-Control")
    return response.status_code, response.text, [response.headers.get(name) for name in names]


def test_a_repeated_request_gets_the_first_response_and_has_no_effect(post, sql):
    first, repeated = post("a"), post("a")
    assert first.status_code == 201
    assert comparable(first) == comparable(repeated)
    assert "Idempotency-Replayed" not in first.headers
    assert repeated.headers["Idempotency-Replayed"] == "true"
    assert sql("SELECT count(*) FROM projects") == [(1,)]


def test_responses_with_and_without_a_key_are_equal(post, client):
    body = {"name": "번역", "attributes": {"a": [1.5, None]}, "is_active": False}
    keyed, plain = post("a", body), client.post(PROJECTS, json=body)
    assert keyed.json == client.get(keyed.headers["Location"]).json
    expected = {**body, "description": None, "version": 1, "owner": None}
    for response in (keyed, plain):
        varying = {name: response.json[name] for name in ("id", "created_at", "updated_at")}
        assert response.json == {**expected, **varying}
    assert list(keyed.json) == list(plain.json)


def test_a_repeated_request_gets_the_first_response_after_a_change_or_a_delete(post, client):
    first = post("a")
    url = first.headers["Location"]
    client.put(url, json={"name": "Changed"})
    assert comparable(post("a")) == comparable(first)
    client.delete(url)
    assert comparable(post("a")) == comparable(first)
    assert client.get(url).status_code == 404


def test_bodies_with_other_order_and_spaces_are_the_same_request(client):
    bodies = [
        '{"name":"x","attributes":{"a":1,"b":2}}',
        ' {"attributes": {"b": 2, "a": 1}, "name": "x"}',
    ]
    responses = [
        client.post(
            PROJECTS + slash,
            data=body,
            content_type="application/json",
            headers={"Idempotency-Key": "a"},
        )
        for body, slash in zip(bodies, ("", "/"), strict=True)
    ]
    assert comparable(responses[0]) == comparable(responses[1])


def test_a_quoted_key_equals_a_bare_one_and_case_matters(post, sql):
    ids = {post(key).json["id"] for key in ("key 1", '"key 1"', "  key 1 ")}
    assert len(ids) == 1
    assert post("Key 1").json["id"] not in ids
    assert post(r'"a\"b"').json["id"] == post('a"b').json["id"]
    longest = "x" * idempotency.MAX_KEY_LENGTH
    assert post(longest).json["id"] == post(f'"{longest}"').json["id"]


@pytest.mark.parametrize(
    "key",
    [
        "",
        '""',
        "x" * 256,
        '"' + "x" * 256 + '"',
        '"open',
        "a\tb",
        "키".encode().decode("latin1"),
        '"a"b"',
    ],
)
def test_a_malformed_key_gets_a_400_and_stores_nothing(post, problem, sql, key):
    assert "Idempotency-Key" in problem(post(key), 400, "bad_request")["detail"]
    assert sql("SELECT count(*) FROM projects") == [(0,)]


def test_a_key_whose_request_failed_can_be_used_again(post, problem, sql):
    problem(post("a", {"name": ""}), 400)
    problem(post("a", {"name": "x", "attributes": {"a": "b" * 17000}}), 400)
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
    assert post("a").status_code == 201


def test_a_create_that_fails_in_the_database_stores_no_key(post, problem, sql):
    sql("ALTER TABLE projects ADD CONSTRAINT no CHECK (name <> 'refused')")
    try:
        problem(post("a", {"name": "refused"}), 400)
    finally:
        sql("ALTER TABLE projects DROP CONSTRAINT no")
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


def test_a_put_ignores_the_key_and_creates_without_a_key_are_not_replayed(post, client, sql):
    url = post("a").headers["Location"]
    for name in ("x", "y"):
        changed = client.put(url, json={"name": name}, headers={"Idempotency-Key": "a"})
        assert changed.json["name"] == name
    ids = {client.post(PROJECTS, json={"name": "A project"}).json["id"] for _ in range(2)}
    assert len(ids) == 2
    assert sql("SELECT count(*) FROM idempotency_keys") == [(1,)]


def test_fifty_simultaneous_equal_requests_have_one_effect(serve, sql):
    def send(_):
        return server.request("POST", PROJECTS, {"name": "x"}, **{"Idempotency-Key": "a"})

    with serve() as server, ThreadPoolExecutor(50) as pool:
        for _ in range(3):
            sql("DELETE FROM projects; DELETE FROM idempotency_keys")
            responses = list(pool.map(send, range(50)))
            created = [response for response in responses if response[0] == 201]
            running = [response for response in responses if response[0] == 409]
            assert len(created) + len(running) == 50
            assert {json.dumps(body) for _, _, body in created} == {json.dumps(created[0][2])}
            assert len({headers["location"] for _, headers, _ in created}) == 1
            assert sum("idempotency-replayed" not in headers for _, headers, _ in created) == 1
            assert all(headers["retry-after"] == "1" for _, headers, _ in running)
            assert sql("SELECT count(*) FROM projects") == [(1,)]


@contextmanager
def slow_creates(sql):
    sql(
        "CREATE FUNCTION delay() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER delay BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION delay()")
    try:
        yield
    finally:
        sql("DROP FUNCTION delay CASCADE")


def test_an_equal_request_waits_for_the_first_and_gets_its_response(post, sql):
    with slow_creates(sql), ThreadPoolExecutor(2) as pool:
        first, second = pool.map(post, "aa")
    assert comparable(first) == comparable(second)
    assert first.status_code == 201
    assert sql("SELECT count(*) FROM projects") == [(1,)]


def test_a_request_whose_key_stays_locked_gets_a_409_with_retry_after(
    post, impatient_post, problem, sql
):
    sql("BEGIN")
    sql(
        "INSERT INTO idempotency_keys VALUES"
        " ('', 'a', '', now(), '01900000-0000-7000-8000-000000000000', 1, '{}')"
    )
    response = impatient_post("a")
    problem(response, 409, "conflict")
    assert response.headers["Retry-After"] == "1"
    sql("ROLLBACK")
    assert post("a").status_code == 201


def test_a_create_in_a_locked_table_gets_a_503(impatient_post, problem, sql):
    sql("BEGIN")
    sql("LOCK TABLE projects IN EXCLUSIVE MODE")
    problem(impatient_post("a"), 503, "unavailable")
    sql("ROLLBACK")


def expire_keys(sql):
    sql("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'")


def test_a_key_can_be_used_for_another_request_after_24_hours(post, sql):
    first = post("a", {"name": "First"})
    expire_keys(sql)
    second = post("a", {"name": "Second"})
    assert (second.status_code, second.json["name"]) == (201, "Second")
    assert comparable(post("a", {"name": "Second"})) == comparable(second)
    assert comparable(first) != comparable(second)


def test_equal_requests_with_an_expired_key_get_one_new_response(post, sql):
    old = post("a")
    expire_keys(sql)
    with slow_creates(sql), ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda key: post(key, {"name": "New"}), "aa")
    assert comparable(first) == comparable(second)
    assert (first.status_code, first.json["name"]) == (201, "New")
    assert first.json["id"] != old.json["id"]


def test_each_new_key_deletes_two_expired_keys(post, sql):
    for n in range(5):
        post(f"old {n}")
    expire_keys(sql)
    post("new")
    assert sql("SELECT count(*) FROM idempotency_keys") == [(4,)]
    post("new")
    post("old 3")
    assert sql("SELECT key FROM idempotency_keys ORDER BY 1") == [("new",), ("old 3",)]


def test_idempotency_purge_deletes_the_expired_keys(app, post, sql):
    for n in range(5):
        post(f"old {n}")
    expire_keys(sql)
    post("new")
    result = app.test_cli_runner().invoke(args=["idempotency", "purge"])
    assert (result.exit_code, result.output) == (0, "Deleted 3 expired keys.\n")
    assert sql("SELECT key FROM idempotency_keys") == [("new",)]
