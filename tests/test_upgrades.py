"""`flask db upgrade` while the service is used: several at once, killed, blocked, misconfigured."""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Timer

import flask_migrate
import psycopg2
import pytest

import config
from projectapp.database import migrations, supabase
from projectapp.database.schema import newest_revision
from tests.conftest import PROJECTS, parameters_of, url_of
from tests.test_serving import until

pytestmark = pytest.mark.slow

ADVISORY_LOCK = f"({int.from_bytes(b'projecta')})"
MIGRATION_FILE = '''"""{number}"""

from alembic import op

revision = "{number}"
down_revision = "{before}"


def upgrade() -> None:
    {code}


def downgrade() -> None:
    pass
'''
CREATE_INDEX = """with op.get_context().autocommit_block():
        op.create_index("scratch_n_idx", "scratch", ["n"],
            postgresql_concurrently=True, if_not_exists=True)"""


def add_file(folder, name, number, before, code="pass"):
    text = MIGRATION_FILE.format(number=number, before=before, code=code)
    (folder / "versions" / name).write_text(text)


@pytest.fixture
def newest_number(app, sql):
    """Return the number of the newest migration. Restore its schema after the test."""
    yield int(newest_revision())
    sql("DROP TABLE IF EXISTS scratch, other CASCADE")
    sql("ALTER TABLE projects DROP COLUMN IF EXISTS scratch")
    sql("UPDATE alembic_version SET version_num = %s", newest_revision())


@pytest.fixture
def add_migrations(newest_number, tmp_path):
    """Add a migration for each code of an `upgrade` function. Return the folder of migrations."""

    def add(*upgrade_codes):
        folder = tmp_path / "migrations"
        if not folder.exists():
            shutil.copytree(config.ROOT / "migrations", folder)
        for number, code in enumerate(upgrade_codes, newest_number + 1):
            add_file(folder, f"{number:04}_scratch.py", f"{number:04}", f"{number - 1:04}", code)
        return folder

    return add


@pytest.fixture
def upgrade(direct_url):
    """Start `flask db upgrade`. It is killed at the end of the test, or after five minutes."""
    processes_and_timers = []

    def start(folder=config.ROOT / "migrations", url=direct_url, **environ):
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "db", "upgrade", "-d", str(folder)],
            cwd=config.ROOT,
            env={**os.environ, "APP_ENV": "testing", "DATABASE_URL": url, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        timer = Timer(300, process.kill)
        timer.start()
        processes_and_timers.append((process, timer))
        return process

    yield start
    for process, timer in processes_and_timers:
        timer.cancel()
        process.kill()
        process.communicate()


@pytest.fixture
def other_session(direct_url):
    """Run SQL in another session than `sql`, in one transaction."""
    connection = psycopg2.connect(**parameters_of(direct_url))
    cursor = connection.cursor()
    yield cursor.execute
    connection.close()


def schema_version(sql):
    return sql("SELECT version_num FROM alembic_version")


def read_until(process, words):
    """Return the output of the process up to the line with these words."""
    output = ""
    while words not in output:
        line = process.stderr.readline()
        assert line, output
        output += line
    return output


def wait_for_output(process):
    return process.communicate(timeout=120)[1]


def has_done_nothing(process):
    output = wait_for_output(process)
    return process.returncode == 0 and "Applied" not in output and "waits" not in output


def test_five_upgrades_at_once_apply_each_migration_once(
    app, sql, add_migrations, newest_number, upgrade
):
    with app.app_context():
        flask_migrate.downgrade(revision="base")
    folder = add_migrations('op.execute("CREATE TABLE scratch (n integer)")', CREATE_INDEX)
    processes = [upgrade(folder) for _ in range(5)]
    outputs = "".join(process.communicate(timeout=240)[1] for process in processes)
    assert {process.returncode for process in processes} == {0}, outputs
    for number in range(1, newest_number + 3):
        assert outputs.count(f"Applied {number:04}: ") == 1
    assert schema_version(sql) == [(f"{newest_number + 2:04}",)]
    assert sql("SELECT bool_and(indisvalid) FROM pg_index") == [(True,)]


def test_upgrade_of_an_up_to_date_schema_waits_for_no_lock(sql, upgrade):
    sql(f"SELECT pg_advisory_lock{ADVISORY_LOCK}")
    sql("BEGIN")
    sql("LOCK TABLE projects, alembic_version IN EXCLUSIVE MODE")
    assert has_done_nothing(upgrade())
    sql("ROLLBACK")
    sql(f"SELECT pg_advisory_unlock{ADVISORY_LOCK}")


def test_upgrade_skips_what_another_applied_while_it_waited(sql, add_migrations, upgrade):
    sql(f"SELECT pg_advisory_lock{ADVISORY_LOCK}")
    process = upgrade(add_migrations('op.execute("CREATE TABLE scratch (n integer)")'))
    read_until(process, "Another process is migrating: this one waits for it.")
    sql("UPDATE alembic_version SET version_num = %s", f"{int(newest_revision()) + 1:04}")
    sql(f"SELECT pg_advisory_unlock{ADVISORY_LOCK}")
    assert has_done_nothing(process)
    assert sql("SELECT to_regclass('scratch')") == [(None,)]


def test_upgrade_changes_nothing_if_a_newer_release_migrated_while_it_waited(
    sql, newest_number, upgrade
):
    sql(f"SELECT pg_advisory_lock{ADVISORY_LOCK}")
    sql("UPDATE alembic_version SET version_num = %s", f"{newest_number - 1:04}")
    process = upgrade()
    read_until(process, "Another process is migrating: this one waits for it.")
    sql("UPDATE alembic_version SET version_num = '9999'")  # by a newer release
    sql(f"SELECT pg_advisory_unlock{ADVISORY_LOCK}")
    assert "The schema is at 9999, ahead of this release" in wait_for_output(process)
    assert process.returncode == 0


def test_upgrade_of_a_schema_ahead_of_the_release_changes_nothing(
    client, sql, newest_number, upgrade
):
    sql("UPDATE alembic_version SET version_num = '9999'")
    process = upgrade()
    output = wait_for_output(process)
    assert (
        f"The schema is at 9999, ahead of this release, which needs {newest_number:04}.\n" in output
    )
    assert process.returncode == 0
    assert client.get("/ready").json["schema"] == "9999"


def test_failed_migration_is_rolled_back_and_earlier_ones_are_kept(
    app, sql, add_migrations, newest_number
):
    folder = add_migrations(
        'op.execute("CREATE TABLE scratch (n integer)")',
        'op.execute("CREATE TABLE other (n integer)"); op.execute("SELECT 1 / 0")',
    )
    with app.app_context(), pytest.raises(Exception, match="division by zero"):
        flask_migrate.upgrade(directory=folder)
    assert schema_version(sql) == [(f"{newest_number + 1:04}",)]
    assert sql("SELECT to_regclass('scratch'), to_regclass('other')") == [("scratch", None)]


def test_long_transaction_delays_the_migration_but_no_request(
    client, sql, add_migrations, upgrade, other_session, make_project
):
    make_project()
    other_session("SELECT count(*) FROM projects")
    process = upgrade(add_migrations('op.execute("ALTER TABLE projects ADD COLUMN scratch text")'))
    # The long transaction stays open until the migration has waited twice for its lock, so the
    # requests run while it waits.
    with ThreadPoolExecutor(1) as pool:
        output = pool.submit(read_until, process, f"{migrations.TRIES - 2} tries left")
        try:
            while not output.done():
                response = client.post(PROJECTS, json={"name": "x"})
                assert response.status_code == 201, response.json
        finally:
            other_session("ROLLBACK")
    assert "Another session holds a lock that the migration needs" in output.result()
    wait_for_output(process)
    assert process.returncode == 0
    assert sql("SELECT count(*) - count(scratch) > 1 FROM projects") == [(True,)]


def test_upgrade_fails_if_its_lock_is_never_free(
    app, sql, add_migrations, other_session, monkeypatch, caplog
):
    monkeypatch.setattr(migrations, "TRIES", 2)
    other_session("SET application_name = 'a report'")
    other_session("SELECT count(*) FROM projects")
    folder = add_migrations(
        'op.execute("CREATE TABLE scratch (n integer)");'
        ' op.execute("ALTER TABLE projects ADD COLUMN scratch text")'
    )
    with app.app_context(), pytest.raises(SystemExit):
        flask_migrate.upgrade(directory=folder)
    assert "In 2 tries the migration did not get a lock that it needs" in caplog.text
    assert "(a report), running for" in caplog.text
    assert schema_version(sql) == [(newest_revision(),)]
    assert sql("SELECT to_regclass('scratch')") == [(None,)]


def test_upgrade_completes_after_a_kill_in_a_transaction(sql, add_migrations, upgrade):
    create = 'op.execute("CREATE TABLE scratch (n integer)"); op.execute("SELECT pg_sleep({})")'
    process = upgrade(add_migrations(create.format(60)))
    until(lambda: sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"))
    process.send_signal(signal.SIGKILL)
    process = upgrade(add_migrations(create.format(0)))
    wait_for_output(process)
    assert process.returncode == 0
    assert sql("SELECT count(*) FROM scratch") == [(0,)]


def test_upgrade_completes_after_a_kill_in_a_concurrent_index_build(
    sql, add_migrations, upgrade, other_session
):
    is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('scratch_n_idx')"
    folder = add_migrations('op.execute("CREATE TABLE scratch (n integer)")', CREATE_INDEX)
    other_session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    other_session("SELECT count(*) FROM projects")  # the index build waits for its snapshot
    process = upgrade(folder)
    until(lambda: sql(is_valid) == [(False,)])
    time.sleep(1)  # longer than lock_timeout, which does not apply here
    process.send_signal(signal.SIGKILL)
    process = upgrade(folder)
    # This line comes when PostgreSQL has ended the session of the killed process.
    read_until(process, "The schema is at")
    other_session("ROLLBACK")
    wait_for_output(process)
    assert process.returncode == 0
    assert sql(is_valid) == [(True,)]


def test_lock_timeout_is_set_again_after_a_concurrent_index_build(app, sql, add_migrations):
    note = "CREATE TABLE other AS SELECT current_setting('lock_timeout') AS waits"
    folder = add_migrations(
        'op.execute("CREATE TABLE scratch (n integer)")', CREATE_INDEX, f'op.execute("{note}")'
    )
    with app.app_context():
        flask_migrate.upgrade(directory=folder)
    assert sql("SELECT waits FROM other") == [("500ms",)]


def test_timeouts_of_the_role_do_not_apply_to_migrations(app, sql, add_migrations, direct_url):
    database = parameters_of(direct_url)["dbname"]
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    for name in names:
        sql(f"ALTER ROLE postgres IN DATABASE {database} SET {name} = '2s'")
    try:
        with app.app_context():
            flask_migrate.upgrade(
                directory=add_migrations(
                    'op.execute("SELECT pg_sleep(2.4)")',
                    'import time; op.execute("SELECT 1"); time.sleep(2.4); op.execute("SELECT 1")',
                )
            )
    finally:
        for name in names:
            sql(f"ALTER ROLE postgres IN DATABASE {database} RESET {name}")


def test_upgrade_fails_if_another_migrates_for_too_long(
    app, sql, add_migrations, monkeypatch, caplog
):
    monkeypatch.setattr(migrations, "WAIT_SECONDS", 1)
    sql(f"SELECT pg_advisory_lock{ADVISORY_LOCK}")
    try:
        with app.app_context(), pytest.raises(SystemExit):
            flask_migrate.upgrade(directory=add_migrations('op.execute("SELECT 1")'))
    finally:
        sql(f"SELECT pg_advisory_unlock{ADVISORY_LOCK}")
    assert "Another process has been migrating for 1 s." in caplog.text


def test_examples_in_docs_migrations_can_be_applied(
    app, sql, add_migrations, make_project, newest_number
):
    make_project()
    page = (config.ROOT / "docs" / "migrations.md").read_text()
    index, batches = re.findall(r"```python\ndef upgrade\(\) -> None:\n    (.*?)\n```", page, re.S)
    folder = add_migrations('op.execute("ALTER TABLE projects ADD colour text")', index, batches)
    try:
        with app.app_context():
            flask_migrate.upgrade(directory=folder)
            sql("UPDATE alembic_version SET version_num = %s", f"{newest_number + 1:04}")
            flask_migrate.upgrade(directory=folder)
        assert sql("SELECT colour FROM projects") == [("red",)]
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'projects_colour_idx'::regclass"
        assert sql(valid) == [(True,)]
    finally:
        sql("ALTER TABLE projects DROP COLUMN colour")


def test_unreachable_database_is_reported_without_traceback(upgrade, proxy):
    proxy.refuses = True
    process = upgrade(url=proxy.url)
    output = wait_for_output(process)
    assert process.returncode == 1
    assert "Error: connection to server at" in output
    assert output.endswith("`flask doctor` says more.\n")
    assert "Traceback" not in output


@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
def test_terminated_or_cancelled_migration_is_reported_and_can_be_repeated(
    sql, add_migrations, upgrade, other_session, end
):
    folder = add_migrations('op.execute("CREATE TABLE scratch (n integer)")', CREATE_INDEX)
    other_session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    other_session("SELECT count(*) FROM projects")  # the index build waits for its snapshot
    process = upgrade(folder)
    building = " FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'"
    until(lambda: sql("SELECT 1 FROM pg_class WHERE relname = 'scratch_n_idx'"))
    sql(f"SELECT {end}(pid){building}")
    output = wait_for_output(process)
    assert process.returncode == 1
    assert "Error: " in output
    assert ("`flask db current` prints the schema's revision" in output) == ("terminate" in end)
    assert "Traceback" not in output
    other_session("ROLLBACK")
    process = upgrade(folder)
    wait_for_output(process)
    assert process.returncode == 0
    assert sql("SELECT bool_and(indisvalid) FROM pg_index") == [(True,)]


@pytest.mark.parametrize(
    "words", ["CREATE TABLE scratch", "UPDATE alembic_version", "CREATE INDEX CONC", "COMMIT"]
)
def test_upgrade_reports_a_lost_connection_and_can_be_repeated(
    sql, add_migrations, newest_number, upgrade, proxy, words
):
    folder = add_migrations('op.execute("CREATE TABLE scratch (n integer)")', CREATE_INDEX)
    proxy.lose.append(words)
    process = upgrade(folder, proxy.url)
    output = wait_for_output(process)
    assert process.returncode == 1
    assert output.endswith(
        "\nThe connection was lost, so the last step may or may not have happened. `flask db"
        " current` prints the schema's revision; `flask db upgrade` can always be run again.\n"
    )
    assert proxy.lose == []
    process = upgrade(folder)
    wait_for_output(process)
    assert process.returncode == 0
    assert schema_version(sql) == [(f"{newest_number + 2:04}",)]
    assert sql("SELECT bool_and(indisvalid) FROM pg_index") == [(True,)]


def test_upgrade_prints_one_line_of_text_for_each_migration(
    sql, add_migrations, newest_number, upgrade
):
    folder = add_migrations(
        'op.execute("CREATE TABLE scratch (n integer)")', 'op.execute("SELECT 1")'
    )
    production = {"APP_ENV": "production", "AUTH": "tokens"}
    output = wait_for_output(upgrade(folder, **production))
    first, second = f"{newest_number + 1:04}", f"{newest_number + 2:04}"
    assert output == (
        f"The schema is at {newest_number:04}.\n"
        f"Applied {first}: {first}\nApplied {second}: {second}\n"
    )
    up_to_date = f"The schema is at {second}: up to date.\n"
    assert wait_for_output(upgrade(folder, **production)) == up_to_date
    output = wait_for_output(upgrade(folder, **production, LOG_LEVEL="debug"))
    assert "Context impl PostgresqlImpl.\nWill assume transactional DDL.\n" in output
    assert up_to_date in output


def test_missing_privilege_is_reported_without_traceback(sql, add_migrations, upgrade, direct_url):
    role = f"idle_{os.getpid()}"
    sql(f"CREATE ROLE {role} LOGIN")
    try:
        url = url_of({**parameters_of(direct_url), "user": role})
        process = upgrade(add_migrations('op.execute("CREATE TABLE scratch (n integer)")'), url)
        output = wait_for_output(process)
        assert process.returncode == 1
        assert "Error: permission denied for table alembic_version\n`flask doctor` says" in output
        assert "Traceback" not in output
    finally:
        sql(f"DROP ROLE {role}")


@pytest.mark.parametrize("command", ["downgrade", "current", "migrate", "check"])
def test_command_on_a_schema_ahead_of_the_release_reports_it(
    app, sql, newest_number, caplog, command
):
    sql("UPDATE alembic_version SET version_num = '9999'")
    with app.app_context(), pytest.raises(SystemExit):
        getattr(flask_migrate, command)()
    message = "The schema is at 9999, ahead of this release, whose newest migration is "
    assert f"{message}{newest_number:04}" in caplog.text
    assert schema_version(sql) == [("9999",)]


def test_schema_ahead_of_the_release_can_be_stamped(app, sql, newest_number):
    sql("UPDATE alembic_version SET version_num = '9999'")
    with app.app_context():
        flask_migrate.stamp(revision=newest_revision(), purge=True)
    assert schema_version(sql) == [(newest_revision(),)]


def test_upgrade_uses_migrations_database_url(sql, upgrade, proxy, direct_url):
    unreachable_url = f"postgresql://nobody@127.0.0.1:{proxy.port}/no_such_test?sslmode=disable"
    proxy.refuses = True
    assert has_done_nothing(upgrade(url=unreachable_url, MIGRATIONS_DATABASE_URL=direct_url))


def test_migrations_url_without_parameters_gets_those_of_libpq_variables(
    sql, upgrade, proxy, direct_url
):
    unreachable_url = f"postgresql://nobody@127.0.0.1:{proxy.port}/no_such_test?sslmode=disable"
    proxy.refuses = True
    server = parameters_of(direct_url)
    environ = {"PGDATABASE": server["dbname"], "PGHOST": server["host"], "PGUSER": server["user"]}
    environ |= {"PGPORT": server["port"], "PGPASSWORD": server.get("password", "")}
    environ |= {"APP_ENV": "development", "MIGRATIONS_DATABASE_URL": "postgresql://"}
    assert has_done_nothing(upgrade(url=unreachable_url, **environ))


def test_upgrade_sql_contains_the_timeouts_and_transactions(app, capsys):
    with app.app_context():
        flask_migrate.upgrade(sql=True)
    output = capsys.readouterr().out
    assert output.startswith(migrations.SET_SESSION)
    # A concurrent index build and a loop that commits are outside of transactions.
    loops = [block for block in output.split("$$;") if " COMMIT;" in block]
    outside = output.count("CONCURRENTLY") + len(loops)
    for command in ("BEGIN", "COMMIT"):
        assert len(re.findall(f"^{command};", output, re.M)) == int(newest_revision()) + outside


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            [("{1}_other.py", "{1}", "{0}")],
            "{1}_other.py and {1}_scratch.py have the same number, {1}. Give one of them the next",
        ),
        (
            [("{2}_other.py", "{2}", "{0}")],
            "There are several newest migrations: {1}, {2}. Give one",
        ),
        ([("{2}_other.py", "{1}", "{0}")], "Revision {1} is present more than once: see"),
        ([("{3}_other.py", "{3}", "{2}")], "Revision {2} referenced from {2} -> {3} (head)"),
    ],
    ids=["same number", "two heads", "same revision", "one is missing"],
)
def test_conflicting_migrations_of_two_branches_are_refused_by_every_command(
    app, sql, add_migrations, newest_number, caplog, capsys, files, words
):
    folder = add_migrations('op.execute("CREATE TABLE scratch (n integer)")')
    numbers = [f"{newest_number + step:04}" for step in range(4)]
    for file in files:
        add_file(folder, *(part.format(*numbers) for part in file))
    before = sorted(path.name for path in folder.glob("versions/*.py"))
    commands = {
        "upgrade": flask_migrate.upgrade,
        "upgrade --sql": functools.partial(flask_migrate.upgrade, sql=True),
        "downgrade": flask_migrate.downgrade,
        "migrate": functools.partial(flask_migrate.migrate, message="another"),
        "revision": functools.partial(flask_migrate.revision, message="another"),
        "stamp": flask_migrate.stamp,
    }
    for name, command in commands.items():
        caplog.clear()
        with app.app_context(), pytest.raises(SystemExit):
            command(directory=folder)
        assert f"Error: {words.format(*numbers)}" in caplog.text, name
        assert "docs/migrations.md" in caplog.text
    assert capsys.readouterr().out == ""
    assert schema_version(sql) == [(f"{newest_number:04}",)]
    assert sql("SELECT to_regclass('scratch')") == [(None,)]
    assert sorted(path.name for path in folder.glob("versions/*.py")) == before


SUPABASE_TABLES = (
    *("projects", "idempotency_keys", "api_tokens", "alembic_version", "changes", "histories"),
)


@pytest.fixture
def web_roles(app, sql, monkeypatch):
    """Create Supabase's two API roles, under names that no other test run uses."""
    names = [f"{role}_{os.getpid()}" for role in ("anon", "authenticated")]
    monkeypatch.setattr(supabase, "_IS_SUPABASE_ROLE", f"rolname IN ('{names[0]}', '{names[1]}')")
    for name in names:
        sql(f"CREATE ROLE {name}")
    yield names
    for name in names:
        sql(f"DROP OWNED BY {name}")
    for table in SUPABASE_TABLES:
        sql(f"DROP POLICY IF EXISTS web ON {table}")
        sql(f"DROP POLICY IF EXISTS everybody ON {table}")
        sql(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    for name in names:
        sql(f"DROP ROLE {name}")


def test_supabase_api_roles_cannot_use_the_tables(
    app, sql, client, make_project, newest_number, web_roles
):
    project = make_project()
    grant = f"GRANT ALL ON {', '.join(SUPABASE_TABLES)} TO {', '.join(web_roles)}"
    sql(grant)
    sql("UPDATE alembic_version SET version_num = '9999'")  # so that there is nothing to migrate
    with app.app_context():
        flask_migrate.upgrade()
    for name in web_roles:
        sql(f"SET ROLE {name}")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            sql("SELECT name FROM projects")
        sql("RESET ROLE")
    sql(grant)  # a user of Supabase might do this to make their API work
    for name in web_roles:
        sql(f"SET ROLE {name}")
        for table in SUPABASE_TABLES:
            assert sql(f"SELECT count(*) FROM {table}") == [(0,)]  # noqa: S608
            assert sql(f"WITH deleted AS (DELETE FROM {table} RETURNING 1) TABLE deleted") == []  # noqa: S608
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'mine')")
        sql("RESET ROLE")
    assert client.get(f"{PROJECTS}/{project['id']}").json == project
    assert client.get("/ready").status_code == 200


def test_row_security_changes_no_plan_and_hides_no_row_from_the_service(
    app, sql, make_project, web_roles
):
    make_project()
    with app.app_context():
        flask_migrate.upgrade()
    query = "EXPLAIN (COSTS off) SELECT name FROM projects WHERE bigrams @> '{1}'"
    sql("SET enable_seqscan = off")
    plan_of_owner = sql(query)
    service_role = f"server_{os.getpid()}"
    sql(f"CREATE ROLE {service_role}")
    sql(f"GRANT SELECT ON projects TO {service_role}")
    sql(f"SET ROLE {service_role}")
    assert sql(query) == plan_of_owner
    assert sql("SELECT count(*) FROM projects") == [(1,)]
    sql("RESET ROLE")
    sql(f"DROP OWNED BY {service_role}")
    sql(f"DROP ROLE {service_role}")


def test_changes_are_recorded_although_supabases_roles_may_not_use_the_tables(
    app, sql, make_project, web_roles
):
    with app.app_context():
        flask_migrate.upgrade()
    project = make_project()
    assert sql("SELECT row_id::text FROM changes") == [(project["id"],)]


def test_history_of_a_filled_database_starts_with_the_present_rows(app, sql, client):
    with app.app_context():
        flask_migrate.downgrade(revision="0013")
        sql("INSERT INTO projects (id, name, version) VALUES (gen_random_uuid(), 'Old', 7)")
        rows = sql("SELECT p::text FROM projects AS p")
        [(before,)] = sql("SELECT clock_timestamp()")
        flask_migrate.upgrade()
    assert sql("SELECT p::text FROM projects AS p") == rows
    assert sql("SELECT count(*) FROM changes") == [(0,)]
    assert sql(
        "SELECT resource, starts_at BETWEEN %s AND clock_timestamp(), purged_seq, restored_seq,"
        " database_id = history_database_id() FROM histories",
        before,
    ) == [("projects", True, 0, 0, True)]
    [project] = client.get(PROJECTS).json["items"]
    client.patch(f"{PROJECTS}/{project['id']}", json={"name": "New"})
    assert sql("SELECT operation, version, old_values ->> 'name' FROM changes") == [
        ("update", 8, "Old")
    ]
    with app.app_context():  # with data
        flask_migrate.downgrade(revision="0013")
        assert sql("SELECT name, version FROM projects") == [("New", 8)]
        flask_migrate.upgrade()


RESTORED = "UPDATE histories SET database_id = '1.2.3'"
ADOPTED = """
SELECT database_id = history_database_id(), restored_seq > (SELECT max(seq) FROM changes)
FROM histories
"""


def test_upgrade_adopts_a_restored_history_once(app, sql, upgrade, make_project):
    make_project()
    sql(RESTORED)
    sql("ALTER SEQUENCE changes_seq_seq RESTART")  # only rows were restored
    process = upgrade()
    assert process.wait() == 0
    assert "The database was restored from a dump. Its history is adopted." in process.stderr.read()
    assert sql(ADOPTED) == [(True, True)]
    [before] = sql("SELECT restored_seq FROM histories")
    assert upgrade().wait() == 0
    assert sql("SELECT restored_seq FROM histories") == [before]
    make_project()
    assert sql("SELECT max(seq) > restored_seq FROM changes, histories GROUP BY restored_seq") == [
        (True,)
    ]


def test_upgrade_waits_for_writes_before_it_adopts_a_restored_history(
    app, sql, upgrade, make_project, other_session
):
    make_project()
    sql(RESTORED)
    other_session("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'Not committed')")
    process = upgrade()
    while "tries left" not in process.stderr.readline():
        assert process.poll() is None
    assert sql("SELECT database_id FROM histories") == [("1.2.3",)]
    other_session("COMMIT")
    assert process.wait() == 0
    assert sql(ADOPTED) == [(True, True)]


def test_upgrade_by_a_role_that_may_not_adopt_a_restored_history_does_nothing(
    app, sql, upgrade, direct_url
):
    role = f"serving_{os.getpid()}"
    sql(RESTORED)
    sql(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        assert has_done_nothing(upgrade(url=url_of({**parameters_of(direct_url), "user": role})))
        assert sql("SELECT database_id FROM histories") == [("1.2.3",)]
    finally:
        sql("UPDATE histories SET database_id = history_database_id()")
        sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
