"""Databases that belong to another application or cannot be used: commands and /ready say why."""

import json
import os
import re
from types import SimpleNamespace

import psycopg2
import pytest

import config
from projectapp.database import schema
from projectapp.database.schema import newest_revision
from tests.conftest import PROJECTS, parameters_of, url_of

REMEDY = (
    "Give this service its own database or its own schema (docs/database.md), or let it take over"
    " the other application's rows (docs/adopt.md)."
)
CREATE_ALEMBIC_VERSION = "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"
TUTORIAL_TABLE = (
    "CREATE TABLE projects (id serial PRIMARY KEY, name varchar(100) NOT NULL, description text,"
    " status varchar(20), owner_id integer, created_at timestamp)"
)
CREATE_TOKEN = ("tokens", "create", "--name", "CI", "--owner", "alice", "--scope", "projects:read")


@pytest.fixture
def make_database(app, sql, direct_url, make_app, caplog):
    """Create a database with these options; return functions and a client that use it."""
    name = f"test_foreign_{os.getpid()}"
    connections = []
    caplog.set_level("INFO")

    def make(options=""):
        sql(f"CREATE DATABASE {name} {options}")
        parameters = {**parameters_of(direct_url), "dbname": name}
        connection = psycopg2.connect(**parameters)
        connection.autocommit = True
        connections.append(connection)

        def run(statement, *values):
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []

        def flask(*arguments, **overrides):
            """Run a command with these connection parameters; return its exit code and output.

            Raises the error that would be a traceback.
            """
            app = make_app(
                DATABASE_URL=url_of({**parameters, **overrides}),
                MIGRATIONS_DATABASE_URL="",
            )
            caplog.clear()
            result = app.test_cli_runner().invoke(args=arguments)
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
            return result.exit_code, result.output + caplog.text

        def doctor():
            code, output = flask("doctor", "--json")
            findings = json.JSONDecoder().raw_decode(output)[0]["findings"]
            return code, {finding["check"]: finding for finding in findings}

        client = make_app(DATABASE_URL=url_of(parameters)).test_client()
        return SimpleNamespace(
            name=name, sql=run, flask=flask, doctor=doctor, client=client, parameters=parameters
        )

    yield make
    for connection in connections:
        connection.close()
    sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def write_revisions(database, *revisions):
    database.sql(CREATE_ALEMBIC_VERSION)
    for revision in revisions:
        database.sql("INSERT INTO alembic_version VALUES (%s)", revision)


@pytest.mark.parametrize(
    ("revisions", "reason"),
    [
        (
            ["ae1027a6acf"],
            "alembic_version belongs to another application: it contains ae1027a6acf.",
        ),
        (["0005", "1975ea83b712"], "alembic_version belongs to another application: it contains "),
        (["0003"], "alembic_version contains 0003, but there is no projects.attributes"),
        (["0005"], "alembic_version contains 0005, but there is no "),
        (["9999"], "alembic_version contains 9999, but there is no "),
    ],
)
def test_another_applications_revision_is_refused_and_not_changed(
    make_database, problem, revisions, reason
):
    database = make_database()
    write_revisions(database, *revisions)
    for command in ("upgrade", "downgrade", "stamp", "current", "migrate"):
        code, output = database.flask("db", command)
        assert code == 1
        assert f"Error: {reason}" in output
        assert REMEDY in output
    rows = database.sql("SELECT version_num FROM alembic_version")
    assert sorted(rows) == sorted((revision,) for revision in revisions)
    assert database.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]
    detail = problem(database.client.get("/ready"), 503, "unavailable")["detail"]
    assert reason in detail
    assert REMEDY in detail
    code, findings = database.doctor()
    assert (code, findings["schema"]["level"], findings["schema"]["remedy"]) == (1, "FAIL", REMEDY)
    assert findings["schema"]["summary"].startswith(reason)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("(id integer)", "its columns are id."),
        ("(version_num varchar, applied_at timestamp)", "its columns are version_num, applied_at."),
        ("(version_num integer)", "it contains 7."),
    ],
)
def test_another_applications_alembic_version_is_refused(make_database, problem, table, reason):
    database = make_database()
    database.sql(f"CREATE TABLE alembic_version {table}")
    database.sql("INSERT INTO alembic_version VALUES (7)")
    reason = f"alembic_version belongs to another application: {reason}"
    assert reason in database.flask("db", "upgrade")[1]
    assert reason in problem(database.client.get("/ready"), 503)["detail"]
    assert database.doctor()[1]["schema"]["summary"] == reason


def test_another_applications_numbered_revision_and_projects_are_refused(make_database):
    database = make_database()
    write_revisions(database, "0003")
    database.sql(TUTORIAL_TABLE)
    code, output = database.flask("db", "upgrade")
    assert code == 1
    assert "there is no projects.attributes, no projects.version: it belongs to another" in output
    assert database.sql("SELECT to_regclass('api_tokens')") == [(None,)]


def test_schema_with_a_missing_column_is_not_ready(make_database, problem):
    database = make_database()
    assert database.flask("db", "upgrade")[0] == 0
    assert database.client.get("/ready").status_code == 200
    database.sql("ALTER TABLE api_tokens DROP COLUMN owner")
    reason = f"alembic_version contains {newest_revision()}, but there is no api_tokens.owner."
    assert reason in problem(database.client.get("/ready"), 503)["detail"]
    assert database.doctor()[1]["schema"]["summary"] == reason


def test_later_schema_with_more_columns_is_served(make_database):
    database = make_database()
    database.flask("db", "upgrade")
    database.sql("ALTER TABLE projects ADD COLUMN later_colour text")
    database.sql("UPDATE alembic_version SET version_num = '9999'")
    assert "The schema is at 9999, ahead of this release" in database.flask("db", "upgrade")[1]
    assert database.client.get("/ready").json["schema"] == "9999"
    assert database.doctor()[0] == 0


def test_schema_of_its_own_is_created_as_the_page_says(make_database, sql):
    database = make_database()
    write_revisions(database, "ae1027a6acf")
    database.sql(TUTORIAL_TABLE)
    page = (config.ROOT / "docs" / "database.md").read_text()
    [statements] = re.findall(r"```sql\n(CREATE SCHEMA .*?)```", page, re.S)
    role = f"own_{os.getpid()}"
    sql(f"CREATE ROLE {role} LOGIN")
    try:
        database.sql(
            statements.replace("projects_serve", role).replace("projects_db", database.name)
        )
        code, output = database.flask("db", "upgrade", user=role)
        assert code == 0, output
        assert database.flask(*CREATE_TOKEN, user=role)[0] == 0
        assert database.sql("SELECT count(*) FROM projects_app.api_tokens") == [(1,)]
        assert database.sql("SELECT version_num FROM public.alembic_version") == [("ae1027a6acf",)]
    finally:
        database.sql(f"DROP OWNED BY {role} CASCADE")
        sql(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "versions", [[], [CREATE_ALEMBIC_VERSION]], ids=["no alembic_version", "empty alembic_version"]
)
def test_tutorials_table_is_refused_and_the_message_names_the_page(
    make_database, problem, versions
):
    database = make_database()
    for statement in [TUTORIAL_TABLE, *versions]:
        database.sql(statement)
    code, output = database.flask("db", "upgrade")
    assert code == 1
    reason = (
        "The table projects (id, name, description, status, owner_id, created_at) exists, but no"
        f" recorded migration made it. {REMEDY}"
    )
    assert f"Error: {reason}\n" in output
    code, findings = database.doctor()
    assert code == 1
    assert findings["schema"]["remedy"] == REMEDY
    detail = problem(database.client.get("/ready"), 503, "unavailable")["detail"]
    assert detail == reason if versions else "flask db upgrade" in detail


def test_another_applications_table_of_another_name_is_refused(make_database):
    """Each table of the models is checked, not only `projects`."""
    database = make_database()
    database.sql("CREATE TABLE api_tokens (id integer)")
    code, output = database.flask("db", "upgrade")
    assert code == 1
    assert "Error: The table api_tokens (id) exists, but no recorded migration made it." in output
    assert database.sql("SELECT to_regclass('projects')") == [(None,)]


# Tables of other applications. Each has a complete row, an archived row and one with many NULLs.
OLD_TABLES = {
    "integer ids, status": """
        CREATE TYPE status AS ENUM ('active', 'planning', 'archived');
        CREATE TABLE projects (
            id serial CONSTRAINT projects_pkey PRIMARY KEY, name varchar(100) NOT NULL,
            description text, status status, owner_id integer,
            created_at timestamp, updated_at timestamp);
        CREATE INDEX projects_name_id_idx ON projects (name, id);
        CREATE TABLE tasks (project_id integer REFERENCES projects);
        INSERT INTO projects (name, description, status, owner_id, created_at, updated_at) VALUES
            ('번역', 'A text', 'planning', 7, '2026-01-02 03:04:05.678901', '2026-02-03 04:05:06'),
            ('Old', '', 'archived', NULL, '2026-01-01', NULL),
            ('Bare', NULL, NULL, NULL, NULL, NULL);
        INSERT INTO tasks SELECT id FROM projects;
    """,
    "text ids, is_active": """
        CREATE TABLE projects (
            id varchar(36) PRIMARY KEY, name varchar(100) NOT NULL, description varchar(500),
            is_active boolean, created_at timestamp, updated_at timestamp);
        INSERT INTO projects VALUES
            ('0A0A0A0A-0000-4000-8000-000000000001', '번역', 'A text', true,
             '2026-01-02 03:04:05.678901', '2026-02-03 04:05:06'),
            ('0a0a0a0a-0000-4000-8000-000000000002', 'Old', '', false, '2026-01-01', NULL),
            ('proj-3', 'Bare', NULL, NULL, NULL, NULL);
    """,
    "uuid ids, few columns": """
        CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
        INSERT INTO alembic_version VALUES ('ae1027a6acf');
        CREATE TABLE projects (
            id uuid PRIMARY KEY, name text, description text, is_active integer, tags jsonb,
            created_at timestamptz, updated_at timestamptz);
        INSERT INTO projects VALUES
            ('0a0a0a0a-0000-4000-8000-000000000001', '번역', 'A text', 1, '{"a": [null]}',
             '2026-01-02 03:04:05.678901+00', '2026-02-03 13:05:06+09'),
            ('0a0a0a0a-0000-4000-8000-000000000002', 'Old', '', 0, NULL, '2026-01-01 00:00Z', NULL),
            ('0a0a0a0a-0000-4000-8000-000000000003', 'Bare', NULL, NULL, NULL, NULL, NULL);
    """,
}


@pytest.mark.parametrize("kind", OLD_TABLES)
def test_tutorials_rows_are_adopted_as_the_page_says(make_database, kind):
    database = make_database()
    database.sql(OLD_TABLES[kind])
    page = (config.ROOT / "docs" / "adopt.md").read_text()
    find_misfits, move, copy, check, drop = re.findall(r"```sql\n(.*?)```", page, re.S)
    assert database.sql(find_misfits) == []
    database.sql(move)
    code, output = database.flask("db", "upgrade")
    assert code == 0, output
    database.sql(copy)
    database.sql(copy)
    assert database.sql(check) == [(3, 3)]
    database.sql("DROP TABLE IF EXISTS tasks")
    database.sql(drop)
    items = database.client.get(f"{PROJECTS}?sort=-name").json["items"]
    complete, archived, bare = (
        next(item for item in items if item["name"] == name) for name in ("번역", "Old", "Bare")
    )
    assert complete["created_at"] == "2026-01-02T03:04:05.678901Z"
    assert complete["updated_at"] == "2026-02-03T04:05:06.000000Z"
    assert [p["is_active"] for p in (complete, archived, bare)] == [True, False, True]
    assert [p["description"] for p in (complete, archived, bare)] == ["A text", "", None]
    assert archived["created_at"] == archived["updated_at"] == "2026-01-01T00:00:00.000000Z"
    assert bare["created_at"] == bare["updated_at"]
    if kind == "integer ids, status":
        assert complete["attributes"] == {"status": "planning", "owner_id": 7, "old_id": 1}
        assert bare["attributes"] == {"old_id": 3}
        items_of_id = database.client.get(f'{PROJECTS}?attributes={{"old_id": 3}}').json["items"]
        assert items_of_id == [bare]
    else:
        assert complete["id"] == "0a0a0a0a-0000-4000-8000-000000000001"
        assert archived["attributes"] == {}
    if kind == "text ids, is_active":
        assert bare["attributes"] == {"old_id": "proj-3"}
    if kind == "uuid ids, few columns":
        assert complete["attributes"] == {"tags": {"a": [None]}}
    changed = database.client.put(f"{PROJECTS}/{bare['id']}", json={"name": "Still writable"})
    assert changed.status_code == 200


def test_sql_of_the_page_finds_rows_that_do_not_fit(make_database):
    database = make_database()
    database.sql(
        "CREATE TABLE projects (id serial PRIMARY KEY, name text, description text, x jsonb)"
    )
    database.sql(
        "INSERT INTO projects (name, description, x) VALUES (NULL, NULL, NULL), ('', NULL, NULL),"
        " (repeat('x', 201), NULL, NULL), ('x', repeat('x', 1001), NULL),"
        " ('x', NULL, to_jsonb(repeat('x', 16384))), ('fits', NULL, NULL)"
    )
    page = (config.ROOT / "docs" / "adopt.md").read_text()
    misfits = database.sql(re.findall(r"```sql\n(.*?)```", page, re.S)[0])
    assert sorted(row[0] for row in misfits) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_KR"])
def test_database_with_another_encoding_is_refused(make_database, problem, encoding):
    database = make_database(f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    reason = (
        f"The database's encoding is {encoding}, not UTF8: text in most languages cannot be stored."
        " Create it with ENCODING 'UTF8' TEMPLATE template0."
    )
    code, output = database.flask("db", "upgrade")
    assert code == 1
    assert f"Error: {reason}" in output
    assert database.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    write_revisions(database, newest_revision())
    assert problem(database.client.get("/ready"), 503, "unavailable")["detail"] == reason
    assert database.doctor()[1]["encoding"]["level"] == "FAIL"


def test_postgresql_that_is_too_old_is_refused(make_database, monkeypatch):
    monkeypatch.setattr(schema, "OLDEST_POSTGRESQL", 99)
    code, output = make_database().flask("db", "upgrade")
    assert code == 1
    assert re.search(
        r"Error: PostgreSQL \d+ is too old\. This service needs PostgreSQL 99 or newer\.", output
    )


READ_ONLY = {"options": "-c default_transaction_read_only=on"}


@pytest.mark.parametrize(
    "command", [("db", "upgrade"), CREATE_TOKEN, ("projects", "assign", "alice")]
)
@pytest.mark.parametrize(
    ("prepare", "overrides", "words"),
    [
        ("", {"dbname": "test_missing"}, "does not exist"),
        ("", {"user": "nosuch"}, "does not exist"),
        ("", {"port": "9"}, "No such file or directory"),
        ("", READ_ONLY, "read-only transaction"),
        ("REVOKE CREATE ON SCHEMA public FROM PUBLIC", {"user": "{role}"}, "permission denied"),
        ("DROP SCHEMA public", {}, "no schema has been selected"),
        ("ALTER DATABASE {name} CONNECTION LIMIT 0", {"user": "{role}"}, "too many connections"),
        ("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC", {"user": "{role}"}, "permission denied"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value) or "as it is",
)
def test_command_without_access_fails_with_a_reason_and_no_traceback(
    make_database, sql, direct_url, command, prepare, overrides, words
):
    if "port" in overrides and not parameters_of(direct_url).get("host", "").startswith("/"):
        pytest.skip("only the socket of a wrong port is a missing file")
    database, role = make_database(), f"may_not_{os.getpid()}"
    if command[0] != "db" and "schema" not in words and overrides != {"user": "{role}"}:
        database.flask("db", "upgrade")
        database.sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'x')")
    sql(f"CREATE ROLE {role} LOGIN")
    try:
        if prepare:
            database.sql(prepare.format(name=database.name))
        overrides = {name: value.format(role=role) for name, value in overrides.items()}
        code, output = database.flask(*command, **overrides)
    finally:
        sql(f"DROP ROLE {role}")
    assert code == 1
    assert "Traceback" not in output
    if command[0] == "db":
        assert words in output
    assert "flask doctor" in output


@pytest.mark.parametrize(
    ("state", "is_sentence"),
    [("53100", True), ("55006", True), ("57P01", True), ("22012", False), ("42601", False)],
)
def test_only_a_mistake_in_a_migration_prints_a_traceback(make_database, state, is_sentence):
    database = make_database()
    database.sql(
        "CREATE FUNCTION fail() RETURNS event_trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE 'out of luck' USING ERRCODE = '{state}'; END $$;"
        " CREATE EVENT TRIGGER fail ON ddl_command_start WHEN TAG IN ('CREATE TABLE')"
        " EXECUTE FUNCTION fail()"
    )
    if is_sentence:
        code, output = database.flask("db", "upgrade")
        assert code == 1
        assert "Error: out of luck\n" in output
        assert "CREATE TABLE" not in output
    else:
        with pytest.raises(Exception, match="out of luck"):
            database.flask("db", "upgrade")
