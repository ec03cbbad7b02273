"""The commands of docs/backup.md restore an equal database, and the service works with it."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

import config
from projectapp import database
from projectapp.devdb.supervisor import major_version
from tests.conftest import PROJECTS, parameters_of, url_of

PAGE = (config.ROOT / "docs" / "backup.md").read_text()
BACK_UP, RESTORE, CHECK, RESTORE_ROWS_ONLY = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
ONCE = {"name": "Once", "attributes": {"team": "core"}}


@contextmanager
def connect_sql(url):
    connection = psycopg2.connect(url)
    connection.autocommit = True

    def run(statement, *values):
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    yield run
    connection.close()


def make_shell(binaries, folder, direct_url, new):
    """Return a function that runs commands of the page, with the variables that they need."""
    tools = subprocess.check_output([binaries / "pg_dump", "--version"], text=True)
    with connect_sql(direct_url) as sql:
        if major_version(tools) != int(sql("SHOW server_version_num")[0][0]) // 10000:
            pytest.skip("the tools of this machine are not of the server's version")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in config.Config.declared_settings()
    } | {
        "APP_ENV": "testing",
        "PATH": f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": direct_url,
        "DUMP": str(folder / "projects.dump"),
        "NEW": new["dbname"],
        "NEW_URL": url_of(new),
    }

    def run(script, check=True):
        process = subprocess.run(
            ["bash", "-euc", script],
            cwd=config.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0 or not check, process.stderr
        return process.stdout if check else process.stderr

    return run


@pytest.fixture
def varied_projects(client, make_project, sql):
    """Rows of all tables: many scripts, changes, a deletion, an idempotency key, a token."""
    names = (
        "번역",
        "Straße",
        "日本語の検索",
        "ΟΔΟΣ",
        "مشروع",
        "Zoe\u0308 \t tab",
        "back\\slash 'n' \"quote\"",
    )
    projects = [make_project(name=name, description=f"About {name}") for name in names]
    make_project(name="Attributes", attributes={"size": {"m": 1.50, "l": None}, "ünï": ["x", True]})
    for size in (2, 3):
        client.patch(f"{PROJECTS}/{projects[0]['id']}", json={"attributes": {"size": {"m": size}}})
    client.put(f"{PROJECTS}/{projects[1]['id']}", json={"is_active": False, "description": None})
    client.delete(f"{PROJECTS}/{projects[2]['id']}")
    assert (
        client.post(PROJECTS, json=ONCE, headers={"Idempotency-Key": "before"}).status_code == 201
    )
    sql(
        "INSERT INTO api_tokens (id, name, owner, scopes, digest)"
        " VALUES (gen_random_uuid(), 'CI', 'ci', '{projects:read}', sha256('x'))"
    )
    sql("INSERT INTO imports (id, resource, file_name) VALUES ('x', 'projects', 'a.csv')")
    sql("INSERT INTO pulled_rows (source, row_id) VALUES ('http://x', gen_random_uuid())")
    sql("UPDATE projects SET created_at = '2020-02-29 23:59:59.999999+00' WHERE name = 'ΟΔΟΣ'")
    assert sql("SELECT count(*), max(version), sum(cardinality(bigrams)) > 0 FROM projects") == [
        (8, 3, True)
    ]


@pytest.fixture
def new(sql, direct_url):
    """The parameters of a database that does not exist yet; it is dropped after the test."""
    parameters = parameters_of(direct_url)
    name = f"{parameters['dbname']}_restored"
    yield parameters | {"dbname": name}
    sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def run(direct_url, binaries, new, tmp_path):
    return make_shell(binaries, tmp_path, direct_url, new)


@pytest.fixture
def read_contents(run):
    """A function that returns the schema, rows, generated columns and jit setting of a database."""

    def read(url):
        schema = run(f"pg_dump --schema-only '{url}'")
        with connect_sql(url) as sql:
            tables = sql(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = %s", 2200
            )
            rows = {
                name: sql(f"SELECT t::text FROM {name} t ORDER BY 1")  # noqa: S608
                for (name,) in tables
            }
            generated = sql(
                "SELECT attrelid::regclass::text, attname, attgenerated FROM pg_attribute"
                " WHERE attgenerated <> '' ORDER BY 1, 2"
            )
            # The history belongs to its own database.
            histories = sql(
                "SELECT resource, starts_at, purged_seq, purged_xid::text FROM histories"
            )
            [(is_own,)] = sql("SELECT bool_and(database_id = history_database_id()) FROM histories")
            assert is_own
            return (
                re.sub(r"(?m)^\\(un)?restrict .*\n", "", schema),
                {**rows, "histories": histories},
                generated,
                sql("SHOW jit"),
            )

    return read


def test_restored_database_equals_the_original_and_serves(
    varied_projects, client, sql, make_app, run, read_contents, direct_url, new
):
    run(BACK_UP)
    before = read_contents(direct_url)
    run(RESTORE)
    assert read_contents(url_of(new)) == before
    [(changes,)] = sql("SELECT count(*) FROM changes")
    assert {name: len(rows) for name, rows in before[1].items()} == {
        "projects": 8,
        "changes": changes,
        "histories": 1,
        "idempotency_keys": 1,
        "imports": 1,
        "pulled_rows": 1,
        "api_tokens": 1,
        "alembic_version": 1,
    }
    assert before[2:] == (
        [("projects", "bigrams", "s"), ("projects", "search", "s")],
        [("off",)],
    )

    app = make_app(DATABASE_URL=url_of(new))
    restored = app.test_client()
    assert restored.get("/ready").json == client.get("/ready").json
    assert restored.get(PROJECTS).json == client.get(PROJECTS).json
    for query in ("번역", "straße", "οδος", "zoë"):
        page = restored.get(PROJECTS, query_string={"q": query}).json
        assert len(page["items"]) == page["total"] == 1, query
    answers = [
        c.post(PROJECTS, json=ONCE, headers={"Idempotency-Key": "before"})
        for c in (client, restored)
    ]
    assert [answer.headers["Idempotency-Replayed"] for answer in answers] == ["true", "true"]
    assert answers[0].text == answers[1].text
    assert restored.post(PROJECTS, json={"name": "After"}).status_code == 201
    with connect_sql(url_of(new)) as restored_sql:
        [last] = restored_sql("SELECT max(seq) FROM changes")
        assert restored_sql(
            "SELECT max(seq) FILTER (WHERE seq <> %s) < restored_seq, restored_seq < %s, count(*)"
            " FROM changes, histories GROUP BY restored_seq",
            *(last, last),
        ) == [(True, True, changes + 1)]
    assert restored.get(PROJECTS).json["total"] == client.get(PROJECTS).json["total"] + 1

    with app.app_context():
        database.db.engine.dispose()
    assert re.fullmatch(r" +9 \| 20\d\d-.*\n\n", run(CHECK))
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        psycopg2.connect(url_of(new))


# The function as it was before migration 0006, on a server whose collation other servers lack.
OLD_FOLD = """
CREATE OR REPLACE FUNCTION search_fold(given text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT
AS $$ BEGIN RETURN lower(given COLLATE "of-another-version"); END $$
"""


def test_restoring_only_rows_works_without_the_collation_of_the_dump(
    varied_projects, sql, run, read_contents, direct_url, new
):
    [(current_fold,)] = sql("SELECT pg_get_functiondef('search_fold'::regproc)")
    sql(OLD_FOLD)
    try:
        run(BACK_UP)
        assert 'collation "of-another-version"' in run(RESTORE, check=False)
        run('dropdb --maintenance-db="$DATABASE_URL" "$NEW"')
        run(RESTORE_ROWS_ONLY)
    finally:
        sql(current_fold)
    assert read_contents(url_of(new)) == read_contents(direct_url)
    with connect_sql(url_of(new)) as new_sql:
        new_sql("UPDATE projects SET name = 'Changed' WHERE name = 'Once'")
        assert new_sql(
            "SELECT operation, seq > restored_seq FROM changes, histories ORDER BY seq DESC LIMIT 1"
        ) == [("update", True)]
