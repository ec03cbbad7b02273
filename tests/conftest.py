import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import flask_migrate
import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient

import config
from faults.pg_proxy import Proxy
from faults.processes import free_port
from projectapp import add_commands, create_app, database
from projectapp.auth import jwks_client, token_admin
from projectapp.devdb import DevPostgres, find_binaries
from tests.issuer import Issuer

PROJECTS = "/api/v1/projects"

# On a busy machine no limit of the service may end what a test is not about. A test of one of these
# limits sets it: then the others have their defaults.
PATIENT_LIMITS = {
    "QUEUE_TIMEOUT": "15",
    "DATABASE_CONNECT_TIMEOUT": "15",
    "DATABASE_POOL_TIMEOUT": "15",
    "DATABASE_LOCK_TIMEOUT": "10",
    "DATABASE_STATEMENT_TIMEOUT": "15",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "20",
    "REQUEST_TIMEOUT": "30",
    "GRACEFUL_TIMEOUT": "50",
}
# These two bound no other.
PATIENT = {"READ_TIMEOUT": "60", "DATABASE_PING_AFTER_IDLE": "3600"}

# flask reads `.env` by itself, where there may be the URL of a real database.
os.environ["FLASK_SKIP_DOTENV"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """In CI a test that is skipped fails: CI has all that the tests need."""
    report = yield
    if report.skipped and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"CI skips nothing, but {item.nodeid} was skipped: {report.longrepr}"
    return report


def links(answer: Any) -> dict[str, str]:
    """The URLs of an answer's Link header by relation."""
    found = re.findall(r'<([^>]*)>; rel="(\w+)"', answer.headers["Link"])
    return {relation: url for url, relation in found}


def patient(environ: dict[str, str]) -> dict[str, str]:
    """The settings of `environ`, and those with which a busy machine changes no answer."""
    limits = {} if environ.keys() & PATIENT_LIMITS.keys() else PATIENT_LIMITS
    return {**PATIENT, **limits, **environ}


class Clock:
    """Takes the place of `time` in a module: it stands still until a test sets it forward."""

    def __init__(self) -> None:
        self.now = 1e6

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def walk(client: FlaskClient, query: str) -> list[Any]:
    """All items of a list, page after page by its cursors."""
    items: list[Any] = []
    more = ""
    for _ in range(500):
        answer = client.get(f"{PROJECTS}{query}{more}")
        assert answer.status_code == 200, answer.text
        items += answer.json["items"]
        if not answer.json["next_cursor"]:
            return items
        more = f"&cursor={answer.json['next_cursor']}"
    raise AssertionError("the walk does not end")


class Served:
    """A gunicorn of our own: its process, its port and what it logged."""

    def __init__(
        self,
        environ: dict[str, str],
        arguments: tuple[str, ...],
        log: Any,
        cwd: Path = config.ROOT,
    ) -> None:
        self.port = free_port()
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                # Not -m gunicorn, which cannot start itself anew for an upgrade.
                [Path(sys.executable).with_name("gunicorn"), "wsgi:app", *arguments],
                cwd=cwd,
                env={**environ, "PORT": str(self.port)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that a test can press Ctrl-C
            )

    def request(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Return the status, the headers in lower case, and the parsed JSON or None."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=60)  # noqa: S310
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            text = answer.read()
        found = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, found, json.loads(text) if text else None

    def wait_until_serving(self) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                self.request("GET", "/health")
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(self.log.read_text()) from None
                time.sleep(0.05)
            else:
                return

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=30)


def parameters_of(url: str) -> dict[str, str]:
    return config.parse_database_url(url)


def url_of(parameters: dict[str, str]) -> str:
    return "postgresql://?" + urlencode(parameters, quote_via=quote)


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder with the programs of the PostgreSQL that the tests run."""
    folder = find_binaries(config.Testing(os.environ).EMBEDDED_POSTGRES_BIN).absolute()
    if not (folder / "psql").exists():
        pytest.skip(f"there are no programs but the server in {folder}")
    return folder


# References: the supervisor of a server goes on if another process of the tests uses the server.
_servers: list[DevPostgres] = []


@pytest.fixture(scope="session")
def _urls() -> Iterator[tuple[str, str]]:
    names = ("DATABASE_URL", "MIGRATIONS_DATABASE_URL")
    given = [os.environ.pop(name, "") for name in names]
    if given[0]:
        try:
            config.Testing(dict(zip(names, given, strict=True)))
        except config.ConfigError as error:
            pytest.exit(f"The tests empty their database. {error}", 2)
        yield given[0], given[1]
        return
    server = DevPostgres(
        config.Testing.EMBEDDED_POSTGRES_DIR,
        config.Testing(os.environ).EMBEDDED_POSTGRES_BIN,
        temporary=True,
    )
    _servers.append(server)
    server.start()
    name = f"test_{os.getpid()}"
    connection = psycopg2.connect(**server.parameters)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    here = server.parameters
    yield f"postgresql://{here['user']}@/{name}?host={quote(here['host'])}&port={here['port']}", ""
    server.release()


@pytest.fixture(scope="session")
def database_url(_urls: tuple[str, str]) -> str:
    """An empty test database: the one DATABASE_URL names, else a new one in an embedded server."""
    return _urls[0]


@pytest.fixture(scope="session")
def direct_url(_urls: tuple[str, str]) -> str:
    """The same database, and no pooler before it: MIGRATIONS_DATABASE_URL, if that is given, too.

    It is for what is done beside the service, and for what needs a session of its own.
    """
    return _urls[1] or _urls[0]


@pytest.fixture(scope="session")
def make_app(_urls: tuple[str, str]) -> Any:
    """Make an application; keywords are settings as the environment would give them."""

    def make(**environ: str) -> Flask:
        urls = dict(zip(("DATABASE_URL", "MIGRATIONS_DATABASE_URL"), _urls, strict=True))
        app = create_app(config.Testing({**urls, **patient(environ)}))
        add_commands(app)
        return app

    return make


@pytest.fixture(scope="session")
def app(make_app: Any) -> Iterator[Flask]:
    app = make_app()
    with app.app_context():
        flask_migrate.downgrade(revision="base")
        flask_migrate.upgrade()
    yield app
    with app.app_context():
        app.extensions["sqlalchemy"].engine.dispose()


@pytest.fixture
def sql(app: Flask, direct_url: str) -> Iterator[Any]:
    """Run SQL beside the application, as PostgreSQL's superuser; starts with empty tables."""
    connection = psycopg2.connect(**parameters_of(direct_url))
    connection.autocommit = True

    def run(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    # One statement for all tables, because foreign keys may connect them.
    run(f"TRUNCATE {', '.join(database.db.metadata.tables)}")
    yield run
    connection.close()


@pytest.fixture
def client(app: Flask, sql: Any) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def make_project(client: FlaskClient) -> Any:
    def make(**over: Any) -> Any:
        answer = client.post(PROJECTS, json={"name": "A project", **over})
        assert answer.status_code == 201, answer.json
        return answer.json

    return make


@pytest.fixture(scope="session")
def guarded_app(app: Flask, make_app: Any) -> Flask:
    return make_app(AUTH="tokens")


@pytest.fixture
def guarded(guarded_app: Flask, sql: Any) -> FlaskClient:
    return guarded_app.test_client()


@pytest.fixture
def bearer(guarded_app: Flask, sql: Any) -> Any:
    """Make an API token; return the headers of a request with it."""

    def make(
        owner: str = "alice", scopes: str = "projects:read,projects:write", days: int | None = None
    ) -> dict[str, str]:
        lifetime = None if days is None else timedelta(days)
        with guarded_app.app_context():
            token = token_admin.create_token(f"{owner}'s", owner, scopes.split(","), lifetime)
        return {"Authorization": f"Bearer {token}"}

    return make


@pytest.fixture(scope="session")
def serve(app: Flask, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Serve the application with gunicorn and gunicorn.conf.py while a `with` block runs."""

    @contextmanager
    def served(
        *arguments: str, wait: bool = True, cwd: Path = config.ROOT, **environ: str
    ) -> Iterator[Served]:
        clean = {k: v for k, v in os.environ.items() if k not in config.Config.declared_settings()}
        clean |= {"APP_ENV": "testing", "DATABASE_URL": database_url, **patient(environ)}
        server = Served(clean, arguments, tmp_path_factory.mktemp("served") / "log", cwd)
        try:
            if wait:
                server.wait_until_serving()
            yield server
        finally:
            if server.process.poll() is None:
                try:
                    server.stop()
                except subprocess.TimeoutExpired:
                    os.killpg(server.process.pid, signal.SIGKILL)
                    server.process.wait()
                    raise

    return served


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what serves, for tests that write a `.env` beside it."""
    copy = tmp_path / "project"
    for name in ("projectapp", "settings", "migrations"):
        shutil.copytree(config.ROOT / name, copy / name)
    for name in ("config.py", "gunicorn.conf.py", "wsgi.py"):
        shutil.copy2(config.ROOT / name, copy)
    return copy


@pytest.fixture(scope="session")
def server(serve: Any) -> Iterator[Served]:
    with serve() as running:
        yield running


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    proxy = Proxy(parameters_of(database_url))
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def _patient_with_issuers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine keys may take a while; a test of these limits sets them."""
    monkeypatch.setattr(jwks_client, "READ_TIMEOUT_SECONDS", 30.0)
    monkeypatch.setattr(jwks_client, "FETCH_DEADLINE_SECONDS", 60.0)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


@pytest.fixture
def problem() -> Any:
    """Assert that an answer is a problem document in full, and return it."""

    def check(answer: Any, status: int, code: str | None = None) -> Any:
        assert answer.status_code == status, (answer.status_code, answer.text)
        assert answer.content_type == "application/problem+json"
        found = answer.json
        assert found["status"] == status
        assert found["detail"] == found["message"] != ""
        assert found["request_id"] == answer.headers["X-Request-ID"]
        assert {"type", "title", "error"} <= found.keys()
        if code:
            assert found["error"] == code
        return found

    return check
