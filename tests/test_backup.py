"""What docs/backup.md tells to type makes an equal database, on which the service works."""

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
BACK_UP, RESTORE, CHECK, ROWS_ALONE = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
ONCE = {"name": "Once", "attributes": {"team": "core"}}


@contextmanager
def session(url):
    connection = psycopg2.connect(url)
    connection.autocommit = True

    def run(statement, *values):
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    yield run
    connection.close()


def commands(binaries, folder, direct_url, new):
    """A function that runs commands as they stand on the page."""
    tools = subprocess.check_output([binaries / "pg_dump", "--version"], text=True)
    with session(direct_url) as sql:
        if major_version(tools) != int(sql("SHOW server_version_num")[0][0]) // 10000:
            pytest.skip("the tools at hand are not of the server's version")
    environ = {
        k: v for k, v in os.environ.items() if k not in config.Config.declared_settings()
    } | {
        "APP_ENV": "testing",
        "PATH": f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": direct_url,
        "DUMP": str(folder / "projects.dump"),
        "NEW": new["dbname"],
        "NEW_URL": url_of(new),
    }

    def run(script, check=True):
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=config.ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout if check else done.stderr

    return run


@pytest.fixture
def filled(client, make_project, sql):
    """A database with something of everything in it."""
    names = (
        "번역",
        "Straße",
        "日本語の検索",
        "ΟΔΟΣ",
        "مشروع",
        "Zoe\u0308 \t tab",
        "back\\slash 'n' \"quote\"",
    )
    made = [make_project(name=name, description=f"About {name}") for name in names]
    make_project(name="Attributes", attributes={"size": {"m": 1.50, "l": None}, "ünï": ["x", True]})
    for size in (2, 3):
        client.patch(f"{PROJECTS}/{made[0]['id']}", json={"attributes": {"size": {"m": size}}})
    client.put(f"{PROJECTS}/{made[1]['id']}", json={"is_active": False, "description": None})
    client.delete(f"{PROJECTS}/{made[2]['id']}")
    assert (
        client.post(PROJECTS, json=ONCE, headers={"Idempotency-Key": "before"}).status_code == 201
    )
    sql(
        "INSERT INTO api_tokens (id, name, owner, scopes, digest)"
        " VALUES (gen_random_uuid(), 'CI', 'ci', '{projects:read}', sha256('x'))"
    )
    sql("UPDATE projects SET created_at = '2020-02-29 23:59:59.999999+00' WHERE name = 'ΟΔΟΣ'")
    assert sql("SELECT count(*), max(version), sum(cardinality(bigrams)) > 0 FROM projects") == [
        (8, 3, True)
    ]


@pytest.fixture
def new(sql, direct_url):
    """The parameters of a database that is not there yet, and is gone after the test."""
    here = parameters_of(direct_url)
    name = f"{here['dbname']}_restored"
    yield here | {"dbname": name}
    sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def run(direct_url, binaries, new, tmp_path):
    return commands(binaries, tmp_path, direct_url, new)


@pytest.fixture
def contents(run):
    """All that makes a database what it is: its schema, its rows, its settings."""

    def read(url):
        schema = run(f"pg_dump --schema-only '{url}'")
        with session(url) as sql:
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
            return (
                re.sub(r"(?m)^\\(un)?restrict .*\n", "", schema),
                rows,
                generated,
                sql("SHOW jit"),
            )

    return read


def test_what_is_restored_equals_what_was_backed_up_and_works(
    filled, client, make_app, run, contents, direct_url, new
):
    run(BACK_UP)
    before = contents(direct_url)
    run(RESTORE)
    assert contents(url_of(new)) == before
    assert {name: len(rows) for name, rows in before[1].items()} == {
        "projects": 8,
        "idempotency_keys": 1,
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
        found = restored.get(PROJECTS, query_string={"q": query}).json
        assert len(found["items"]) == found["total"] == 1, query
    again = [
        c.post(PROJECTS, json=ONCE, headers={"Idempotency-Key": "before"})
        for c in (client, restored)
    ]
    assert [answer.headers["Idempotency-Replayed"] for answer in again] == ["true", "true"]
    assert again[0].text == again[1].text
    assert restored.post(PROJECTS, json={"name": "After"}).status_code == 201
    assert restored.get(PROJECTS).json["total"] == client.get(PROJECTS).json["total"] + 1

    with app.app_context():
        database.db.engine.dispose()
    assert re.fullmatch(r" +9 \| 20\d\d-.*\n\n", run(CHECK))
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        psycopg2.connect(url_of(new))


# As it was before migration 0006, on a server that has a collation of its own.
OLD_FOLD = """
CREATE OR REPLACE FUNCTION search_fold(given text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT
AS $$ BEGIN RETURN lower(given COLLATE "of-another-version"); END $$
"""


def test_rows_alone_are_restored_where_the_server_lacks_the_collation(
    filled, sql, run, contents, direct_url, new
):
    [(ours,)] = sql("SELECT pg_get_functiondef('search_fold'::regproc)")
    sql(OLD_FOLD)
    try:
        run(BACK_UP)
        assert 'collation "of-another-version"' in run(RESTORE, check=False)
        run('dropdb --maintenance-db="$DATABASE_URL" "$NEW"')
        run(ROWS_ALONE)
    finally:
        sql(ours)
    assert contents(url_of(new)) == contents(direct_url)
