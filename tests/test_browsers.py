"""CORS: development allows the front ends of the tutorial, ALLOWED_ORIGINS allows others."""

import pytest

from config import Development
from tests.conftest import PROJECTS

PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "if-match"}
SITE = "https://app.example.com"


@pytest.fixture
def client_with_origins(make_app):
    return lambda origins: make_app(ALLOWED_ORIGINS=origins).test_client()


def test_development_allows_the_ports_of_the_tutorial():
    assert set(Development.ALLOWED_ORIGINS) == {
        f"http://{host}:{port}"
        for host in ("localhost", "127.0.0.1")
        for port in (3000, 5173, 5174)
    }


@pytest.mark.parametrize("path", [PROJECTS, "/nowhere", "/health"])
def test_a_preflight_succeeds_on_any_path(client_with_origins, path):
    response = client_with_origins(SITE).options(path, headers={"Origin": SITE, **PREFLIGHT})
    assert response.status_code in (200, 204)
    headers = response.headers
    assert headers["Access-Control-Allow-Origin"] == SITE
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert "PATCH" in headers["Access-Control-Allow-Methods"]
    assert "If-Match" in headers["Access-Control-Allow-Headers"]
    assert "Origin" in headers["Vary"]


def test_options_without_preflight_headers_on_an_unknown_path_gets_a_404(client, problem):
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
def test_every_response_to_an_allowed_origin_has_cors_headers(
    client_with_origins, method, path, status
):
    response = client_with_origins(SITE).open(path, method=method, headers={"Origin": SITE})
    assert response.status_code == status
    assert response.headers["Access-Control-Allow-Origin"] == SITE
    exposed = set(response.headers["Access-Control-Expose-Headers"].split(", "))
    assert exposed >= {"ETag", "Location", "Link", "Retry-After", "X-Request-ID"}


def test_a_500_to_an_allowed_origin_has_cors_headers(make_app, monkeypatch):
    app = make_app(ALLOWED_ORIGINS=SITE)
    monkeypatch.setitem(app.view_functions, "health.health", lambda: 1 / 0)
    response = app.test_client().get("/health", headers={"Origin": SITE})
    assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (500, SITE)


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "http://app.example.com", SITE + ".evil.com", "null"),
        *("https://appxexample.com", "https://app.example.com:444", "https://evilapp.example.com"),
    ],
)
def test_another_origin_gets_no_cors_headers(client_with_origins, origin):
    client = client_with_origins(SITE)
    for response in (
        client.get(PROJECTS, headers={"Origin": origin}),
        client.options(PROJECTS, headers={"Origin": origin, **PREFLIGHT}),
    ):
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]
        assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
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
def test_a_star_allows_every_subdomain(client_with_origins, origin, is_allowed):
    headers = (
        client_with_origins("https://*.example.com")
        .get(PROJECTS, headers={"Origin": origin})
        .headers
    )
    assert (headers.get("Access-Control-Allow-Origin") == origin) == is_allowed


@pytest.mark.parametrize(
    ("setting", "origin"),
    [
        ("https://한국.kr", "https://xn--3e0b707e.kr"),
        ("https://*.한국.kr", "https://xn--bj0bj06e.xn--3e0b707e.kr"),
        ("https://faß.de:443", "https://xn--fa-hia.de"),
        ("http://[::1]:5173", "http://[::1]:5173"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_an_allowed_origin_is_converted_to_the_form_that_browsers_send(
    client_with_origins, setting, origin
):
    client = client_with_origins(setting)
    headers = client.get(PROJECTS, headers={"Origin": origin}).headers
    assert headers["Access-Control-Allow-Origin"] == origin
    for other_origin in (
        "https://fass.de",
        f"{origin}:444",
        f"x{origin}",
        "https://xn--3e0b707e_kr",
    ):
        headers = client.get(PROJECTS, headers={"Origin": other_origin}).headers
        assert "Access-Control-Allow-Origin" not in headers


def test_cors_allows_and_exposes_the_headers_of_the_contract(client_with_origins):
    preflight = (
        client_with_origins(SITE).options(PROJECTS, headers={"Origin": SITE, **PREFLIGHT}).headers
    )
    assert set(preflight["Access-Control-Allow-Headers"].split(", ")) == {
        *("Content-Type", "Authorization", "If-Match", "If-None-Match", "Idempotency-Key"),
        *("X-Request-ID", "Last-Event-ID", "Read-After"),
    }
    assert set(preflight["Access-Control-Expose-Headers"].split(", ")) == {
        *("ETag", "Location", "Link", "Retry-After", "X-Request-ID", "Idempotency-Replayed"),
        *("WWW-Authenticate", "Changes-Cursor", "Read-After", "RateLimit", "RateLimit-Policy"),
    }


def test_a_star_for_any_origin_never_allows_credentials(client_with_origins):
    headers = (
        client_with_origins("*").get(PROJECTS, headers={"Origin": "https://any.example"}).headers
    )
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in headers
