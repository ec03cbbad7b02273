"""CORS: the tutorial's front ends are let in, others only by ALLOWED_ORIGINS."""

import pytest

from config import Development
from tests.conftest import PROJECTS

PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "if-match"}
SITE = "https://app.example.com"


@pytest.fixture
def allowing(make_app):
    return lambda origins: make_app(ALLOWED_ORIGINS=origins).test_client()


def test_development_allows_the_tutorials_ports():
    assert set(Development.ALLOWED_ORIGINS) == {
        f"http://{host}:{port}"
        for host in ("localhost", "127.0.0.1")
        for port in (3000, 5173, 5174)
    }


@pytest.mark.parametrize("path", [PROJECTS, "/nowhere", "/health"])
def test_a_preflight_is_answered_on_any_path(allowing, path):
    answer = allowing(SITE).options(path, headers={"Origin": SITE, **PREFLIGHT})
    assert answer.status_code in (200, 204)
    headers = answer.headers
    assert headers["Access-Control-Allow-Origin"] == SITE
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert "PATCH" in headers["Access-Control-Allow-Methods"]
    assert "If-Match" in headers["Access-Control-Allow-Headers"]
    assert "Origin" in headers["Vary"]


def test_an_options_that_is_no_preflight_is_404_on_an_unknown_path(client, problem):
    problem(client.options("/nowhere"), 404)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PROJECTS, 200),
        ("GET", "/nowhere", 404),
        ("POST", PROJECTS, 415),
        ("PUT", PROJECTS, 405),
    ],
)
def test_headers_stand_on_every_answer(allowing, method, path, status):
    answer = allowing(SITE).open(path, method=method, headers={"Origin": SITE})
    assert answer.status_code == status
    assert answer.headers["Access-Control-Allow-Origin"] == SITE
    exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
    assert exposed >= {"ETag", "Location", "Link", "Retry-After", "X-Request-ID"}


def test_headers_stand_on_a_500_too(make_app, monkeypatch):
    app = make_app(ALLOWED_ORIGINS=SITE)
    monkeypatch.setitem(app.view_functions, "health.health", lambda: 1 / 0)
    answer = app.test_client().get("/health", headers={"Origin": SITE})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (500, SITE)


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "http://app.example.com", SITE + ".evil.com", "null"),
        *("https://appxexample.com", "https://app.example.com:444", "https://evilapp.example.com"),
    ],
)
def test_a_foreign_origin_gets_no_permission(allowing, origin):
    client = allowing(SITE)
    for answer in (
        client.get(PROJECTS, headers={"Origin": origin}),
        client.options(PROJECTS, headers={"Origin": origin, **PREFLIGHT}),
    ):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    ("origin", "let_in"),
    [
        ("https://a.example.com", True),
        ("https://a.b.example.com", True),
        ("https://A.Example.com", True),
        ("https://example.com", False),
        ("https://evilexample.com", False),
        ("http://a.example.com", False),
        ("https://a.example.com.evil.org", False),
        ("https://evil.org/.example.com", False),
    ],
)
def test_a_star_stands_for_any_subdomain(allowing, origin, let_in):
    headers = allowing("https://*.example.com").get(PROJECTS, headers={"Origin": origin}).headers
    assert (headers.get("Access-Control-Allow-Origin") == origin) == let_in


def test_everyone_is_never_combined_with_credentials(allowing):
    headers = allowing("*").get(PROJECTS, headers={"Origin": "https://any.example"}).headers
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in headers
