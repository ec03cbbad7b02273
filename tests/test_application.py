"""The service's Flask does less for each request, with the same results as Flask."""

import itertools

import flask
import pytest
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder

from projectapp.http.application import Response
from tests.conftest import PROJECTS

AN_ID = "0192f3a4-5b6c-7d8e-9f01-23456789abcd"
PATHS = [
    *("", "/", "/health", "/health/", "//health", "/nowhere", "/static/docs/page.css"),
    *(PROJECTS, f"{PROJECTS}/", f"/{PROJECTS}", f"{PROJECTS}/번역".encode().decode("latin-1")),
    *(f"{PROJECTS}/{AN_ID}", f"{PROJECTS}/{AN_ID.upper()}", f"{PROJECTS}/{AN_ID}/"),
    *(f"{PROJECTS}/x{AN_ID}", f"{PROJECTS}/{AN_ID}0", f"{PROJECTS}/{AN_ID}/{AN_ID}"),
    *(f"{PROJECTS}/{AN_ID}{AN_ID}", f"/{AN_ID}{PROJECTS}", f"{PROJECTS}{AN_ID}", f"{PROJECTS}/*"),
]
METHODS = ["GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "get"]
HOSTS = ["localhost", "localhost:8000", "a..b", "<", None]


def find_route(app, environ, create_url_adapter):
    """Return the rule and the arguments of a request, or the status of its error."""
    with app.request_context(dict(environ)):
        try:
            rule, arguments = create_url_adapter(flask.request).match(return_rule=True)
        except HTTPException as error:
            return error.code
        return rule, arguments


@pytest.mark.parametrize("path", PATHS)
def test_request_gets_the_route_of_werkzeug_at_the_first_and_the_second_time(make_app, path):
    app = make_app()
    for method, host, upgrade in itertools.product(METHODS, HOSTS, [{}, {"Upgrade": "websocket"}]):
        environ = EnvironBuilder(method=method, headers=upgrade).get_environ()
        environ |= {"PATH_INFO": path, "REQUEST_METHOD": method, "HTTP_CONNECTION": "upgrade"}
        environ |= {"HTTP_HOST": host}
        if host is None:
            del environ["HTTP_HOST"]
        expected = find_route(app, environ, super(type(app), app).create_url_adapter)
        for _ in range(2):
            assert find_route(app, environ, app.create_url_adapter) == expected, (method, host)


def test_table_of_routes_stays_small_after_many_hosts_and_learns_new_routes(make_app):
    app = make_app()
    client = app.test_client()
    for number in range(300):
        response = client.get("/health", headers={"Host": f"host{number}"})
        assert response.status_code == 200
    assert len(app._routes) <= 256
    assert ("host299", "GET", "/health") in app._routes


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 201, 204, 304, 404])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ("번역", {}),
        (b"abc", {"ETag": '"1"', "X-Twice": ["1", "2"]}),
        ("", {"Location": "/projects/1"}),
        ("", {"Location": "/번역 of this"}),
        ("", {"Location": "https://example.com/번역"}),
        ("", {"Content-Location": "/번역"}),
        (["가", "b"], {}),
        (["가", "b"], {"Content-Length": "4"}),
        (lambda: iter("ab"), {"Content-Length": "2"}),
    ],
)
def test_response_is_sent_like_a_response_of_flask(body, headers, status, method):
    environ = EnvironBuilder(method=method).get_environ()
    sent, expected = (
        kind(body() if callable(body) else body, status, headers).get_wsgi_response(environ)
        for kind in (Response, flask.Response)
    )
    assert b"".join(sent[0]) == b"".join(expected[0])
    assert sent[1:] == expected[1:]


def test_stream_with_a_length_is_read_part_by_part():
    parts = iter("ab")
    response = Response(parts, headers={"Content-Length": "2"})
    body, _, _ = response.get_wsgi_response(EnvironBuilder().get_environ())
    assert next(iter(body)) == b"a"
    assert [*parts] == ["b"]


def test_functions_of_call_on_close_run_after_the_response(make_app):
    app, calls = make_app(), []

    @app.after_request
    def add_function(response):
        response.call_on_close(lambda: calls.append("closed"))
        return response

    app.test_client().get("/health", buffered=True).close()
    assert calls == ["closed"]


def test_hooks_signals_and_url_for_of_a_user_work_as_in_flask(make_app):
    app, calls = make_app(), []

    @app.before_request
    def before():
        calls.append(("before", flask.request.endpoint, flask.url_for("health.ready")))

    @app.after_request
    def after(response):
        response.headers["X-User"] = "1"
        return response

    @app.teardown_request
    def teardown(error):
        calls.append(("teardown", error))

    def finished(sender, response):
        calls.append(("finished", response.status_code))

    with flask.request_finished.connected_to(finished, app):
        for _ in range(2):
            response = app.test_client().get("/health")
            assert response.headers["X-User"] == "1"
            assert calls == [
                ("before", "health.health", "/ready"),
                ("finished", 200),
                ("teardown", None),
            ]
            calls.clear()
