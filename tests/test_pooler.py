"""Through PgBouncer in transaction mode everything works, and nothing leaks between clients."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from threading import Event

import psycopg2
import pytest

import config
from projectapp.database import pooler
from projectapp.database.pooler import pool_mode
from projectapp.database.schema import newest_revision
from projectapp.devdb import supervisor
from tests.conftest import PROJECTS, parameters_of, url_of
from tests.wire import free_port

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
SECONDS = "1800"  # after which one that nobody ended is ended

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PGBOUNCER, reason="PgBouncer is not installed"),
]

# What asks the database, of the tests of the contract; the rest is the same with it.
CONTRACT = (
    *("tests/test_projects.py", "tests/test_conditional.py", "tests/test_idempotency.py"),
    *("tests/test_listing.py", "tests/test_health.py", "tests/test_tokens.py"),
    "tests/test_callers.py::test_everybody_gets_what_they_may_and_no_more[editor]",
    "tests/test_callers.py::test_everybody_gets_what_they_may_and_no_more[revoked]",
    "tests/test_cursors.py::test_a_walk_is_the_list_page_by_page[?-7]",
    "tests/test_cursors.py::test_a_walk_is_the_list_page_by_page[?q=ab-7]",
    "tests/test_cursors.py::test_a_cursor_stays_where_its_row_was",
    "tests/test_search.py::test_a_name_is_found_by",
    "tests/test_search.py::test_every_word_may_be_in_the_name_or_in_the_description",
    "tests/test_search.py::test_what_is_changed_is_found_by_its_new_text_alone",
    *("-k", "not malformed and not bad_parameter and not cannot_be_read and not locked_table"),
)

# PgBouncer itself sets a client's application_name.
SESSION = """
SELECT pg_backend_pid(),
  ARRAY(SELECT name || '=' || setting FROM pg_settings
    WHERE source = 'session' AND name <> 'application_name'),
  ARRAY(SELECT name FROM pg_prepared_statements),
  ARRAY(SELECT name FROM pg_cursors),
  ARRAY(SELECT pg_listening_channels()),
  ARRAY(SELECT objid::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
  ARRAY(SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema())
"""


class Bouncer:
    """A PgBouncer before the server of `direct`, with these settings; it has its logs in `folder`.

    As root it runs as the embedded server does, and so gets to that one's socket.
    """

    def __init__(self, direct, folder, **settings):
        self.port = free_port()
        self.upstream = parameters_of(direct)
        shown = {
            key: self.upstream[key] for key in ("host", "port", "password") if key in self.upstream
        }
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": folder / "users",
            "admin_users": self.upstream["user"],
            "server_tls_sslmode": "prefer",
            "pool_mode": "transaction",
            "default_pool_size": 2,
            "server_reset_query": "",
        }
        lines = [
            "[databases]",
            "* = " + " ".join(f"{key}='{value}'" for key, value in shown.items()),
            "[pgbouncer]",
            *(f"{key} = {value}" for key, value in {**options, **settings}.items()),
        ]
        (folder / "ini").write_text("\n".join(lines))
        (folder / "users").write_text(f'"{self.upstream["user"]}" ""\n')
        self.log = folder / "log"
        prefix = [*supervisor.unprivileged_prefix(), "timeout", "--signal=KILL", SECONDS]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, PGBOUNCER, folder / "ini"],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def url(self, dbname=None):
        user, name = self.upstream["user"], dbname or self.upstream["dbname"]
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}?sslmode=disable"

    def wait_until_serving(self):
        end = time.monotonic() + 60
        while True:
            try:
                return psycopg2.connect(self.url("pgbouncer")).close()
            except psycopg2.Error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(self.log.read_text()) from None
                time.sleep(0.02)

    def show(self, what):
        """What its own console shows, as a list of dictionaries."""
        with closing(psycopg2.connect(self.url("pgbouncer"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"SHOW {what}")
                names = [column.name for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)


@pytest.fixture
def bounce(direct_url, tmp_path_factory):
    """Start a PgBouncer, by default in transaction mode with two server connections."""
    with ExitStack() as stack:

        def start(**settings):
            bouncer = Bouncer(direct_url, tmp_path_factory.mktemp("pgbouncer"), **settings)
            stack.callback(bouncer.stop)
            bouncer.wait_until_serving()
            return bouncer

        yield start


@pytest.fixture
def empty(direct_url):
    """The direct URL of another database, in which there is nothing."""
    name = f"test_{os.getpid()}_pooler"
    with closing(psycopg2.connect(direct_url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"CREATE DATABASE {name}")
        yield url_of({**parameters_of(direct_url), "dbname": name})
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def ask(url, statement):
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def left_in(bouncer, direct):
    """What was left in the sessions that PgBouncer lent, each of which is met."""
    lent = [row["remote_pid"] for row in bouncer.show("SERVERS")]
    states = dict(ask(direct, "SELECT pid, state FROM pg_stat_activity"))
    assert [states[pid] for pid in lent] == ["idle"] * (len(lent) or 1)
    found = {}
    with ExitStack() as stack:
        for _ in lent:  # all at once, each in a transaction, so that each has one of its own
            link = stack.enter_context(closing(psycopg2.connect(through(bouncer, direct))))
            stack.callback(link.rollback)  # or PgBouncer would end the session
            cursor = link.cursor()
            cursor.execute(SESSION)
            pid, *found[pid] = cursor.fetchone()
    assert sorted(found) == sorted(lent)
    return [what for session in found.values() for kind in session for what in kind]


def through(bouncer, direct):
    """The URL of a direct one's database through a PgBouncer."""
    return bouncer.url(parameters_of(direct)["dbname"])


def test_the_contract_holds(bounce, empty):
    bouncer = bounce()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CONTRACT],
        cwd=config.ROOT,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # none of them is used, and they take a second
            "DATABASE_URL": through(bouncer, empty),
            "MIGRATIONS_DATABASE_URL": empty,
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout
    counts = {row["database"]: row["query_count"] for row in bouncer.show("STATS_TOTALS")}
    assert counts[parameters_of(empty)["dbname"]] > 500, "it is the way to the database"
    assert left_in(bouncer, empty) == []


def test_eight_clients_share_two_sessions_and_each_has_its_own_answers(
    bounce, make_app, sql, direct_url
):
    bouncer = bounce()
    app = make_app(DATABASE_URL=bouncer.url(), DATABASE_POOL_SIZE="8")

    def live(me):
        client = app.test_client()
        for turn in range(1, 11):
            body = {"name": f"{me} {turn}", "attributes": {"me": me}}
            made = client.post(PROJECTS, json=body, headers={"Idempotency-Key": f"{me} {turn}"})
            assert made.status_code == 201, made.json
            assert body.items() <= made.json.items()
            url = made.headers["Location"]
            assert client.get(url).json == made.json
            first = {"If-Match": made.headers["ETag"]}
            changed = client.patch(url, json={"attributes": {"turn": turn}}, headers=first).json
            assert changed["attributes"] == {"me": me, "turn": turn}
            assert client.put(url, json={"name": "x"}, headers=first).status_code == 412
            mine = client.get(f'{PROJECTS}?attributes={{"me":{me}}}&page_size=100').json
            assert [p["attributes"]["turn"] for p in mine["items"]] == [*range(turn, 0, -1)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(8)))
    assert sql("SELECT count(*) FROM projects") == [(80,)]
    clients = [row for row in bouncer.show("CLIENTS") if row["database"] != "pgbouncer"]
    assert (len(clients), len(bouncer.show("SERVERS"))) == (8, 2)
    assert left_in(bouncer, direct_url) == []


def test_each_statement_has_its_limits(
    bounce, make_app, make_project, sql, problem, direct_url, caplog
):
    bouncer = bounce()
    # One limit is short, the others are long, so that on a busy machine it is seen which one held.
    long = {
        "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "50",
        "REQUEST_TIMEOUT": "60",
        "GRACEFUL_TIMEOUT": "90",
    }
    locked, asleep = (
        make_app(DATABASE_URL=bouncer.url(), DATABASE_STATEMENT_TIMEOUT=seconds, **long)
        for seconds in ("40", "2")
    )
    client, url = locked.test_client(), f"{PROJECTS}/{make_project()['id']}"
    assert client.get(url).status_code == 200
    sql("BEGIN")
    sql("SELECT FROM projects FOR UPDATE")
    begun = time.monotonic()
    answer = client.put(url, json={"name": "x"})
    problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert 0.9 < time.monotonic() - begun < 30
    sql("ROLLBACK")
    sql(
        "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(90); RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER nap BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION nap()")
    begun = time.monotonic()
    try:
        problem(asleep.test_client().post(PROJECTS, json={"name": "x"}), 503, "unavailable")
    finally:
        sql("DROP FUNCTION nap CASCADE")
    assert 1.9 < time.monotonic() - begun < 30
    assert "57014" in caplog.text, "PostgreSQL ends it, before the watchdog would"
    assert client.put(url, json={"name": "x"}).status_code == 200
    assert left_in(bouncer, direct_url) == []


@pytest.mark.parametrize(
    "statement",
    [
        "SET lock_timeout = '1s'",
        "SELECT set_config('statement_timeout', '3s', false)",
        "PREPARE a AS SELECT 1",
        "DECLARE a CURSOR WITH HOLD FOR SELECT 1",
        "LISTEN a",
        "SELECT pg_advisory_lock(1)",
        "CREATE TEMPORARY TABLE a (n integer)",
    ],
)
def test_what_a_client_leaves_is_seen(bounce, direct_url, statement):
    bouncer = bounce()
    ask(bouncer.url(), "SELECT 1")
    assert left_in(bouncer, direct_url) == []
    ask(bouncer.url(), statement)
    assert len(left_in(bouncer, direct_url)) == 1


def test_what_others_leave_in_a_session_does_no_harm(bounce, make_app, sql):
    bouncer = bounce(default_pool_size=1)
    client = make_app(DATABASE_URL=bouncer.url()).test_client()
    ask(bouncer.url(), "SELECT set_config('search_path', '', false)")  # as pg_dump does
    assert client.post(PROJECTS, json={"name": "x"}).status_code == 201
    assert client.get(f"{PROJECTS}?q=xx&count=exact").status_code == 200


# Migrations.


@pytest.fixture
def upgrade():
    """Run `flask db upgrade` as a user does; returns its exit code and what it said."""

    def run(url, direct=""):
        urls = {"DATABASE_URL": url, "MIGRATIONS_DATABASE_URL": direct}
        done = subprocess.run(
            [sys.executable, "-m", "flask", "db", "upgrade"],
            cwd=config.ROOT,
            env={**os.environ, "APP_ENV": "testing", **urls},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout + done.stderr

    return run


VERSION = "SELECT version_num FROM alembic_version"
NOTHING = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"


def test_an_upgrade_needs_a_direct_url(bounce, empty, upgrade):
    bouncer = bounce()
    pooled = through(bouncer, empty)
    for urls in ((pooled,), (empty, pooled)):
        code, said = upgrade(*urls)
        assert code == 1
        assert said.count("leads to a pooler in transaction mode, where no lock can be held.") == 1
        assert "Traceback" not in said
        assert ask(empty, NOTHING) == []
    assert left_in(bouncer, empty) == []
    code, said = upgrade(pooled, empty)
    assert (code, said.count("Applied ")) == (0, int(newest_revision()))
    assert ask(empty, VERSION) == [(newest_revision(),)]
    code, said = upgrade(pooled)
    assert code == 0
    assert "pooler" not in said
    assert "Running" not in said
    assert left_in(bouncer, empty) == []


def test_an_upgrade_through_a_pooler_in_session_mode_leaves_nothing_in_it(bounce, empty, upgrade):
    bouncer = bounce(pool_mode="session", default_pool_size=3)
    code, said = upgrade(through(bouncer, empty))
    assert (code, said.count("Applied ")) == (0, int(newest_revision()))
    assert ask(empty, VERSION) == [(newest_revision(),)]
    assert left_in(bouncer, empty) == []


def test_the_doctor_says_what_a_pooler_is_good_for(bounce, make_app, sql, direct_url):
    pooled = bounce().url()

    def found(**environ):
        runner = make_app(DATABASE_URL=pooled, **environ).test_cli_runner()
        said = json.loads(runner.invoke(args=["doctor", "--json"]).output)["findings"]
        return {finding["check"]: finding for finding in said}

    alone = found(MIGRATIONS_DATABASE_URL="")
    assert alone["connections"]["summary"].endswith("The pooler shares them.")
    server = alone["server"]
    assert server["level"] == "warn"
    assert "Connected through a pooler in transaction mode" in server["summary"]
    assert server["remedy"].startswith("MIGRATIONS_DATABASE_URL=")
    both = found(MIGRATIONS_DATABASE_URL=direct_url)
    assert both["server"]["level"] == both["migrations"]["level"] == "ok"
    assert found(MIGRATIONS_DATABASE_URL=pooled)["migrations"]["level"] == "FAIL"


def test_a_pooler_with_no_second_session_to_lend_is_a_sentence(bounce, empty, upgrade):
    begun = time.monotonic()
    code, said = upgrade(through(bounce(pool_mode="session", default_pool_size=1), empty))
    assert code == 1
    assert "Error: no answer, as from a pooler that has no session left to lend" in said
    assert "Traceback" not in said
    assert time.monotonic() - begun < 60  # PgBouncer itself would wait for 120
    assert ask(empty, NOTHING) == []


@pytest.fixture
def mode(make_app, monkeypatch):
    """How `pool_mode` says that the pooler at a URL lends sessions."""
    monkeypatch.setattr(pooler, "PROBE_SECONDS", 30)

    def find(url):
        database = make_app(DATABASE_URL=url, MIGRATIONS_DATABASE_URL="").extensions["database"]
        return pool_mode(database.connector.migrating)

    return find


def test_without_a_pooler_there_is_no_mode(mode, direct_url):
    assert mode(direct_url) == ""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "transaction"),
        ({"default_pool_size": 1}, "transaction"),
        ({"pool_mode": "statement"}, "transaction"),
        ({"pool_mode": "session"}, "session"),
    ],
)
def test_a_pooler_is_known_for_what_it_is(bounce, mode, settings, expected):
    url = bounce(**settings).url()
    assert {mode(url) for _ in range(10)} == {expected}


def test_a_pooler_that_lends_in_turn_is_known(bounce, mode):
    url = bounce(server_round_robin=1).url()
    with ExitStack() as stack:
        for _ in range(2):  # so that there are two sessions to lend
            link = stack.enter_context(closing(psycopg2.connect(url)))
            stack.callback(link.rollback)
            link.cursor().execute("SELECT 1")
    assert {mode(url) for _ in range(10)} == {"transaction"}


@pytest.mark.parametrize("others", [1, 2, 8])
def test_a_pooler_is_known_however_busy_it_is(bounce, mode, others):
    url = bounce().url()
    done = Event()

    def ask_on():
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not done.is_set():
                cursor.execute("SELECT pg_sleep(0.001)")

    with ThreadPoolExecutor(others) as pool:
        asking = [pool.submit(ask_on) for _ in range(others)]
        try:
            assert {mode(url) for _ in range(20)} == {"transaction"}
        finally:
            done.set()
    assert [each.result() for each in asking] == [None] * others
