"""Whatever happens to the database or on the way to it, the answer is true and comes in time."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from projectapp import database
from projectapp.database.watchdog import watchdog
from tests.conftest import PROJECTS

pytestmark = pytest.mark.slow

BRISK = {
    "DATABASE_STATEMENT_TIMEOUT": "2",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "3",
    "REQUEST_TIMEOUT": "6",
}
# One limit is short and the others are long, so that a busy machine shows which one held.
BRISK_STATEMENT = BRISK | {"REQUEST_TIMEOUT": "60", "GRACEFUL_TIMEOUT": "90"}
BRISK_LOCK = BRISK_STATEMENT | {
    "DATABASE_LOCK_TIMEOUT": "1",
    "DATABASE_STATEMENT_TIMEOUT": "40",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "50",
}
LATE = 30  # seconds, between the two
KEYED = {"Idempotency-Key": "a"}


@pytest.fixture
def far(make_app, proxy, sql):
    """A client whose way to the database leads through `proxy`."""
    client = make_app(DATABASE_URL=proxy.url).test_client()
    assert client.get("/ready").status_code == 200
    return client


@pytest.fixture
def brisk(make_app, proxy, sql):
    """The same, and statements have little time."""
    client = make_app(DATABASE_URL=proxy.url, **BRISK_STATEMENT).test_client()
    assert client.get("/ready").status_code == 200
    return client


def until(is_true):
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def url(make_project):
    make_project(name="Another project")
    return f"{PROJECTS}/{make_project(name='First')['id']}"


def editor(client, url, name="Another's"):
    def edit():
        assert client.put(url, json={"name": name}).status_code == 200

    return edit


# The answer to a write is lost.


@pytest.mark.parametrize("headers", [{}, KEYED])
@pytest.mark.parametrize("harm", ["lose", "drop"])
def test_a_create_whose_answer_is_lost_is_made_once_and_answered(far, proxy, sql, headers, harm):
    getattr(proxy, harm).append("INSERT")
    answer = far.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert answer.status_code == 201, answer.json
    assert "Idempotency-Replayed" not in answer.headers
    assert proxy.lose == proxy.drop == []
    assert far.get(answer.headers["Location"]).json == answer.json
    assert sql("SELECT count(*) FROM projects") == [(1,)]


def test_a_create_is_settled_even_if_the_answer_is_lost_again(far, proxy, sql):
    proxy.lose += ["INSERT"] * 3
    assert far.post(PROJECTS, json={"name": "x"}).status_code == 201
    assert proxy.lose == []
    assert sql("SELECT count(*) FROM projects") == [(1,)]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}])
def test_a_change_whose_answer_is_lost_is_made_once_and_answered(far, proxy, url, method, headers):
    proxy.lose.append("UPDATE projects SET")
    body = {"name": "Mine", "attributes": {"a": 1}}
    answer = far.open(url, method=method, json=body, headers=headers)
    assert answer.status_code == 200, answer.json
    assert proxy.lose == []
    assert (answer.json["version"], answer.headers["ETag"]) == (2, '"2"')
    assert far.get(url).json == answer.json


def test_a_change_that_never_came_through_is_made_if_if_match_guards_it(far, proxy, url):
    proxy.drop.append("UPDATE projects SET")
    answer = far.put(url, json={"name": "Mine"}, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.json["version"]) == (200, 2)
    assert far.get(url).json == answer.json


def test_an_unguarded_change_that_never_came_through_is_not_made_over_a_later_one(
    far, client, proxy, url, problem
):
    proxy.drop.append("UPDATE projects SET")
    proxy.meanwhile = editor(client, url)
    answer = far.put(url, json={"name": "Mine"})
    problem(answer, 503, "outcome_unknown")
    assert int(answer.headers["Retry-After"]) > 0
    assert (far.get(url).json["name"], far.get(url).json["version"]) == ("Another's", 2)


def test_a_change_that_lost_to_another_editor_is_a_412(far, client, proxy, url, problem):
    proxy.drop.append("UPDATE projects SET")
    proxy.meanwhile = editor(client, url)
    answer = far.put(url, json={"name": "Mine"}, headers={"If-Match": '"1"'})
    problem(answer, 412)
    assert answer.headers["ETag"] == '"2"'


@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}])
def test_a_change_that_another_editor_has_buried_is_unknown(
    far, client, proxy, url, problem, headers
):
    proxy.lose.append("UPDATE projects SET")
    proxy.meanwhile = editor(client, url)
    problem(far.put(url, json={"name": "Mine"}, headers=headers), 503, "outcome_unknown")
    assert (far.get(url).json["name"], far.get(url).json["version"]) == ("Another's", 3)


def test_a_change_that_still_stands_under_another_is_told_by_who_was_expected(
    far, client, proxy, url, problem
):
    proxy.lose += ["UPDATE projects SET"]
    proxy.meanwhile = lambda: client.put(url, json={"description": "Another's"})
    answer = far.put(url, json={"name": "Mine"})
    assert (answer.status_code, answer.json["name"], answer.json["version"]) == (200, "Mine", 3)
    proxy.lose += ["UPDATE projects SET"]
    proxy.meanwhile = lambda: client.put(url, json={"description": "Another's again"})
    answer = far.put(url, json={"name": "Mine too"}, headers={"If-Match": '"3"'})
    problem(answer, 503, "outcome_unknown")


@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}])
def test_a_change_of_what_was_deleted_meanwhile_is_unknown(
    far, client, proxy, url, problem, headers
):
    proxy.lose.append("UPDATE projects SET")
    proxy.meanwhile = lambda: client.delete(url)
    problem(far.put(url, json={"name": "Mine"}, headers=headers), 503, "outcome_unknown")
    problem(far.get(url), 404)


def test_a_change_of_one_of_several_versions_is_not_made_twice(far, client, proxy, url, problem):
    proxy.lose.append("UPDATE projects SET")
    proxy.meanwhile = editor(client, url)
    answer = far.put(url, json={"name": "Mine"}, headers={"If-Match": '"1", "2", "3"'})
    problem(answer, 503, "outcome_unknown")
    assert (far.get(url).json["name"], far.get(url).json["version"]) == ("Another's", 3)


@pytest.mark.parametrize("headers", [{"If-None-Match": '"9"'}, {"If-Match": '"1", "2"'}])
@pytest.mark.parametrize("name", ["Mine", "First"])
def test_a_lost_change_that_its_preconditions_allow_is_answered(far, proxy, url, headers, name):
    proxy.lose.append("UPDATE projects SET")
    answer = far.put(url, json={"name": name}, headers=headers)
    assert (answer.status_code, answer.json["name"]) == (200, name)
    assert answer.json["version"] == (2 if name == "Mine" else 1)
    assert proxy.lose == []


@pytest.mark.parametrize("name", ["Mine", "First"])
def test_a_lost_change_of_a_version_that_if_none_match_names_is_not_called_made(
    far, proxy, url, problem, name
):
    proxy.lose.append("UPDATE projects SET")
    answer = far.put(url, json={"name": name}, headers={"If-None-Match": '"1"'})
    problem(answer, 503, "outcome_unknown")
    assert (far.get(url).json["name"], far.get(url).json["version"]) == ("First", 1)


@pytest.mark.parametrize("harm", ["lose", "drop"])
def test_a_lost_delete_of_a_version_that_if_none_match_names_is_a_412(
    far, proxy, url, problem, harm
):
    getattr(proxy, harm).append("DELETE")
    problem(far.delete(url, headers={"If-None-Match": '"1"'}), 412)
    assert far.get(url).status_code == 200


def test_what_was_sent_has_no_effect_once_its_loss_is_settled(
    make_app, proxy, sql, problem, database_url, direct_url
):
    """The server process has not even read it, and goes on when all is settled."""
    if database_url != direct_url:
        pytest.skip("a pooler hides the process")
    far = make_app(DATABASE_URL=proxy.url, **BRISK | {"REQUEST_TIMEOUT": "8"}).test_client()
    far.get("/ready")
    [(pid,)] = sql(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'projectapp'"
        " AND datname = current_database() AND client_addr IS NULL ORDER BY backend_start DESC"
        " LIMIT 1"
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = far.post(PROJECTS, json={"name": "x"})
        problem(answer, 503, "outcome_unknown")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid) == [])
    assert sql("SELECT count(*) FROM projects") == [(0,)]


@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}])
@pytest.mark.parametrize("harm", ["lose", "drop"])
def test_a_delete_whose_answer_is_lost_is_answered(far, proxy, url, headers, harm):
    getattr(proxy, harm).append("DELETE")
    assert far.delete(url, headers=headers).status_code == 204
    assert far.get(url).status_code == 404


def test_a_delete_that_lost_to_another_editor_is_a_412(far, client, proxy, url, problem):
    proxy.drop.append("DELETE")
    proxy.meanwhile = editor(client, url)
    problem(far.delete(url, headers={"If-Match": '"1"'}), 412)
    assert far.get(url).status_code == 200


def test_a_read_whose_answer_is_lost_is_read_again(far, proxy, url):
    proxy.lose.append("SELECT")
    assert far.get(url).status_code == 200
    assert proxy.lose == []


@pytest.mark.parametrize("headers", [{}, KEYED])
def test_what_cannot_be_settled_is_a_503_that_says_so(brisk, proxy, sql, problem, headers):
    def leave():
        proxy.refuses = True

    proxy.lose.append("INSERT")
    proxy.meanwhile = leave
    started = time.monotonic()
    answer = brisk.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert time.monotonic() - started < LATE
    assert "Idempotency-Key" in problem(answer, 503, "outcome_unknown")["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    proxy.refuses = False
    again = brisk.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert again.status_code == 201
    assert sql("SELECT count(*) FROM projects") == [(1 if headers else 2,)]


@pytest.fixture
def unreplicated(sql):
    """PostgreSQL warns of each INSERT as of one that it did not wait for a standby to have."""
    sql(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE WARNING 'canceling wait for synchronous replication due to user request';"
        " RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER warn BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION warn()")
    yield
    sql("DROP FUNCTION IF EXISTS warn CASCADE")


def test_a_commit_that_no_standby_has_is_not_acknowledged(client, sql, problem, unreplicated):
    problem(client.post(PROJECTS, json={"name": "x"}), 503, "outcome_unknown")
    problem(client.post(PROJECTS, json={"name": "x"}, headers=KEYED), 503, "outcome_unknown")
    sql("DROP FUNCTION warn CASCADE")
    assert client.post(PROJECTS, json={"name": "x"}).status_code == 201


def test_a_warning_is_read_by_who_caused_it(client, app, problem, unreplicated):
    """Who gets the connection next would take it for a warning of what it has done itself."""
    left = []

    def look(dbapi, record):
        left.append(dbapi.notices[:])

    with app.app_context():
        engine = database.db.engine
    event.listen(engine, "checkin", look)
    try:
        problem(client.post(PROJECTS, json={"name": "x"}), 503, "outcome_unknown")
    finally:
        event.remove(engine, "checkin", look)
    assert left == [[]]


# Statements that PostgreSQL refuses, and connections that are gone.


def test_what_was_rolled_back_is_tried_again(client, sql):
    sql("CREATE SEQUENCE tries")
    sql(
        "CREATE FUNCTION storm() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('tries') = 1 THEN RAISE EXCEPTION 'storm' USING ERRCODE = '40001'; END IF;"
        " RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER storm BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION storm()")
    try:
        assert client.post(PROJECTS, json={"name": "x"}).status_code == 201
        assert sql("SELECT last_value FROM tries") == [(2,)]
    finally:
        sql("DROP FUNCTION storm CASCADE")
        sql("DROP SEQUENCE tries")


def test_a_connection_that_was_ended_at_rest_is_not_used_for_a_write(far, proxy, sql):
    proxy.queries.clear()
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'projectapp' AND datname = current_database()"
    )
    until(lambda: proxy.farewells)
    assert far.post(PROJECTS, json={"name": "x"}).status_code == 201
    assert len([query for query in proxy.queries if "INSERT" in query]) == 1


def test_a_read_only_server_costs_the_pool_its_connections(make_app, proxy, problem, sql):
    options = "&options=-c%20default_transaction_read_only%3Don"
    client = make_app(DATABASE_URL=proxy.url + options).test_client()
    client.get(PROJECTS)
    before = len(proxy.links)
    problem(client.post(PROJECTS, json={"name": "x"}), 503, "unavailable")
    assert len(proxy.links) > before


def test_what_one_connection_finds_out_costs_all_that_are_as_old(make_app, sql):
    """They lead to what is a standby now, and one of them is given back before it is tried again.

    A new connection leads to the new primary.
    """
    client = make_app().test_client()
    with client.application.app_context():
        engine = database.db.engine
    one, another = (engine.raw_connection() for _ in range(2))
    for link in (one, another):
        with link.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
    one.close()

    def give_back():
        while not engine.pool.checkedin():
            time.sleep(0.001)
        another.close()

    with ThreadPoolExecutor(1) as beside:
        event.listen(engine, "checkin", lambda *_: beside.submit(give_back), once=True)
        assert client.post(PROJECTS, json={"name": "x"}).status_code == 201


# Deadlines.


def took(call):
    started = time.monotonic()
    answer = call()
    return answer, time.monotonic() - started


@pytest.mark.parametrize("pooler", [False, True])
def test_a_lock_is_waited_for_a_second_and_other_rows_not_at_all(
    make_app, proxy, sql, url, problem, pooler
):
    proxy.pooler = pooler
    client = make_app(DATABASE_URL=proxy.url, **BRISK_LOCK).test_client()
    sql("BEGIN")
    sql("SELECT FROM projects FOR UPDATE")
    answer, seconds = took(lambda: client.put(url, json={"name": "x"}))
    problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert 0.9 < seconds < LATE
    assert client.get(url).status_code == 200
    assert client.post(PROJECTS, json={"name": "x"}).status_code == 201
    sql("ROLLBACK")
    assert client.put(url, json={"name": "x"}).status_code == 200


@pytest.mark.parametrize("pooler", [False, True])
def test_a_statement_has_its_time_and_no_more(make_app, proxy, sql, problem, caplog, pooler):
    proxy.pooler = pooler
    client = make_app(DATABASE_URL=proxy.url, **BRISK_STATEMENT).test_client()
    sql(
        "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(90); RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER nap BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION nap()")
    try:
        answer, seconds = took(lambda: client.post(PROJECTS, json={"name": "x"}))
    finally:
        sql("DROP FUNCTION nap CASCADE")
    problem(answer, 503, "unavailable")
    assert 1.9 < seconds < LATE
    assert "57014" in caplog.text, "PostgreSQL ends it, before the watchdog would"
    assert sql("SELECT count(*) FROM projects") == [(0,)]


def test_through_a_pooler_nothing_is_left_in_the_session(make_app, proxy, sql):
    proxy.pooler = True
    app = make_app(DATABASE_URL=proxy.url)
    assert app.test_client().get(PROJECTS).status_code == 200
    with app.app_context(), database.db.engine.connect() as connection:
        link = connection.connection.dbapi_connection
        assert link.is_behind_pooler
        with link.cursor() as cursor:
            for name in ("lock_timeout", "statement_timeout"):
                cursor.execute(f"SHOW {name}")
                assert cursor.fetchall() == [("0",)]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_peer_that_falls_silent_is_cut(brisk, proxy, problem, method):
    proxy.silent = True
    body = {"json": {"name": "x"}} if method == "POST" else {}
    answer, seconds = took(lambda: brisk.open(PROJECTS, method=method, **body))
    problem(answer, 503, "unavailable" if method == "GET" else "outcome_unknown")
    assert 2.9 < seconds < LATE
    proxy.silent = False
    assert brisk.get(PROJECTS).status_code == 200


def test_a_connection_that_answered_in_time_is_not_cut_later(app):
    with app.app_context(), database.db.engine.connect() as connection:
        link = connection.connection.dbapi_connection
        with watchdog.timeout(link, 1):
            pass
        time.sleep(1.4)
        app.extensions["database"].connector.ping(link)


def test_a_peer_that_is_silent_from_the_first_is_cut(make_app, proxy, sql, problem):
    client = make_app(DATABASE_URL=proxy.url, **BRISK_STATEMENT).test_client()
    proxy.mute = "pg_catalog.version()"
    answer, seconds = took(lambda: client.get(PROJECTS))
    problem(answer, 503, "unavailable")
    assert seconds < LATE


def test_a_connection_that_fell_silent_at_rest_is_found_in_time(make_app, proxy, sql, problem):
    client = make_app(DATABASE_URL=proxy.url, DATABASE_PING_AFTER_IDLE="1", **BRISK_STATEMENT)
    client = client.test_client()
    client.get(PROJECTS)
    time.sleep(1.1)
    proxy.silent = True
    proxy.queries.clear()
    answer, seconds = took(lambda: client.get(PROJECTS))
    problem(answer, 503, "unavailable")
    assert proxy.queries == ["SELECT 1"]
    assert seconds < LATE


def test_while_the_database_is_away_one_request_tries_and_the_others_are_told(make_app, proxy, sql):
    proxy.refuses = True
    client = make_app(DATABASE_URL=proxy.url).test_client()
    assert client.get(PROJECTS).status_code == 503
    proxy.refuses, proxy.silent = False, True
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lambda: client.get(PROJECTS).status_code) for _ in range(4)]
        try:
            until(lambda: sum(one.done() for one in asked) == 3)
            told = [one.result() for one in asked if one.done()]
            assert (told, sum(one.done() for one in asked)) == ([503] * 3, 3)  # one still tries
        finally:
            proxy.silent = False
    assert sorted(one.result() for one in asked) == [200, 503, 503, 503]
    assert client.get(PROJECTS).status_code == 200


def test_who_waited_for_a_thread_is_answered_in_time_too_and_health_at_once(serve, sql):
    limits = {
        "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "4",
        "REQUEST_TIMEOUT": "5",
    }  # nobody else ends the stall
    with (
        serve(WEB_CONCURRENCY="1", DATABASE_POOL_SIZE="1", **limits) as server,
        ThreadPoolExecutor(24) as pool,
    ):
        sql("BEGIN")
        sql("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
        asked = [pool.submit(server.request, "GET", PROJECTS) for _ in range(24)]
        until(lambda: sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        for _ in range(5):
            assert server.request("GET", "/health")[0] == 200
        answers = [one.result() for one in asked]
        sql("COMMIT")
    assert {status for status, *_ in answers} == {503}
