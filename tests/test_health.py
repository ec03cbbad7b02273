"""/health, /ready and /."""

import re
from datetime import datetime, timedelta

import pytest

from projectapp import __version__
from projectapp.database.schema import newest_revision
from tests.conftest import PROJECTS


def test_health_returns_status_time_and_version(client):
    health = client.get("/health").json
    assert (health["status"], health["version"]) == ("ok", __version__)
    assert datetime.fromisoformat(health["timestamp"]).utcoffset() == timedelta(0)


def test_ready_returns_the_schema_revision_and_durability(client, sql):
    response = client.get("/ready")
    assert (response.status_code, response.json) == (
        200,
        {
            "status": "ready",
            "schema": newest_revision(),
            "durable": sql("SHOW fsync") == [("on",)],
        },
    )


def test_ready_is_503_if_the_database_is_read_only(make_app, direct_url, problem):
    url = f"{direct_url}&options=-c%20default_transaction_read_only%3Don"
    response = make_app(DATABASE_URL=url).test_client().get("/ready")
    assert problem(response, 503, "unavailable")["detail"] == "The database is read-only."


def test_ready_is_503_with_an_older_schema_and_200_with_a_newer_one(client, sql, problem):
    try:
        sql("UPDATE alembic_version SET version_num = '0000'")
        document = problem(client.get("/ready"), 503, "unavailable")
        assert "flask db upgrade" in document["detail"]
        sql("UPDATE alembic_version SET version_num = '9999'")
        assert client.get("/ready").status_code == 200
        sql("TRUNCATE alembic_version")
        problem(client.get("/ready"), 503)
        sql("ALTER TABLE alembic_version RENAME TO elsewhere")
        document = problem(client.get("/ready"), 503, "unavailable")
        sql("ALTER TABLE elsewhere RENAME TO alembic_version")
        assert "flask db upgrade" in document["detail"]
    finally:
        sql("TRUNCATE alembic_version")
        sql("INSERT INTO alembic_version VALUES (%s)", newest_revision())


BROWSER_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def test_the_root_links_to_the_api_the_docs_and_the_health_checks(client):
    index = client.get("/").json
    assert (index["name"], index["version"]) == ("projectapp", __version__)
    assert index["links"].keys() >= {"projects", "docs", "openapi", "health", "ready"}
    assert index["links"]["projects"] == PROJECTS
    for path in index["links"].values():
        with client.get(path) as response:
            assert response.status_code == 200, path


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        *((BROWSER_ACCEPT, True), ("text/html", True), ("text/html, application/json;q=0.9", True)),
        *((None, False), ("*/*", False), ("application/json", False), ("", False)),
        *(("application/json, text/html;q=0.9", False), ("image/png", False)),
        *(("application/json, text/plain, */*", False), ("text/html;q=0, */*", False)),
    ],
)
def test_the_root_is_html_for_a_browser_and_json_for_other_clients(client, accept, is_page):
    headers = {} if accept is None else {"Accept": accept}
    response = client.get("/", headers=headers)
    assert response.status_code == 200
    content_type = "text/html; charset=utf-8" if is_page else "application/json"
    assert response.content_type == content_type
    assert "Accept" in ", ".join(response.headers.getlist("Vary")).split(", ")
    head = client.head("/", headers=headers)
    assert (head.status_code, head.content_type, head.data) == (200, content_type, b"")
    assert head.content_length == len(response.data)


@pytest.mark.parametrize(
    ("accept_language", "language"),
    [
        ("", "en"),
        ("ko-KR,ko;q=0.9,en;q=0.8", "ko"),
        ("en-US,ko;q=0.5", "en"),
        ("fr, *;q=0.5", "en"),
    ],
)
def test_the_root_page_has_the_same_links_as_the_json_in_english_or_korean(
    client, accept_language, language
):
    response = client.get(
        "/", headers={"Accept": BROWSER_ACCEPT, "Accept-Language": accept_language}
    )
    assert f'<html lang="{language}">' in response.text
    assert ("상태 확인" in response.text) == (language == "ko")
    assert "Accept-Language" in ", ".join(response.headers.getlist("Vary")).split(", ")
    paths = re.findall(r'<a href="([^"]*)"', response.text)
    assert sorted(paths) == sorted(client.get("/").json["links"].values())
    assert not re.search(r"https?:|//|<script", response.text.replace("<!doctype", ""))
    policy = response.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_the_root_page_mentions_a_token_only_with_auth(client, auth_client):
    for test_client, is_needed in ((client, False), (auth_client, True)):
        page = test_client.get("/", headers={"Accept": BROWSER_ACCEPT}).text
        assert ("Authorization: Bearer" in page) == is_needed
