"""Commands that write: each effect happens once and is reported, or the command says what to do."""

import re
import time
from threading import Thread

import psycopg2
import pytest

from tests.conftest import PROJECTS, parameters_of

pytestmark = pytest.mark.slow

CREATE = ("tokens", "create", "--name", "CI", "--owner", "alice", "--scope", "projects:read")
UNKNOWN = "Error: The database's answer was lost: this may or may not have happened. "


@pytest.fixture
def flask(make_app, proxy, sql):
    """Run a `flask` command through `proxy`; return its exit code and its two outputs."""

    def run(*arguments, **environ):
        app = make_app(AUTH="tokens", DATABASE_URL=proxy.url, **environ)
        done = app.test_cli_runner().invoke(args=arguments)
        assert not done.exception or isinstance(done.exception, SystemExit), done.exc_info
        return done.exit_code, done.stdout.strip(), done.stderr

    return run


@pytest.fixture(params=[False, True], ids=["direct", "pooler"])
def through(request, proxy):
    """The proxy, once as itself and once as a pooler, whose server processes nobody can end."""
    proxy.pooler = request.param
    return proxy


@pytest.fixture
def old(guarded_app, sql):
    """A good token and its id, made without the proxy."""
    token = guarded_app.test_cli_runner().invoke(args=CREATE).stdout.strip()
    return token, str(sql("SELECT id FROM api_tokens")[0][0])


def status(client, token):
    return client.get(PROJECTS, headers={"Authorization": f"Bearer {token}"}).status_code


def lose(proxy, harm, words, times=1):
    getattr(proxy, harm).extend([words] * times)


def all_lost(proxy):
    return proxy.lose == proxy.drop == []


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("harm", ["lose", "drop"])
def test_create_prints_one_working_token_if_the_database_answer_is_lost(
    flask, guarded, through, sql, harm, times
):
    lose(through, harm, "INSERT INTO api_tokens", times)
    code, token, err = flask(*CREATE)
    assert code == 0, err
    assert all_lost(through)
    assert status(guarded, token) == 200
    assert sql("SELECT count(*) FROM api_tokens") == [(1,)]


@pytest.mark.parametrize(("grace", "old_status"), [("0m", 401), ("24h", 200)])
@pytest.mark.parametrize("harm", ["lose", "drop"])
def test_rotate_prints_one_working_token_if_the_database_answer_is_lost(
    flask, guarded, through, old, sql, harm, grace, old_status
):
    lose(through, harm, "INSERT INTO api_tokens", 2)
    code, token, err = flask("tokens", "rotate", old[1], "--grace", grace)
    assert code == 0, err
    assert all_lost(through)
    assert status(guarded, token) == 200
    assert status(guarded, old[0]) == old_status
    assert sql("SELECT count(*) FROM api_tokens") == [(2,)]


def test_rotate_waits_for_its_lost_statement_that_still_runs_behind_a_pooler(
    flask, guarded, proxy, old, sql, direct_url
):
    """The repeat waits for the lost statement, which has then ended the old token."""
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
        answers.append(flask("tokens", "rotate", old[1], "--grace", "0m", **patience))

    holder = psycopg2.connect(**parameters_of(direct_url))
    holder.cursor().execute("SELECT FROM api_tokens FOR UPDATE")
    command = Thread(target=rotate)
    command.start()
    wait_for_blocked(sql, 1)
    proxy.cut()
    wait_for_blocked(sql, 2)
    holder.close()
    command.join(60)
    [(code, token, err)] = answers
    assert code == 0, err
    assert (status(guarded, token), status(guarded, old[0])) == (200, 401)
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


@pytest.mark.parametrize("harm", ["lose", "drop"])
def test_revoke_revokes_the_token_if_the_database_answer_is_lost(
    flask, guarded, through, old, harm
):
    lose(through, harm, "UPDATE api_tokens", 2)
    assert flask("tokens", "revoke", old[1])[:2] == (0, "CI is revoked.")
    assert all_lost(through)
    assert status(guarded, old[0]) == 401


@pytest.mark.parametrize("harm", ["lose", "drop"])
def test_assign_counts_each_project_once_if_database_answers_are_lost(flask, through, sql, harm):
    sql(
        "INSERT INTO projects (id, name, owner)"
        " SELECT gen_random_uuid(), 'x', CASE WHEN n % 5 = 0 THEN 'bob' END"
        " FROM generate_series(1, 2500) AS n"
    )
    lose(through, harm, "array_agg")
    lose(through, harm, "UPDATE projects", 2)
    lose(through, harm, "array_agg")
    lose(through, harm, "UPDATE projects")
    code, out, err = flask("projects", "assign", "alice")
    assert (code, out) == (0, "2000 projects are alice's now."), err
    assert all_lost(through)
    found = "SELECT owner, version, count(*) FROM projects GROUP BY 1, 2 ORDER BY 1"
    assert sql(found) == [("alice", 2, 2000), ("bob", 1, 500)]


@pytest.mark.parametrize("harm", ["lose", "drop"])
def test_purge_counts_each_expired_key_once_if_database_answers_are_lost(flask, through, sql, harm):
    sql(
        "INSERT INTO idempotency_keys (scope, key, fingerprint, created_at, id, version, body)"
        " SELECT '', n::text, '', now() - (n <= 2500)::integer * interval '25 hours'"
        " - n * interval '1 second', gen_random_uuid(), 1, '{}' FROM generate_series(1, 2510) AS n"
    )
    lose(through, harm, "DELETE FROM idempotency_keys", 2)
    lose(through, harm, "max(")
    lose(through, harm, "DELETE FROM idempotency_keys")
    code, out, err = flask("idempotency", "purge")
    assert (code, out) == (0, "2500 expired keys are gone."), err
    assert all_lost(through)
    assert sql("SELECT count(*) FROM idempotency_keys") == [(10,)]


def test_purge_counts_all_keys_that_expired_at_the_same_time(flask, sql):
    sql(
        "INSERT INTO idempotency_keys (scope, key, fingerprint, created_at, id, version, body)"
        " SELECT '', n::text, '', now() - interval '25 hours', gen_random_uuid(), 1, '{}'"
        " FROM generate_series(1, 1500) AS n"
    )
    assert flask("idempotency", "purge")[1] == "1500 expired keys are gone."


@pytest.mark.parametrize("harm", ["lose", "drop"])
@pytest.mark.parametrize("command", ["create", "rotate"])
def test_the_remedy_for_an_unknown_outcome_gives_one_working_token(
    flask, guarded, proxy, old, sql, harm, command
):
    arguments = CREATE if command == "create" else ("tokens", "rotate", old[1], "--grace", "0m")
    proxy.meanwhile = lambda: setattr(proxy, "refuses", True)
    lose(proxy, harm, "INSERT INTO api_tokens")
    code, out, err = flask(*arguments, DATABASE_STATEMENT_TIMEOUT="2", DATABASE_LOCK_TIMEOUT="1")
    assert (code, out) == (1, "")
    assert UNKNOWN in err
    remedy = re.search(r"Run: flask (tokens rotate [0-9a-f-]{36} --grace 0m)\.", err)[1]
    proxy.refuses, proxy.meanwhile = False, lambda: None
    code, token, err = flask(*remedy.split())
    assert code == (0 if harm == "lose" else 1), err
    if code:
        assert err == "Error: There is no such token, or it has ended.\n"
        code, token, err = flask(*arguments)
    assert status(guarded, token) == 200
    unseen = "SELECT count(*) FROM api_tokens WHERE id <> %s AND expires_at > now()"
    assert sql(unseen, old[1]) == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "words", "reply"),
    [
        (("tokens", "revoke", "{old}"), "UPDATE api_tokens", "CI is revoked."),
        (("projects", "assign", "alice"), "UPDATE projects", "0 projects are alice's now."),
        (("idempotency", "purge"), "DELETE FROM idempotency_keys", "0 expired keys are gone."),
    ],
)
def test_a_command_with_an_unknown_outcome_reports_it_and_can_be_run_again(
    flask, proxy, old, sql, arguments, words, reply
):
    sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'x')")
    sql(
        "INSERT INTO idempotency_keys (scope, key, fingerprint, created_at, id, version, body)"
        " VALUES ('', 'x', '', now() - interval '25 hours', gen_random_uuid(), 1, '{}')"
    )
    arguments = [argument.format(old=old[1]) for argument in arguments]
    proxy.meanwhile = lambda: setattr(proxy, "refuses", True)
    lose(proxy, "lose", words)
    code, out, err = flask(*arguments, DATABASE_STATEMENT_TIMEOUT="2", DATABASE_LOCK_TIMEOUT="1")
    assert (code, out) == (1, "")
    assert UNKNOWN + "Run the command again: it does only what is left to do.\n" in err
    proxy.refuses = False
    assert flask(*arguments)[:2] == (0, reply)


def test_a_command_without_a_database_suggests_flask_doctor(flask, proxy):
    proxy.refuses = True
    code, out, err = flask(*CREATE)
    assert (code, out) == (1, "")
    assert err.endswith(
        "Error: The database cannot be reached. Try again shortly. `flask doctor` says more.\n"
    )
