"""Migrations: numbered, one head, no drift, downgrade and upgrade with data."""

import logging
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import flask_migrate
import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import config
from projectapp import add_commands, create_app, database
from projectapp.database import migrations
from projectapp.database.schema import newest_revision
from tests.conftest import PROJECTS, parameters_of, url_of

VERSIONS = config.ROOT / "migrations" / "versions"


def test_migration_files_are_numbered_without_a_gap_and_have_one_head(app):
    names = sorted(path.name for path in VERSIONS.glob("*.py"))
    assert [name[:4] for name in names] == [f"{n:04}" for n in range(1, len(names) + 1)]
    script = ScriptDirectory(str(VERSIONS.parent))
    assert len(script.get_heads()) == 1
    for revision in script.walk_revisions():
        assert re.fullmatch(rf"{revision.revision}_\w+\.py", revision.path.rpartition("/")[2])


def test_jit_is_off(sql):
    """PostgreSQL would compile searches for frequent words, which takes longer than they do."""
    assert sql("SHOW jit") == [("off",)]


def test_models_and_schema_agree(app, sql):
    with app.app_context(), database.db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, database.db.metadata) == []
        existing = {
            name for (name,) in sql("SELECT conname FROM pg_constraint WHERE contype = 'c'")
        }
        declared = {
            constraint.name
            for table in database.db.metadata.tables.values()
            for constraint in table.constraints
            if "check" in constraint.name
        }
        assert declared <= existing


def test_constraints_have_postgresqls_default_names(sql):
    names = {
        name for (name,) in sql("SELECT conname FROM pg_constraint WHERE contype IN ('c', 'p')")
    }
    assert {
        "projects_pkey",
        "projects_name_not_empty_check",
        "projects_version_positive_check",
    } <= names


def test_downgrade_and_upgrade_keep_the_rows(app, client, make_project):
    projects = [make_project(name=name, attributes={"n": [1]}) for name in ("번역", "Straße", "x")]
    client.post(PROJECTS, json={"name": "Once"}, headers={"Idempotency-Key": "once"})
    before = client.get(f"{PROJECTS}?sort=name").json
    with app.app_context():
        flask_migrate.downgrade(revision="0001")  # 0001 itself creates the table
        flask_migrate.upgrade()
    assert client.get(f"{PROJECTS}?sort=name").json == before
    assert client.get(f"{PROJECTS}?q=straße").json["items"] == [projects[1]]
    with app.app_context():
        flask_migrate.downgrade(revision="base")
        flask_migrate.upgrade()
    assert client.get(PROJECTS).json["total"] == 0
    assert client.get("/ready").status_code == 200


def test_upgrade_to_0007_folds_existing_texts_again(app, client, sql):
    """Both directions write only the rows that 0006 folds differently."""
    queries = {"ſize": "SIZE", "ışık": "IŞIK", "ab  cd": "ab cd"}
    names = [*queries, "번역", "İzmir", "plain"]

    def rows():
        result = sql("SELECT name, search, xmin::text, version, updated_at FROM projects")
        return {name: values for name, *values in result if name != "ſ"}

    with app.app_context():
        flask_migrate.downgrade(revision="0005")
        sql("INSERT INTO projects (id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'ſ')")
        for name in [*names, *["ſ"] * 2500]:
            sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), %s)", name)
        before = rows()
        flask_migrate.upgrade()
        after = rows()
        written_names = {name for name in names if before[name][:2] != after[name][:2]}
        assert written_names == queries.keys()
        assert {name: row[2:] for name, row in after.items()} == {
            name: row[2:] for name, row in before.items()
        }
        for name, q in queries.items():
            assert client.get(f"{PROJECTS}?q={q}").json["items"][0]["name"] == name
        count_folded = "SELECT count(*) FROM projects WHERE name = 'ſ' AND search LIKE '_s_'"
        assert sql(count_folded) == [(2501,)]
        flask_migrate.downgrade(revision="0005")
        assert {name: row[0] for name, row in rows().items()} == {
            name: row[0] for name, row in before.items()
        }
        assert sql(count_folded) == [(0,)]
        flask_migrate.upgrade()
        assert sql(count_folded) == [(2501,)]


def test_upgrade_to_0013_indexes_the_runs_of_existing_rows_in_every_table(app, client, sql):
    """Only rows with a run of a letter are written. The table `notes` is a resource of a user."""
    names = {"order 777777": "7777", "ㅋㅋㅋㅋ": "ㅋㅋㅋ", "77 7": "77", "번역": "번역"}
    with app.app_context():
        flask_migrate.downgrade(revision="0011")
        try:
            sql(
                "CREATE TABLE notes (id uuid DEFAULT gen_random_uuid(), body varchar,"
                " search text GENERATED ALWAYS AS (project_text(body, NULL)) STORED, bigrams int[]"
                " GENERATED ALWAYS AS (project_bigrams(project_text(body, NULL))) STORED)"
            )
            for table, column in (("projects", "name"), ("notes", "body")):
                insert = f"INSERT INTO {table} (id, {column}) VALUES (gen_random_uuid(), %s)"  # noqa: S608
                for name in [*names, *["zzz"] * 2500]:
                    sql(insert, name)
            before = dict(sql("SELECT name, xmin::text FROM projects"))
            flask_migrate.upgrade()
            after = dict(sql("SELECT name, xmin::text FROM projects"))
            written_names = {name for name in names if before[name] != after[name]}
            assert written_names == {"order 777777", "ㅋㅋㅋㅋ"}
            for name, q in names.items():
                assert client.get(f"{PROJECTS}?q={q}").json["items"][0]["name"] == name
            count_indexed = "SELECT count(*) FROM {} WHERE bigrams @> search_keys('zzz', 1)"
            for table in ("projects", "notes"):
                assert sql(count_indexed.format(table)) == [(2500,)]
        finally:
            sql("DROP TABLE notes")
            flask_migrate.upgrade()


def test_upgrade_to_0013_waits_for_a_transaction_that_began_before_0012(
    app, client, sql, direct_url
):
    is_waiting = "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND NOT granted"

    def upgrade():
        with app.app_context():
            flask_migrate.upgrade()

    with app.app_context():
        flask_migrate.downgrade(revision="0011")
    with closing(psycopg2.connect(**parameters_of(direct_url))) as connection:
        with connection.cursor() as cursor, ThreadPoolExecutor(1) as pool:
            cursor.execute("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), '777777')")
            running = pool.submit(upgrade)
            while sql(is_waiting) == [(0,)]:
                assert not running.done(), "the upgrade waits for the transaction"
            connection.commit()
        running.result()
    assert client.get(f"{PROJECTS}?q=777777").json["total"] == 1


def test_the_previous_release_finds_rows_during_and_after_the_upgrade_to_0013(app, sql):
    """It searches with search_bigrams(). A row may be older or newer than the upgrade."""
    find = (
        "SELECT name FROM projects WHERE bigrams @> search_bigrams(search_fold(%s), 1)"
        " AND search LIKE '%%' || %s || '%%' ORDER BY name"
    )
    with app.app_context():
        flask_migrate.downgrade(revision="0011")
        sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), '1 7777')")
        for revision in ("0012", "0013"):
            flask_migrate.upgrade(revision=revision)
            sql(
                "INSERT INTO projects (id, name) VALUES (gen_random_uuid(), %s)", f"{revision} 7777"
            )
            for q in ("77", "777", "7777"):
                assert len(sql(find, q, q)) == len(sql("SELECT id FROM projects"))
        flask_migrate.downgrade(revision="0011")
        assert len(sql(find, "777", "777")) == 3
        flask_migrate.upgrade()


def test_upgrade_completes_after_an_interrupted_downgrade(app, sql):
    with app.app_context():
        flask_migrate.downgrade(revision="0006")
        scripts = ScriptDirectory(config.ROOT / "migrations")
        migration_0002 = scripts.get_revision("0002").module
        sql(migration_0002.SEARCH_FOLD.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
        assert sql("SELECT search_fold('ſ')") == [("ſ",)]
        flask_migrate.upgrade()
    assert sql("SELECT search_fold('ſ')") == [("s",)]


def test_downgrade_completes_after_an_interrupted_downgrade(app, sql):
    """It had dropped the index, and had not yet written the new revision."""
    with app.app_context():
        for revision in ("0011", "0010", "0009", "0008"):
            flask_migrate.downgrade(revision=revision)
            migration = ScriptDirectory(config.ROOT / "migrations").get_revision(revision).module
            sql(f"DROP INDEX {migration.INDEX}")
        flask_migrate.downgrade(revision="0007")
        flask_migrate.upgrade()


def test_script_can_upgrade_in_process_after_add_commands(direct_url, sql):
    app = create_app(config.Testing({"DATABASE_URL": direct_url}))
    add_commands(app)
    with app.app_context():
        flask_migrate.upgrade()
    assert sql("SELECT version_num FROM alembic_version") == [(newest_revision(),)]


def test_upgrade_in_process_does_not_change_the_loggers(app):
    logger = logging.getLogger("projectapp.access")
    level = logging.getLogger().level
    with app.app_context():
        flask_migrate.upgrade()
    assert not logger.disabled
    assert logging.getLogger().level == level


@pytest.fixture
def flask_db(app, direct_url):
    """Run `flask db ...` as a user does; return its output."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "flask", "db", *arguments],
            cwd=config.ROOT,
            env={**os.environ, "APP_ENV": "testing", "DATABASE_URL": direct_url},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    return run


def test_downgrade_upgrade_current_and_check_succeed(flask_db):
    for command in ("downgrade", "upgrade", "upgrade"):
        flask_db(command)
    assert flask_db("current") == f"{newest_revision()} (head)\n"
    assert flask_db("check") == "No new upgrade operations detected.\n"


def test_migrate_writes_nothing_without_a_change_and_revision_gets_the_next_number(
    flask_db, tmp_path
):
    copy = shutil.copytree(VERSIONS.parent, tmp_path / "migrations")
    assert "nothing to migrate" in flask_db("migrate", "-d", copy, "-m", "no change")
    flask_db("revision", "-d", copy, "-m", "add shape")
    head, next_number = newest_revision(), f"{int(newest_revision()) + 1:04}"
    text = (copy / "versions" / f"{next_number}_add_shape.py").read_text()
    assert f"revision = '{next_number}'\ndown_revision = '{head}'" in text
    assert len(list((copy / "versions").glob("*.py"))) == int(next_number)


def run_squawk(sql):
    """Return what the linter squawk reports about SQL."""
    command = [
        Path(sys.executable).with_name("squawk"),
        "--config",
        VERSIONS.parent / "squawk.toml",
    ]
    return subprocess.run(command, input=sql, capture_output=True, text=True).stdout


def test_squawk_accepts_our_migrations(flask_db):
    assert "Found 0 issues" in run_squawk(flask_db("upgrade", "0002:head", "--sql"))


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("ALTER TABLE projects DROP COLUMN name", "ban-drop-column"),
        ("ALTER TABLE projects RENAME COLUMN name TO title", "renaming-column"),
        ("ALTER TABLE projects ALTER name TYPE text", "changing-column-type"),
        ("ALTER TABLE projects ALTER name SET NOT NULL", "adding-not-nullable-field"),
        (
            "ALTER TABLE projects ADD made timestamptz DEFAULT clock_timestamp()",
            "adding-field-with",
        ),
        (
            "ALTER TABLE projects ADD CONSTRAINT c CHECK (version < 9)",
            "constraint-missing-not-valid",
        ),
        ("CREATE INDEX i ON projects (version)", "require-concurrent-index-creation"),
        ("CREATE INDEX CONCURRENTLY i ON projects (version)", "prefer-robust-stmts"),
    ],
)
def test_squawk_reports_statements_that_block_traffic(statement, rule):
    assert rule in run_squawk(f"{migrations.SET_SESSION}; {statement};")


def test_squawk_accepts_a_drop_with_the_comment_of_the_page():
    page = (config.ROOT / "docs" / "migrations.md").read_text()
    (drop_with_comment,) = re.findall(r'`op\.execute\("(-- squawk-ignore .*?)"\)`', page)
    drop_with_comment = drop_with_comment.replace("\\n", "\n")
    accepted, reported = (
        run_squawk(f"{migrations.SET_SESSION};\n\nBEGIN;\n\n{statement};\n\nCOMMIT;")
        for statement in (drop_with_comment, drop_with_comment.partition("\n")[2])
    )
    assert "Found 0 issues" in accepted
    assert "ban-drop-column" in reported


def test_concurrent_index_is_alone_in_its_migration():
    index = (
        "with op.get_context().autocommit_block(): op.create_index(postgresql_concurrently=True)"
    )
    assert is_concurrent_index_alone(f"def upgrade(): {index} def downgrade")
    assert not is_concurrent_index_alone(f"def upgrade(): op.execute('...') {index} def downgrade")
    assert [
        path.name
        for path in VERSIONS.glob("*.py")
        if not is_concurrent_index_alone(path.read_text())
    ] == []


def is_concurrent_index_alone(text):
    upgrade = text[text.index("def upgrade") : text.index("def downgrade")]
    return "CONCURRENTLY" not in upgrade.upper() or len(re.findall(r"\bop\.\w+", upgrade)) == 2


def test_sql_of_upgrade_creates_the_same_schema_as_upgrade(flask_db, sql, database_url, binaries):
    parameters, name = parameters_of(database_url), f"test_sql_{os.getpid()}"

    def run(program, database, *arguments, **options):
        command = [binaries / program, "-d", url_of({**parameters, "dbname": database}), *arguments]
        options |= {"capture_output": True, "text": True, "check": True}
        return subprocess.run(command, **options).stdout

    sql(f"CREATE DATABASE {name}")
    try:
        script = flask_db("upgrade", "--sql")
        run("psql", name, "--set=ON_ERROR_STOP=1", input=script)
        from_sql, from_upgrade = (
            re.sub(r"(?m)^\\.*", "", run("pg_dump", database, "--schema-only"))
            for database in (name, parameters["dbname"])
        )
        assert from_sql == from_upgrade
    finally:
        sql(f"DROP DATABASE {name}")


def test_upgrade_over_another_applications_function_fails_and_changes_nothing(app, sql, caplog):
    with app.app_context():
        flask_migrate.downgrade(revision="base")
    sql("CREATE FUNCTION jsonb_merge_patch(target jsonb, patch jsonb) RETURNS jsonb RETURN patch")
    with app.app_context(), pytest.raises(SystemExit):
        flask_migrate.upgrade()
    assert 'Error: function "jsonb_merge_patch" already exists' in caplog.text
    assert "If another application made it, give this service a database of its own" in caplog.text
    assert "CREATE FUNCTION" not in caplog.text
    assert sql("SELECT to_regclass('projects')") == [(None,)]
    sql("DROP FUNCTION jsonb_merge_patch")
    with app.app_context():
        flask_migrate.upgrade()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", ""),
        ("name", "x" * 201),
        ("name", None),
        ("description", "x" * 1001),
        ("attributes", "[]"),
        ("attributes", '{"a": "' + "x" * 16384 + '"}'),
        ("version", 0),
        ("is_active", None),
    ],
)
def test_database_rejects_invalid_values(make_project, sql, column, value):
    make_project()
    with pytest.raises(psycopg2.Error):
        sql(f"UPDATE projects SET {column} = %s", value)  # noqa: S608
