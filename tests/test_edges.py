"""What stands between a client and the application: proxies, browsers and caches."""

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
from projectapp import projects
from projectapp.auth import tokens
from projectapp.http.security_headers import HEADERS
from tests.conftest import PROJECTS
from tests.wire import free_port

TRUSTED = "10.0.0.0/8, ::1"
HSTS = "Strict-Transport-Security"


@pytest.fixture
def seen(make_app, caplog):
    """The address that a refusal is logged with, and whether it went over TLS."""
    client = make_app(AUTH="tokens", TRUSTED_PROXIES=TRUSTED).test_client()

    def ask(peer, forwarded=None, proto=None, **more):
        caplog.clear()
        headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": proto, **more}
        given = {name: value for name, value in headers.items() if value is not None}
        answer = client.get(PROJECTS, headers=given, environ_overrides={"REMOTE_ADDR": peer})
        assert answer.status_code == 401
        [address] = [r.address for r in caplog.records if hasattr(r, "address")]
        return address, HSTS in answer.headers

    return ask


@pytest.mark.parametrize("peer", ["1.2.3.4", "2001:db8::7", "11.0.0.1", "", "::ffff:1.2.3.4"])
def test_nobody_else_is_believed(seen, peer):
    assert seen(peer, "9.9.9.9", "https") == (peer, False)


def test_without_trusted_proxies_nobody_is_believed(app):
    answer = app.test_client().get("/health", headers={"X-Forwarded-Proto": "https"})
    assert HSTS not in answer.headers


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
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(seen, forwarded, address):
    assert seen("10.0.0.1", forwarded) == (address, False)


def test_a_trusted_proxy_is_known_by_a_mapped_address(seen):
    assert seen("::ffff:10.0.0.1", "9.9.9.9", "https") == ("9.9.9.9", True)


def test_nothing_that_a_client_sends_hides_its_address(seen):
    chance = random.Random(1)  # noqa: S311
    for _ in range(300):
        sent = "".join(chance.choices('0123456789afF:.,[]%" \xff', k=chance.randrange(30)))
        assert seen("10.0.0.1", f"{sent}, 9.9.9.9")[0] == "9.9.9.9"
        seen("10.0.0.1", sent, sent)


@pytest.mark.parametrize(
    ("proto", "is_secure"),
    [
        *(("https", True), ("HTTPS", True), ("http, https", True)),
        *(("http", False), ("https, http", False), ("wss", False), ("", False), ("https,", False)),
    ],
)
def test_the_scheme_is_what_the_trusted_proxy_says_last(seen, proto, is_secure):
    assert seen("10.0.0.1", "9.9.9.9", proto) == ("9.9.9.9", is_secure)


def test_other_headers_are_not_believed(seen):
    other = {
        "Forwarded": "for=6.6.6.6;proto=https",
        "X-Forwarded-Ssl": "on",
        "X-Real-IP": "6.6.6.6",
    }
    assert seen("10.0.0.1", "9.9.9.9", **other) == ("9.9.9.9", False)


def test_everybody_cannot_be_trusted():
    for text in ("0.0.0.0/0", "10.0.0.0/8,::/0", "10.0.0.1/8", "proxy", ","):
        with pytest.raises(config.ConfigError, match="TRUSTED_PROXIES must be a comma-sep"):
            config.load_config({"TRUSTED_PROXIES": text})


# Under a path.


def paths_of(client, prefix):
    """All URLs that the application gives, seen from a client below `prefix`."""
    made = client.post(f"{prefix}{PROJECTS}", json={"name": "x"})
    assert made.status_code == 201
    root, document = client.get(f"{prefix}/"), client.get(f"{prefix}/openapi.json")
    page, docs = (
        client.get(f"{prefix}{path}", headers={"Accept": "text/html"}).text
        for path in ("/", "/docs/")
    )
    [server] = document.json["servers"]
    described = [path for path in document.json["paths"] if "{" not in path]
    return [
        made.headers["Location"],
        *root.json["links"].values(),
        *re.findall(r'(?:href|src|data-document)="(/[^"]*)"', page + docs),
        *(server["url"].rstrip("/") + path for path in described),
    ]


@pytest.mark.parametrize("prefix", ["", "/backend", "/a/b"])
def test_all_urls_have_the_prefix_that_the_application_is_mounted_at(app, sql, prefix):
    mounted = DispatcherMiddleware(NotFound(), {prefix: app}) if prefix else app
    client = Client(mounted)
    paths = paths_of(client, prefix)
    assert len(paths) > 20
    for path in paths:
        assert path.startswith(f"{prefix}/")
        with client.get(path) as answer:
            assert answer.status_code == 200, path


class Remote:
    """A client of a running server, as far as `paths_of` needs one."""

    def __init__(self, port):
        self.port = port

    def get(self, path, headers=None):
        return self.open("GET", path, headers=headers or {})

    def post(self, path, json):
        return self.open("POST", path, dumps(json), {"Content-Type": "application/json"})

    def open(self, method, path, body=None, headers=None):
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=20)) as link:
            link.request(method, path, body, headers or {})
            answer = link.getresponse()
            text = answer.read().decode()
        found = loads(text) if "json" in answer.headers["Content-Type"] else None
        return SimpleNamespace(
            status_code=answer.status, headers=answer.headers, text=text, json=found
        )


@pytest.fixture(scope="module")
def below(serve):
    with serve(SCRIPT_NAME="/backend/") as server:
        yield Remote(server.port)


@pytest.mark.parametrize("sent", ["/backend", ""], ids=["kept", "removed by a proxy"])
def test_under_script_name_all_urls_have_it_whether_a_proxy_passes_it_on(below, sql, sent):
    paths = paths_of(below, sent)
    assert len(paths) > 20
    for path in paths:
        assert path.startswith("/backend/")
        assert below.get(path).status_code == 200, path


def test_under_script_name_another_path_is_404(below):
    for path in ("/backendx", "/backendhealth", "/x/backend/health", "/backend/backend/health"):
        answer = below.get(path)
        assert (answer.status_code, answer.json["error"]) == (404, "not_found")
    assert below.get("/backend").status_code == below.get("/backend/").status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        *("backend", "/a b", "/a/../b", "/a//b", "//a", "https://a/b", "/a?b"),
        *("/api", "/api/v1/projects", "/docs/", "/health", "/openapi.json"),  # a proxy may cut it
    ],
)
def test_a_script_name_that_is_no_prefix_is_refused(text):
    with pytest.raises(config.ConfigError, match="SCRIPT_NAME must be a path such as /backend"):
        config.load_config({"SCRIPT_NAME": text})
    assert config.load_config({"SCRIPT_NAME": "/"}).SCRIPT_NAME == ""
    assert config.load_config({"SCRIPT_NAME": "/apis/docs"}).SCRIPT_NAME == "/apis/docs"


def exchange(link, *lines):
    link.settimeout(60)
    link.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    answer = b""
    while part := link.recv(65536):
        answer += part
    return answer.decode()


def test_gunicorn_believes_nobody_of_itself(serve, tmp_path):
    get = ("GET /health HTTP/1.1", "Host: x")
    path = tmp_path / "socket"
    bind = ("--bind", f"unix:{path}", "--bind", f"127.0.0.1:{free_port()}")
    with serve(*bind, wait=False, FORWARDED_ALLOW_IPS="*") as server:
        end = time.monotonic() + 60
        while "Worker ready" not in server.log.read_text():
            assert time.monotonic() < end, server.log.read_text()
            time.sleep(0.05)
        for address in (str(path), ("127.0.0.1", int(bind[3].rpartition(":")[2]))):
            for sent in (
                ("X-Forwarded-Proto: https",),
                ("X-Forwarded-Ssl: on", "X-Forwarded-Proto: http"),
                ("SCRIPT_NAME: /elsewhere",),
            ):
                family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
                with socket.socket(family) as link:
                    link.connect(address)
                    answer = exchange(link, *get, *sent)
                assert answer.startswith("HTTP/1.1 200 "), (sent, answer)
                assert HSTS not in answer, (sent, answer)


def test_gunicorn_hands_on_what_a_trusted_proxy_says(serve):
    with serve(TRUSTED_PROXIES="127.0.0.1", AUTH="tokens", LOG_FORMAT="json") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as link:
            answer = exchange(
                link,
                *(f"GET {PROJECTS} HTTP/1.1", "Host: x", "X-Forwarded-Proto: https"),
                *("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 9.9.9.9"),
            )
        assert f"{HSTS}: max-age=31536000\r\n" in answer
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
def test_security_headers_stand_on_every_answer(client, method, path, status):
    with client.open(path, method=method) as answer:
        assert answer.status_code == status
        assert HEADERS.items() <= dict(answer.headers).items()


def test_security_headers_stand_on_a_500_too(make_app, monkeypatch):
    app = make_app()
    monkeypatch.setitem(app.view_functions, "health.health", lambda: 1 / 0)
    answer = app.test_client().get("/health")
    assert answer.status_code == 500
    assert HEADERS.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    "line", ["GET / HTTP/9.9", "GET /", "G(T / HTTP/1.1", "GET /" + "x" * 9000]
)
def test_security_headers_stand_on_what_gunicorn_answers_itself(server, line):
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        answer = exchange(link, line, "Host: x")
    head = answer.partition("\r\n\r\n")[0].split("\r\n")
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
def test_of_a_broken_request_nothing_is_quoted_in_the_log(server, lines):
    told = server.log.read_text().count("Invalid request from ip=127.0.0.1: ")
    with socket.create_connection(("127.0.0.1", server.port)) as link:
        exchange(link, *lines)
    log = server.log.read_text()
    assert log.count("Invalid request from ip=127.0.0.1: ") == told + 1
    assert "s3cret" not in log


def test_what_may_be_done_is_only_what_is_needed(client):
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none';")
    with client.get("/docs") as page:
        policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert {"X-Content-Type-Options", "Referrer-Policy"} <= set(page.headers.keys())


def test_only_what_came_over_tls_asks_for_tls(client):
    assert client.get("/health", base_url="https://x").headers[HSTS] == "max-age=31536000"
    assert HSTS not in client.get("/health").headers


def test_no_server_tells_its_version(server, app):
    told = [server.request("GET", path)[1] for path in ("/health", "/nowhere")]
    development = make_server("127.0.0.1", free_port(), app)
    thread = threading.Thread(target=development.handle_request)
    thread.start()
    with urlopen(f"http://127.0.0.1:{development.port}/health", timeout=60) as answer:
        told.append({name.lower(): value for name, value in answer.headers.items()})
    thread.join()
    development.server_close()
    for headers in told:
        assert headers["server"] in ("gunicorn", "projectapp")
        assert "x-powered-by" not in headers


def test_what_a_caller_may_see_is_kept_for_that_caller(guarded, bearer):
    may, reads = bearer(), bearer(scopes="projects:read")
    path = guarded.post(PROJECTS, json={"name": "x"}, headers=may).headers["Location"]
    for status, method, url, headers in (
        (200, "GET", PROJECTS, may),
        (200, "HEAD", path, may),
        (201, "POST", PROJECTS, may),
        (304, "GET", path, {**may, "If-None-Match": "*"}),
        (400, "GET", PROJECTS + "?page=x", may),
        (400, "GET", PROJECTS, {"Authorization": "Bearer a b"}),
        (401, "GET", PROJECTS, {}),
        (401, "GET", PROJECTS, {"Authorization": f"Bearer {tokens.new_token()}"}),
        (403, "DELETE", path, reads),
        (404, "GET", f"{PROJECTS}/{uuid4()}", may),
        (412, "DELETE", path, {**may, "If-Match": '"9"'}),
    ):
        body = {"json": {"name": "x"}} if method == "POST" else {}
        answer = guarded.open(url, method=method, headers=headers, **body)
        assert answer.status_code == status, (status, answer.text)
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert "Authorization" in answer.headers.getlist("Vary"), status
    public = guarded.get("/health")
    assert "Authorization" not in public.headers.getlist("Vary")
    assert "Cache-Control" not in public.headers


def test_a_503_is_kept_for_its_caller_too(make_app):
    away = f"postgresql://someone@127.0.0.1:{free_port()}/test"
    client = make_app(AUTH="tokens", DATABASE_URL=away).test_client()
    headers = {"Authorization": f"Bearer {tokens.new_token()}"}
    answer = client.get(PROJECTS, headers=headers)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (503, "private, no-cache")
    assert "Authorization" in answer.headers.getlist("Vary")


def test_without_callers_answers_are_for_everybody(client):
    answer = client.get(PROJECTS)
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "Authorization" not in answer.headers.getlist("Vary")


def test_a_web_page_may_read_the_challenge(make_app):
    client = make_app(AUTH="tokens", ALLOWED_ORIGINS="https://a.example").test_client()
    answer = client.get(PROJECTS, headers={"Origin": "https://a.example"})
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "WWW-Authenticate" in answer.headers["Access-Control-Expose-Headers"].split(", ")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize(
    "path", ["/docs", "/docs/", "/openapi.json", "/static/docs/show.js", "/static/docs/page.css"]
)
def test_closed_docs_are_as_if_they_were_not_there(make_app, path, method):
    client = make_app(DOCS="off").test_client()
    preflight = {"Origin": "http://x", "Access-Control-Request-Method": "GET"}
    for headers in ({}, preflight):
        there, nowhere = (
            client.open(asked, method=method, headers={"X-Request-ID": "1", **headers})
            for asked in (path, "/nowhere")
        )
        assert there.status_code == nowhere.status_code
        assert (there.text, list(there.headers)) == (nowhere.text, list(nowhere.headers))
    assert client.get(path).status_code == 404


def test_closed_docs_are_not_linked(make_app):
    client = make_app(DOCS="off").test_client()
    links = client.get("/").json["links"]
    assert links == {"projects": PROJECTS, "health": "/health", "ready": "/ready"}
    page = client.get("/", headers={"Accept": "text/html"}).text
    assert sorted(re.findall(r'href="(/[^"]*)"', page)) == sorted(links.values())


def test_ready_without_detail_says_yes_or_no(make_app, sql, direct_url, problem, caplog):
    caplog.set_level(logging.INFO)
    closed = {"READY_DETAILS": "off"}
    answer = make_app(**closed).test_client().get("/ready")
    assert (answer.status_code, answer.json) == (200, {"status": "ready"})
    read_only = f"{direct_url}&options=-c%20default_transaction_read_only%3Don"
    away = f"postgresql://someone@127.0.0.1:{free_port()}/test"
    for url, why in ((read_only, "The database takes no writes."), (away, "database")):
        caplog.clear()
        answer = make_app(DATABASE_URL=url, **closed).test_client().get("/ready")
        found = problem(answer, 503, "unavailable")
        assert found["detail"] == "This server is not ready."
        assert int(answer.headers["Retry-After"]) > 0
        assert why in caplog.text


def test_what_ready_always_says_is_what_the_document_requires(make_app, sql):
    for detail in ("on", "off"):
        client = make_app(READY_DETAILS=detail).test_client()
        described = client.get("/openapi.json").json["components"]["schemas"]["Ready"]
        found = client.get("/ready").json
        assert set(described["required"]) <= found.keys() <= described["properties"].keys()


def test_a_view_that_does_not_say_who_may_call_it_is_not_served(make_app, monkeypatch):
    unguarded = Blueprint("projects", __name__)
    unguarded.add_url_rule("/secrets", "secrets", lambda: "all of them")
    monkeypatch.setattr(projects, "bp", unguarded)
    with pytest.raises(TypeError, match=r"projects\.secrets has no @Endpoint"):
        make_app()
