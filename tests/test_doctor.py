"""`flask doctor` reports each problem in plain words, within its deadline and without secrets."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing

import psycopg2
import psycopg2.extras
import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup

import config
from projectapp.database import supabase
from projectapp.database.schema import newest_revision
from projectapp.devdb import DevPostgres
from projectapp.doctor import checks, command, server
from projectapp.doctor.connection_errors import explain_connection_error
from projectapp.doctor.url import check_urls
from tests.conftest import parameters_of, url_of

pytestmark = pytest.mark.slow

SECRET = "hunter22"  # noqa: S105 - only for the tests
AT_HEAD = "UPDATE alembic_version SET version_num = '{head}'"
INDEX = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = 'projects_name_id_idx'::regclass"
PUBLIC = f"postgresql://app:{SECRET}@db.example.com:5432/d"


@pytest.fixture
def run_doctor(make_app, direct_url, monkeypatch):
    """Run the doctor with these settings, and return its exit code and its findings by check.

    Its deadlines are longer, because the machine may be busy.
    """
    monkeypatch.setattr(command, "DEADLINE_SECONDS", 60)
    monkeypatch.setattr(server, "QUERIES_SECONDS", 20)
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")  # flask sets it; so it is removed afterwards

    def run(*arguments, **environ):
        environ = {"DATABASE_URL": direct_url, "MIGRATIONS_DATABASE_URL": "", **environ}
        for name, text in environ.items():
            monkeypatch.setenv(name, text)

        def create_app():  # like wsgi.py
            try:
                return make_app(**environ)
            except config.ConfigError as error:
                return command.create_doctor_app(error)

        flask = FlaskGroup(create_app=create_app)
        result = CliRunner().invoke(flask, ["doctor", "--json", *arguments])
        assert SECRET not in result.output
        report = json.loads(result.stdout)
        assert report["ok"] == (result.exit_code == 0)
        return result.exit_code, {finding["check"]: finding for finding in report["findings"]}

    return run


@pytest.fixture
def run_refused(run_doctor):
    """Run the doctor with an invalid setting, and return its only failure."""

    def run(**environ):
        code, findings = run_doctor(**environ)
        assert code == 1
        (failure,) = [finding for finding in findings.values() if finding["level"] == "FAIL"]
        return failure

    return run


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://app:{SECRET}@x@h/d", "contains an unescaped @."),
        (f"postgresql://app:p@{SECRET}/x@h/d", "contains an unescaped @ and /."),
        (f"postgresql://app:{SECRET}/x#@h/d", "contains an unescaped / and #."),
        (f"postgresql://app:{SECRET}?x@h/d", "contains an unescaped ?."),
        (f"postgresql://app:12?x={SECRET}@h/d", "contains an unescaped ?."),
        (f"postgresql://app@h/d?password=12&{SECRET}", "with special characters percent-encoded"),
        (f"postgresql://app:{SECRET}%@h/d", "contains an unescaped %."),
        (f"mysql://root:{SECRET}@h/d", "DATABASE_URL is the URL of a MySQL database."),
        (f"'postgresql://app:{SECRET}@h/d'", "DATABASE_URL has quotes or a command around"),
        (f"psql 'postgresql://app:{SECRET}@h/d'", "DATABASE_URL has quotes or a command around"),
        (f"jdbc:postgresql://h/d?password={SECRET}", "must be a PostgreSQL URL such as"),
        (
            f"postgresql://app:{SECRET}@h/d?sslmode=no",
            "its sslmode must be one of disable, allow, prefer",
        ),
    ],
)
def test_doctor_explains_each_mistake_in_a_url(run_refused, url, words):
    failure = run_refused(DATABASE_URL=url)
    assert failure["check"] == "url"
    assert words in failure["summary"]


def test_doctor_warns_about_square_brackets_of_a_url_template(monkeypatch):
    monkeypatch.setenv(
        "DATABASE_URL", f"postgresql://postgres:[{SECRET}]@db.r.supabase.co/postgres"
    )
    problems = [finding.summary for finding in check_urls() if finding.level != "ok"]
    assert problems == ["The password in DATABASE_URL is in square brackets."]


def test_remedy_quotes_names_for_sql_and_contains_the_first_of_several_hosts():
    target = config.parse_database_url("postgresql://postgres.abc@h1,h2/my-db")
    assert (
        explain_connection_error("DATABASE_URL", "timed out", target).remedy
        == "pg_isready -h h1 -p 5432 -t 3"
    )
    unnamed = config.parse_database_url("postgresql://u@,h2/d")
    refused = explain_connection_error("DATABASE_URL", "Connection refused", unnamed)
    assert refused.remedy == "pg_isready -h HOST -p 5432"
    created = explain_connection_error(
        "DATABASE_URL", 'database "my-db" does not exist', target
    ).remedy
    assert created == (
        'CREATE DATABASE "my-db" OWNER "postgres.abc" ENCODING \'UTF8\' TEMPLATE template0;'
    )


def test_doctor_reports_an_invalid_setting(run_refused):
    assert run_refused(PORT="x")["summary"] == "PORT must be a whole number from 1 to 65535."


@pytest.mark.parametrize(
    "arguments",
    [
        *(["routes"], ["run"], ["db", "upgrade"], ["--help"], ["doctors"]),
        ["tokens", "create", "--name", "doctor", "--owner", "a", "--scope", "projects:read"],
    ],
    ids=" ".join,
)
def test_other_command_with_invalid_setting_prints_only_the_message(arguments):
    done = run_flask(*arguments, PORT="x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "PORT must be a whole number from 1 to 65535.\n"


@pytest.mark.parametrize("options", [["--debug"], ["--app", "wsgi"], ["--app", "wsgi:app"]])
def test_doctor_after_options_of_flask_reports_an_invalid_setting(options):
    done = run_flask(*options, "doctor", PORT="x")
    assert done.returncode == 1
    assert "FAIL  settings    PORT must be a whole number from 1 to 65535." in done.stdout
    assert run_flask(*options, "doctor", "--help", PORT="x").stdout.startswith("Usage: ")


def run_flask(*arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=config.ROOT,
        env={**os.environ, "APP_ENV": "testing", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_doctor_finds_no_error_in_a_healthy_database(run_doctor, sql):
    code, findings = run_doctor()
    assert code == 0
    assert {finding["level"] for finding in findings.values()} - {"ok"} == {"warn"}
    assert findings["settings"]["summary"] == "DATABASE_URL comes from the environment."
    assert "Connected directly to PostgreSQL " in findings["server"]["summary"]
    assert "The server's clock agrees with this machine's." in findings["clock"]["summary"]
    assert findings["schema"]["summary"] == f"The schema is at {newest_revision()}."
    assert findings["durability"]["summary"].endswith(
        "are off."
    )  # the server of the tests is not durable
    assert "The role postgres is a superuser." in findings["privileges"]["summary"]


def test_doctor_reports_the_source_of_a_url_and_changes_to_it(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.delenv("APP_ENV", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    url = f"postgres://app:{SECRET}#1@db.example.com/d?pgbouncer=true&sslmode=require"
    (tmp_path / ".env").write_text(f"DATABASE_URL={url}\n")
    source, password, meaning, changes = check_urls()
    assert source.summary == "DATABASE_URL comes from .env."
    assert password.summary == "The password in DATABASE_URL contains an unescaped #."
    assert meaning.summary == "Host db.example.com, port 5432, database d, user app."
    assert changes.summary == (
        "Changes to this URL: postgres:// is read as postgresql://; pgbouncer dropped"
        " (unknown to libpq)."
    )


def test_at_sign_in_a_url_query_is_no_error(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{SECRET}@h/d?application_name=a@b")
    assert {finding.level for finding in check_urls()} == {"ok"}


def test_dropped_query_key_behind_a_password_is_not_printed(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app@h/d?password=12&{SECRET}=3")
    *_, changes = check_urls()
    assert changes.summary == ("Changes to this URL: keys dropped (unknown to libpq).")


def test_doctor_reports_an_unreachable_host_within_its_deadline(run_doctor, proxy):
    proxy.is_silent = True
    started_at = time.monotonic()
    url = proxy.url.replace("postgres@", f"postgres:{SECRET}@")
    seconds = {"DATABASE_CONNECT_TIMEOUT": "2"}
    code, findings = run_doctor(DATABASE_URL=url, MIGRATIONS_DATABASE_URL=url, **seconds)
    assert time.monotonic() - started_at < 40  # less than the deadline of `run_doctor`
    assert code == 1
    assert findings["connection"]["summary"].startswith(
        "Cannot connect with MIGRATIONS_DATABASE_URL: "
    )
    assert "No response" in findings["connection"]["reason"]


def test_doctor_reports_a_server_that_stops_answering_within_its_deadline(
    run_doctor, proxy, monkeypatch
):
    monkeypatch.setattr(server, "QUERIES_SECONDS", 3)
    proxy.swallow = "rolsuper"
    started_at = time.monotonic()
    code, _ = run_doctor(DATABASE_URL=proxy.url)
    assert time.monotonic() - started_at < 40
    assert code == 1


def test_doctor_stops_at_its_deadline_if_the_migrations_url_does_not_answer(
    run_doctor, sql, proxy, monkeypatch
):
    monkeypatch.setattr(command, "DEADLINE_SECONDS", 8)
    proxy.swallow = "pg_catalog.version"
    started_at = time.monotonic()
    code, findings = run_doctor(MIGRATIONS_DATABASE_URL=proxy.url)
    assert time.monotonic() - started_at < 40
    assert code == 1
    assert findings["doctor"]["summary"] == "Stopped after 8 s."
    assert findings["schema"]["level"] == "ok"


def test_doctor_explains_a_missing_database_and_a_refused_connection(run_doctor, direct_url):
    nowhere = {**parameters_of(direct_url), "dbname": "nosuch_test"}
    _, findings = run_doctor(DATABASE_URL=url_of(nowhere))
    assert "does not exist" in findings["connection"]["summary"]
    assert findings["connection"]["remedy"].startswith("CREATE DATABASE nosuch_test ")
    _, findings = run_doctor(DATABASE_URL=f"postgresql://app:{SECRET}@127.0.0.1:9/test")
    assert findings["connection"]["summary"].endswith("failed: Connection refused")
    assert findings["connection"]["remedy"] == "pg_isready -h 127.0.0.1 -p 9"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ('could not translate host name "h" to address: Name or service not known', "misspelt"),
        (
            'connection to server at "db.r.supabase.co" (2a05:d014::1), port 5432 failed:'
            " Network is unreachable",
            "only an IPv6 address",
        ),
        (
            'connection to server at "2a05:d014::1", port 5432 failed: Cannot assign requested'
            " address",
            "only an IPv6 address",
        ),
        ('connection to server at "h" (192.0.2.1), port 5432 failed: timeout expired', "firewall"),
        (
            'connection to server at "h" (192.0.2.1), port 5432 failed: FATAL:  password'
            ' authentication failed for user "app"',
            "user or the password",
        ),
        ("SSL error: certificate verify failed", "not signed by a CA"),
        ("server does not support SSL, but SSL was required", "does not support TLS"),
        ("FATAL:  Tenant or user not found", "Supabase's poolers"),
        ('FATAL:  no pg_hba.conf entry for host "192.0.2.7", no encryption', "only with TLS"),
        ("FATAL:  sorry, too many clients already", "in use"),
        ('FATAL:  too many connections for role "app"', "needs three"),
        ('FATAL:  role "app" is not permitted to log in', "no LOGIN attribute"),
        (
            'FATAL:  permission denied for database "d"  DETAIL:  User does not have CONNECT'
            " privilege.",
            "may not connect to this database",
        ),
        ("FATAL:  the database system is starting up", "starting or stopping"),
        ("session is read-only", "Only standbys"),
    ],
)
def test_each_connection_error_has_a_cause_and_a_remedy(message, words):
    finding = explain_connection_error("DATABASE_URL", message, config.parse_database_url(PUBLIC))
    assert message.replace("  ", " ") in finding.summary
    assert words in finding.reason
    assert finding.remedy


def test_password_in_an_error_message_is_masked():
    finding = explain_connection_error(
        "DATABASE_URL", f"no {SECRET}", config.parse_database_url(PUBLIC)
    )
    assert finding.summary == "Cannot connect with DATABASE_URL: no ***"


@pytest.mark.parametrize(
    ("statement", "undo", "check", "level", "words"),
    [
        (
            *("UPDATE alembic_version SET version_num = '0001'", AT_HEAD),
            *("schema", "FAIL", "The schema is at 0001; this release needs"),
        ),
        (
            *("UPDATE alembic_version SET version_num = '9999'", AT_HEAD),
            *("schema", "ok", "The schema is at 9999, newer than this release"),
        ),
        (
            "ALTER ROLE postgres IN DATABASE {database} SET default_transaction_read_only = on",
            "ALTER ROLE postgres IN DATABASE {database} RESET default_transaction_read_only",
            *("writes", "FAIL", "is read-only"),
        ),
        (
            "ALTER ROLE postgres IN DATABASE {database} SET jit = on",
            "ALTER ROLE postgres IN DATABASE {database} RESET jit",
            *("jit", "warn", "jit is on"),
        ),
        (
            "ALTER DATABASE {database} CONNECTION LIMIT 12",
            "ALTER DATABASE {database} CONNECTION LIMIT -1",
            *("connections", "warn", "the server allows 12."),
        ),
        (
            "ALTER ROLE postgres IN DATABASE {database} SET search_path = nowhere",
            "ALTER ROLE postgres IN DATABASE {database} RESET search_path",
            *("schema", "FAIL", "The role postgres may not use any schema of its search_path."),
        ),
        (
            *(INDEX.format("false"), INDEX.format("true")),
            *("indexes", "warn", "Invalid indexes: projects_name_id_idx."),
        ),
        (
            "UPDATE histories SET database_id = '1.2.3'",
            "UPDATE histories SET database_id = history_database_id()",
            *("history", "FAIL", "This database was restored from a dump."),
        ),
        (
            "ALTER TABLE projects DISABLE TRIGGER history_after_delete",
            "SELECT keep_history('projects')",
            *("history", "FAIL", "missing, disabled or outdated: projects."),
        ),
    ],
)
def test_doctor_reports_each_database_problem(
    run_doctor, sql, direct_url, statement, undo, check, level, words
):
    database = config.parse_database_url(direct_url)["dbname"]
    sql(statement.format(database=database))
    try:
        code, findings = run_doctor()
    finally:
        sql(undo.format(database=database, head=newest_revision()))
    assert words in findings[check]["summary"]
    assert findings[check]["level"] == level
    assert code == (level == "FAIL")


def test_remedy_for_invalid_indexes_removes_them(run_doctor, sql):
    sql("CREATE TABLE scratch (n integer)")
    for name in "ab":
        sql(f"CREATE INDEX {name} ON scratch (n)")
    sql("UPDATE pg_index SET indisvalid = false WHERE indrelid = 'scratch'::regclass")
    _, findings = run_doctor()
    for statement in findings["indexes"]["remedy"].splitlines():
        sql(statement)
    assert sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    sql("DROP TABLE scratch")


def test_doctor_checks_the_migrations_url(run_doctor, sql, direct_url):
    code, findings = run_doctor(MIGRATIONS_DATABASE_URL=direct_url)
    assert code == 0
    assert findings["migrations"]["summary"].endswith("of MIGRATIONS_DATABASE_URL can migrate.")
    name = f"test_{os.getpid()}_another"
    sql(f"CREATE DATABASE {name}")
    another = {**parameters_of(direct_url), "dbname": name}
    code, findings = run_doctor(MIGRATIONS_DATABASE_URL=url_of(another))
    sql(f"DROP DATABASE {name} WITH (FORCE)")
    assert code == 1
    assert "another database than DATABASE_URL" in findings["migrations"]["summary"]


@pytest.fixture
def role(sql, direct_url):
    """A role that may only log in; returns its name and its URL."""
    name = f"doctor_{os.getpid()}"
    sql(f"CREATE ROLE {name} LOGIN")
    yield name, url_of({**parameters_of(direct_url), "user": name})
    sql(f"DROP OWNED BY {name}")
    sql(f"DROP ROLE {name}")


def test_doctor_reports_missing_and_needless_privileges(run_doctor, sql, role, direct_url):
    name, url = role
    _, findings = run_doctor(DATABASE_URL=url)
    assert findings["privileges"]["level"] == "FAIL"
    assert f"The role {name} lacks SELECT on " in findings["privileges"]["summary"]
    assert "schema" not in findings  # tables that it cannot read are not called foreign
    _, findings = run_doctor(MIGRATIONS_DATABASE_URL=url)
    assert findings["migrations"]["level"] == "FAIL"
    assert "may not change the schema" in findings["migrations"]["summary"]

    sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
    code, findings = run_doctor(DATABASE_URL=url)
    assert code == 0
    assert "MIGRATIONS_DATABASE_URL is not set" in findings["privileges"]["summary"]
    code, findings = run_doctor(DATABASE_URL=url, MIGRATIONS_DATABASE_URL=direct_url)
    assert (
        findings["privileges"]["summary"]
        == f"The role {name} serves, and may not change the schema."
    )
    assert (findings["history"]["level"], findings["history"]["remedy"]) == (
        "warn",
        "docs/roles.md",
    )
    sql(f"REVOKE INSERT, UPDATE, DELETE ON changes, histories FROM {name}")
    code, findings = run_doctor(DATABASE_URL=url, MIGRATIONS_DATABASE_URL=direct_url)
    assert "history" not in findings
    assert "lacks" not in findings["privileges"]["summary"]

    sql(f"GRANT CREATE ON SCHEMA public TO {name}")
    code, findings = run_doctor(DATABASE_URL=url, MIGRATIONS_DATABASE_URL=direct_url)
    assert "although another role migrates" in findings["privileges"]["summary"]
    code, findings = run_doctor(DATABASE_URL=url)
    assert (
        findings["privileges"]["summary"]
        == f"The role {name} serves and migrates (docs/roles.md describes two roles)."
    )


def test_doctor_reports_tables_that_supabase_serves_to_everyone(run_doctor, sql, role, monkeypatch):
    monkeypatch.setattr(supabase, "_IS_SUPABASE_ROLE", f"rolname = '{role[0]}'")
    code, findings = run_doctor()
    assert code == 1
    for table in ("alembic_version", "api_tokens", "idempotency_keys", "projects"):
        assert table in findings["exposure"]["summary"]
    assert findings["exposure"]["remedy"] == "flask db upgrade"


def test_doctor_reports_a_postgresql_that_is_too_old(run_doctor, sql, monkeypatch):
    monkeypatch.setattr(checks, "OLDEST_POSTGRESQL", 99)
    code, findings = run_doctor()
    assert code == 1
    assert findings["server"]["reason"] == "This service needs PostgreSQL 99 or newer."


def test_doctor_reports_an_encoding_other_than_utf8(run_doctor, sql, direct_url):
    name = f"test_ascii_{os.getpid()}"
    sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    try:
        code, findings = run_doctor(
            DATABASE_URL=url_of({**parameters_of(direct_url), "dbname": name})
        )
    finally:
        sql(f"DROP DATABASE {name} WITH (FORCE)")
    assert code == 1
    assert findings["encoding"]["summary"] == "The database's encoding is SQL_ASCII, not UTF8."


@pytest.fixture(scope="module")
def primary(tmp_path_factory):
    """The URL parameters of a server whose replication a test may configure."""
    binaries = config.Testing(os.environ).EMBEDDED_POSTGRES_BIN
    server = DevPostgres(tmp_path_factory.mktemp("primary"), binaries)
    server.start()
    with closing(psycopg2.connect(**server.parameters)) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE test")
    yield {**server.parameters, "dbname": "test"}
    server.release()


@pytest.fixture
def configure(primary):
    """Set settings of `primary`; returns a cursor on it."""
    connection = psycopg2.connect(**primary)
    connection.autocommit = True
    cursor = connection.cursor()

    def run(**settings):
        for name, value in settings.items():
            cursor.execute(f"ALTER SYSTEM SET {name} = %s", (value,))
        cursor.execute("SELECT pg_reload_conf()")
        for name, value in settings.items():
            wait_until(cursor, f"SELECT current_setting('{name}') = %s", value)
        return cursor

    yield run
    cursor.execute("ALTER SYSTEM RESET ALL")
    cursor.execute("SELECT pg_reload_conf()")
    wait_until(cursor, "SELECT current_setting('synchronous_standby_names') = %s", "")
    connection.close()


def wait_until(cursor, query, *values):
    end = time.monotonic() + 30
    while cursor.execute(query, values) or not cursor.fetchone()[0]:
        assert time.monotonic() < end, query
        time.sleep(0.02)


@pytest.fixture
def standby(primary, configure):
    """A connection that acts as a standby: it reads the primary's WAL and confirms the flush."""
    run = configure()
    run.execute("SELECT pg_current_wal_flush_lsn(), pg_current_wal_flush_lsn() - '0/0'")
    text, number = run.fetchone()
    kind = psycopg2.extras.PhysicalReplicationConnection
    with closing(
        psycopg2.connect(**primary, application_name="standby", connection_factory=kind)
    ) as connection:
        cursor = connection.cursor()
        cursor.start_replication(start_lsn=text)
        cursor.send_feedback(flush_lsn=int(number), force=True)
        wait_until(run, "SELECT bool_or(state = 'streaming') FROM pg_stat_replication")
        yield


def failover(run_doctor, primary, hosts=2, **parameters):
    """The finding about failover, if the URL names the primary several times."""
    repeated = {name: ",".join([primary[name]] * hosts) for name in ("host", "port")}
    return run_doctor(DATABASE_URL=url_of({**primary, **repeated, **parameters}))[1].get("failover")


def test_several_hosts_without_synchronous_standby_get_a_warning(run_doctor, primary, configure):
    finding = failover(run_doctor, primary)
    assert finding["level"] == "warn"
    assert finding["summary"] == (
        "DATABASE_URL names 2 hosts, but commits do not wait for a synchronous standby."
    )
    assert "docs/reliability.md, Failover" in finding["remedy"]
    assert failover(run_doctor, primary, hosts=1) is None


def test_several_hosts_with_asynchronous_standby_get_a_warning(
    run_doctor, primary, configure, standby
):
    assert failover(run_doctor, primary)["level"] == "warn"


def test_several_hosts_with_local_commits_get_a_warning(run_doctor, primary, configure, standby):
    configure(synchronous_standby_names="standby", synchronous_commit="local")
    assert failover(run_doctor, primary)["summary"].endswith(
        "commits do not wait for a synchronous standby."
    )


def test_synchronous_standby_that_is_not_connected_gets_a_warning(run_doctor, primary, configure):
    configure(synchronous_standby_names="standby")
    finding = failover(run_doctor, primary)
    assert (finding["level"], finding["remedy"].split()[0]) == ("warn", "SELECT")
    assert "no synchronous standby is connected" in finding["summary"]


def test_several_hosts_with_synchronous_standby_are_ok(run_doctor, primary, configure, standby):
    run = configure(synchronous_standby_names="standby")
    wait_until(run, "SELECT bool_or(sync_state = 'sync') FROM pg_stat_replication")
    assert failover(run_doctor, primary)["level"] == "ok"
    run.execute("SET synchronous_commit = local")  # otherwise it would wait for this standby
    run.execute("CREATE ROLE app LOGIN")
    assert (
        failover(run_doctor, primary, user="app")["level"] == "ok"
    )  # this role may not see the state
    run.execute("DROP ROLE app")


def test_more_connections_than_the_server_allows_are_an_error(run_doctor, sql):
    code, findings = run_doctor("--replicas", "1000")
    assert code == 1
    assert findings["connections"]["summary"].startswith(
        "16000 connections are needed while a release"
    )


def test_zero_replicas_are_a_usage_error(make_app, direct_url):
    runner = make_app(DATABASE_URL=direct_url).test_cli_runner()
    assert runner.invoke(args=["doctor", "--replicas", "0"]).exit_code == 2


def test_slow_round_trip_and_clock_skew_get_warnings(run_doctor, sql, monkeypatch):
    monkeypatch.setattr(checks, "SLOW_ROUND_TRIP_MS", 0)
    monkeypatch.setattr(checks, "MAX_CLOCK_SKEW_SECONDS", -1)
    code, findings = run_doctor()
    assert code == 0
    assert findings["latency"]["level"] == findings["clock"]["level"] == "warn"
    assert re.search(r"clock differs .* by [+-]\d\.\d s", findings["clock"]["summary"])


def test_exception_in_a_check_is_reported_without_traceback(run_doctor, sql, monkeypatch):
    monkeypatch.setattr(server, "CHECKS", (lambda facts: facts.nothing,))
    code, findings = run_doctor()
    assert code == 1
    assert findings["doctor"]["summary"] == "The doctor failed: AttributeError."


def test_report_for_people_is_wrapped_and_has_no_colours_in_a_pipe(direct_url, sql):
    environ = {**os.environ, "APP_ENV": "testing", "DATABASE_URL": direct_url}
    command = [sys.executable, "-m", "flask", "doctor"]
    options = {"cwd": config.ROOT, "env": environ, "capture_output": True, "text": True}
    plain = subprocess.run(command, **options, check=True)
    assert "\x1b" not in plain.stdout
    assert plain.stdout.startswith("ok    settings    DATABASE_URL comes from the environment.\n")
    assert re.search(r"\nErrors: 0, warnings: \d+\.\n$", plain.stdout)
    assert max(map(len, plain.stdout.splitlines())) <= 100
    options["env"] = {**environ, "COLUMNS": "70"}
    narrow = subprocess.run(command, **options, check=True)
    assert narrow.stdout.count("\n") > plain.stdout.count("\n")
    options["env"] = {**environ, "DATABASE_URL": f"mysql://root:{SECRET}@h/d"}
    refused = subprocess.run(command, **options, check=False)
    assert (refused.returncode, refused.stderr) == (1, "")
    assert "Errors: 1, " in refused.stdout
    assert SECRET not in refused.stdout
