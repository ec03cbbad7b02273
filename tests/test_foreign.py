"""Databases that are another application's, or that cannot be served: each is refused in words."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import psycopg2
import pytest

import config
from projectapp.database import schema
from projectapp.database.schema import newest_revision
from tests.conftest import PROJECTS, parameters_of, url_of

REMEDY = (
    "Give this service a database of its own or, with no other in the search_path, a schema of its"
    " own (docs/database.md), or have it take over the other application's rows (docs/adopt.md)."
)
VERSIONS = "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"
TUTORIAL = (
    "CREATE TABLE projects (id serial PRIMARY KEY, name varchar(100) NOT NULL, description text,"
    " status varchar(20), owner_id integer, created_at timestamp)"
)
COMMAND = ("tokens", "create", "--name", "CI", "--owner", "alice", "--scope", "projects:read")


USE_OF_A_NEW_FIELD = """
from projectapp import create_app
client = create_app().test_client()
path = "/api/v1/projects"
key = {"Idempotency-Key": "b"}
answers = [
    client.post(path, json={"name": "A"}),
    client.post(path, json={"name": "B", "colour": "blue", "rank": 7}, headers=key),
    client.post(path, json={"name": "B", "colour": "blue", "rank": 7}, headers=key),
    client.post(path, json={"name": "C"}, headers={"Idempotency-Key": "c"}),
]
answers.append(client.patch(f"{path}/{answers[0].json['id']}", json={"colour": "red"}))
for answer in answers:
    print(answer.status_code, answer.json["colour"], answer.json["rank"])
found = client.get(f"{path}?sort=name&fields=name,colour,rank").json["items"]
print([(one["name"], one["colour"], one["rank"]) for one in found])
"""


@pytest.fixture
def make_place(app, sql, direct_url, make_app, caplog):
    """Make a database of these options; returns what runs SQL and `flask` in it, and its client."""
    name = f"test_foreign_{os.getpid()}"
    opened = []
    caplog.set_level("INFO")

    def make(options=""):
        sql(f"CREATE DATABASE {name} {options}")
        parameters = {**parameters_of(direct_url), "dbname": name}
        connection = psycopg2.connect(**parameters)
        connection.autocommit = True
        opened.append(connection)

        def run(statement, *values):
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []

        def flask(*arguments, **over):
            """Run a command; return its exit code and all that it says. It has no traceback."""
            app = make_app(DATABASE_URL=url_of({**parameters, **over}), MIGRATIONS_DATABASE_URL="")
            caplog.clear()
            done = app.test_cli_runner().invoke(args=arguments)
            if done.exception and not isinstance(done.exception, SystemExit):
                raise done.exception
            return done.exit_code, done.output + caplog.text

        def doctor():
            code, output = flask("doctor", "--json")
            found = json.JSONDecoder().raw_decode(output)[0]["findings"]
            return code, {finding["check"]: finding for finding in found}

        client = make_app(DATABASE_URL=url_of(parameters)).test_client()
        return SimpleNamespace(
            name=name, sql=run, flask=flask, doctor=doctor, client=client, parameters=parameters
        )

    yield make
    for connection in opened:
        connection.close()
    sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def write_revisions(place, *revisions):
    place.sql(VERSIONS)
    for revision in revisions:
        place.sql("INSERT INTO alembic_version VALUES (%s)", revision)


@pytest.mark.parametrize(
    ("revisions", "what"),
    [
        (["ae1027a6acf"], "alembic_version is another application's: it says ae1027a6acf."),
        (["0005", "1975ea83b712"], "alembic_version is another application's: it says "),
        (["0003"], "alembic_version says 0003, but there is no projects.attributes"),
        (["0005"], "alembic_version says 0005, but there is no "),
        (["9999"], "alembic_version says 9999, but there is no "),
    ],
)
def test_another_applications_revision_is_refused_and_left_alone(
    make_place, problem, revisions, what
):
    place = make_place()
    write_revisions(place, *revisions)
    for command in ("upgrade", "downgrade", "stamp", "current", "migrate"):
        code, said = place.flask("db", command)
        assert code == 1
        assert f"Error: {what}" in said
        assert REMEDY in said
    found = place.sql("SELECT version_num FROM alembic_version")
    assert sorted(found) == sorted((revision,) for revision in revisions)
    assert place.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]
    detail = problem(place.client.get("/ready"), 503, "unavailable")["detail"]
    assert what in detail
    assert REMEDY in detail
    code, findings = place.doctor()
    assert (code, findings["schema"]["level"], findings["schema"]["do"]) == (1, "FAIL", REMEDY)
    assert findings["schema"]["what"].startswith(what)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("(id integer)", "its columns are id."),
        ("(version_num varchar, applied_at timestamp)", "its columns are version_num, applied_at."),
        ("(version_num integer)", "it says 7."),
    ],
)
def test_another_applications_table_of_revisions_is_refused(make_place, problem, table, what):
    place = make_place()
    place.sql(f"CREATE TABLE alembic_version {table}")
    place.sql("INSERT INTO alembic_version VALUES (7)")
    what = f"alembic_version is another application's: {what}"
    assert what in place.flask("db", "upgrade")[1]
    assert what in problem(place.client.get("/ready"), 503)["detail"]
    assert place.doctor()[1]["schema"]["what"] == what


def test_another_applications_numbered_revision_beside_its_projects_is_refused(make_place):
    place = make_place()
    write_revisions(place, "0003")
    place.sql(TUTORIAL)
    code, said = place.flask("db", "upgrade")
    assert code == 1
    assert "there is no projects.attributes, no projects.version: it is another" in said
    assert place.sql("SELECT to_regclass('api_tokens')") == [(None,)]


def test_a_schema_without_one_of_its_columns_is_not_ready(make_place, problem):
    place = make_place()
    assert place.flask("db", "upgrade")[0] == 0
    assert place.client.get("/ready").status_code == 200
    place.sql("ALTER TABLE api_tokens DROP COLUMN owner")
    what = f"alembic_version says {newest_revision()}, but there is no api_tokens.owner."
    assert what in problem(place.client.get("/ready"), 503)["detail"]
    assert place.doctor()[1]["schema"]["what"] == what


def test_a_field_is_added_as_the_readme_says(make_place, project):
    """A model may have a column that no migration has yet: `flask db migrate` writes it."""
    place = make_place()
    models = project / "projectapp" / "projects" / "models.py"
    field = (
        "    colour: Mapped[str | None] = mapped_column(sa.String(20))\n"
        "    rank: Mapped[int] = mapped_column(server_default=sa.text('3'))\n"
    )
    anchor = "    version: Mapped[int]"
    environ = {**os.environ, "APP_ENV": "testing", "DATABASE_URL": url_of(place.parameters)}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=project, env=environ, capture_output=True, text=True
        )

    def flask(*arguments):
        return python("-m", "flask", *arguments)

    assert flask("db", "upgrade").returncode == 0
    models.write_text(models.read_text().replace(anchor, field + anchor))
    assert flask("db", "upgrade").returncode == 0  # as at each `make run` until it is written
    done = flask("db", "migrate", "-m", "add colour")
    assert done.returncode == 0, done.stderr
    number = f"{int(newest_revision()) + 1:04}"
    [written] = (project / "migrations" / "versions").glob(f"{number}_*.py")
    assert written.name == f"{number}_add_colour.py"
    done = flask("db", "upgrade")
    assert f"Applied {number}: add colour" in done.stderr
    schemas = project / "projectapp" / "projects" / "schemas.py"
    field = "    colour = fields.String()\n    rank = fields.Integer(strict=True)\n"
    anchor = "    is_active = StrictBoolean("
    schemas.write_text(schemas.read_text().replace(anchor, field + anchor, 1))
    done = python("-c", USE_OF_A_NEW_FIELD)
    assert done.stdout.splitlines() == [
        *("201 None 3", "201 blue 7", "201 blue 7", "201 None 3", "200 red 3"),
        "[('A', 'red', 3), ('B', 'blue', 7), ('C', None, 3)]",
    ], done.stderr


def test_a_later_schema_with_more_columns_is_served(make_place):
    place = make_place()
    place.flask("db", "upgrade")
    place.sql("ALTER TABLE projects ADD COLUMN colour text")
    place.sql("UPDATE alembic_version SET version_num = '9999'")
    assert "The schema is at 9999, ahead of this release" in place.flask("db", "upgrade")[1]
    assert place.client.get("/ready").json["schema"] == "9999"
    assert place.doctor()[0] == 0


def test_a_schema_of_its_own_is_made_as_the_page_says(make_place, sql):
    place = make_place()
    write_revisions(place, "ae1027a6acf")
    place.sql(TUTORIAL)
    page = (config.ROOT / "docs" / "database.md").read_text()
    [statements] = re.findall(r"```sql\n(CREATE SCHEMA .*?)```", page, re.S)
    role = f"own_{os.getpid()}"
    sql(f"CREATE ROLE {role} LOGIN")
    try:
        place.sql(statements.replace("projects_serve", role).replace("projects_db", place.name))
        code, said = place.flask("db", "upgrade", user=role)
        assert code == 0, said
        assert place.flask(*COMMAND, user=role)[0] == 0
        assert place.sql("SELECT count(*) FROM projects_app.api_tokens") == [(1,)]
        assert place.sql("SELECT version_num FROM public.alembic_version") == [("ae1027a6acf",)]
    finally:
        place.sql(f"DROP OWNED BY {role} CASCADE")
        sql(f"DROP ROLE {role}")


@pytest.mark.parametrize("versions", [[], [VERSIONS]], ids=["without", "with an empty"])
def test_the_tutorials_table_is_refused_with_the_page_that_adopts_it(make_place, problem, versions):
    place = make_place()
    for statement in [TUTORIAL, *versions]:
        place.sql(statement)
    code, said = place.flask("db", "upgrade")
    assert code == 1
    what = (
        "There is a table projects (id, name, description, status, owner_id, created_at), and no"
        f" recorded migration made it. {REMEDY}"
    )
    assert f"Error: {what}\n" in said
    code, findings = place.doctor()
    assert code == 1
    assert findings["schema"]["do"] == REMEDY
    detail = problem(place.client.get("/ready"), 503, "unavailable")["detail"]
    assert detail == what if versions else "flask db upgrade" in detail


# Each table has the rows 1 (complete), 2 (archived) and 3 (as many NULLs as it allows).
TABLES = {
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


@pytest.mark.parametrize("kind", TABLES)
def test_the_page_adopts_the_tutorials_table(make_place, kind):
    place = make_place()
    place.sql(TABLES[kind])
    page = (config.ROOT / "docs" / "adopt.md").read_text()
    find_misfits, move, copy, check, drop = re.findall(r"```sql\n(.*?)```", page, re.S)
    assert place.sql(find_misfits) == []
    place.sql(move)
    code, said = place.flask("db", "upgrade")
    assert code == 0, said
    place.sql(copy)
    place.sql(copy)
    assert place.sql(check) == [(3, 3)]
    place.sql("DROP TABLE IF EXISTS tasks")
    place.sql(drop)
    items = place.client.get(f"{PROJECTS}?sort=-name").json["items"]
    whole, old, bare = (
        next(item for item in items if item["name"] == name) for name in ("번역", "Old", "Bare")
    )
    assert whole["created_at"] == "2026-01-02T03:04:05.678901Z"
    assert whole["updated_at"] == "2026-02-03T04:05:06.000000Z"
    assert [p["is_active"] for p in (whole, old, bare)] == [True, False, True]
    assert [p["description"] for p in (whole, old, bare)] == ["A text", "", None]
    assert old["created_at"] == old["updated_at"] == "2026-01-01T00:00:00.000000Z"
    assert bare["created_at"] == bare["updated_at"]
    if kind == "integer ids, status":
        assert whole["attributes"] == {"status": "planning", "owner_id": 7, "old_id": 1}
        assert bare["attributes"] == {"old_id": 3}
        found = place.client.get(f'{PROJECTS}?attributes={{"old_id": 3}}').json["items"]
        assert found == [bare]
    else:
        assert whole["id"] == "0a0a0a0a-0000-4000-8000-000000000001"
        assert old["attributes"] == {}
    if kind == "text ids, is_active":
        assert bare["attributes"] == {"old_id": "proj-3"}
    if kind == "uuid ids, few columns":
        assert whole["attributes"] == {"tags": {"a": [None]}}
    changed = place.client.put(f"{PROJECTS}/{bare['id']}", json={"name": "Still writable"})
    assert changed.status_code == 200


def test_the_page_finds_rows_that_do_not_fit(make_place):
    place = make_place()
    place.sql("CREATE TABLE projects (id serial PRIMARY KEY, name text, description text, x jsonb)")
    place.sql(
        "INSERT INTO projects (name, description, x) VALUES (NULL, NULL, NULL), ('', NULL, NULL),"
        " (repeat('x', 201), NULL, NULL), ('x', repeat('x', 1001), NULL),"
        " ('x', NULL, to_jsonb(repeat('x', 16384))), ('fits', NULL, NULL)"
    )
    page = (config.ROOT / "docs" / "adopt.md").read_text()
    misfits = place.sql(re.findall(r"```sql\n(.*?)```", page, re.S)[0])
    assert sorted(row[0] for row in misfits) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_KR"])
def test_a_database_with_another_encoding_is_refused(make_place, problem, encoding):
    place = make_place(f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    what = (
        f"The database's encoding is {encoding}, not UTF8: most languages do not fit."
        " Create it with ENCODING 'UTF8' TEMPLATE template0."
    )
    code, said = place.flask("db", "upgrade")
    assert code == 1
    assert f"Error: {what}" in said
    assert place.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    write_revisions(place, newest_revision())
    assert problem(place.client.get("/ready"), 503, "unavailable")["detail"] == what
    assert place.doctor()[1]["encoding"]["level"] == "FAIL"


def test_a_server_that_is_too_old_is_refused(make_place, monkeypatch):
    monkeypatch.setattr(schema, "OLDEST_POSTGRESQL", 99)
    code, said = make_place().flask("db", "upgrade")
    assert code == 1
    assert re.search(
        r"Error: This is PostgreSQL \d+, which is too old: 99 is the oldest that works\.", said
    )


READ_ONLY = {"options": "-c default_transaction_read_only=on"}


@pytest.mark.parametrize("command", [("db", "upgrade"), COMMAND, ("projects", "assign", "alice")])
@pytest.mark.parametrize(
    ("prepare", "over", "words"),
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
def test_a_command_that_cannot_do_its_work_says_why(
    make_place, sql, direct_url, command, prepare, over, words
):
    if "port" in over and not parameters_of(direct_url).get("host", "").startswith("/"):
        pytest.skip("only a socket has no such file")
    place, role = make_place(), f"may_not_{os.getpid()}"
    if command[0] != "db" and "schema" not in words and over != {"user": "{role}"}:
        place.flask("db", "upgrade")
        place.sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'x')")
    sql(f"CREATE ROLE {role} LOGIN")
    try:
        if prepare:
            place.sql(prepare.format(name=place.name))
        over = {name: value.format(role=role) for name, value in over.items()}
        code, said = place.flask(*command, **over)
    finally:
        sql(f"DROP ROLE {role}")
    assert code == 1
    assert "Traceback" not in said
    if command[0] == "db":
        assert words in said
    assert "flask doctor" in said


@pytest.mark.parametrize(
    ("state", "is_sentence"),
    [("53100", True), ("55006", True), ("57P01", True), ("22012", False), ("42601", False)],
)
def test_only_a_mistake_in_a_migration_has_a_traceback(make_place, state, is_sentence):
    place = make_place()
    place.sql(
        "CREATE FUNCTION fail() RETURNS event_trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE 'out of luck' USING ERRCODE = '{state}'; END $$;"
        " CREATE EVENT TRIGGER fail ON ddl_command_start WHEN TAG IN ('CREATE TABLE')"
        " EXECUTE FUNCTION fail()"
    )
    if is_sentence:
        code, said = place.flask("db", "upgrade")
        assert code == 1
        assert "Error: out of luck\n" in said
        assert "CREATE TABLE" not in said
    else:
        with pytest.raises(Exception, match="out of luck"):
            place.flask("db", "upgrade")
