"""`flask db upgrade` beneath traffic: any number at once, killed at any point, in nobody's way."""

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

pytestmark = pytest.mark.slow

LOCK = f"({int.from_bytes(b'projecta')})"
REVISION = '''"""{number}"""

from alembic import op

revision = "{number}"
down_revision = "{before}"


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''
INDEX = """with op.get_context().autocommit_block():
        op.create_index("scratch_n_idx", "scratch", ["n"],
            postgresql_concurrently=True, if_not_exists=True)"""


@pytest.fixture
def head(app, sql):
    """The number of the newest migration; in the end the schema is there again."""
    yield int(newest_revision())
    sql("DROP TABLE IF EXISTS scratch, other CASCADE")
    sql("ALTER TABLE projects DROP COLUMN IF EXISTS scratch")
    sql("UPDATE alembic_version SET version_num = %s", newest_revision())


@pytest.fixture
def later(head, tmp_path):
    """Add migrations after the newest one, each from what it does; returns their folder."""

    def add(*upgrades):
        folder = tmp_path / "migrations"
        if not folder.exists():
            shutil.copytree(config.ROOT / "migrations", folder)
        for step, upgrade in enumerate(upgrades, head + 1):
            (folder / "versions" / f"{step:04}_scratch.py").write_text(
                REVISION.format(
                    number=f"{step:04}", before=f"{step - 1:04}", upgrade=upgrade, downgrade="pass"
                )
            )
        return folder

    return add


@pytest.fixture
def upgrade(direct_url):
    """Start `flask db upgrade`; whatever becomes of the test, it is ended."""
    started = []

    def start(folder=config.ROOT / "migrations", url=direct_url, **environ):
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "db", "upgrade", "-d", str(folder)],
            cwd=config.ROOT,
            env={**os.environ, "APP_ENV": "testing", "DATABASE_URL": url, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        timer = Timer(300, process.kill)  # a test that waits for what it never says shall not hang
        timer.start()
        started.append((process, timer))
        return process

    yield start
    for process, timer in started:
        timer.cancel()
        process.kill()
        process.communicate()


@pytest.fixture
def other_session(direct_url):
    """Run SQL in a session beside the one of `sql`, in one transaction."""
    connection = psycopg2.connect(**parameters_of(direct_url))
    cursor = connection.cursor()
    yield cursor.execute
    connection.close()


def version(sql):
    return sql("SELECT version_num FROM alembic_version")


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lines_until(process, words):
    """What the process says up to the line with these words."""
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


def did_nothing(process):
    said = process.communicate(timeout=120)[1]
    return process.returncode == 0 and "Applied" not in said and "waits" not in said


def test_of_five_upgrades_at_once_one_migrates_and_the_others_wait_for_it(
    app, sql, later, head, upgrade
):
    with app.app_context():
        flask_migrate.downgrade(revision="base")
    folder = later('op.execute("CREATE TABLE scratch (n integer)")', INDEX)
    processes = [upgrade(folder) for _ in range(5)]
    words = "".join(process.communicate(timeout=240)[1] for process in processes)
    assert {process.returncode for process in processes} == {0}
    for number in range(1, head + 3):
        assert words.count(f"Applied {number:04}: ") == 1
    assert version(sql) == [(f"{head + 2:04}",)]
    assert sql("SELECT bool_and(indisvalid) FROM pg_index") == [(True,)]


def test_at_head_nothing_is_locked_or_waited_for(sql, upgrade):
    sql(f"SELECT pg_advisory_lock{LOCK}")
    sql("BEGIN")
    sql("LOCK TABLE projects, alembic_version IN EXCLUSIVE MODE")
    assert did_nothing(upgrade())
    sql("ROLLBACK")
    sql(f"SELECT pg_advisory_unlock{LOCK}")


def test_who_waits_for_another_then_skips_what_that_one_did(sql, later, upgrade):
    sql(f"SELECT pg_advisory_lock{LOCK}")
    process = upgrade(later('op.execute("CREATE TABLE scratch (n integer)")'))
    lines_until(process, "Another process is migrating: this one waits for it.")
    sql("UPDATE alembic_version SET version_num = %s", f"{int(newest_revision()) + 1:04}")
    sql(f"SELECT pg_advisory_unlock{LOCK}")
    assert did_nothing(process)
    assert sql("SELECT to_regclass('scratch')") == [(None,)]


def test_a_schema_that_is_ahead_once_the_wait_is_over_is_left_alone(sql, head, upgrade):
    sql(f"SELECT pg_advisory_lock{LOCK}")
    sql("UPDATE alembic_version SET version_num = %s", f"{head - 1:04}")
    process = upgrade()
    lines_until(process, "Another process is migrating: this one waits for it.")
    sql("UPDATE alembic_version SET version_num = '9999'")  # by a newer release
    sql(f"SELECT pg_advisory_unlock{LOCK}")
    assert "The schema is at 9999, ahead of this release" in process.communicate(timeout=120)[1]
    assert process.returncode == 0


def test_a_schema_ahead_of_the_code_is_left_alone(client, sql, head, upgrade):
    sql("UPDATE alembic_version SET version_num = '9999'")
    process = upgrade()
    said = process.communicate(timeout=120)[1]
    assert f"The schema is at 9999, ahead of this release, which needs {head:04}.\n" in said
    assert process.returncode == 0
    assert client.get("/ready").json["schema"] == "9999"


def test_each_migration_is_a_transaction(app, sql, later, head):
    folder = later(
        'op.execute("CREATE TABLE scratch (n integer)")',
        'op.execute("CREATE TABLE other (n integer)"); op.execute("SELECT 1 / 0")',
    )
    with app.app_context(), pytest.raises(Exception, match="division by zero"):
        flask_migrate.upgrade(directory=folder)
    assert version(sql) == [(f"{head + 1:04}",)]
    assert sql("SELECT to_regclass('scratch'), to_regclass('other')") == [("scratch", None)]


def test_a_long_reader_holds_up_the_migration_and_nobody_else(
    client, sql, later, upgrade, other_session, make_project
):
    make_project()
    other_session("SELECT count(*) FROM projects")
    process = upgrade(later('op.execute("ALTER TABLE projects ADD COLUMN scratch text")'))
    # Whatever the migration does while it waits for the reader, the reader stays until the clients
    # have been served.
    with ThreadPoolExecutor(1) as beside:
        told = beside.submit(lines_until, process, f"{migrations.TRIES - 2} tries left")
        try:
            while not told.done():
                answer = client.post(PROJECTS, json={"name": "Beneath"})
                assert answer.status_code == 201, answer.json
        finally:
            other_session("ROLLBACK")
    assert "Another session holds a lock that the migration needs" in told.result()
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert sql("SELECT count(*) - count(scratch) > 1 FROM projects") == [(True,)]


def test_a_lock_that_is_never_free_fails_it_with_a_sentence(
    app, sql, later, other_session, monkeypatch, caplog
):
    monkeypatch.setattr(migrations, "TRIES", 2)
    other_session("SET application_name = 'a report'")
    other_session("SELECT count(*) FROM projects")
    folder = later(
        'op.execute("CREATE TABLE scratch (n integer)");'
        ' op.execute("ALTER TABLE projects ADD COLUMN scratch text")'
    )
    with app.app_context(), pytest.raises(SystemExit):
        flask_migrate.upgrade(directory=folder)
    assert "In 2 tries the migration did not get a lock that it needs" in caplog.text
    assert "(a report), running for" in caplog.text
    assert version(sql) == [(newest_revision(),)]
    assert sql("SELECT to_regclass('scratch')") == [(None,)]


def test_after_a_kill_in_a_transaction_the_next_upgrade_completes(sql, later, upgrade):
    create = 'op.execute("CREATE TABLE scratch (n integer)"); op.execute("SELECT pg_sleep({})")'
    process = upgrade(later(create.format(60)))
    until(lambda: sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"))
    process.send_signal(signal.SIGKILL)
    process = upgrade(later(create.format(0)))
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert sql("SELECT count(*) FROM scratch") == [(0,)]


def test_after_a_kill_in_a_concurrent_build_the_next_upgrade_completes(
    sql, later, upgrade, other_session
):
    is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('scratch_n_idx')"
    folder = later('op.execute("CREATE TABLE scratch (n integer)")', INDEX)
    other_session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    other_session("SELECT count(*) FROM projects")  # its snapshot is what the build waits for
    process = upgrade(folder)
    until(lambda: sql(is_valid) == [(False,)])
    time.sleep(1)  # longer than any other statement of a migration waits
    process.send_signal(signal.SIGKILL)
    process = upgrade(folder)
    lines_until(process, "The schema is at")  # once PostgreSQL has ended the killed one's session
    other_session("ROLLBACK")
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert sql(is_valid) == [(True,)]


def test_after_a_concurrent_build_statements_give_up_as_soon_as_before(app, sql, later):
    note = "CREATE TABLE other AS SELECT current_setting('lock_timeout') AS waits"
    folder = later('op.execute("CREATE TABLE scratch (n integer)")', INDEX, f'op.execute("{note}")')
    with app.app_context():
        flask_migrate.upgrade(directory=folder)
    assert sql("SELECT waits FROM other") == [("500ms",)]


def test_the_settings_of_a_role_do_not_bound_a_migration(app, sql, later, direct_url):
    database = parameters_of(direct_url)["dbname"]
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    for name in names:
        sql(f"ALTER ROLE postgres IN DATABASE {database} SET {name} = '2s'")
    try:
        with app.app_context():
            flask_migrate.upgrade(
                directory=later(
                    'op.execute("SELECT pg_sleep(2.4)")',
                    'import time; op.execute("SELECT 1"); time.sleep(2.4); op.execute("SELECT 1")',
                )
            )
    finally:
        for name in names:
            sql(f"ALTER ROLE postgres IN DATABASE {database} RESET {name}")


def test_who_waits_too_long_for_another_fails_with_a_sentence(app, sql, later, monkeypatch, caplog):
    monkeypatch.setattr(migrations, "WAIT_SECONDS", 1)
    sql(f"SELECT pg_advisory_lock{LOCK}")
    try:
        with app.app_context(), pytest.raises(SystemExit):
            flask_migrate.upgrade(directory=later('op.execute("SELECT 1")'))
    finally:
        sql(f"SELECT pg_advisory_unlock{LOCK}")
    assert "Another process has been migrating for 1 s." in caplog.text


def test_the_examples_of_the_page_are_migrations(app, sql, later, make_project, head):
    make_project()
    page = (config.ROOT / "docs" / "migrations.md").read_text()
    index, batches = re.findall(r"```python\ndef upgrade\(\) -> None:\n    (.*?)\n```", page, re.S)
    folder = later('op.execute("ALTER TABLE projects ADD colour text")', index, batches)
    try:
        with app.app_context():
            flask_migrate.upgrade(directory=folder)
            sql("UPDATE alembic_version SET version_num = %s", f"{head + 1:04}")
            flask_migrate.upgrade(directory=folder)
        assert sql("SELECT colour FROM projects") == [("red",)]
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'projects_colour_idx'::regclass"
        assert sql(valid) == [(True,)]
    finally:
        sql("ALTER TABLE projects DROP COLUMN colour")


def test_a_dead_database_is_a_sentence(upgrade, proxy):
    proxy.refuses = True
    process = upgrade(url=proxy.url)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "Error: connection to server at" in said
    assert said.endswith("`flask doctor` says more.\n")
    assert "Traceback" not in said


@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_migration_that_is_ended_is_a_sentence(sql, later, upgrade, other_session, end):
    folder = later('op.execute("CREATE TABLE scratch (n integer)")', INDEX)
    other_session("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    other_session("SELECT count(*) FROM projects")  # its snapshot is what the build waits for
    process = upgrade(folder)
    building = " FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'"
    until(lambda: sql("SELECT 1 FROM pg_class WHERE relname = 'scratch_n_idx'"))
    sql(f"SELECT {end}(pid){building}")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "Error: " in said
    assert ("`flask db current` prints the schema's revision" in said) == ("terminate" in end)
    assert "Traceback" not in said
    other_session("ROLLBACK")
    process = upgrade(folder)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert sql("SELECT bool_and(indisvalid) FROM pg_index") == [(True,)]


@pytest.mark.parametrize(
    "words", ["CREATE TABLE scratch", "UPDATE alembic_version", "CREATE INDEX CONC", "COMMIT"]
)
def test_an_upgrade_that_loses_an_answer_says_that_the_step_is_unknown_and_can_be_repeated(
    sql, later, head, upgrade, proxy, words
):
    folder = later('op.execute("CREATE TABLE scratch (n integer)")', INDEX)
    proxy.lose.append(words)
    process = upgrade(folder, proxy.url)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert said.endswith(
        "\nThe connection was lost, so the last step may or may not have happened. `flask db"
        " current` prints the schema's revision; `flask db upgrade` can always be run again.\n"
    )
    assert proxy.lose == []
    process = upgrade(folder)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert version(sql) == [(f"{head + 2:04}",)]
    assert sql("SELECT bool_and(indisvalid) FROM pg_index") == [(True,)]


def test_an_upgrade_prints_one_line_for_each_migration_and_no_json(sql, later, head, upgrade):
    folder = later('op.execute("CREATE TABLE scratch (n integer)")', 'op.execute("SELECT 1")')
    production = {"APP_ENV": "production", "AUTH": "tokens"}
    said = upgrade(folder, **production).communicate(timeout=120)[1]
    assert said == (
        f"The schema is at {head:04}.\n"
        f"Applied {head + 1:04}: {head + 1:04}\nApplied {head + 2:04}: {head + 2:04}\n"
    )
    up_to_date = f"The schema is at {head + 2:04}: up to date.\n"
    assert upgrade(folder, **production).communicate(timeout=120)[1] == up_to_date
    said = upgrade(folder, **production, LOG_LEVEL="debug").communicate(timeout=120)[1]
    assert "Context impl PostgresqlImpl.\nWill assume transactional DDL.\n" in said
    assert up_to_date in said


def test_a_role_that_may_not_migrate_is_a_sentence(sql, later, upgrade, direct_url):
    role = f"idle_{os.getpid()}"
    sql(f"CREATE ROLE {role} LOGIN")
    try:
        url = url_of({**parameters_of(direct_url), "user": role})
        process = upgrade(later('op.execute("CREATE TABLE scratch (n integer)")'), url)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 1
        assert "Error: permission denied for table alembic_version\n`flask doctor` says" in said
        assert "Traceback" not in said
    finally:
        sql(f"DROP ROLE {role}")


@pytest.mark.parametrize("command", ["downgrade", "current", "migrate", "check"])
def test_a_command_that_needs_the_migrations_of_a_later_release_says_so(
    app, sql, head, caplog, command
):
    sql("UPDATE alembic_version SET version_num = '9999'")
    with app.app_context(), pytest.raises(SystemExit):
        getattr(flask_migrate, command)()
    assert f"The schema is at 9999, ahead of this release, whose newest migration is {head:04}" in (
        caplog.text
    )
    assert version(sql) == [("9999",)]


def test_a_schema_ahead_can_be_stamped(app, sql, head):
    sql("UPDATE alembic_version SET version_num = '9999'")
    with app.app_context():
        flask_migrate.stamp(revision=newest_revision(), purge=True)
    assert version(sql) == [(newest_revision(),)]


def test_migrations_have_a_url_of_their_own(sql, upgrade, proxy, direct_url):
    dead = f"postgresql://nobody@127.0.0.1:{proxy.server_address[1]}/no_such_test?sslmode=disable"
    proxy.refuses = True
    assert did_nothing(upgrade(url=dead, MIGRATIONS_DATABASE_URL=direct_url))


def test_migrations_url_without_parameters_gets_those_of_libpq_variables(
    sql, upgrade, proxy, direct_url
):
    dead = f"postgresql://nobody@127.0.0.1:{proxy.server_address[1]}/none?sslmode=disable"
    proxy.refuses = True
    server = parameters_of(direct_url)
    environ = {"PGDATABASE": server["dbname"], "PGHOST": server["host"], "PGUSER": server["user"]}
    environ |= {"PGPORT": server["port"], "PGPASSWORD": server.get("password", "")}
    environ |= {"APP_ENV": "development", "MIGRATIONS_DATABASE_URL": "postgresql://"}
    assert did_nothing(upgrade(url=dead, **environ))


def test_the_sql_of_migrations_has_their_limits_too(app, capsys):
    with app.app_context():
        flask_migrate.upgrade(sql=True)
    said = capsys.readouterr().out
    assert said.startswith(migrations.SET_SESSION)
    # A concurrent build, and a loop that commits, is between two transactions.
    alone = said.count("CONCURRENTLY") + said.count(" COMMIT;")
    for command in ("BEGIN", "COMMIT"):
        assert len(re.findall(f"^{command};", said, re.M)) == int(newest_revision()) + alone


def add_file(folder, name, number, before):
    text = REVISION.format(number=number, before=before, upgrade="pass", downgrade="pass")
    (folder / "versions" / name).write_text(text)


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
def test_migrations_of_two_branches_are_refused_before_they_do_harm(
    app, sql, later, head, caplog, capsys, files, words
):
    folder = later('op.execute("CREATE TABLE scratch (n integer)")')
    numbers = [f"{head + step:04}" for step in range(4)]
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
    assert version(sql) == [(f"{head:04}",)]
    assert sql("SELECT to_regclass('scratch')") == [(None,)]
    assert sorted(path.name for path in folder.glob("versions/*.py")) == before


@pytest.fixture
def web_roles(app, sql, monkeypatch):
    """Supabase's two roles for everybody, under names that no other test run has."""
    names = [f"{role}_{os.getpid()}" for role in ("anon", "authenticated")]
    monkeypatch.setattr(supabase, "_IS_SUPABASE_ROLE", f"rolname IN ('{names[0]}', '{names[1]}')")
    for name in names:
        sql(f"CREATE ROLE {name}")
    yield names
    for name in names:
        sql(f"DROP OWNED BY {name}")
    for table in ("alembic_version", "projects", "idempotency_keys", "api_tokens"):
        sql(f"DROP POLICY IF EXISTS web ON {table}")
        sql(f"DROP POLICY IF EXISTS everybody ON {table}")
        sql(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    for name in names:
        sql(f"DROP ROLE {name}")


def test_nobody_comes_to_our_tables_by_supabases_own_api(
    app, sql, client, make_project, head, web_roles
):
    made = make_project()
    tables = ("projects", "idempotency_keys", "api_tokens", "alembic_version")
    grant = f"GRANT ALL ON {', '.join(tables)} TO {', '.join(web_roles)}"
    sql(grant)
    sql("UPDATE alembic_version SET version_num = '9999'")  # nothing is to be migrated
    with app.app_context():
        flask_migrate.upgrade()
    for name in web_roles:
        sql(f"SET ROLE {name}")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            sql("SELECT name FROM projects")
        sql("RESET ROLE")
    sql(grant)  # as whoever looks for a way to make it work would do
    for name in web_roles:
        sql(f"SET ROLE {name}")
        for table in tables:
            assert sql(f"SELECT count(*) FROM {table}") == [(0,)]  # noqa: S608
            assert sql(f"WITH gone AS (DELETE FROM {table} RETURNING 1) TABLE gone") == []  # noqa: S608
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'mine')")
        sql("RESET ROLE")
    assert client.get(f"{PROJECTS}/{made['id']}").json == made
    assert client.get("/ready").status_code == 200


def test_row_security_costs_no_plan_anything_and_hides_nothing_from_who_serves(
    app, sql, make_project, web_roles
):
    make_project()
    with app.app_context():
        flask_migrate.upgrade()
    query = "EXPLAIN (COSTS off) SELECT name FROM projects WHERE bigrams @> '{1}'"
    sql("SET enable_seqscan = off")
    of_owner = sql(query)
    server = f"server_{os.getpid()}"
    sql(f"CREATE ROLE {server}")
    sql(f"GRANT SELECT ON projects TO {server}")
    sql(f"SET ROLE {server}")
    assert sql(query) == of_owner
    assert sql("SELECT count(*) FROM projects") == [(1,)]
    sql("RESET ROLE")
    sql(f"DROP OWNED BY {server}")
    sql(f"DROP ROLE {server}")
