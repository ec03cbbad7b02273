"""/health, /ready and /."""

import re
from datetime import datetime, timedelta

import pytest

from projectapp import __version__
from projectapp.database.schema import newest_revision
from tests.conftest import PROJECTS


def test_health_tells_status_time_and_version(client):
    found = client.get("/health").json
    assert (found["status"], found["version"]) == ("ok", __version__)
    assert datetime.fromisoformat(found["timestamp"]).utcoffset() == timedelta(0)


def test_ready_names_the_revision(client, sql):
    answer = client.get("/ready")
    assert (answer.status_code, answer.json) == (
        200,
        {
            "status": "ready",
            "schema": newest_revision(),
            "durable": sql("SHOW fsync") == [("on",)],
        },
    )


def test_a_database_that_takes_no_writes_is_not_ready(make_app, direct_url, problem):
    url = f"{direct_url}&options=-c%20default_transaction_read_only%3Don"
    answer = make_app(DATABASE_URL=url).test_client().get("/ready")
    assert problem(answer, 503, "unavailable")["detail"] == "The database takes no writes."


def test_a_schema_behind_is_not_ready_and_one_ahead_is(client, sql, problem):
    try:
        sql("UPDATE alembic_version SET version_num = '0000'")
        found = problem(client.get("/ready"), 503, "unavailable")
        assert "flask db upgrade" in found["detail"]
        sql("UPDATE alembic_version SET version_num = '9999'")
        assert client.get("/ready").status_code == 200
        sql("TRUNCATE alembic_version")
        problem(client.get("/ready"), 503)
        sql("ALTER TABLE alembic_version RENAME TO elsewhere")
        found = problem(client.get("/ready"), 503, "unavailable")
        sql("ALTER TABLE elsewhere RENAME TO alembic_version")
        assert "flask db upgrade" in found["detail"]
    finally:
        sql("TRUNCATE alembic_version")
        sql("INSERT INTO alembic_version VALUES (%s)", newest_revision())


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def test_the_root_links_to_the_api_the_docs_and_the_health_checks(client):
    found = client.get("/").json
    assert (found["name"], found["version"]) == ("projectapp", __version__)
    assert found["links"].keys() == {"projects", "docs", "openapi", "health", "ready"}
    assert found["links"]["projects"] == PROJECTS
    for path in found["links"].values():
        with client.get(path) as answer:
            assert answer.status_code == 200, path


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        *((BROWSER, True), ("text/html", True), ("text/html, application/json;q=0.9", True)),
        *((None, False), ("*/*", False), ("application/json", False), ("", False)),
        *(("application/json, text/html;q=0.9", False), ("image/png", False)),
        *(("application/json, text/plain, */*", False), ("text/html;q=0, */*", False)),
    ],
)
def test_the_root_is_a_page_for_a_browser_and_json_for_all_others(client, accept, is_page):
    headers = {} if accept is None else {"Accept": accept}
    answer = client.get("/", headers=headers)
    assert answer.status_code == 200
    kind = "text/html; charset=utf-8" if is_page else "application/json"
    assert answer.content_type == kind
    assert "Accept" in ", ".join(answer.headers.getlist("Vary")).split(", ")
    head = client.head("/", headers=headers)
    assert (head.status_code, head.content_type, head.data) == (200, kind, b"")
    assert head.content_length == len(answer.data)


@pytest.mark.parametrize(
    ("languages", "language"),
    [
        ("", "en"),
        ("ko-KR,ko;q=0.9,en;q=0.8", "ko"),
        ("en-US,ko;q=0.5", "en"),
        ("fr, *;q=0.5", "en"),
    ],
)
def test_the_page_of_the_root_has_the_links_of_its_json_in_the_readers_language(
    client, languages, language
):
    answer = client.get("/", headers={"Accept": BROWSER, "Accept-Language": languages})
    assert f'<html lang="{language}">' in answer.text
    assert ("상태 확인" in answer.text) == (language == "ko")
    assert "Accept-Language" in ", ".join(answer.headers.getlist("Vary")).split(", ")
    linked = re.findall(r'<a href="([^"]*)"', answer.text)
    assert sorted(linked) == sorted(client.get("/").json["links"].values())
    assert not re.search(r"https?:|//|<script", answer.text.replace("<!doctype", ""))
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_the_page_of_the_root_says_whether_a_token_is_needed(client, guarded):
    for asked, is_needed in ((client, False), (guarded, True)):
        page = asked.get("/", headers={"Accept": BROWSER}).text
        assert ("Authorization: Bearer" in page) == is_needed
