"""The SQL of docs/roles.md: one role migrates, the other serves and can do no DDL."""

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
from projectapp import database
from projectapp.auth import token_admin
from projectapp.database import execution
from projectapp.database.schema import newest_revision
from projectapp.problems import ServiceUnavailable
from tests.conftest import PROJECTS, parameters_of, url_of
from tests.test_backup import BACK_UP, RESTORE, commands, session
from tests.wire import Proxy

PAGE = (config.ROOT / "docs" / "roles.md").read_text()
ROLES, DATABASE, JIT, INSIDE, AFTER, TAKE_OVER = re.findall(r"```sql\n(.*?)```", PAGE, re.S)
KEYED = {"Idempotency-Key": "a"}


class Place:
    """Where the page is followed, its names made our own.

    `admin` is what clouds give instead of a superuser, and the database's owner where one is
    `given`; `main` is the superuser's database.
    """

    def __init__(self, tag, direct_url, binaries, make_app):
        self._here, self._binaries, self._make_app = parameters_of(direct_url), binaries, make_app
        self._apps = []
        self.main = self._here["dbname"]
        self.db, self.admin, self.migrate, self.serve, self.old = self._names = [
            f"{self.main}_{tag}_{name}" for name in ("db", "admin", "migrate", "serve", "old")
        ]
        self.restored = f"{self.db}_restored"

    def url(self, role=None, dbname=None):
        login = {"user": role, "password": "secret"} if role else {}
        return url_of(self._here | login | {"dbname": dbname or self.db})

    def psql(self, script, role=None, dbname=None):
        """Type the page's SQL as it stands there, but for the names."""
        script = re.sub(
            r"\bprojects_db\b", self.db if dbname in (None, self.main) else dbname, script
        )
        script = re.sub(r"\bprojects_(migrate|serve|old)\b", rf"{self.db[:-2]}\1", script)
        done = subprocess.run(
            [self._binaries / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", self.url(role, dbname)],
            input=script,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def roles(self, role=None):
        self.psql(ROLES, role, self.main)
        for name in (self.migrate, self.serve):
            self.psql(f"ALTER ROLE {name} PASSWORD 'secret'", role, self.main)  # as \password does

    def session(self, role=None, dbname=None):
        return session(self.url(role, dbname))

    def superuser(self, *statements, dbname=None):
        with self.session(dbname=dbname or self.main) as sql:
            for statement in statements:
                sql(statement)

    def app(self, url, **settings):
        urls = {"DATABASE_URL": url, "MIGRATIONS_DATABASE_URL": ""}
        self._apps.append(self._make_app(**urls | settings))
        return self._apps[-1]

    def flask(self, *arguments):
        """Run a command with the two settings as the page has them."""
        urls = {"DATABASE_URL": self.serve, "MIGRATIONS_DATABASE_URL": self.migrate}
        done = subprocess.run(
            [sys.executable, "-m", "flask", *arguments],
            cwd=config.ROOT,
            env={**os.environ, "APP_ENV": "testing"} | {k: self.url(v) for k, v in urls.items()},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def clean(self):
        for app in self._apps:
            with app.app_context():
                database.db.engine.dispose()
        with self.session(dbname=self.main) as sql:
            for name in (self.db, self.restored):
                sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            for name in reversed(self._names[1:]):
                if sql("SELECT 1 FROM pg_roles WHERE rolname = %s", name):
                    sql(f"DROP OWNED BY {name} CASCADE")
                    sql(f"DROP ROLE {name}")


@pytest.fixture
def place(direct_url, binaries, make_app):
    place = Place("given", direct_url, binaries, make_app)
    yield place
    place.clean()


@pytest.fixture(scope="module")
def new(direct_url, binaries, make_app):
    """A new database with two roles, by the page."""
    place = Place("new", direct_url, binaries, make_app)
    place.superuser(f"CREATE ROLE {place.admin} LOGIN CREATEROLE CREATEDB PASSWORD 'secret'")
    place.roles(place.admin)
    place.psql(DATABASE, place.admin, place.main)
    place.psql(INSIDE, place.admin)
    place.flask("db", "upgrade")
    place.psql(AFTER, place.admin)
    yield place
    place.clean()


@pytest.fixture(scope="module")
def client(new):
    return new.app(new.url(new.serve)).test_client()


@pytest.fixture
def serving(new):
    with new.session(new.serve) as sql:
        sql("DELETE FROM projects")
        sql("DELETE FROM idempotency_keys")
        yield sql


def use(client):
    """Ask for everything that the service can do."""
    made = client.post(PROJECTS, json={"name": "번역", "attributes": {"team": "core"}})
    assert made.status_code == 201, made.text
    url = made.headers["Location"]
    assert client.get(url).json == made.json
    for query in (
        {"q": "번역"},
        {"attributes": '{"team": "core"}'},
        {"sort": "-name", "is_active": "true"},
    ):
        found = client.get(PROJECTS, query_string=query).json
        assert (found["items"], found["total"]) == ([made.json], 1), query
    assert client.put(url, json={"is_active": False}).json["version"] == 2
    assert client.patch(url, json={"attributes": {"size": {"m": 2}}}).json["version"] == 3
    assert client.put(url, json={}, headers={"If-Match": '"1"'}).status_code == 412
    assert client.delete(url, headers={"If-Match": '"3"'}).status_code == 204
    assert client.get(url).status_code == 404
    for replayed in (None, "true"):
        again = client.post(PROJECTS, json={"name": "Once"}, headers=KEYED)
        assert again.status_code == 201, again.text
        assert again.headers.get("Idempotency-Replayed") == replayed
    assert client.get(PROJECTS).json["total"] == 1
    ready = client.get("/ready")
    assert (ready.status_code, ready.json["schema"]) == (200, newest_revision())


def test_the_serving_role_can_do_all_that_the_service_does(new, client, serving):
    use(client)
    serving("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    assert new.flask("idempotency", "purge") == "Deleted 1 expired keys.\n"
    assert serving("SHOW jit") == [("off",)]


def test_the_serving_role_knows_callers_but_makes_none(new):
    with new.app(new.url(new.migrate)).app_context():
        token = token_admin.create("CI", "alice", ["projects:read"], None)
    serving = new.app(new.url(new.serve), AUTH="tokens")
    header = {"Authorization": f"Bearer {token}"}
    assert serving.test_client().get(PROJECTS, headers=header).status_code == 200
    with new.session(new.migrate) as sql:
        end = time.monotonic() + 60
        while sql("SELECT last_used_at FROM api_tokens") == [(None,)]:
            assert time.monotonic() < end
            time.sleep(0.02)
        sql("UPDATE api_tokens SET revoked_at = now()")
    assert serving.test_client().get(PROJECTS, headers=header).status_code == 401
    with serving.app_context(), pytest.raises(ServiceUnavailable, match=r"docs/roles\.md"):
        token_admin.create("CI", "alice", ["projects:read"], None)


def test_the_doctor_finds_nothing_wrong_with_the_two_roles(new):
    report = json.loads(new.flask("doctor", "--json"))
    assert [one for one in report["findings"] if one["level"] == "FAIL"] == []


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
        "TRUNCATE projects",
        "TRUNCATE idempotency_keys",
        "INSERT INTO alembic_version VALUES ('9999')",
        "UPDATE alembic_version SET version_num = '9999'",
        "DELETE FROM alembic_version",
        "INSERT INTO api_tokens (id) VALUES (gen_random_uuid())",
        "UPDATE api_tokens SET revoked_at = NULL",
        "DELETE FROM api_tokens",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = on', current_database()); END $$",
        "DO $$ BEGIN EXECUTE 'SET ROLE ' || replace(current_user, 'serve', 'migrate'); END $$",
    ],
)
def test_the_serving_role_can_do_no_ddl(serving, statement):
    with pytest.raises(InsufficientPrivilege):
        serving(statement)


def test_nobody_else_may_log_in(new):
    new.superuser(f"CREATE ROLE {new.old} LOGIN PASSWORD 'secret'")
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(new.url(new.old))


def test_what_a_later_migration_makes_is_granted_by_itself(new, serving):
    with new.session(new.migrate) as migrating:
        migrating("CREATE TABLE later (id serial PRIMARY KEY, name text)")
        migrating("CREATE FUNCTION later_one() RETURNS integer RETURN 1")
        migrating("REVOKE EXECUTE ON FUNCTION later_one FROM PUBLIC")
    assert serving("INSERT INTO later (name) VALUES ('x') RETURNING id, later_one()") == [(1, 1)]
    serving("UPDATE later SET name = 'y'")
    assert serving("DELETE FROM later RETURNING name") == [("y",)]
    for statement in ("TRUNCATE later", "DROP TABLE later", "ALTER TABLE later ADD x integer"):
        with pytest.raises(InsufficientPrivilege):
            serving(statement)


def test_the_serving_role_settles_a_lost_answer(new, serving):
    proxy = Proxy(parameters_of(new.url(new.serve)))
    try:
        proxy.lose.append("INSERT")
        far = new.app(proxy.url).test_client()
        assert far.post(PROJECTS, json={"name": "x"}).status_code == 201
        assert proxy.lose == []
        assert any("pg_terminate_backend" in query for query in proxy.queries)
    finally:
        proxy.shutdown()
        proxy.server_close()
        proxy.cut()
    assert serving("SELECT count(*) FROM projects") == [(1,)]


def test_the_serving_role_ends_its_own_server_processes_alone(new):
    def end(sql):
        with new.app(new.url(new.serve)).app_context():
            [(pid,)] = sql("SELECT pg_backend_pid()")
            return database.execute(execution._END, {"pid": pid})

    with new.session(new.serve) as own, new.session(new.migrate) as other:
        assert end(own) == (True,)
        with pytest.raises(psycopg2.OperationalError):
            own("SELECT 1")
        assert end(other) is None
        assert other("SELECT 1") == [(1,)]


def test_the_migrating_role_restores_a_backup(new, client, serving, binaries, tmp_path):
    assert client.post(PROJECTS, json={"name": "Before"}).status_code == 201
    restored = parameters_of(new.url(new.migrate, new.restored))
    run = commands(binaries, tmp_path, new.url(new.migrate), restored)
    for script in (BACK_UP, RESTORE):
        run(script)
    for step in (INSIDE, AFTER):
        new.psql(step, new.admin, new.restored)
    again = new.app(new.url(new.serve, new.restored)).test_client()
    assert again.get(PROJECTS).json == client.get(PROJECTS).json
    assert (
        again.delete(f"{PROJECTS}/{again.get(PROJECTS).json['items'][0]['id']}").status_code == 204
    )
    use(again)
    with new.session(new.serve, new.restored) as sql:
        assert sql("SHOW jit") == [("off",)]
        with pytest.raises(InsufficientPrivilege):
            sql("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize("by_superuser", [True, False])
def test_one_role_becomes_two_while_the_service_goes_on(place, by_superuser):
    may = "" if by_superuser else "CREATEROLE CREATEDB"
    place.superuser(
        f"CREATE ROLE {place.old} LOGIN {may} PASSWORD 'secret'",
        f"CREATE DATABASE {place.db} OWNER {place.old}",
    )
    if by_superuser:  # as PostgreSQL 14 made it
        place.superuser(
            "ALTER SCHEMA public OWNER TO CURRENT_USER",
            "GRANT ALL ON SCHEMA public TO PUBLIC",
            dbname=place.db,
        )
    app = place.app(place.url(place.old))
    with app.app_context():
        flask_migrate.upgrade()
    with place.session(place.old) as sql:
        sql("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    old = app.test_client()
    first = old.post(PROJECTS, json={"name": "First"}, headers=KEYED)

    typist = None if by_superuser else place.old
    place.roles(typist)
    for step in (INSIDE, TAKE_OVER, AFTER, INSIDE, AFTER):
        place.psql(step, typist)
        with app.app_context():
            database.db.engine.dispose()  # so that it has to log in, too
        assert old.post(PROJECTS, json={"name": "Another"}).status_code == 201

    app = place.app(place.url(place.serve), MIGRATIONS_DATABASE_URL=place.url(place.migrate))
    client = app.test_client()
    assert client.post(PROJECTS, json={"name": "First"}, headers=KEYED).json == first.json
    assert client.get(PROJECTS).json["total"] == 6
    with place.session(place.serve) as serving:
        for statement in ("CREATE TABLE mine ()", "DROP TABLE projects", "TRUNCATE projects"):
            with pytest.raises(InsufficientPrivilege):
                serving(statement)
    place.psql("REVOKE projects_migrate FROM projects_old", typist)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(place.url(place.old))
    with app.app_context():
        flask_migrate.downgrade(revision="base")
        flask_migrate.upgrade()
    use(client)


def test_the_owner_of_a_given_database_turns_jit_off(place, caplog):
    place.superuser(
        f"CREATE ROLE {place.admin} LOGIN CREATEROLE CREATEDB PASSWORD 'secret'",
        f"CREATE DATABASE {place.db} OWNER {place.admin}",
    )
    place.roles(place.admin)
    place.psql(INSIDE, place.admin)
    app = place.app(place.url(place.serve), MIGRATIONS_DATABASE_URL=place.url(place.migrate))
    with app.app_context():
        flask_migrate.upgrade()
    assert "Only the owner of the database can set jit = off" in caplog.text
    place.psql(AFTER, place.admin)
    for jit, step in (("on", JIT), ("off", "")):
        with place.session(place.serve) as serving:
            assert serving("SHOW jit") == [(jit,)]
        place.psql(step, place.admin)
    use(app.test_client())
