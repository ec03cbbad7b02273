"""`flask doctor`: every kind of trouble is told plainly, in time, and without a secret."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import psycopg2
import psycopg2.extras
import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup

import config
from projectapp import doctor
from projectapp.database import migrations
from projectapp.database.schema import newest_revision
from projectapp.devdb import DevPostgres
from projectapp.doctor import checks, server
from projectapp.doctor.connection_errors import explain
from tests.conftest import parameters_of, url_of

pytestmark = pytest.mark.slow

SECRET = "hunter22"  # noqa: S105 - the tests' own
AT_HEAD = "UPDATE alembic_version SET version_num = '{head}'"
INDEX = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = 'projects_name_id_idx'::regclass"
PUBLIC = f"postgresql://app:{SECRET}@db.example.com:5432/d"


@pytest.fixture
def ask(make_app, direct_url, monkeypatch):
    """Run the doctor with these settings; returns its exit code and its findings by check.

    On a busy machine it may take longer than it takes by itself.
    """
    monkeypatch.setattr(doctor, "SECONDS", 60)
    monkeypatch.setattr(server, "ANSWER_SECONDS", 20)
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")  # as it will be: this removes it afterwards

    def run(*arguments, **environ):
        environ = {"DATABASE_URL": direct_url, "MIGRATIONS_DATABASE_URL": "", **environ}
        for name, text in environ.items():
            monkeypatch.setenv(name, text)
        create = partial(doctor.create_app_or_doctor, partial(make_app, **environ))
        command = FlaskGroup(create_app=create)
        answer = CliRunner().invoke(command, ["doctor", "--json", *arguments])
        assert SECRET not in answer.output
        said = json.loads(answer.stdout)
        assert said["ok"] == (answer.exit_code == 0)
        return answer.exit_code, {finding["check"]: finding for finding in said["findings"]}

    return run


@pytest.fixture
def refused(ask):
    """Run the doctor with a setting that no application starts with; returns its only failure."""

    def run(**environ):
        code, found = ask(**environ)
        assert code == 1
        (failure,) = [finding for finding in found.values() if finding["level"] == "FAIL"]
        return failure

    return run


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://app:{SECRET}@x@h/d", "has an unescaped @."),
        (f"postgresql://app:p@{SECRET}/x@h/d", "has an unescaped @ and /."),
        (f"postgresql://app:{SECRET}/x#@h/d", "has an unescaped / and #."),
        (f"postgresql://app:{SECRET}?x@h/d", "has an unescaped ?."),
        (f"postgresql://app:12?x={SECRET}@h/d", "has an unescaped ?."),
        (f"postgresql://app@h/d?password=12&{SECRET}", "with special characters percent-encoded"),
        (f"postgresql://app:{SECRET}%@h/d", "has an unescaped %."),
        (f"mysql://root:{SECRET}@h/d", "DATABASE_URL is the URL of a MySQL database."),
        (f"'postgresql://app:{SECRET}@h/d'", "DATABASE_URL has quotes, or a command, around"),
        (f"psql 'postgresql://app:{SECRET}@h/d'", "DATABASE_URL has quotes, or a command, around"),
        (f"jdbc:postgresql://h/d?password={SECRET}", "must be a PostgreSQL URL such as"),
        (f"postgresql://app:{SECRET}@h/d?sslmode=no", "with an sslmode of disable, allow, prefer"),
    ],
)
def test_what_is_wrong_with_a_url_is_told(refused, url, words):
    failure = refused(DATABASE_URL=url)
    assert failure["check"] == "url"
    assert words in failure["what"]


def test_brackets_of_a_template_are_told(monkeypatch):
    monkeypatch.setenv(
        "DATABASE_URL", f"postgresql://postgres:[{SECRET}]@db.r.supabase.co/postgres"
    )
    found = [finding for finding in doctor.url.examine() if finding.level != "ok"]
    assert [one.what for one in found] == [
        "The password in DATABASE_URL stands in square brackets."
    ]


def test_names_in_what_is_to_be_typed_are_quoted_and_of_several_hosts_one_is_named():
    target = config.parse_database_url("postgresql://postgres.abc@h1,h2/my-db")
    assert explain("DATABASE_URL", "timed out", target).do == "pg_isready -h h1 -p 5432 -t 3"
    created = explain("DATABASE_URL", 'database "my-db" does not exist', target).do
    assert created == (
        'CREATE DATABASE "my-db" OWNER "postgres.abc" ENCODING \'UTF8\' TEMPLATE template0;'
    )


def test_another_refused_setting_is_told(refused):
    assert refused(PORT="x")["what"] == "PORT must be a whole number from 1 to 65535."


@pytest.mark.parametrize(
    "arguments",
    [
        *(["routes"], ["run"], ["db", "upgrade"], ["--help"], ["doctors"]),
        ["tokens", "create", "--name", "doctor", "--owner", "a", "--scope", "projects:read"],
    ],
    ids=" ".join,
)
def test_a_command_other_than_the_doctor_ends_with_the_sentence_alone(arguments):
    done = run_flask(*arguments, PORT="x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "PORT must be a whole number from 1 to 65535.\n"


@pytest.mark.parametrize("options", [["--debug"], ["--app", "wsgi"], ["--app", "wsgi:app"]])
def test_the_doctor_explains_a_refused_setting_behind_options_of_flask(options):
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


def test_a_healthy_database_is_well(ask, sql):
    code, found = ask()
    assert code == 0
    assert {one["level"] for one in found.values()} - {"ok"} == {"warn"}
    assert found["setting"]["what"] == "DATABASE_URL comes from the environment."
    assert "is reached directly, with psycopg2 2." in found["server"]["what"]
    assert "The server's clock agrees with this machine's." in found["clock"]["what"]
    assert found["schema"]["what"] == f"The schema is at {newest_revision()}."
    assert found["durability"]["what"].endswith("are off.")  # as suits a throw-away server
    assert "The role postgres is a superuser." in found["rights"]["what"]


def test_the_source_and_the_changes_of_a_url_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.delenv("APP_ENV", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    url = f"postgres://app:{SECRET}#1@db.example.com/d?pgbouncer=true&sslmode=require"
    (tmp_path / ".env").write_text(f"DATABASE_URL={url}\n")
    source, password, meaning, changes = doctor.url.examine()
    assert source.what == "DATABASE_URL comes from .env."
    assert password.what == "The password in DATABASE_URL has an unescaped #."
    assert meaning.what == "Host db.example.com, port 5432, database d, user app."
    assert changes.what == (
        "Normalised: postgres:// is read as postgresql://; left out pgbouncer, which libpq does not"
        " know."
    )


def test_an_at_sign_behind_the_address_is_nothing_bad(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{SECRET}@h/d?application_name=a@b")
    assert {finding.level for finding in doctor.url.examine()} == {"ok"}


def test_what_comes_after_a_password_is_not_told(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app@h/d?password=12&{SECRET}=3")
    *_, changes = doctor.url.examine()
    assert changes.what == "Normalised: left out keys, which libpq does not know."


def test_a_dead_host_is_told_in_ten_seconds(ask, proxy):
    proxy.silent = True
    begun = time.monotonic()
    url = proxy.url.replace("postgres@", f"postgres:{SECRET}@")
    seconds = {"DATABASE_CONNECT_TIMEOUT": "2"}
    code, found = ask(DATABASE_URL=url, MIGRATIONS_DATABASE_URL=url, **seconds)
    assert time.monotonic() - begun < 40  # before the 60 of `ask`
    assert code == 1
    assert found["connection"]["what"].startswith(
        "MIGRATIONS_DATABASE_URL does not lead to a database"
    )
    assert "Nothing comes back" in found["connection"]["why"]


def test_a_server_that_falls_silent_is_told_in_ten_seconds(ask, proxy, monkeypatch):
    monkeypatch.setattr(server, "ANSWER_SECONDS", 3)
    proxy.mute = "rolsuper"
    begun = time.monotonic()
    code, _ = ask(DATABASE_URL=proxy.url)
    assert time.monotonic() - begun < 40
    assert code == 1


def test_one_that_falls_silent_as_migrations_connect_is_told_in_time(ask, sql, proxy, monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS", 8)
    proxy.mute = "pg_catalog.version"
    begun = time.monotonic()
    code, found = ask(MIGRATIONS_DATABASE_URL=proxy.url)
    assert time.monotonic() - begun < 40
    assert code == 1
    assert found["doctor"]["what"] == "It gives up after 8 s."
    assert found["schema"]["level"] == "ok"


def test_a_server_that_refuses_is_told(ask, direct_url):
    nowhere = {**parameters_of(direct_url), "dbname": "nosuch_test"}
    _, found = ask(DATABASE_URL=url_of(nowhere))
    assert "does not exist" in found["connection"]["what"]
    assert found["connection"]["do"].startswith("CREATE DATABASE nosuch_test ")
    _, found = ask(DATABASE_URL=f"postgresql://app:{SECRET}@127.0.0.1:9/test")
    assert found["connection"]["what"].endswith("failed: Connection refused")
    assert found["connection"]["do"] == "pg_isready -h 127.0.0.1 -p 9"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('could not translate host name "h" to address: Name or service not known', "misspelt"),
        (
            'connection to server at "db.r.supabase.co" (2a05:d014::1), port 5432 failed:'
            " Network is unreachable",
            "IPv6 address only",
        ),
        (
            'connection to server at "2a05:d014::1", port 5432 failed: Cannot assign requested'
            " address",
            "IPv6 address only",
        ),
        ('connection to server at "h" (192.0.2.1), port 5432 failed: timeout expired', "firewall"),
        (
            'connection to server at "h" (192.0.2.1), port 5432 failed: FATAL:  password'
            ' authentication failed for user "app"',
            "user or the password",
        ),
        ("SSL error: certificate verify failed", "system's roots"),
        ("server does not support SSL, but SSL was required", "has no TLS"),
        ("FATAL:  Tenant or user not found", "Supabase's poolers"),
        ('FATAL:  no pg_hba.conf entry for host "192.0.2.7", no encryption', "only with TLS"),
        ("FATAL:  sorry, too many clients already", "is taken"),
        ('FATAL:  too many connections for role "app"', "the doctor needs 3"),
        ('FATAL:  role "app" is not permitted to log in', "not one that logs in"),
        (
            'FATAL:  permission denied for database "d"  DETAIL:  User does not have CONNECT'
            " privilege.",
            "may not connect to this database",
        ),
        ("FATAL:  the database system is starting up", "up or down"),
        ("session is read-only", "Only standbys"),
    ],
)
def test_what_libpq_says_is_explained(said, words):
    finding = explain("DATABASE_URL", said, config.parse_database_url(PUBLIC))
    assert said.replace("  ", " ") in finding.what
    assert words in finding.why
    assert finding.do


def test_a_password_that_a_server_quotes_is_not_told():
    finding = explain("DATABASE_URL", f"no {SECRET}", config.parse_database_url(PUBLIC))
    assert finding.what == "DATABASE_URL does not lead to a database: no ***"


@pytest.mark.parametrize(
    ("do", "undo", "check", "level", "words"),
    [
        (
            *("UPDATE alembic_version SET version_num = '0001'", AT_HEAD),
            *("schema", "FAIL", "The schema is at 0001, this release needs"),
        ),
        (
            *("UPDATE alembic_version SET version_num = '9999'", AT_HEAD),
            *("schema", "ok", "The schema is at 9999, ahead of this release"),
        ),
        (
            "ALTER ROLE postgres IN DATABASE {database} SET default_transaction_read_only = on",
            "ALTER ROLE postgres IN DATABASE {database} RESET default_transaction_read_only",
            *("writes", "FAIL", "takes no writes"),
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
            *("schema", "FAIL", "The role postgres may use no schema of its search_path."),
        ),
        (
            *(INDEX.format("false"), INDEX.format("true")),
            *("indexes", "warn", "Invalid: projects_name_id_idx."),
        ),
    ],
)
def test_what_is_wrong_with_a_database_is_told(ask, sql, direct_url, do, undo, check, level, words):
    database = config.parse_database_url(direct_url)["dbname"]
    sql(do.format(database=database))
    try:
        code, found = ask()
    finally:
        sql(undo.format(database=database, head=newest_revision()))
    assert words in found[check]["what"]
    assert found[check]["level"] == level
    assert code == (level == "FAIL")


def test_what_is_to_be_typed_against_invalid_indexes_works(ask, sql):
    sql("CREATE TABLE scratch (n integer)")
    for name in "ab":
        sql(f"CREATE INDEX {name} ON scratch (n)")
    sql("UPDATE pg_index SET indisvalid = false WHERE indrelid = 'scratch'::regclass")
    _, found = ask()
    for statement in found["indexes"]["do"].splitlines():
        sql(statement)
    assert sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    sql("DROP TABLE scratch")


def test_the_url_for_migrations_is_examined_too(ask, sql, direct_url):
    code, found = ask(MIGRATIONS_DATABASE_URL=direct_url)
    assert code == 0
    assert found["migrating"]["what"].endswith("of MIGRATIONS_DATABASE_URL migrates.")
    name = f"test_{os.getpid()}_another"
    sql(f"CREATE DATABASE {name}")
    another = {**parameters_of(direct_url), "dbname": name}
    code, found = ask(MIGRATIONS_DATABASE_URL=url_of(another))
    sql(f"DROP DATABASE {name} WITH (FORCE)")
    assert code == 1
    assert "another database than DATABASE_URL" in found["migrating"]["what"]


@pytest.fixture
def role(sql, direct_url):
    """A role that may log in and no more; returns its name and its URL."""
    name = f"doctor_{os.getpid()}"
    sql(f"CREATE ROLE {name} LOGIN")
    yield name, url_of({**parameters_of(direct_url), "user": name})
    sql(f"DROP OWNED BY {name}")
    sql(f"DROP ROLE {name}")


def test_what_a_role_may_and_should_is_told(ask, sql, role, direct_url):
    name, url = role
    _, found = ask(DATABASE_URL=url)
    assert found["rights"]["level"] == "FAIL"
    assert f"The role {name} lacks SELECT on " in found["rights"]["what"]
    assert "schema" not in found  # what cannot be read is not called foreign
    _, found = ask(MIGRATIONS_DATABASE_URL=url)
    assert found["migrating"]["level"] == "FAIL"
    assert "may not change the schema" in found["migrating"]["what"]

    sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
    code, found = ask(DATABASE_URL=url)
    assert code == 0
    assert "no other is named to migrate" in found["rights"]["what"]
    code, found = ask(DATABASE_URL=url, MIGRATIONS_DATABASE_URL=direct_url)
    assert found["rights"]["what"] == f"The role {name} serves, and may not change the schema."

    sql(f"GRANT CREATE ON SCHEMA public TO {name}")
    code, found = ask(DATABASE_URL=url, MIGRATIONS_DATABASE_URL=direct_url)
    assert "though another role migrates" in found["rights"]["what"]
    code, found = ask(DATABASE_URL=url)
    assert found["rights"]["what"] == f"The role {name} serves and migrates (docs/roles.md: two)."


def test_tables_that_supabase_serves_to_everybody_are_told(ask, sql, role, monkeypatch):
    monkeypatch.setattr(migrations, "_WEB", f"rolname = '{role[0]}'")
    code, found = ask()
    assert code == 1
    for table in ("alembic_version", "api_tokens", "idempotency_keys", "projects"):
        assert table in found["exposure"]["what"]
    assert found["exposure"]["do"] == "flask db upgrade"


def test_a_server_that_is_too_old_is_told(ask, sql, monkeypatch):
    monkeypatch.setattr(checks, "OLDEST", 99)
    code, found = ask()
    assert code == 1
    assert found["server"]["why"] == "99 is the oldest that works here."


def test_a_database_that_cannot_store_most_languages_is_told(ask, sql, direct_url):
    name = f"test_ascii_{os.getpid()}"
    sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    try:
        code, found = ask(DATABASE_URL=url_of({**parameters_of(direct_url), "dbname": name}))
    finally:
        sql(f"DROP DATABASE {name} WITH (FORCE)")
    assert code == 1
    assert found["encoding"]["what"] == "The database's encoding is SQL_ASCII, not UTF8."


@pytest.fixture(scope="module")
def primary(tmp_path_factory):
    """A server of our own, whose replication may be set: URL parameters that name it twice."""
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
    """Set settings of `primary`; returns what runs SQL there."""
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
    """A connection that asks for the primary's WAL, and says that it has it on its disk."""
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


def failover(ask, primary, hosts=2, **over):
    twice = {name: ",".join([primary[name]] * hosts) for name in ("host", "port")}
    return ask(DATABASE_URL=url_of({**primary, **twice, **over}))[1].get("failover")


def test_several_hosts_without_a_synchronous_standby_are_warned_of(ask, primary, configure):
    found = failover(ask, primary)
    assert found["level"] == "warn"
    assert found["what"] == (
        "DATABASE_URL names 2 hosts, and commits wait for no synchronous standby."
    )
    assert "docs/reliability.md, Failover" in found["do"]
    assert failover(ask, primary, hosts=1) is None


def test_an_asynchronous_standby_does_not_help(ask, primary, configure, standby):
    assert failover(ask, primary)["level"] == "warn"


def test_commits_that_do_not_wait_for_the_standby_are_warned_of(ask, primary, configure, standby):
    configure(synchronous_standby_names="standby", synchronous_commit="local")
    assert failover(ask, primary)["what"].endswith("commits wait for no synchronous standby.")


def test_a_synchronous_standby_that_is_not_connected_is_told(ask, primary, configure):
    configure(synchronous_standby_names="standby")
    found = failover(ask, primary)
    assert (found["level"], found["do"].split()[0]) == ("warn", "SELECT")
    assert "no synchronous standby is connected" in found["what"]


def test_several_hosts_with_a_synchronous_standby_are_well(ask, primary, configure, standby):
    run = configure(synchronous_standby_names="standby")
    wait_until(run, "SELECT bool_or(sync_state = 'sync') FROM pg_stat_replication")
    assert failover(ask, primary)["level"] == "ok"
    run.execute("SET synchronous_commit = local")  # or it would wait for the pretended standby
    run.execute("CREATE ROLE app LOGIN")
    assert failover(ask, primary, user="app")["level"] == "ok"  # it may not see the standby's state
    run.execute("DROP ROLE app")


def test_too_many_connections_are_told(ask, sql):
    code, found = ask("--replicas", "1000")
    assert code == 1
    assert found["connections"]["what"].startswith("16000 connections are needed while a release")


def test_there_is_at_least_one_replica(make_app, direct_url):
    runner = make_app(DATABASE_URL=direct_url).test_cli_runner()
    assert runner.invoke(args=["doctor", "--replicas", "0"]).exit_code == 2


def test_distance_and_clock_are_told(ask, sql, monkeypatch):
    monkeypatch.setattr(checks, "FAR_MS", 0)
    monkeypatch.setattr(checks, "SKEW_SECONDS", -1)
    code, found = ask()
    assert code == 0
    assert found["distance"]["level"] == found["clock"]["level"] == "warn"
    assert re.search(r"clock is [+-]\d\.\d s from", found["clock"]["what"])


def test_a_bug_of_the_doctor_is_no_trace(ask, sql, monkeypatch):
    monkeypatch.setattr(server, "CHECKS", (lambda facts: facts["nothing"],))
    code, found = ask()
    assert code == 1
    assert found["doctor"]["what"] == "It cannot go on: KeyError."


def test_it_is_read_by_people_and_has_colours_on_a_terminal_only(direct_url, sql):
    environ = {**os.environ, "APP_ENV": "testing", "DATABASE_URL": direct_url}
    command = [sys.executable, "-m", "flask", "doctor"]
    options = {"cwd": config.ROOT, "env": environ, "capture_output": True, "text": True}
    plain = subprocess.run(command, **options, check=True)
    assert "\x1b" not in plain.stdout
    assert plain.stdout.startswith("ok    setting     DATABASE_URL comes from the environment.\n")
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
