"""Proxies, URL prefixes, security headers, caches, and what DOCS and READY_DETAILS hide."""

import logging
import random
import re
import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from json import dumps, loads
from types import SimpleNamespace
from urllib.request import urlopen
from uuid import uuid4

import pytest
from flask import Blueprint
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server
from werkzeug.test import Client

import config
from faults.processes import free_port
from projectapp import projects
from projectapp.auth import tokens
from projectapp.http.security_headers import HEADERS
from tests.conftest import PROJECTS

TRUSTED = "10.0.0.0/8, ::1"
HSTS = "Strict-Transport-Security"


@pytest.fixture
def client_address_and_tls(make_app, caplog):
    """Send a request through a peer; return the client's address in the log, and if TLS was used.

    The log has the address because the request has no token.
    """
    client = make_app(AUTH="tokens", TRUSTED_PROXIES=TRUSTED).test_client()

    def send(peer, forwarded=None, proto=None, **other_headers):
        caplog.clear()
        headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": proto, **other_headers}
        headers = {name: value for name, value in headers.items() if value is not None}
        response = client.get(PROJECTS, headers=headers, environ_overrides={"REMOTE_ADDR": peer})
        assert response.status_code == 401
        [address] = [r.address for r in caplog.records if hasattr(r, "address")]
        return address, HSTS in response.headers

    return send


@pytest.mark.parametrize("peer", ["1.2.3.4", "2001:db8::7", "11.0.0.1", "", "::ffff:1.2.3.4"])
def test_headers_of_a_peer_that_is_not_trusted_are_ignored(client_address_and_tls, peer):
    assert client_address_and_tls(peer, "9.9.9.9", "https") == (peer, False)


def test_without_trusted_proxies_forwarded_headers_are_ignored(app):
    response = app.test_client().get("/health", headers={"X-Forwarded-Proto": "https"})
    assert HSTS not in response.headers


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (None, "10.0.0.1"),
        ("", "10.0.0.1"),
        ("9.9.9.9", "9.9.9.9"),
        ("6.6.6.6, 9.9.9.9", "9.9.9.9"),
        ("6.6.6.6,9.9.9.9 , 10.0.0.2,::1", "9.9.9.9"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("9.9.9.9:567", "9.9.9.9"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("9.9.9.9, ::ffff:10.0.0.2", "9.9.9.9"),
        ("6.6.6.6, unknown", "10.0.0.1"),
        ("6.6.6.6, _hidden, 10.0.0.2", "10.0.0.2"),
        ("6.6.6.6,", "10.0.0.1"),
        ("6.6.6.6, 999.1.1.1", "10.0.0.1"),
        ("6.6.6.6, 10.0.0.02", "10.0.0.1"),
        ("6.6.6.6, [::1", "10.0.0.1"),
        ("6.6.6.6, ::1%eth0", "10.0.0.1"),
        ("6.6.6.6, 10.0.0.2:80:80", "10.0.0.1"),
        ('6.6.6.6, for="[::1]"', "10.0.0.1"),
        ("6.6.6.6, " * 5000 + "9.9.9.9", "9.9.9.9"),
        ("9.9.9.9" + ", 10.0.0.2" * 5000, "9.9.9.9"),
    ],
)
def test_the_client_is_the_last_forwarded_address_that_is_not_a_trusted_proxy(
    client_address_and_tls, forwarded, address
):
    assert client_address_and_tls("10.0.0.1", forwarded) == (address, False)


def test_a_trusted_proxy_with_an_ipv4_mapped_address_is_trusted(client_address_and_tls):
    assert client_address_and_tls("::ffff:10.0.0.1", "9.9.9.9", "https") == ("9.9.9.9", True)


def test_no_forwarded_header_of_a_client_hides_its_address(client_address_and_tls):
    chance = random.Random(1)  # noqa: S311
    for _ in range(300):
        text = "".join(chance.choices('0123456789afF:.,[]%" \xff', k=chance.randrange(30)))
        assert client_address_and_tls("10.0.0.1", f"{text}, 9.9.9.9")[0] == "9.9.9.9"
        client_address_and_tls("10.0.0.1", text, text)


@pytest.mark.parametrize(
    ("proto", "is_secure"),
    [
        *(("https", True), ("HTTPS", True), ("http, https", True)),
        *(("http", False), ("https, http", False), ("wss", False), ("", False), ("https,", False)),
    ],
)
def test_the_last_forwarded_scheme_of_a_trusted_proxy_counts(
    client_address_and_tls, proto, is_secure
):
    assert client_address_and_tls("10.0.0.1", "9.9.9.9", proto) == ("9.9.9.9", is_secure)


def test_other_forwarding_headers_are_ignored(client_address_and_tls):
    other = {
        "Forwarded": "for=6.6.6.6;proto=https",
        "X-Forwarded-Ssl": "on",
        "X-Real-IP": "6.6.6.6",
    }
    assert client_address_and_tls("10.0.0.1", "9.9.9.9", **other) == ("9.9.9.9", False)


def test_trusted_proxies_that_contain_every_address_are_a_config_error():
    for text in ("0.0.0.0/0", "10.0.0.0/8,::/0", "10.0.0.1/8", "proxy", ","):
        with pytest.raises(config.ConfigError, match="TRUSTED_PROXIES must be a comma-sep"):
            config.load_config({"TRUSTED_PROXIES": text})


# The application under a path prefix.


def paths_of(client, prefix):
    """Return all URLs in the responses to a client that uses `prefix`."""
    created = client.post(f"{prefix}{PROJECTS}", json={"name": "x"})
    assert created.status_code == 201
    root, document = client.get(f"{prefix}/"), client.get(f"{prefix}/openapi.json")
    page, docs = (
        client.get(f"{prefix}{path}", headers={"Accept": "text/html"}).text
        for path in ("/", "/docs/")
    )
    [server] = document.json["servers"]
    documented = [path for path in document.json["paths"] if "{" not in path]
    return [
        created.headers["Location"],
        *root.json["links"].values(),
        *re.findall(r'(?:href|src|data-document)="(/[^"]*)"', page + docs),
        *(server["url"].rstrip("/") + path for path in documented),
    ]


@pytest.mark.parametrize("prefix", ["", "/backend", "/a/b"])
def test_all_urls_have_the_prefix_of_the_mount_point(app, sql, prefix):
    mounted = DispatcherMiddleware(NotFound(), {prefix: app}) if prefix else app
    client = Client(mounted)
    paths = paths_of(client, prefix)
    assert len(paths) > 20
    for path in paths:
        assert path.startswith(f"{prefix}/")
        with client.get(path) as response:
            assert response.status_code == 200, path


class HTTPClient:
    """A client of a running server, with the methods that `paths_of` calls."""

    def __init__(self, port):
        self.port = port

    def get(self, path, headers=None):
        return self.open("GET", path, headers=headers or {})

    def post(self, path, json):
        return self.open("POST", path, dumps(json), {"Content-Type": "application/json"})

    def open(self, method, path, body=None, headers=None):
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read().decode()
        json = loads(text) if "json" in response.headers["Content-Type"] else None
        return SimpleNamespace(
            status_code=response.status, headers=response.headers, text=text, json=json
        )


@pytest.fixture(scope="module")
def client_under_backend(serve):
    with serve(SCRIPT_NAME="/backend/") as server:
        yield HTTPClient(server.port)


@pytest.mark.parametrize("prefix", ["/backend", ""], ids=["kept", "removed by a proxy"])
def test_all_urls_have_script_name_whether_or_not_a_proxy_removes_it(
    client_under_backend, sql, prefix
):
    paths = paths_of(client_under_backend, prefix)
    assert len(paths) > 20
    for path in paths:
        assert path.startswith("/backend/")
        assert client_under_backend.get(path).status_code == 200, path


def test_with_script_name_a_path_outside_it_gets_a_404(client_under_backend):
    for path in ("/backendx", "/backendhealth", "/x/backend/health", "/backend/backend/health"):
        response = client_under_backend.get(path)
        assert (response.status_code, response.json["error"]) == (404, "not_found")
    assert (
        client_under_backend.get("/backend").status_code
        == client_under_backend.get("/backend/").status_code
        == 200
    )


@pytest.mark.parametrize(
    "text",
    [
        *("backend", "/a b", "/a/../b", "/a//b", "//a", "https://a/b", "/a?b"),
        *(
            "/api",
            "/api/v1/projects",
            "/console",
            "/docs/",
            "/health",
            "/metrics",
            "/openapi.json",
        ),  # a proxy may remove it
    ],
)
def test_an_invalid_script_name_is_a_config_error(text):
    with pytest.raises(config.ConfigError, match="SCRIPT_NAME must be a path such as /backend"):
        config.load_config({"SCRIPT_NAME": text})
    assert config.load_config({"SCRIPT_NAME": "/"}).SCRIPT_NAME == ""
    assert config.load_config({"SCRIPT_NAME": "/apis/docs"}).SCRIPT_NAME == "/apis/docs"


def exchange(connection, *lines):
    """Send a request head and return the response."""
    connection.settimeout(60)
    connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    response = b""
    while part := connection.recv(65536):
        response += part
    return response.decode()


def test_gunicorn_ignores_forwarded_headers_by_itself(serve, tmp_path):
    get = ("GET /health HTTP/1.1", "Host: x")
    path = tmp_path / "socket"
    bind = ("--bind", f"unix:{path}", "--bind", f"127.0.0.1:{free_port()}")
    with serve(*bind, wait=False, FORWARDED_ALLOW_IPS="*") as server:
        end = time.monotonic() + 60
        while "Worker ready" not in server.log.read_text():
            assert time.monotonic() < end, server.log.read_text()
            time.sleep(0.05)
        for address in (str(path), ("127.0.0.1", int(bind[3].rpartition(":")[2]))):
            for headers in (
                ("X-Forwarded-Proto: https",),
                ("X-Forwarded-Ssl: on", "X-Forwarded-Proto: http"),
                ("SCRIPT_NAME: /elsewhere",),
            ):
                family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
                with socket.socket(family) as connection:
                    connection.connect(address)
                    response = exchange(connection, *get, *headers)
                assert response.startswith("HTTP/1.1 200 "), (headers, response)
                assert HSTS not in response, (headers, response)


def test_under_gunicorn_headers_of_a_trusted_proxy_are_used(serve):
    with serve(TRUSTED_PROXIES="127.0.0.1", AUTH="tokens", LOG_FORMAT="json") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            response = exchange(
                connection,
                *(f"GET {PROJECTS} HTTP/1.1", "Host: x", "X-Forwarded-Proto: https"),
                *("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 9.9.9.9"),
            )
        assert f"{HSTS}: max-age=31536000\r\n" in response
        assert '"address": "9.9.9.9"' in server.log.read_text()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", "/", 200), ("GET", "/health", 200), ("GET", PROJECTS, 200)),
        *(("GET", "/nowhere", 404), ("PUT", PROJECTS, 405), ("POST", PROJECTS, 415)),
        *(("HEAD", "/health", 200), ("OPTIONS", PROJECTS, 200), ("GET", "/openapi.json", 200)),
        *(("GET", "/static/docs/show.js", 200), ("GET", "/static/nothing", 404)),
    ],
)
def test_every_response_has_security_headers(client, method, path, status):
    with client.open(path, method=method) as response:
        assert response.status_code == status
        assert HEADERS.items() <= dict(response.headers).items()


def test_a_500_has_security_headers(make_app, monkeypatch):
    app = make_app()
    monkeypatch.setitem(app.view_functions, "health.health", lambda: 1 / 0)
    response = app.test_client().get("/health")
    assert response.status_code == 500
    assert HEADERS.items() <= dict(response.headers).items()


@pytest.mark.parametrize(
    "line", ["GET / HTTP/9.9", "GET /", "G(T / HTTP/1.1", "GET /" + "x" * 9000]
)
def test_errors_that_gunicorn_sends_have_security_headers(server, line):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        response = exchange(connection, line, "Host: x")
    head = response.partition("\r\n\r\n")[0].split("\r\n")
    assert " 4" in head[0] or " 5" in head[0]
    assert {f"{name}: {value}" for name, value in HEADERS.items()} <= set(head)


@pytest.mark.parametrize(
    "lines",
    [
        ["GET / HTTP/1.1", "Host: x", "Authorization Bearer s3cret"],
        ["GET / HTTP/1.1", "Host: x", "Transfer-Encoding: s3cret"],
        ["GET / HTTP/1.1", "Host: x", "Expect: s3cret"],
        ["GET s3cret HTTP/1.1", "Host: x"],
    ],
)
def test_the_log_does_not_quote_a_malformed_request(server, lines):
    count = server.log.read_text().count("Invalid request from ip=127.0.0.1: ")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        exchange(connection, *lines)
    log = server.log.read_text()
    assert log.count("Invalid request from ip=127.0.0.1: ") == count + 1
    assert "s3cret" not in log


def test_content_security_policies_allow_nothing_by_default(client):
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none';")
    with client.get("/docs") as page:
        policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert {"X-Content-Type-Options", "Referrer-Policy"} <= set(page.headers.keys())


def test_hsts_is_sent_only_over_tls(client):
    assert client.get("/health", base_url="https://x").headers[HSTS] == "max-age=31536000"
    assert HSTS not in client.get("/health").headers


def test_the_server_header_has_no_version(server, app):
    responses_headers = [server.request("GET", path)[1] for path in ("/health", "/nowhere")]
    development_server = make_server("127.0.0.1", free_port(), app)
    thread = threading.Thread(target=development_server.handle_request)
    thread.start()
    with urlopen(f"http://127.0.0.1:{development_server.port}/health", timeout=60) as response:
        responses_headers.append({k.lower(): value for k, value in response.headers.items()})
    thread.join()
    development_server.server_close()
    for headers in responses_headers:
        assert headers["server"] in ("gunicorn", "projectapp")
        assert "x-powered-by" not in headers


def test_responses_to_a_caller_are_private_in_caches(auth_client, auth_headers):
    writer, reader = auth_headers(), auth_headers(scopes="projects:read")
    path = auth_client.post(PROJECTS, json={"name": "x"}, headers=writer).headers["Location"]
    for status, method, url, headers in (
        (200, "GET", PROJECTS, writer),
        (200, "HEAD", path, writer),
        (201, "POST", PROJECTS, writer),
        (304, "GET", path, {**writer, "If-None-Match": "*"}),
        (400, "GET", PROJECTS + "?page=x", writer),
        (400, "GET", PROJECTS, {"Authorization": "Bearer a b"}),
        (401, "GET", PROJECTS, {}),
        (401, "GET", PROJECTS, {"Authorization": f"Bearer {tokens.new_token()}"}),
        (403, "DELETE", path, reader),
        (404, "GET", f"{PROJECTS}/{uuid4()}", writer),
        (412, "DELETE", path, {**writer, "If-Match": '"9"'}),
    ):
        body = {"json": {"name": "x"}} if method == "POST" else {}
        response = auth_client.open(url, method=method, headers=headers, **body)
        assert response.status_code == status, (status, response.text)
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert "Authorization, Cookie, Sec-Fetch-Site" in response.headers.getlist("Vary"), status
    public = auth_client.get("/health")
    assert "Authorization" not in public.headers.getlist("Vary")
    assert "Cache-Control" not in public.headers


def test_a_503_to_a_caller_is_private_in_caches(make_app):
    unreachable_url = f"postgresql://someone@127.0.0.1:{free_port()}/test"
    client = make_app(AUTH="tokens", DATABASE_URL=unreachable_url).test_client()
    headers = {"Authorization": f"Bearer {tokens.new_token()}"}
    response = client.get(PROJECTS, headers=headers)
    assert (response.status_code, response.headers["Cache-Control"]) == (503, "private, no-cache")
    assert "Authorization, Cookie, Sec-Fetch-Site" in response.headers.getlist("Vary")


def test_without_auth_responses_are_not_private(client):
    response = client.get(PROJECTS)
    assert response.headers["Cache-Control"] == "no-cache"
    assert "Authorization" not in response.headers.getlist("Vary")


def test_cors_exposes_www_authenticate(make_app):
    client = make_app(AUTH="tokens", ALLOWED_ORIGINS="https://a.example").test_client()
    response = client.get(PROJECTS, headers={"Origin": "https://a.example"})
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "WWW-Authenticate" in response.headers["Access-Control-Expose-Headers"].split(", ")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize(
    "path", ["/docs", "/docs/", "/openapi.json", "/static/docs/show.js", "/static/docs/page.css"]
)
def test_with_docs_off_the_docs_paths_look_like_unknown_paths(make_app, path, method):
    client = make_app(DOCS="off").test_client()
    preflight = {"Origin": "http://x", "Access-Control-Request-Method": "GET"}
    for headers in ({}, preflight):
        docs, unknown = (
            client.open(url, method=method, headers={"X-Request-ID": "1", **headers})
            for url in (path, "/nowhere")
        )
        assert docs.status_code == unknown.status_code
        assert (docs.text, list(docs.headers)) == (unknown.text, list(unknown.headers))
    assert client.get(path).status_code == 404


def test_with_docs_off_the_root_does_not_link_to_them(make_app):
    client = make_app(DOCS="off").test_client()
    links = client.get("/").json["links"]
    assert links.keys() == {"projects", "console", "health", "ready", "metrics"}
    page = client.get("/", headers={"Accept": "text/html"}).text
    assert sorted(re.findall(r'href="(/[^"]*)"', page)) == sorted(links.values())


def test_with_ready_details_off_ready_returns_only_the_status(
    make_app, sql, direct_url, problem, caplog
):
    caplog.set_level(logging.INFO)
    details_off = {"READY_DETAILS": "off"}
    response = make_app(**details_off).test_client().get("/ready")
    assert (response.status_code, response.json) == (200, {"status": "ready"})
    read_only_url = f"{direct_url}&options=-c%20default_transaction_read_only%3Don"
    unreachable_url = f"postgresql://someone@127.0.0.1:{free_port()}/test"
    for url, reason in (
        (read_only_url, "The database is read-only."),
        (unreachable_url, "database"),
    ):
        caplog.clear()
        response = make_app(DATABASE_URL=url, **details_off).test_client().get("/ready")
        document = problem(response, 503, "unavailable")
        assert document["detail"] == "This server is not ready."
        assert int(response.headers["Retry-After"]) > 0
        assert reason in caplog.text


def test_ready_always_has_the_members_that_the_document_requires(make_app, sql):
    for details in ("on", "off"):
        client = make_app(READY_DETAILS=details).test_client()
        schema = client.get("/openapi.json").json["components"]["schemas"]["Ready"]
        members = client.get("/ready").json.keys()
        assert set(schema["required"]) <= members <= schema["properties"].keys()


def test_a_view_without_an_endpoint_declaration_is_a_type_error(make_app, monkeypatch):
    undeclared = Blueprint("projects", __name__)
    undeclared.add_url_rule("/secrets", "secrets", lambda: "all of them")
    monkeypatch.setattr(projects, "bp", undeclared)
    with pytest.raises(TypeError, match=r"projects\.secrets needs an @Endpoint"):
        make_app()
