"""The SQL of docs/roles.md: one role migrates, the other serves without rights to DDL."""

import json
import os
import re
import subprocess
import sys
import time

import flask_migrate
import psycopg2
import pytest
from psycopg2.errors import InsufficientPrivilege

import config
from faults.pg_proxy import Proxy
from projectapp import database
from projectapp.auth import token_admin
from projectapp.database import execution
from projectapp.database.schema import newest_revision
from projectapp.problems import ServiceUnavailable
from tests.conftest import PROJECTS, parameters_of, url_of
from tests.test_backup import BACK_UP, RESTORE, connect_sql, make_shell

PAGE = (config.ROOT / "docs" / "roles.md").read_text()
ROLES, DATABASE, JIT_OFF, IN_DATABASE, AFTER_MIGRATION, TAKE_OVER = re.findall(
    r"```sql\n(.*?)```", PAGE, re.S
)
WITH_KEY = {"Idempotency-Key": "a"}


class PageSetup:
    """A database and roles with which a test follows the page, under names of its own.

    `admin` is a role with CREATEROLE and CREATEDB, which clouds give instead of a superuser.
    `main_db` is the database that exists already.
    """

    def __init__(self, tag, direct_url, binaries, make_app):
        self._parameters = parameters_of(direct_url)
        self._binaries, self._create_app = binaries, make_app
        self._apps = []
        self.main_db = self._parameters["dbname"]
        self.db, self.admin, self.migrate, self.serve, self.old = self._names = [
            f"{self.main_db}_{tag}_{name}" for name in ("db", "admin", "migrate", "serve", "old")
        ]
        self.restored = f"{self.db}_restored"

    def url(self, role=None, dbname=None):
        login = {"user": role, "password": "secret"} if role else {}
        return url_of(self._parameters | login | {"dbname": dbname or self.db})

    def run_page_sql(self, script, role=None, dbname=None):
        """Run SQL of the page in psql, with the names of this setup."""
        script = re.sub(
            r"\bprojects_db\b", self.db if dbname in (None, self.main_db) else dbname, script
        )
        script = re.sub(r"\bprojects_(migrate|serve|old)\b", rf"{self.db[:-2]}\1", script)
        process = subprocess.run(
            [self._binaries / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", self.url(role, dbname)],
            input=script,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr

    def create_roles(self, role=None):
        self.run_page_sql(ROLES, role, self.main_db)
        for name in (self.migrate, self.serve):
            # As psql's \password does.
            self.run_page_sql(f"ALTER ROLE {name} PASSWORD 'secret'", role, self.main_db)

    def connect(self, role=None, dbname=None):
        return connect_sql(self.url(role, dbname))

    def run_as_superuser(self, *statements, dbname=None):
        with self.connect(dbname=dbname or self.main_db) as sql:
            for statement in statements:
                sql(statement)

    def make_app(self, url, **settings):
        urls = {"DATABASE_URL": url, "MIGRATIONS_DATABASE_URL": ""}
        self._apps.append(self._create_app(**urls | settings))
        return self._apps[-1]

    def run_flask(self, *arguments):
        """Run a `flask` command with both URLs, as on the page."""
        urls = {"DATABASE_URL": self.serve, "MIGRATIONS_DATABASE_URL": self.migrate}
        process = subprocess.run(
            [sys.executable, "-m", "flask", *arguments],
            cwd=config.ROOT,
            env={**os.environ, "APP_ENV": "testing"} | {k: self.url(v) for k, v in urls.items()},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    def drop(self):
        for app in self._apps:
            with app.app_context():
                database.db.engine.dispose()
        with self.connect(dbname=self.main_db) as sql:
            for name in (self.db, self.restored):
                sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            for name in reversed(self._names[1:]):
                if sql("SELECT 1 FROM pg_roles WHERE rolname = %s", name):
                    sql(f"DROP OWNED BY {name} CASCADE")
                    sql(f"DROP ROLE {name}")


@pytest.fixture
def page_setup(direct_url, binaries, make_app):
    setup = PageSetup("existing", direct_url, binaries, make_app)
    yield setup
    setup.drop()


@pytest.fixture(scope="module")
def two_roles(direct_url, binaries, make_app):
    """A new database with the two roles, made as the page says."""
    setup = PageSetup("new", direct_url, binaries, make_app)
    setup.run_as_superuser(f"CREATE ROLE {setup.admin} LOGIN CREATEROLE CREATEDB PASSWORD 'secret'")
    setup.create_roles(setup.admin)
    setup.run_page_sql(DATABASE, setup.admin, setup.main_db)
    setup.run_page_sql(IN_DATABASE, setup.admin)
    setup.run_flask("db", "upgrade")
    setup.run_page_sql(AFTER_MIGRATION, setup.admin)
    yield setup
    setup.drop()


@pytest.fixture(scope="module")
def client(two_roles):
    return two_roles.make_app(two_roles.url(two_roles.serve)).test_client()


@pytest.fixture
def serving_sql(two_roles):
    with two_roles.connect(two_roles.serve) as sql:
        sql("DELETE FROM projects")
        sql("DELETE FROM idempotency_keys")
        yield sql


def use_service(client):
    """Make requests that use everything that the service does."""
    created = client.post(PROJECTS, json={"name": "번역", "attributes": {"team": "core"}})
    assert created.status_code == 201, created.text
    url = created.headers["Location"]
    assert client.get(url).json == created.json
    for query in (
        {"q": "번역"},
        {"attributes": '{"team": "core"}'},
        {"sort": "-name", "is_active": "true"},
    ):
        page = client.get(PROJECTS, query_string=query).json
        assert (page["items"], page["total"]) == ([created.json], 1), query
    assert client.put(url, json={"is_active": False}).json["version"] == 2
    assert client.patch(url, json={"attributes": {"size": {"m": 2}}}).json["version"] == 3
    assert client.put(url, json={}, headers={"If-Match": '"1"'}).status_code == 412
    assert client.delete(url, headers={"If-Match": '"3"'}).status_code == 204
    assert client.get(url).status_code == 404
    for replayed in (None, "true"):
        answer = client.post(PROJECTS, json={"name": "Once"}, headers=WITH_KEY)
        assert answer.status_code == 201, answer.text
        assert answer.headers.get("Idempotency-Replayed") == replayed
    assert client.get(PROJECTS).json["total"] == 1
    ready = client.get("/ready")
    assert (ready.status_code, ready.json["schema"]) == (200, newest_revision())


def test_serving_role_can_do_everything_that_the_service_does(two_roles, client, serving_sql):
    use_service(client)
    serving_sql("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    assert two_roles.run_flask("idempotency", "purge") == "Deleted 1 expired keys.\n"
    assert serving_sql("SHOW jit") == [("off",)]


def test_serving_role_checks_tokens_but_cannot_create_them(two_roles):
    with two_roles.make_app(two_roles.url(two_roles.migrate)).app_context():
        token = token_admin.create_token("CI", "alice", ["projects:read"], None)
    app = two_roles.make_app(two_roles.url(two_roles.serve), AUTH="tokens")
    header = {"Authorization": f"Bearer {token}"}
    assert app.test_client().get(PROJECTS, headers=header).status_code == 200
    with two_roles.connect(two_roles.migrate) as sql:
        deadline = time.monotonic() + 60
        while sql("SELECT last_used_at FROM api_tokens") == [(None,)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        sql("UPDATE api_tokens SET revoked_at = now()")
    assert app.test_client().get(PROJECTS, headers=header).status_code == 401
    with app.app_context(), pytest.raises(ServiceUnavailable, match=r"docs/roles\.md"):
        token_admin.create_token("CI", "alice", ["projects:read"], None)


def test_doctor_reports_no_failure_with_the_two_roles(two_roles):
    report = json.loads(two_roles.run_flask("doctor", "--json"))
    assert [finding for finding in report["findings"] if finding["level"] == "FAIL"] == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine ()",
        "CREATE TEMPORARY TABLE mine ()",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine() RETURNS integer RETURN 1",
        "CREATE INDEX ON projects (description)",
        "CREATE RULE mine AS ON DELETE TO projects DO INSTEAD NOTHING",
        "ALTER TABLE projects ADD mine integer",
        "ALTER TABLE projects DROP CONSTRAINT projects_name_not_empty_check",
        "DROP TABLE projects",
        "DROP FUNCTION row_estimate",
        "TRUNCATE projects CASCADE",
        "TRUNCATE idempotency_keys",
        "INSERT INTO alembic_version VALUES ('9999')",
        "UPDATE alembic_version SET version_num = '9999'",
        "DELETE FROM alembic_version",
        "INSERT INTO api_tokens (id) VALUES (gen_random_uuid())",
        "UPDATE api_tokens SET revoked_at = NULL",
        "DELETE FROM api_tokens",
        "INSERT INTO changes OVERRIDING SYSTEM VALUE SELECT * FROM changes",
        "UPDATE changes SET caller = 'bob'",
        "DELETE FROM changes",
        "TRUNCATE changes",
        "UPDATE histories SET starts_at = now()",
        "INSERT INTO histories SELECT * FROM histories",
        "DELETE FROM histories",
        "TRUNCATE histories",
        "ALTER TABLE projects DISABLE TRIGGER history_after_update",
        "ALTER TABLE projects DISABLE TRIGGER USER",
        "DROP TRIGGER history_after_update ON projects",
        "SET session_replication_role = replica",
        "SELECT keep_history('projects')",
        "SELECT end_history('projects')",
        "SELECT record_change()",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = on', current_database()); END $$",
        "DO $$ BEGIN EXECUTE 'SET ROLE ' || replace(current_user, 'serve', 'migrate'); END $$",
    ],
)
def test_serving_role_is_denied_ddl_and_writes_to_admin_tables(serving_sql, statement):
    with pytest.raises(InsufficientPrivilege):
        serving_sql(statement)


def test_serving_role_cannot_make_the_trigger_of_the_history_its_own(two_roles, serving_sql):
    """With the right to create a table it could otherwise write changes that did not happen."""
    with two_roles.connect(two_roles.migrate) as migrating:
        migrating(f"CREATE SCHEMA mine AUTHORIZATION {two_roles.migrate}")
        migrating(f"GRANT ALL ON SCHEMA mine TO {two_roles.serve}")
        serving_sql("CREATE TABLE mine.projects (LIKE projects)")
        trigger = "TRIGGER forge AFTER INSERT ON mine.projects FOR EACH ROW"
        with pytest.raises(InsufficientPrivilege, match="permission denied for function"):
            serving_sql(f"CREATE {trigger} EXECUTE FUNCTION record_change()")
        serving_sql("DROP TABLE mine.projects")
        migrating("DROP SCHEMA mine")


def test_default_privileges_do_not_let_the_serving_role_change_the_history(two_roles):
    for command in ("downgrade", "upgrade"):  # "After the first migration" is not repeated
        two_roles.run_flask("db", command, *(("0013",) if command == "downgrade" else ()))
    with two_roles.connect(two_roles.serve) as sql:
        for table in ("changes", "histories"):
            assert sql(
                "SELECT privilege FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[])"
                " AS privilege WHERE has_table_privilege(%s, privilege)",
                table,
            ) == [("SELECT",)]
        assert sql(
            "SELECT proname FROM pg_proc WHERE has_function_privilege(oid, 'EXECUTE') AND proname"
            " IN ('record_change', 'keep_history', 'end_history', 'history_database_id')"
        ) == [("history_database_id",)]


def test_writes_of_the_serving_role_are_recorded_under_its_name(two_roles, client, serving_sql):
    created = client.post(PROJECTS, json={"name": "A"})
    serving_sql("UPDATE projects SET name = 'B'")
    assert serving_sql(
        "SELECT operation, credential FROM changes WHERE row_id = %s ORDER BY seq DESC LIMIT 1",
        created.json["id"],
    ) == [("update", f"role {two_roles.serve}")]


def test_another_role_cannot_connect(two_roles):
    two_roles.run_as_superuser(f"CREATE ROLE {two_roles.old} LOGIN PASSWORD 'secret'")
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(two_roles.url(two_roles.old))


def test_objects_of_later_migrations_are_granted_to_the_serving_role(two_roles, serving_sql):
    with two_roles.connect(two_roles.migrate) as migrating:
        migrating("CREATE TABLE later (id serial PRIMARY KEY, name text)")
        migrating("CREATE FUNCTION later_function() RETURNS integer RETURN 1")
        migrating("REVOKE EXECUTE ON FUNCTION later_function FROM PUBLIC")
    assert serving_sql("INSERT INTO later (name) VALUES ('x') RETURNING id, later_function()") == [
        (1, 1)
    ]
    serving_sql("UPDATE later SET name = 'y'")
    assert serving_sql("DELETE FROM later RETURNING name") == [("y",)]
    for statement in ("TRUNCATE later", "DROP TABLE later", "ALTER TABLE later ADD x integer"):
        with pytest.raises(InsufficientPrivilege):
            serving_sql(statement)


def test_serving_role_resolves_a_lost_answer(two_roles, serving_sql):
    proxy = Proxy(parameters_of(two_roles.url(two_roles.serve)))
    try:
        proxy.lose.append("INSERT")
        client = two_roles.make_app(proxy.url).test_client()
        assert client.post(PROJECTS, json={"name": "x"}).status_code == 201
        assert proxy.lose == []
        assert any("pg_terminate_backend" in query for query in proxy.queries)
    finally:
        proxy.close()
    assert serving_sql("SELECT count(*) FROM projects") == [(1,)]


def test_serving_role_can_terminate_only_its_own_server_processes(two_roles):
    def terminate(sql):
        with two_roles.make_app(two_roles.url(two_roles.serve)).app_context():
            [(pid,)] = sql("SELECT pg_backend_pid()")
            return database.execute(execution._TERMINATE_BACKEND, {"pid": pid})

    with (
        two_roles.connect(two_roles.serve) as own_session,
        two_roles.connect(two_roles.migrate) as other_session,
    ):
        assert terminate(own_session) == (True,)
        with pytest.raises(psycopg2.OperationalError):
            own_session("SELECT 1")
        assert terminate(other_session) is None
        assert other_session("SELECT 1") == [(1,)]


def test_migrating_role_can_restore_a_backup(two_roles, client, serving_sql, binaries, tmp_path):
    assert client.post(PROJECTS, json={"name": "Before"}).status_code == 201
    restored = parameters_of(two_roles.url(two_roles.migrate, two_roles.restored))
    run_shell = make_shell(binaries, tmp_path, two_roles.url(two_roles.migrate), restored)
    for script in (BACK_UP, RESTORE):
        run_shell(script)
    for statements in (IN_DATABASE, AFTER_MIGRATION):
        two_roles.run_page_sql(statements, two_roles.admin, two_roles.restored)
    restored_client = two_roles.make_app(
        two_roles.url(two_roles.serve, two_roles.restored)
    ).test_client()
    assert restored_client.get(PROJECTS).json == client.get(PROJECTS).json
    [project] = restored_client.get(PROJECTS).json["items"]
    assert restored_client.delete(f"{PROJECTS}/{project['id']}").status_code == 204
    use_service(restored_client)
    with two_roles.connect(two_roles.serve, two_roles.restored) as sql:
        assert sql("SHOW jit") == [("off",)]
        with pytest.raises(InsufficientPrivilege):
            sql("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize("by_superuser", [True, False])
def test_one_role_is_replaced_by_two_while_the_service_runs(page_setup, by_superuser):
    attributes = "" if by_superuser else "CREATEROLE CREATEDB"
    page_setup.run_as_superuser(
        f"CREATE ROLE {page_setup.old} LOGIN {attributes} PASSWORD 'secret'",
        f"CREATE DATABASE {page_setup.db} OWNER {page_setup.old}",
    )
    if by_superuser:  # as PostgreSQL 14 created it
        page_setup.run_as_superuser(
            "ALTER SCHEMA public OWNER TO CURRENT_USER",
            "GRANT ALL ON SCHEMA public TO PUBLIC",
            dbname=page_setup.db,
        )
    app = page_setup.make_app(page_setup.url(page_setup.old))
    with app.app_context():
        flask_migrate.upgrade()
    with page_setup.connect(page_setup.old) as sql:
        sql("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    old_client = app.test_client()
    first = old_client.post(PROJECTS, json={"name": "First"}, headers=WITH_KEY)

    role = None if by_superuser else page_setup.old
    page_setup.create_roles(role)
    for statements in (IN_DATABASE, TAKE_OVER, AFTER_MIGRATION, IN_DATABASE, AFTER_MIGRATION):
        page_setup.run_page_sql(statements, role)
        with app.app_context():
            database.db.engine.dispose()  # so that it must log in again
        assert old_client.post(PROJECTS, json={"name": "Another"}).status_code == 201

    app = page_setup.make_app(
        page_setup.url(page_setup.serve), MIGRATIONS_DATABASE_URL=page_setup.url(page_setup.migrate)
    )
    client = app.test_client()
    assert client.post(PROJECTS, json={"name": "First"}, headers=WITH_KEY).json == first.json
    assert client.get(PROJECTS).json["total"] == 6
    with page_setup.connect(page_setup.serve) as serving_sql:
        for statement in (
            "CREATE TABLE mine ()",
            "DROP TABLE projects",
            "TRUNCATE projects CASCADE",
        ):
            with pytest.raises(InsufficientPrivilege):
                serving_sql(statement)
    page_setup.run_page_sql("REVOKE projects_migrate FROM projects_old", role)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(page_setup.url(page_setup.old))
    with app.app_context():
        flask_migrate.downgrade(revision="base")
        flask_migrate.upgrade()
    use_service(client)


def test_owner_of_an_existing_database_turns_jit_off(page_setup, caplog):
    page_setup.run_as_superuser(
        f"CREATE ROLE {page_setup.admin} LOGIN CREATEROLE CREATEDB PASSWORD 'secret'",
        f"CREATE DATABASE {page_setup.db} OWNER {page_setup.admin}",
    )
    page_setup.create_roles(page_setup.admin)
    page_setup.run_page_sql(IN_DATABASE, page_setup.admin)
    app = page_setup.make_app(
        page_setup.url(page_setup.serve), MIGRATIONS_DATABASE_URL=page_setup.url(page_setup.migrate)
    )
    with app.app_context():
        flask_migrate.upgrade()
    assert "Only the owner of the database can set jit = off" in caplog.text
    page_setup.run_page_sql(AFTER_MIGRATION, page_setup.admin)
    for jit, next_statements in (("on", JIT_OFF), ("off", "")):
        with page_setup.connect(page_setup.serve) as serving_sql:
            assert serving_sql("SHOW jit") == [(jit,)]
        page_setup.run_page_sql(next_statements, page_setup.admin)
    use_service(app.test_client())
