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
from faults.processes import free_port
from projectapp.database import pooler
from projectapp.database.pooler import detect_pool_mode
from projectapp.database.schema import newest_revision
from projectapp.devdb import supervisor
from tests.conftest import PROJECTS, parameters_of, url_of

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
MAX_LIFETIME_SECONDS = "1800"  # ends a PgBouncer that outlives its test run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PGBOUNCER, reason="PgBouncer is not installed"),
]

# The contract tests that query the database.
CONTRACT = (
    *("tests/test_projects.py", "tests/test_conditional.py", "tests/test_idempotency.py"),
    *("tests/test_listing.py", "tests/test_health.py", "tests/test_tokens.py"),
    *("tests/test_history.py", "tests/test_change_source.py"),
    "tests/test_restore.py::test_restore_of_a_deleted_project_continues_its_versions[body0-3]",
    "tests/test_restore.py::test_of_simultaneous_restores_of_a_deleted_project_one_inserts_it",
    "tests/test_restore.py::test_versions_are_unique_when_restores_changes_and_deletes_race",
    "tests/test_callers.py::test_each_caller_gets_only_what_its_token_permits[editor-False]",
    "tests/test_callers.py::test_each_caller_gets_only_what_its_token_permits[revoked-True]",
    "tests/test_cursors.py::test_cursors_lead_through_the_whole_list[?-7]",
    "tests/test_cursors.py::test_cursors_lead_through_the_whole_list[?q=ab-7]",
    "tests/test_cursors.py::test_a_cursor_keeps_its_place_when_its_row_is_deleted",
    "tests/test_search.py::test_a_search_finds_a_name_with_other_case_or_normal_form",
    "tests/test_search.py::test_each_word_is_found_in_the_name_or_the_description",
    "tests/test_search.py::test_a_changed_project_is_found_only_by_its_new_text",
    *("-k", "not malformed and not invalid_parameter and not undecodable and not locked_table"),
)

# PgBouncer sets application_name itself, so that is not a leftover.
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

OPERATIONS = ("create", "update")


class PgBouncer:
    """A PgBouncer for the server of the URL `direct`. Its configuration and log are in `folder`.

    Started by root, it runs as the user of the embedded server, so that it can open its socket.
    """

    def __init__(self, direct, folder, **settings):
        self.port = free_port()
        self.upstream = parameters_of(direct)
        server = {
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
            "* = " + " ".join(f"{key}='{value}'" for key, value in server.items()),
            "[pgbouncer]",
            *(f"{key} = {value}" for key, value in {**options, **settings}.items()),
        ]
        (folder / "ini").write_text("\n".join(lines))
        (folder / "users").write_text(f'"{self.upstream["user"]}" ""\n')
        self.log = folder / "log"
        prefix = [
            *supervisor.unprivileged_prefix(),
            "timeout",
            "--signal=KILL",
            MAX_LIFETIME_SECONDS,
        ]
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
        deadline = time.monotonic() + 60
        while True:
            try:
                return psycopg2.connect(self.url("pgbouncer")).close()
            except psycopg2.Error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self.log.read_text()) from None
                time.sleep(0.02)

    def show(self, what):
        """Return the rows of SHOW in PgBouncer's console, as dictionaries."""
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
def start_pgbouncer(direct_url, tmp_path_factory):
    """Start a PgBouncer, by default in transaction mode with two server connections."""
    with ExitStack() as stack:

        def start(**settings):
            pgbouncer = PgBouncer(direct_url, tmp_path_factory.mktemp("pgbouncer"), **settings)
            stack.callback(pgbouncer.stop)
            pgbouncer.wait_until_serving()
            return pgbouncer

        yield start


@pytest.fixture
def empty_url(direct_url):
    """The direct URL of another database, which is empty."""
    name = f"test_{os.getpid()}_pooler"
    with closing(psycopg2.connect(direct_url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"CREATE DATABASE {name}")
        yield url_of({**parameters_of(direct_url), "dbname": name})
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def query(url, statement):
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def find_leftovers(pgbouncer, direct):
    """Return what clients left in PgBouncer's sessions: settings, cursors, locks and so on."""
    pids = [row["remote_pid"] for row in pgbouncer.show("SERVERS")]
    states = dict(query(direct, "SELECT pid, state FROM pg_stat_activity"))
    assert [states[pid] for pid in pids] == ["idle"] * (len(pids) or 1)
    leftovers = {}
    with ExitStack() as stack:
        for _ in pids:  # all at once, each in a transaction, so that each gets another session
            connection = stack.enter_context(
                closing(psycopg2.connect(url_through(pgbouncer, direct)))
            )
            stack.callback(connection.rollback)  # or PgBouncer would end the session
            cursor = connection.cursor()
            cursor.execute(SESSION)
            pid, *leftovers[pid] = cursor.fetchone()
    assert sorted(leftovers) == sorted(pids)
    return [name for session in leftovers.values() for names in session for name in names]


def url_through(pgbouncer, direct):
    """The URL of the database of the URL `direct` through a PgBouncer."""
    return pgbouncer.url(parameters_of(direct)["dbname"])


def test_contract_tests_pass_through_pgbouncer(start_pgbouncer, empty_url):
    pgbouncer = start_pgbouncer()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CONTRACT],
        cwd=config.ROOT,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # saves a second
            "DATABASE_URL": url_through(pgbouncer, empty_url),
            "MIGRATIONS_DATABASE_URL": empty_url,
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout
    counts = {row["database"]: row["query_count"] for row in pgbouncer.show("STATS_TOTALS")}
    assert counts[parameters_of(empty_url)["dbname"]] > 500, (
        "the tests reach the database through PgBouncer"
    )
    assert find_leftovers(pgbouncer, empty_url) == []


def test_eight_clients_share_two_sessions_and_get_their_own_answers(
    start_pgbouncer, make_app, sql, direct_url
):
    pgbouncer = start_pgbouncer()
    app = make_app(DATABASE_URL=pgbouncer.url(), DATABASE_POOL_SIZE="8")

    def use_service(number):
        client = app.test_client()
        for turn in range(1, 11):
            body = {"name": f"{number} {turn}", "attributes": {"client": number}}
            created = client.post(
                PROJECTS, json=body, headers={"Idempotency-Key": f"{number} {turn}"}
            )
            assert created.status_code == 201, created.json
            assert body.items() <= created.json.items()
            url = created.headers["Location"]
            assert client.get(url).json == created.json
            version_1 = {"If-Match": created.headers["ETag"]}
            changed = client.patch(url, json={"attributes": {"turn": turn}}, headers=version_1).json
            assert changed["attributes"] == {"client": number, "turn": turn}
            assert client.put(url, json={"name": "x"}, headers=version_1).status_code == 412
            page = client.get(f'{PROJECTS}?attributes={{"client":{number}}}&page_size=100').json
            assert [p["attributes"]["turn"] for p in page["items"]] == [*range(turn, 0, -1)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use_service, range(8)))
    assert sql("SELECT count(*) FROM projects") == [(80,)]
    clients = [row for row in pgbouncer.show("CLIENTS") if row["database"] != "pgbouncer"]
    assert (len(clients), len(pgbouncer.show("SERVERS"))) == (8, 2)
    assert find_leftovers(pgbouncer, direct_url) == []


def test_twelve_clients_share_three_sessions_and_each_change_has_its_own_caller(
    start_pgbouncer, make_app, auth_headers, sql, direct_url
):
    """Two of three clients are callers of the service; the others write like psql does."""
    pgbouncer = start_pgbouncer(default_pool_size=3)
    client = make_app(
        AUTH="tokens", DATABASE_URL=pgbouncer.url(), DATABASE_POOL_SIZE="8"
    ).test_client
    headers = [auth_headers(f"caller {number}") for number in range(12)]
    turns = 30

    def write_by_hand(number):
        with closing(psycopg2.connect(url_through(pgbouncer, direct_url))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            for turn in range(turns):
                name = f"{number} {turn}"
                cursor.execute(
                    "INSERT INTO projects (id, name) VALUES (gen_random_uuid(), %s)", [name]
                )
                cursor.execute("UPDATE projects SET is_active = false WHERE name = %s", [name])

    def write_as_caller(number):
        http = client()
        for turn in range(turns):
            request = {**headers[number], "X-Request-ID": f"{number}/{turn}"}
            created = http.post(PROJECTS, json={"name": f"{number} {turn}"}, headers=request)
            assert created.status_code == 201, created.text
            http.put(created.headers["Location"], json={"is_active": False}, headers=request)

    def write(number):
        (write_by_hand if number % 3 == 0 else write_as_caller)(number)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(write, range(12)))
    (role,) = sql("SELECT 'role ' || session_user")[0]
    tokens = dict(sql("SELECT owner, 'token ' || id FROM api_tokens"))
    expected = []
    for number in range(12):
        for turn in range(turns):
            caller = f"caller {number}"
            source = (caller, tokens[caller], f"{number}/{turn}")
            source = (None, role, None) if number % 3 == 0 else source
            expected += [(f"{number} {turn}", operation, *source) for operation in OPERATIONS]
    changes = sql(
        "SELECT name, operation, caller, credential, request_id FROM changes"
        " JOIN projects ON id = row_id"
    )
    assert sorted(changes, key=str) == sorted(expected, key=str)
    assert len(pgbouncer.show("SERVERS")) == 3
    assert find_leftovers(pgbouncer, direct_url) == []


def test_statements_through_pgbouncer_have_timeouts(
    start_pgbouncer, make_app, make_project, sql, problem, direct_url, caplog
):
    pgbouncer = start_pgbouncer()
    # One timeout is short, the others are long. So a busy machine cannot reach another one first.
    long_timeouts = {
        "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "50",
        "REQUEST_TIMEOUT": "60",
        "GRACEFUL_TIMEOUT": "90",
    }
    short_lock_app, short_statement_app = (
        make_app(DATABASE_URL=pgbouncer.url(), DATABASE_STATEMENT_TIMEOUT=seconds, **long_timeouts)
        for seconds in ("40", "2")
    )
    client, url = short_lock_app.test_client(), f"{PROJECTS}/{make_project()['id']}"
    assert client.get(url).status_code == 200
    sql("BEGIN")
    sql("SELECT FROM projects FOR UPDATE")
    started_at = time.monotonic()
    answer = client.put(url, json={"name": "x"})
    problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert 0.9 < time.monotonic() - started_at < 30
    sql("ROLLBACK")
    sql(
        "CREATE FUNCTION sleep_long() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(90); RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER sleep BEFORE INSERT ON projects FOR EACH ROW EXECUTE FUNCTION sleep_long()")
    started_at = time.monotonic()
    try:
        problem(
            short_statement_app.test_client().post(PROJECTS, json={"name": "x"}), 503, "unavailable"
        )
    finally:
        sql("DROP FUNCTION sleep_long CASCADE")
    assert 1.9 < time.monotonic() - started_at < 30
    assert "57014" in caplog.text, "PostgreSQL ends the statement before the watchdog does"
    assert client.put(url, json={"name": "x"}).status_code == 200
    assert find_leftovers(pgbouncer, direct_url) == []


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
def test_leftovers_of_a_client_are_found(start_pgbouncer, direct_url, statement):
    pgbouncer = start_pgbouncer()
    query(pgbouncer.url(), "SELECT 1")
    assert find_leftovers(pgbouncer, direct_url) == []
    query(pgbouncer.url(), statement)
    assert len(find_leftovers(pgbouncer, direct_url)) == 1


def test_search_path_left_by_another_client_does_no_harm(start_pgbouncer, make_app, sql):
    pgbouncer = start_pgbouncer(default_pool_size=1)
    client = make_app(DATABASE_URL=pgbouncer.url()).test_client()
    query(pgbouncer.url(), "SELECT set_config('search_path', '', false)")  # as pg_dump does
    assert client.post(PROJECTS, json={"name": "x"}).status_code == 201
    assert client.get(f"{PROJECTS}?q=xx&count=exact").status_code == 200


# Migrations.


@pytest.fixture
def upgrade():
    """Run `flask db upgrade` as a user does; return its exit code and output."""

    def run(url, direct=""):
        urls = {"DATABASE_URL": url, "MIGRATIONS_DATABASE_URL": direct}
        process = subprocess.run(
            [sys.executable, "-m", "flask", "db", "upgrade"],
            cwd=config.ROOT,
            env={**os.environ, "APP_ENV": "testing", **urls},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return process.returncode, process.stdout + process.stderr

    return run


VERSION = "SELECT version_num FROM alembic_version"
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"


def test_upgrade_through_transaction_mode_is_refused_and_with_a_direct_url_succeeds(
    start_pgbouncer, empty_url, upgrade
):
    pgbouncer = start_pgbouncer()
    pooled_url = url_through(pgbouncer, empty_url)
    for urls in ((pooled_url,), (empty_url, pooled_url)):
        code, output = upgrade(*urls)
        assert code == 1
        assert (
            output.count(
                "leads to a pooler in transaction mode, which cannot hold the migration lock."
            )
            == 1
        )
        assert "Traceback" not in output
        assert query(empty_url, TABLES) == []
    assert find_leftovers(pgbouncer, empty_url) == []
    code, output = upgrade(pooled_url, empty_url)
    assert (code, output.count("Applied ")) == (0, int(newest_revision()))
    assert query(empty_url, VERSION) == [(newest_revision(),)]
    code, output = upgrade(pooled_url)
    assert code == 0
    assert "pooler" not in output
    assert "Running" not in output
    assert find_leftovers(pgbouncer, empty_url) == []


def test_upgrade_through_session_mode_succeeds_and_leaves_nothing(
    start_pgbouncer, empty_url, upgrade
):
    pgbouncer = start_pgbouncer(pool_mode="session", default_pool_size=3)
    code, output = upgrade(url_through(pgbouncer, empty_url))
    assert (code, output.count("Applied ")) == (0, int(newest_revision()))
    assert query(empty_url, VERSION) == [(newest_revision(),)]
    assert find_leftovers(pgbouncer, empty_url) == []


def test_doctor_reports_whether_a_pooler_suffices_for_migrations(
    start_pgbouncer, make_app, sql, direct_url
):
    pooled_url = start_pgbouncer().url()

    def doctor_findings(**environ):
        runner = make_app(DATABASE_URL=pooled_url, **environ).test_cli_runner()
        report = json.loads(runner.invoke(args=["doctor", "--json"]).output)
        return {finding["check"]: finding for finding in report["findings"]}

    findings = doctor_findings(MIGRATIONS_DATABASE_URL="")
    assert findings["connections"]["summary"].endswith("The pooler shares them.")
    server = findings["server"]
    assert server["level"] == "warn"
    assert "Connected through a pooler in transaction mode" in server["summary"]
    assert server["remedy"].startswith("MIGRATIONS_DATABASE_URL=")
    findings = doctor_findings(MIGRATIONS_DATABASE_URL=direct_url)
    assert findings["server"]["level"] == findings["migrations"]["level"] == "ok"
    assert doctor_findings(MIGRATIONS_DATABASE_URL=pooled_url)["migrations"]["level"] == "FAIL"


def test_upgrade_through_a_pooler_without_a_free_session_fails_with_a_message(
    start_pgbouncer, empty_url, upgrade
):
    started_at = time.monotonic()
    code, output = upgrade(
        url_through(start_pgbouncer(pool_mode="session", default_pool_size=1), empty_url)
    )
    assert code == 1
    assert "Error: no answer; if a pooler is in between, it may have no free session" in output
    assert "Traceback" not in output
    assert time.monotonic() - started_at < 60  # PgBouncer itself waits for 120 s
    assert query(empty_url, TABLES) == []


@pytest.fixture
def detect(make_app, monkeypatch):
    """Return the pool mode that `detect_pool_mode` finds at a URL."""
    monkeypatch.setattr(pooler, "PROBE_SECONDS", 30)

    def detect_at(url):
        database = make_app(DATABASE_URL=url, MIGRATIONS_DATABASE_URL="").extensions["database"]
        return detect_pool_mode(database.connector.connect_for_migrations)

    return detect_at


def test_direct_connection_has_no_pool_mode(detect, direct_url):
    assert detect(direct_url) == ""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "transaction"),
        ({"default_pool_size": 1}, "transaction"),
        ({"pool_mode": "statement"}, "transaction"),
        ({"pool_mode": "session"}, "session"),
    ],
)
def test_pool_mode_of_each_setting_is_detected(start_pgbouncer, detect, settings, expected):
    url = start_pgbouncer(**settings).url()
    assert {detect(url) for _ in range(10)} == {expected}


def test_transaction_mode_with_round_robin_is_detected(start_pgbouncer, detect):
    url = start_pgbouncer(server_round_robin=1).url()
    with ExitStack() as stack:
        for _ in range(2):  # so that PgBouncer opens two sessions
            connection = stack.enter_context(closing(psycopg2.connect(url)))
            stack.callback(connection.rollback)
            connection.cursor().execute("SELECT 1")
    assert {detect(url) for _ in range(10)} == {"transaction"}


@pytest.mark.parametrize("client_count", [1, 2, 8])
def test_transaction_mode_of_a_busy_pooler_is_detected(start_pgbouncer, detect, client_count):
    url = start_pgbouncer().url()
    finished = Event()

    def keep_querying():
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not finished.is_set():
                cursor.execute("SELECT pg_sleep(0.001)")

    with ThreadPoolExecutor(client_count) as pool:
        futures = [pool.submit(keep_querying) for _ in range(client_count)]
        try:
            assert {detect(url) for _ in range(20)} == {"transaction"}
        finally:
            finished.set()
    assert [future.result() for future in futures] == [None] * client_count
