"""Commands whose connection breaks: each change is made once, or the command says what to do."""

import re
import time
from threading import Thread

import psycopg2
import pytest

from tests.conftest import PROJECTS, parameters_of

pytestmark = pytest.mark.slow

CREATE = ("tokens", "create", "--name", "CI", "--owner", "alice", "--scope", "projects:read")
OUTCOME_UNKNOWN = (
    "Error: The connection to the database was lost: the change may or may not have been made. "
)


@pytest.fixture
def flask(make_app, proxy, sql):
    """Run a `flask` command through `proxy`; return its exit code, standard output and error."""

    def run(*arguments, **environ):
        app = make_app(AUTH="tokens", DATABASE_URL=proxy.url, **environ)
        result = app.test_cli_runner().invoke(args=arguments)
        assert not result.exception or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.stdout.strip(), result.stderr

    return run


@pytest.fixture(params=[False, True], ids=["direct", "pooler"])
def any_proxy(request, proxy):
    """The proxy, once as it is and once like a pooler: then no server process can be terminated."""
    proxy.pooler = request.param
    return proxy


@pytest.fixture
def old_token(auth_app, sql):
    """A valid token and its id, created without the proxy."""
    token = auth_app.test_cli_runner().invoke(args=CREATE).stdout.strip()
    return token, str(sql("SELECT id FROM api_tokens")[0][0])


def status(client, token):
    return client.get(PROJECTS, headers={"Authorization": f"Bearer {token}"}).status_code


def break_connection(proxy, fault, words, times=1):
    """Break the connection at the next statements that contain `words`.

    With the fault `lose` the statement runs and its answer is lost; with `drop` it does not run.
    """
    getattr(proxy, fault).extend([words] * times)


def all_faults_happened(proxy):
    return proxy.lose == proxy.drop == []


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_create_prints_one_working_token_if_the_database_answer_is_lost(
    flask, auth_client, any_proxy, sql, fault, times
):
    break_connection(any_proxy, fault, "INSERT INTO api_tokens", times)
    code, token, err = flask(*CREATE)
    assert code == 0, err
    assert all_faults_happened(any_proxy)
    assert status(auth_client, token) == 200
    assert sql("SELECT count(*) FROM api_tokens") == [(1,)]


@pytest.mark.parametrize(("grace", "old_status"), [("0m", 401), ("24h", 200)])
@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_rotate_prints_one_working_token_if_the_database_answer_is_lost(
    flask, auth_client, any_proxy, old_token, sql, fault, grace, old_status
):
    break_connection(any_proxy, fault, "INSERT INTO api_tokens", 2)
    code, token, err = flask("tokens", "rotate", old_token[1], "--grace", grace)
    assert code == 0, err
    assert all_faults_happened(any_proxy)
    assert status(auth_client, token) == 200
    assert status(auth_client, old_token[0]) == old_status
    assert sql("SELECT count(*) FROM api_tokens") == [(2,)]


def test_rotate_waits_for_its_lost_statement_that_still_runs_behind_a_pooler(
    flask, auth_client, proxy, old_token, sql, direct_url
):
    """The repeated statement waits until the lost one has revoked the old token."""
    proxy.pooler = True
    patience = {
        "DATABASE_LOCK_TIMEOUT": "40",
        "DATABASE_STATEMENT_TIMEOUT": "50",
        "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "60",
        "REQUEST_TIMEOUT": "70",
        "GRACEFUL_TIMEOUT": "80",
    }
    answers = []

    def rotate():
        answers.append(flask("tokens", "rotate", old_token[1], "--grace", "0m", **patience))

    lock_holder = psycopg2.connect(**parameters_of(direct_url))
    lock_holder.cursor().execute("SELECT FROM api_tokens FOR UPDATE")
    command = Thread(target=rotate)
    command.start()
    wait_for_blocked(sql, 1)
    proxy.cut()
    wait_for_blocked(sql, 2)
    lock_holder.close()
    command.join(60)
    [(code, token, err)] = answers
    assert code == 0, err
    assert (status(auth_client, token), status(auth_client, old_token[0])) == (200, 401)
    assert sql("SELECT count(*) FROM api_tokens") == [(2,)]


def wait_for_blocked(sql, count):
    end = time.monotonic() + 30
    blocked = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database() AND query LIKE '%INSERT INTO api_tokens%'"
    )
    while sql(blocked) != [(count,)]:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_revoke_revokes_the_token_if_the_database_answer_is_lost(
    flask, auth_client, any_proxy, old_token, fault
):
    break_connection(any_proxy, fault, "UPDATE api_tokens", 2)
    assert flask("tokens", "revoke", old_token[1])[:2] == (0, "CI is revoked.")
    assert all_faults_happened(any_proxy)
    assert status(auth_client, old_token[0]) == 401


@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_assign_counts_each_project_once_if_database_answers_are_lost(flask, any_proxy, sql, fault):
    sql(
        "INSERT INTO projects (id, name, owner)"
        " SELECT gen_random_uuid(), 'x', CASE WHEN n % 5 = 0 THEN 'bob' END"
        " FROM generate_series(1, 2500) AS n"
    )
    break_connection(any_proxy, fault, "array_agg")
    break_connection(any_proxy, fault, "UPDATE projects", 2)
    break_connection(any_proxy, fault, "array_agg")
    break_connection(any_proxy, fault, "UPDATE projects")
    code, out, err = flask("projects", "assign", "alice")
    assert (code, out) == (0, "Assigned 2000 projects to alice."), err
    assert all_faults_happened(any_proxy)
    owners = "SELECT owner, version, count(*) FROM projects GROUP BY 1, 2 ORDER BY 1"
    assert sql(owners) == [("alice", 2, 2000), ("bob", 1, 500)]


@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_purge_counts_each_expired_key_once_if_database_answers_are_lost(
    flask, any_proxy, sql, fault
):
    sql(
        "INSERT INTO idempotency_keys (scope, key, fingerprint, created_at, id, version, body)"
        " SELECT '', n::text, '', now() - (n <= 2500)::integer * interval '25 hours'"
        " - n * interval '1 second', gen_random_uuid(), 1, '{}' FROM generate_series(1, 2510) AS n"
    )
    break_connection(any_proxy, fault, "DELETE FROM idempotency_keys", 2)
    break_connection(any_proxy, fault, "max(")
    break_connection(any_proxy, fault, "DELETE FROM idempotency_keys")
    code, out, err = flask("idempotency", "purge")
    assert (code, out) == (0, "Deleted 2500 expired keys."), err
    assert all_faults_happened(any_proxy)
    assert sql("SELECT count(*) FROM idempotency_keys") == [(10,)]


def test_purge_counts_all_keys_that_expired_at_the_same_time(flask, sql):
    sql(
        "INSERT INTO idempotency_keys (scope, key, fingerprint, created_at, id, version, body)"
        " SELECT '', n::text, '', now() - interval '25 hours', gen_random_uuid(), 1, '{}'"
        " FROM generate_series(1, 1500) AS n"
    )
    assert flask("idempotency", "purge")[1] == "Deleted 1500 expired keys."


@pytest.mark.parametrize("fault", ["lose", "drop"])
@pytest.mark.parametrize("command", ["create", "rotate"])
def test_the_remedy_for_an_unknown_outcome_gives_one_working_token(
    flask, auth_client, proxy, old_token, sql, fault, command
):
    arguments = (
        CREATE if command == "create" else ("tokens", "rotate", old_token[1], "--grace", "0m")
    )
    proxy.before_reset = lambda: setattr(proxy, "refuses", True)
    break_connection(proxy, fault, "INSERT INTO api_tokens")
    code, out, err = flask(*arguments, DATABASE_STATEMENT_TIMEOUT="2", DATABASE_LOCK_TIMEOUT="1")
    assert (code, out) == (1, "")
    assert OUTCOME_UNKNOWN in err
    remedy = re.search(r"Run: flask (tokens rotate [0-9a-f-]{36} --grace 0m)\.", err)[1]
    proxy.refuses, proxy.before_reset = False, lambda: None
    code, token, err = flask(*remedy.split())
    assert code == (0 if fault == "lose" else 1), err
    if code:
        assert err == "Error: There is no such token, or it is expired or revoked.\n"
        code, token, err = flask(*arguments)
    assert status(auth_client, token) == 200
    valid_new_tokens = "SELECT count(*) FROM api_tokens WHERE id <> %s AND expires_at > now()"
    assert sql(valid_new_tokens, old_token[1]) == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "words", "reply"),
    [
        (("tokens", "revoke", "{old_token_id}"), "UPDATE api_tokens", "CI is revoked."),
        (("projects", "assign", "alice"), "UPDATE projects", "Assigned 0 projects to alice."),
        (("idempotency", "purge"), "DELETE FROM idempotency_keys", "Deleted 0 expired keys."),
    ],
)
def test_a_command_with_an_unknown_outcome_reports_it_and_can_be_run_again(
    flask, proxy, old_token, sql, arguments, words, reply
):
    sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'x')")
    sql(
        "INSERT INTO idempotency_keys (scope, key, fingerprint, created_at, id, version, body)"
        " VALUES ('', 'x', '', now() - interval '25 hours', gen_random_uuid(), 1, '{}')"
    )
    arguments = [argument.format(old_token_id=old_token[1]) for argument in arguments]
    proxy.before_reset = lambda: setattr(proxy, "refuses", True)
    break_connection(proxy, "lose", words)
    code, out, err = flask(*arguments, DATABASE_STATEMENT_TIMEOUT="2", DATABASE_LOCK_TIMEOUT="1")
    assert (code, out) == (1, "")
    assert OUTCOME_UNKNOWN + "Run the command again: it does only what is still missing.\n" in err
    proxy.refuses = False
    assert flask(*arguments)[:2] == (0, reply)


def test_a_command_without_a_database_suggests_flask_doctor(flask, proxy):
    proxy.refuses = True
    code, out, err = flask(*CREATE)
    assert (code, out) == (1, "")
    assert err.endswith(
        "Error: The database cannot be reached. Try again shortly."
        " Run `flask doctor` to find the cause.\n"
    )
