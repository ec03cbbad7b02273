"""When the database or the network fails, the answer is still true and comes in time."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from projectapp import database
from projectapp.database.watchdog import watchdog
from tests.conftest import PROJECTS

pytestmark = pytest.mark.slow

SHORT_TIMEOUTS = {
    "DATABASE_STATEMENT_TIMEOUT": "2",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "3",
    "REQUEST_TIMEOUT": "6",
}
# One timeout is short, the others are long. So a busy machine cannot reach another one first.
SHORT_STATEMENT_TIMEOUT = SHORT_TIMEOUTS | {"REQUEST_TIMEOUT": "60", "GRACEFUL_TIMEOUT": "90"}
SHORT_LOCK_TIMEOUT = SHORT_STATEMENT_TIMEOUT | {
    "DATABASE_LOCK_TIMEOUT": "1",
    "DATABASE_STATEMENT_TIMEOUT": "40",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "50",
}
LATE_SECONDS = 30  # between the short and the long timeouts
KEYED = {"Idempotency-Key": "a"}


@pytest.fixture
def proxied_client(make_app, proxy, sql):
    """A client that reaches the database through `proxy`."""
    client = make_app(DATABASE_URL=proxy.url).test_client()
    assert client.get("/ready").status_code == 200
    return client


@pytest.fixture
def short_timeout_client(make_app, proxy, sql):
    """The same with a short statement timeout."""
    client = make_app(DATABASE_URL=proxy.url, **SHORT_STATEMENT_TIMEOUT).test_client()
    assert client.get("/ready").status_code == 200
    return client


def wait_until(is_true):
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def url(make_project):
    make_project(name="Another project")
    return f"{PROJECTS}/{make_project(name='First')['id']}"


def make_change(client, url):
    """Return a function with which another client changes the name of the project."""

    def change():
        assert client.put(url, json={"name": "Another's"}).status_code == 200

    return change


def name_and_version(client, url):
    project = client.get(url).json
    return project["name"], project["version"]


# The answer to a write is lost: `lose` drops the answer, `drop` the statement itself.


@pytest.mark.parametrize("headers", [{}, KEYED])
@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_create_with_lost_answer_is_stored_once_and_gets_201(
    proxied_client, proxy, sql, headers, fault
):
    getattr(proxy, fault).append("INSERT")
    answer = proxied_client.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert answer.status_code == 201, answer.json
    assert "Idempotency-Replayed" not in answer.headers
    assert proxy.lose == proxy.drop == []
    assert proxied_client.get(answer.headers["Location"]).json == answer.json
    assert sql("SELECT count(*) FROM projects") == [(1,)]


def test_create_with_three_lost_answers_is_stored_once_and_gets_201(proxied_client, proxy, sql):
    proxy.lose += ["INSERT"] * 3
    assert proxied_client.post(PROJECTS, json={"name": "x"}).status_code == 201
    assert proxy.lose == []
    assert sql("SELECT count(*) FROM projects") == [(1,)]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}])
def test_change_with_lost_answer_is_made_once_and_gets_200(
    proxied_client, proxy, url, method, headers
):
    proxy.lose.append("UPDATE projects SET")
    body = {"name": "New name", "attributes": {"a": 1}}
    answer = proxied_client.open(url, method=method, json=body, headers=headers)
    assert answer.status_code == 200, answer.json
    assert proxy.lose == []
    assert (answer.json["version"], answer.headers["ETag"]) == (2, '"2"')
    assert proxied_client.get(url).json == answer.json


def test_undelivered_change_with_if_match_is_repeated_and_gets_200(proxied_client, proxy, url):
    proxy.drop.append("UPDATE projects SET")
    answer = proxied_client.put(url, json={"name": "New name"}, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.json["version"]) == (200, 2)
    assert proxied_client.get(url).json == answer.json


def test_undelivered_change_without_if_match_does_not_overwrite_a_later_change(
    proxied_client, client, proxy, url, problem
):
    proxy.drop.append("UPDATE projects SET")
    proxy.before_reset = make_change(client, url)
    answer = proxied_client.put(url, json={"name": "New name"})
    problem(answer, 503, "outcome_unknown")
    assert int(answer.headers["Retry-After"]) > 0
    assert name_and_version(proxied_client, url) == ("Another's", 2)


def test_undelivered_change_with_if_match_gets_412_after_another_change(
    proxied_client, client, proxy, url, problem
):
    proxy.drop.append("UPDATE projects SET")
    proxy.before_reset = make_change(client, url)
    answer = proxied_client.put(url, json={"name": "New name"}, headers={"If-Match": '"1"'})
    problem(answer, 412)
    assert answer.headers["ETag"] == '"2"'


@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}])
def test_lost_answer_of_an_overwritten_change_gets_503_outcome_unknown(
    proxied_client, client, proxy, url, problem, headers
):
    proxy.lose.append("UPDATE projects SET")
    proxy.before_reset = make_change(client, url)
    problem(
        proxied_client.put(url, json={"name": "New name"}, headers=headers),
        503,
        "outcome_unknown",
    )
    assert name_and_version(proxied_client, url) == ("Another's", 3)


def test_lost_change_whose_values_are_still_stored_gets_200_but_503_with_if_match(
    proxied_client, client, proxy, url, problem
):
    proxy.lose += ["UPDATE projects SET"]
    proxy.before_reset = lambda: client.put(url, json={"description": "Another's"})
    answer = proxied_client.put(url, json={"name": "New name"})
    assert (answer.status_code, answer.json["name"], answer.json["version"]) == (200, "New name", 3)
    proxy.lose += ["UPDATE projects SET"]
    proxy.before_reset = lambda: client.put(url, json={"description": "Another's again"})
    answer = proxied_client.put(url, json={"name": "Newer name"}, headers={"If-Match": '"3"'})
    problem(answer, 503, "outcome_unknown")


@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}])
def test_lost_answer_of_a_change_gets_503_outcome_unknown_if_the_row_was_deleted(
    proxied_client, client, proxy, url, problem, headers
):
    proxy.lose.append("UPDATE projects SET")
    proxy.before_reset = lambda: client.delete(url)
    problem(
        proxied_client.put(url, json={"name": "New name"}, headers=headers),
        503,
        "outcome_unknown",
    )
    problem(proxied_client.get(url), 404)


def test_lost_answer_of_a_change_with_several_versions_in_if_match_is_not_repeated(
    proxied_client, client, proxy, url, problem
):
    proxy.lose.append("UPDATE projects SET")
    proxy.before_reset = make_change(client, url)
    answer = proxied_client.put(
        url, json={"name": "New name"}, headers={"If-Match": '"1", "2", "3"'}
    )
    problem(answer, 503, "outcome_unknown")
    assert name_and_version(proxied_client, url) == ("Another's", 3)


@pytest.mark.parametrize("headers", [{"If-None-Match": '"9"'}, {"If-Match": '"1", "2"'}])
@pytest.mark.parametrize("name", ["New name", "First"])
def test_lost_answer_of_a_change_that_its_preconditions_allow_gets_200(
    proxied_client, proxy, url, headers, name
):
    proxy.lose.append("UPDATE projects SET")
    answer = proxied_client.put(url, json={"name": name}, headers=headers)
    assert (answer.status_code, answer.json["name"]) == (200, name)
    assert answer.json["version"] == (2 if name == "New name" else 1)
    assert proxy.lose == []


@pytest.mark.parametrize("name", ["New name", "First"])
def test_lost_answer_of_a_change_that_if_none_match_forbids_gets_503(
    proxied_client, proxy, url, problem, name
):
    proxy.lose.append("UPDATE projects SET")
    answer = proxied_client.put(url, json={"name": name}, headers={"If-None-Match": '"1"'})
    problem(answer, 503, "outcome_unknown")
    assert name_and_version(proxied_client, url) == ("First", 1)


@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_lost_answer_of_a_delete_that_if_none_match_forbids_gets_412(
    proxied_client, proxy, url, problem, fault
):
    getattr(proxy, fault).append("DELETE")
    problem(proxied_client.delete(url, headers={"If-None-Match": '"1"'}), 412)
    assert proxied_client.get(url).status_code == 200


def test_paused_server_process_has_no_effect_after_503_outcome_unknown(
    make_app, proxy, sql, problem, database_url, direct_url
):
    """The server process is paused before it reads the INSERT, and goes on after the 503."""
    if database_url != direct_url:
        pytest.skip("a pooler hides the process")
    proxied_client = make_app(
        DATABASE_URL=proxy.url, **SHORT_TIMEOUTS | {"REQUEST_TIMEOUT": "8"}
    ).test_client()
    proxied_client.get("/ready")
    [(pid,)] = sql(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'projectapp'"
        " AND datname = current_database() AND client_addr IS NULL ORDER BY backend_start DESC"
        " LIMIT 1"
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = proxied_client.post(PROJECTS, json={"name": "x"})
        problem(answer, 503, "outcome_unknown")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid) == [])
    assert sql("SELECT count(*) FROM projects") == [(0,)]


@pytest.mark.parametrize("headers", [{}, {"If-Match": '"1"'}])
@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_delete_with_lost_answer_gets_204(proxied_client, proxy, url, headers, fault):
    getattr(proxy, fault).append("DELETE")
    assert proxied_client.delete(url, headers=headers).status_code == 204
    assert proxied_client.get(url).status_code == 404


def test_undelivered_delete_with_if_match_gets_412_after_another_change(
    proxied_client, client, proxy, url, problem
):
    proxy.drop.append("DELETE")
    proxy.before_reset = make_change(client, url)
    problem(proxied_client.delete(url, headers={"If-Match": '"1"'}), 412)
    assert proxied_client.get(url).status_code == 200


def test_read_with_lost_answer_is_repeated_and_gets_200(proxied_client, proxy, url):
    proxy.lose.append("SELECT")
    assert proxied_client.get(url).status_code == 200
    assert proxy.lose == []


@pytest.mark.parametrize("headers", [{}, KEYED])
def test_lost_answer_gets_503_outcome_unknown_while_the_database_is_unreachable(
    short_timeout_client, proxy, sql, problem, headers
):
    def refuse_connections():
        proxy.refuses = True

    proxy.lose.append("INSERT")
    proxy.before_reset = refuse_connections
    started_at = time.monotonic()
    answer = short_timeout_client.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert time.monotonic() - started_at < LATE_SECONDS
    assert "Idempotency-Key" in problem(answer, 503, "outcome_unknown")["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    proxy.refuses = False
    again = short_timeout_client.post(PROJECTS, json={"name": "x"}, headers=headers)
    assert again.status_code == 201
    assert sql("SELECT count(*) FROM projects") == [(1 if headers else 2,)]


@pytest.fixture
def replication_warning(sql):
    """Each INSERT gets the warning of a commit that did not wait for its synchronous standby."""
    sql(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE WARNING 'canceling wait for synchronous replication due to user request';"
        " RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER warn BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION warn()")
    yield
    sql("DROP FUNCTION IF EXISTS warn CASCADE")


def test_commit_without_its_standby_gets_503_outcome_unknown(
    client, sql, problem, replication_warning
):
    problem(client.post(PROJECTS, json={"name": "x"}), 503, "outcome_unknown")
    problem(client.post(PROJECTS, json={"name": "x"}, headers=KEYED), 503, "outcome_unknown")
    sql("DROP FUNCTION warn CASCADE")
    assert client.post(PROJECTS, json={"name": "x"}).status_code == 201


def test_replication_warning_is_removed_before_the_connection_is_reused(
    client, app, problem, replication_warning
):
    """Otherwise the next request on this connection would get a 503."""
    problem(client.post(PROJECTS, json={"name": "x"}), 503, "outcome_unknown")
    with app.app_context(), closing(database.db.engine.raw_connection()) as connection:
        assert connection.dbapi_connection.notices == []


# PostgreSQL refuses a statement, or a connection is gone.


def test_serialization_failure_is_retried_and_gets_201(client, sql):
    sql("CREATE SEQUENCE tries")
    sql(
        "CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('tries') = 1 THEN RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END IF;"
        " RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER fail BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION fail_once()")
    try:
        assert client.post(PROJECTS, json={"name": "x"}).status_code == 201
        assert sql("SELECT last_value FROM tries") == [(2,)]
    finally:
        sql("DROP FUNCTION fail_once CASCADE")
        sql("DROP SEQUENCE tries")


def test_idle_connection_that_the_server_closed_is_not_used_for_a_write(proxied_client, proxy, sql):
    proxy.queries.clear()
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'projectapp' AND datname = current_database()"
    )
    wait_until(lambda: proxy.terminated_connections)
    assert proxied_client.post(PROJECTS, json={"name": "x"}).status_code == 201
    assert len([query for query in proxy.queries if "INSERT" in query]) == 1


def test_write_to_a_read_only_server_gets_503_and_replaces_the_connections(
    make_app, proxy, problem, sql
):
    options = "&options=-c%20default_transaction_read_only%3Don"
    client = make_app(DATABASE_URL=proxy.url + options).test_client()
    client.get(PROJECTS)
    before = len(proxy.clients)
    problem(client.post(PROJECTS, json={"name": "x"}), 503, "unavailable")
    assert len(proxy.clients) > before


def test_read_only_error_of_one_connection_drops_its_whole_generation(make_app, sql):
    """The old connections lead to a server that is a standby now; a new one leads to the primary.

    The second old connection returns to the pool before the request is retried.
    """
    client = make_app().test_client()
    with client.application.app_context():
        engine = database.db.engine
    first, second = (engine.raw_connection() for _ in range(2))
    for connection in (first, second):
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
    first.close()

    def return_second():
        wait_until(generation_ended.is_set)
        second.close()

    generation_ended = second.dbapi_connection.generation_ended
    with ThreadPoolExecutor(1) as executor:
        returned = executor.submit(return_second)
        assert client.post(PROJECTS, json={"name": "x"}).status_code == 201
        returned.result()


# Timeouts.


def measure(call):
    started_at = time.monotonic()
    answer = call()
    return answer, time.monotonic() - started_at


@pytest.mark.parametrize("pooler", [False, True])
def test_change_of_a_locked_row_gets_503_after_a_second_and_other_rows_do_not_wait(
    make_app, proxy, sql, url, problem, pooler
):
    proxy.pooler = pooler
    client = make_app(DATABASE_URL=proxy.url, **SHORT_LOCK_TIMEOUT).test_client()
    sql("BEGIN")
    sql("SELECT FROM projects FOR UPDATE")
    answer, seconds = measure(lambda: client.put(url, json={"name": "x"}))
    problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert 0.9 < seconds < LATE_SECONDS
    assert client.get(url).status_code == 200
    assert client.post(PROJECTS, json={"name": "x"}).status_code == 201
    sql("ROLLBACK")
    assert client.put(url, json={"name": "x"}).status_code == 200


@pytest.mark.parametrize("pooler", [False, True])
def test_statement_longer_than_its_timeout_gets_503(make_app, proxy, sql, problem, caplog, pooler):
    proxy.pooler = pooler
    client = make_app(DATABASE_URL=proxy.url, **SHORT_STATEMENT_TIMEOUT).test_client()
    sql(
        "CREATE FUNCTION sleep_long() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(90); RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER sleep BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION sleep_long()")
    try:
        answer, seconds = measure(lambda: client.post(PROJECTS, json={"name": "x"}))
    finally:
        sql("DROP FUNCTION sleep_long CASCADE")
    problem(answer, 503, "unavailable")
    assert 1.9 < seconds < LATE_SECONDS
    assert "57014" in caplog.text, "PostgreSQL ends the statement before the watchdog does"
    assert sql("SELECT count(*) FROM projects") == [(0,)]


def test_timeouts_behind_a_pooler_are_not_left_in_the_session(make_app, proxy, sql):
    proxy.pooler = True
    app = make_app(DATABASE_URL=proxy.url)
    assert app.test_client().get(PROJECTS).status_code == 200
    with app.app_context(), database.db.engine.connect() as pooled:
        connection = pooled.connection.dbapi_connection
        assert connection.is_behind_pooler
        with connection.cursor() as cursor:
            for name in ("lock_timeout", "statement_timeout"):
                cursor.execute(f"SHOW {name}")
                assert cursor.fetchall() == [("0",)]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_request_to_a_database_that_stops_answering_gets_503_in_time(
    short_timeout_client, proxy, problem, method
):
    proxy.is_silent = True
    body = {"json": {"name": "x"}} if method == "POST" else {}
    answer, seconds = measure(lambda: short_timeout_client.open(PROJECTS, method=method, **body))
    problem(answer, 503, "unavailable" if method == "GET" else "outcome_unknown")
    assert 2.9 < seconds < LATE_SECONDS
    proxy.is_silent = False
    assert short_timeout_client.get(PROJECTS).status_code == 200


def test_connection_that_answered_in_time_is_not_aborted_later(app):
    with app.app_context(), database.db.engine.connect() as pooled:
        connection = pooled.connection.dbapi_connection
        with watchdog.timeout(connection, 1):
            pass
        time.sleep(1.4)
        app.extensions["database"].connector.probe(connection)


def test_request_to_a_database_that_never_answered_gets_503_in_time(make_app, proxy, sql, problem):
    client = make_app(DATABASE_URL=proxy.url, **SHORT_STATEMENT_TIMEOUT).test_client()
    proxy.swallow = "set_config"
    answer, seconds = measure(lambda: client.get(PROJECTS))
    problem(answer, 503, "unavailable")
    assert seconds < LATE_SECONDS


def test_silent_idle_connection_is_pinged_and_gets_503_in_time(make_app, proxy, sql, problem):
    client = make_app(
        DATABASE_URL=proxy.url, DATABASE_PING_AFTER_IDLE="1", **SHORT_STATEMENT_TIMEOUT
    )
    client = client.test_client()
    client.get(PROJECTS)
    time.sleep(1.1)
    proxy.is_silent = True
    proxy.queries.clear()
    answer, seconds = measure(lambda: client.get(PROJECTS))
    problem(answer, 503, "unavailable")
    assert proxy.queries == ["SELECT 1"]
    assert seconds < LATE_SECONDS


def test_while_the_database_is_unreachable_one_request_connects_and_others_get_503(
    make_app, proxy, sql
):
    proxy.refuses = True
    client = make_app(DATABASE_URL=proxy.url).test_client()
    assert client.get(PROJECTS).status_code == 503
    proxy.refuses, proxy.is_silent = False, True
    with ThreadPoolExecutor(4) as pool:
        requests = [pool.submit(lambda: client.get(PROJECTS).status_code) for _ in range(4)]
        try:
            wait_until(lambda: sum(request.done() for request in requests) == 3)
            statuses = [request.result() for request in requests if request.done()]
            assert statuses == [503] * 3  # the fourth request is still connecting
        finally:
            proxy.is_silent = False
    assert sorted(request.result() for request in requests) == [200, 503, 503, 503]
    assert client.get(PROJECTS).status_code == 200


def test_requests_that_wait_for_a_thread_get_503_in_time_and_health_200_at_once(serve, sql):
    limits = {
        "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "4",
        "REQUEST_TIMEOUT": "5",
    }  # so that only these two end the wait
    with (
        serve(WEB_CONCURRENCY="1", DATABASE_POOL_SIZE="1", **limits) as server,
        ThreadPoolExecutor(24) as pool,
    ):
        sql("BEGIN")
        sql("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
        requests = [pool.submit(server.request, "GET", PROJECTS) for _ in range(24)]
        wait_until(lambda: sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        for _ in range(5):
            assert server.request("GET", "/health")[0] == 200
        answers = [request.result() for request in requests]
        sql("COMMIT")
    assert {status for status, *_ in answers} == {503}
