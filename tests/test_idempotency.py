"""Idempotency-Key: one effect and one answer for a request, however often it is sent."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from projectapp.resources import idempotency
from tests.conftest import PROJECTS


@pytest.fixture
def post(client):
    return poster(client)


@pytest.fixture
def hasty_post(make_app, sql):
    """As `post`, but the service waits for a lock for a second."""
    return poster(make_app(DATABASE_LOCK_TIMEOUT="1").test_client())


def poster(client):
    def send(key, body=None, **headers):
        body = {"name": "A project"} if body is None else body
        return client.post(PROJECTS, json=body, headers={"Idempotency-Key": key, **headers})

    return send


def essence(answer):
    kept = ("ETag", "Location", "Content-Type", "Cache-Control")
    return answer.status_code, answer.text, [answer.headers.get(name) for name in kept]


def test_the_same_request_again_gets_the_first_answer_and_has_no_effect(post, sql):
    first, again = post("a"), post("a")
    assert first.status_code == 201
    assert essence(first) == essence(again)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert sql("SELECT count(*) FROM projects") == [(1,)]


def test_a_keyed_answer_is_what_an_unkeyed_one_would_be(post, client):
    body = {"name": "번역", "attributes": {"a": [1.5, None]}, "is_active": False}
    keyed, plain = post("a", body), client.post(PROJECTS, json=body)
    assert keyed.json == client.get(keyed.headers["Location"]).json
    own = ("id", "created_at", "updated_at")
    assert [{k: v for k, v in one.json.items() if k not in own} for one in (keyed, plain)] == [
        {"name": "번역", "description": None, "is_active": False, "version": 1}
        | {"owner": None}
        | {"attributes": {"a": [1.5, None]}}
    ] * 2
    assert list(keyed.json) == list(plain.json)


def test_the_first_answer_is_kept_whatever_becomes_of_the_project(post, client):
    first = post("a")
    url = first.headers["Location"]
    client.put(url, json={"name": "Changed"})
    assert essence(post("a")) == essence(first)
    client.delete(url)
    assert essence(post("a")) == essence(first)
    assert client.get(url).status_code == 404


def test_the_order_and_the_blanks_of_the_body_do_not_matter(client):
    bodies = [
        '{"name":"x","attributes":{"a":1,"b":2}}',
        ' {"attributes": {"b": 2, "a": 1}, "name": "x"}',
    ]
    answers = [
        client.post(
            PROJECTS + slash,
            data=body,
            content_type="application/json",
            headers={"Idempotency-Key": "a"},
        )
        for body, slash in zip(bodies, ("", "/"), strict=True)
    ]
    assert essence(answers[0]) == essence(answers[1])


def test_another_body_under_the_same_key_is_a_422(post, problem, sql):
    post("a")
    problem(post("a", {"name": "Another"}), 422, "idempotency_key_reused")
    assert sql("SELECT name FROM projects") == [("A project",)]


def test_a_key_quoted_or_bare_is_the_same_and_its_case_matters(post, sql):
    same = [post(key).json["id"] for key in ("key 1", '"key 1"', "  key 1 ")]
    assert len(set(same)) == 1
    assert post("Key 1").json["id"] != same[0]
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
def test_a_malformed_key_is_a_400_and_stores_nothing(post, problem, sql, key):
    assert "Idempotency-Key" in problem(post(key), 400, "bad_request")["detail"]
    assert sql("SELECT count(*) FROM projects") == [(0,)]


def test_an_error_is_not_kept(post, problem, sql):
    problem(post("a", {"name": ""}), 400)
    problem(post("a", {"name": "x", "attributes": {"a": "b" * 17000}}), 400)
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]
    assert post("a").status_code == 201


def test_a_key_and_its_effect_come_together_or_not_at_all(post, problem, sql):
    sql("ALTER TABLE projects ADD CONSTRAINT no CHECK (name <> 'refused')")
    try:
        problem(post("a", {"name": "refused"}), 400)
    finally:
        sql("ALTER TABLE projects DROP CONSTRAINT no")
    assert sql("SELECT count(*) FROM idempotency_keys") == [(0,)]


def test_other_methods_and_unkeyed_requests_heed_no_key(post, client, sql):
    url = post("a").headers["Location"]
    for _ in range(2):
        assert client.put(url, json={"name": "x"}, headers={"Idempotency-Key": "a"}).json
    assert [client.post(PROJECTS, json={"name": "A project"}).status_code for _ in "12"] == [
        201
    ] * 2
    assert sql("SELECT count(*) FROM idempotency_keys") == [(1,)]


def test_fifty_twins_at_once_have_one_effect(serve, sql):
    def send(_):
        return server.request("POST", PROJECTS, {"name": "x"}, **{"Idempotency-Key": "a"})

    with serve() as server, ThreadPoolExecutor(50) as pool:
        for _ in range(3):
            sql("TRUNCATE projects, idempotency_keys")
            answers = list(pool.map(send, range(50)))
            done = [answer for answer in answers if answer[0] == 201]
            running = [answer for answer in answers if answer[0] == 409]
            assert len(done) + len(running) == 50
            assert {json.dumps(body) for _, _, body in done} == {json.dumps(done[0][2])}
            assert len({headers["location"] for _, headers, _ in done}) == 1
            assert sum("idempotency-replayed" not in headers for _, headers, _ in done) == 1
            assert all(headers["retry-after"] == "1" for _, headers, _ in running)
            assert sql("SELECT count(*) FROM projects") == [(1,)]


@contextmanager
def slow_creates(sql):
    sql(
        "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER nap BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION nap()")
    try:
        yield
    finally:
        sql("DROP FUNCTION nap CASCADE")


def test_a_twin_waits_for_the_first_and_gets_its_answer(post, sql):
    with slow_creates(sql), ThreadPoolExecutor(2) as pool:
        one, two = pool.map(post, "aa")
    assert essence(one) == essence(two)
    assert one.status_code == 201
    assert sql("SELECT count(*) FROM projects") == [(1,)]


def test_a_twin_that_still_runs_is_a_409_that_says_when_to_come_back(
    post, hasty_post, problem, sql
):
    sql("BEGIN")
    sql(
        "INSERT INTO idempotency_keys VALUES"
        " ('', 'a', '', now(), '01900000-0000-7000-8000-000000000000', 1, '{}')"
    )
    answer = hasty_post("a")
    problem(answer, 409, "conflict")
    assert answer.headers["Retry-After"] == "1"
    sql("ROLLBACK")
    assert post("a").status_code == 201


def test_a_locked_table_is_no_twin(hasty_post, problem, sql):
    sql("BEGIN")
    sql("LOCK TABLE projects IN EXCLUSIVE MODE")
    problem(hasty_post("a"), 503, "unavailable")
    sql("ROLLBACK")


def age(sql):
    sql("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'")


def test_a_key_is_forgotten_after_a_day(post, sql):
    first = post("a", {"name": "First"})
    age(sql)
    second = post("a", {"name": "Second"})
    assert (second.status_code, second.json["name"]) == (201, "Second")
    assert essence(post("a", {"name": "Second"})) == essence(second)
    assert essence(first) != essence(second)


def test_a_twin_of_a_request_whose_key_has_expired_gets_the_new_answer(post, sql):
    old = post("a")
    age(sql)
    with slow_creates(sql), ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda key: post(key, {"name": "New"}), "aa")
    assert essence(one) == essence(two)
    assert one.status_code == 201
    assert one.json["id"] != old.json["id"]


def test_each_new_key_takes_two_expired_ones_with_it(post, sql):
    for n in range(5):
        post(f"old {n}")
    age(sql)
    post("new")
    assert sql("SELECT count(*) FROM idempotency_keys") == [(4,)]
    post("new")
    post("old 3")
    assert sql("SELECT key FROM idempotency_keys ORDER BY 1") == [("new",), ("old 3",)]


def test_a_command_purges_expired_keys(app, post, sql):
    for n in range(5):
        post(f"old {n}")
    age(sql)
    post("new")
    done = app.test_cli_runner().invoke(args=["idempotency", "purge"])
    assert (done.exit_code, done.output) == (0, "Deleted 3 expired keys.\n")
    assert sql("SELECT key FROM idempotency_keys") == [("new",)]
