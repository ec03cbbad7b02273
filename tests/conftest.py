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
from tests.browser import DevTools, Page, open_browser, open_page
from tests.console import PROJECTS, Console
from tests.issuer import Issuer

# No timeout may end a request on a busy machine, except in a test of timeouts. Such a test sets one
# of these, and then the others have their defaults.
LONG_TIMEOUTS = {
    "QUEUE_TIMEOUT": "15",
    "DATABASE_CONNECT_TIMEOUT": "15",
    "DATABASE_POOL_TIMEOUT": "15",
    "DATABASE_LOCK_TIMEOUT": "10",
    "DATABASE_STATEMENT_TIMEOUT": "15",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "20",
    "REQUEST_TIMEOUT": "30",
    "GRACEFUL_TIMEOUT": "50",
}
# Settings that need not be shorter or longer than another one.
OTHER_LONG_TIMEOUTS = {"READ_TIMEOUT": "60", "DATABASE_PING_AFTER_IDLE": "3600"}

# The flask command would read `.env`, which may have the URL of a real database.
os.environ["FLASK_SKIP_DOTENV"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """In CI a skipped test fails, because CI has everything that the tests need."""
    report = yield
    if report.skipped and "CI" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"Skipped, which is a failure in CI: {item.nodeid}: {report.longrepr}"
    return report


def links(response: Any) -> dict[str, str]:
    """Return the URLs of the Link header by relation."""
    pairs = re.findall(r'<([^>]*)>; rel="(\w+)"', response.headers["Link"])
    return {relation: url for url, relation in pairs}


def with_long_timeouts(environ: dict[str, str]) -> dict[str, str]:
    """Add timeouts to `environ` that a busy machine does not reach."""
    timeouts = {} if environ.keys() & LONG_TIMEOUTS.keys() else LONG_TIMEOUTS
    return {**OTHER_LONG_TIMEOUTS, **timeouts, **environ}


class Clock:
    """Replaces the module `time`: its time passes only in `sleep`, or when a test sets `now`."""

    def __init__(self) -> None:
        self.now = 1e6

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def all_items(client: FlaskClient, query: str) -> list[Any]:
    """Return all items of a list by following its cursors."""
    items: list[Any] = []
    cursor = ""
    for _ in range(500):
        response = client.get(f"{PROJECTS}{query}{cursor}")
        assert response.status_code == 200, response.text
        items += response.json["items"]
        if not response.json["next_cursor"]:
            return items
        cursor = f"&cursor={response.json['next_cursor']}"
    raise AssertionError("The list has more than 500 pages.")


class GunicornServer:
    """A gunicorn process, its port and its log file."""

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
                # `python -m gunicorn` could not start itself again for an upgrade.
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
            response = urllib.request.urlopen(request, timeout=60)  # noqa: S310
        except urllib.error.HTTPError as error:
            response = error
        with response:
            text = response.read()
        response_headers = {name.lower(): value for name, value in response.headers.items()}
        return response.status, response_headers, json.loads(text) if text else None

    def wait_until_serving(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.request("GET", "/health")
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self.log.read_text()) from None
                time.sleep(0.05)
            else:
                return

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=30)


def parameters_of(url: str) -> dict[str, str]:
    return config.parse_database_url(url)


def url_of(parameters: dict[str, str]) -> str:
    return "postgresql://?" + urlencode(parameters, quote_via=quote)


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder with the programs of the PostgreSQL that the tests use."""
    folder = find_binaries(config.Testing(os.environ).EMBEDDED_POSTGRES_BIN).absolute()
    if not (folder / "psql").exists():
        pytest.skip(f"{folder} has the server but no client programs such as psql")
    return folder


# Never deleted: the supervisor may run on for another process of the tests, and Python warns if the
# Popen object of a running process is deleted.
_servers: list[DevPostgres] = []


@pytest.fixture(scope="session")
def _urls() -> Iterator[tuple[str, str]]:
    names = ("DATABASE_URL", "MIGRATIONS_DATABASE_URL")
    urls = [os.environ.pop(name, "") for name in names]
    if urls[0]:
        try:
            config.Testing(dict(zip(names, urls, strict=True)))
        except config.ConfigError as error:
            pytest.exit(f"The tests delete all rows of their database. {error}", 2)
        yield urls[0], urls[1]
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
    user, host, port = (server.parameters[key] for key in ("user", "host", "port"))
    yield f"postgresql://{user}@/{name}?host={quote(host)}&port={port}", ""
    server.release()


@pytest.fixture(scope="session")
def database_url(_urls: tuple[str, str]) -> str:
    """The URL of an empty test database: DATABASE_URL, or a new one in a server of devdb."""
    return _urls[0]


@pytest.fixture(scope="session")
def direct_url(_urls: tuple[str, str]) -> str:
    """The URL of the same database without a pooler: MIGRATIONS_DATABASE_URL if it is set.

    Tests use it for statements beside the service, and where they need a session of their own.
    """
    return _urls[1] or _urls[0]


@pytest.fixture(scope="session")
def make_app(_urls: tuple[str, str]) -> Any:
    """Make an application. Keywords are settings, as texts like in the environment."""

    def make(**environ: str) -> Flask:
        urls = dict(zip(("DATABASE_URL", "MIGRATIONS_DATABASE_URL"), _urls, strict=True))
        app = create_app(config.Testing({**urls, **with_long_timeouts(environ)}))
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


# Only tables with pages are emptied: TRUNCATE takes milliseconds for an empty table, too. Triggers
# are off, because one of them refuses TRUNCATE. The rows of `histories` come from migrations.
EMPTY_TABLES = """
DO $$
DECLARE
  names CONSTANT text := (SELECT string_agg(quote_ident(name), ', ') FROM unnest(ARRAY[{}]) AS name
    WHERE name <> 'histories' AND pg_relation_size(quote_ident(name)::regclass) > 0);
BEGIN
  IF names IS NOT NULL THEN
    SET LOCAL session_replication_role = replica;
    EXECUTE 'TRUNCATE ' || names || ' CASCADE';
  END IF;
  UPDATE histories SET starts_at = clock_timestamp(), purged_seq = 0, purged_xid = '0',
    restored_seq = 0;
END
$$
"""


@pytest.fixture
def sql(app: Flask, direct_url: str) -> Iterator[Any]:
    """Run SQL beside the application, as a superuser. All tables are empty at the start."""
    connection = psycopg2.connect(**parameters_of(direct_url))
    connection.autocommit = True

    def run(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    run(EMPTY_TABLES.format(", ".join(f"'{name}'" for name in database.db.metadata.tables)))
    yield run
    connection.close()


@pytest.fixture
def client(app: Flask, sql: Any) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def make_project(client: FlaskClient) -> Any:
    def make(**values: Any) -> Any:
        response = client.post(PROJECTS, json={"name": "A project", **values})
        assert response.status_code == 201, response.json
        return response.json

    return make


@pytest.fixture(scope="session")
def auth_app(app: Flask, make_app: Any) -> Flask:
    return make_app(AUTH="tokens")


@pytest.fixture
def auth_client(auth_app: Flask, sql: Any) -> FlaskClient:
    return auth_app.test_client()


@pytest.fixture
def auth_headers(auth_app: Flask, sql: Any) -> Any:
    """Create an API token and return the headers of a request with it."""

    def make(
        owner: str = "alice", scopes: str = "projects:read,projects:write", days: int | None = None
    ) -> dict[str, str]:
        lifetime = None if days is None else timedelta(days)
        with auth_app.app_context():
            token = token_admin.create_token(f"{owner}'s", owner, scopes.split(","), lifetime)
        return {"Authorization": f"Bearer {token}"}

    return make


@pytest.fixture(scope="session")
def serve(app: Flask, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Serve the application with gunicorn and gunicorn.conf.py while a `with` block runs."""

    @contextmanager
    def run_server(
        *arguments: str, wait: bool = True, cwd: Path = config.ROOT, **environ: str
    ) -> Iterator[GunicornServer]:
        settings = config.Config.declared_settings()
        variables = {k: v for k, v in os.environ.items() if k not in settings}
        variables |= {"APP_ENV": "testing", "DATABASE_URL": database_url}
        variables |= with_long_timeouts(environ)
        log = tmp_path_factory.mktemp("server") / "log"
        server = GunicornServer(variables, arguments, log, cwd)
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

    return run_server


def copy_application(folder: Path) -> Path:
    """Copy the files that serving needs to folder / "app", and return it."""
    copy = folder / "app"
    for name in ("projectapp", "settings", "migrations"):
        shutil.copytree(config.ROOT / name, copy / name)
    for name in ("config.py", "gunicorn.conf.py", "wsgi.py"):
        shutil.copy2(config.ROOT / name, copy)
    return copy


@pytest.fixture
def app_copy(tmp_path: Path) -> Path:
    """A copy of the application, for tests that write a `.env` or change a file."""
    return copy_application(tmp_path)


@pytest.fixture(scope="session")
def server(serve: Any) -> Iterator[GunicornServer]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevTools]:
    with open_browser(tmp_path_factory.mktemp("browser")) as devtools:
        yield devtools


@pytest.fixture
def browser(chromium: DevTools) -> Iterator[Page]:
    """A page of Chromium, which has no cookies."""
    with open_page(chromium) as page:
        yield page


@pytest.fixture
def console(browser: Page, server: GunicornServer, sql: Any) -> Iterator[Console]:
    """The console without a sign-in. It is not open yet."""
    console = Console(browser, server)
    yield console
    assert console.errors() == []


@pytest.fixture(scope="session")
def tokens_server(serve: Any) -> Iterator[GunicornServer]:
    with serve(AUTH="tokens") as running:
        yield running


@pytest.fixture
def signed_in(browser: Page, tokens_server: GunicornServer, auth_headers: Any) -> Iterator[Console]:
    """The list of the console, in which alice has signed in."""
    console = Console(browser, tokens_server)
    console.sign_in(auth_headers())
    yield console
    assert console.errors() == []


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    proxy = Proxy(parameters_of(database_url))
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def _long_jwks_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a fetch of keys may take long. A test of these timeouts sets them."""
    monkeypatch.setattr(jwks_client, "READ_TIMEOUT_SECONDS", 30.0)
    monkeypatch.setattr(jwks_client, "FETCH_DEADLINE_SECONDS", 60.0)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


@pytest.fixture
def problem() -> Any:
    """Assert that a response is a complete problem document, and return the document."""

    def check(response: Any, status: int, code: str | None = None) -> Any:
        assert response.status_code == status, (response.status_code, response.text)
        assert response.content_type == "application/problem+json"
        document = response.json
        assert document["status"] == status
        assert document["detail"] == document["message"] != ""
        assert document["request_id"] == response.headers["X-Request-ID"]
        assert {"type", "title", "error"} <= document.keys()
        if code:
            assert document["error"] == code
        return document

    return check
