"""/health, /ready and /."""

from datetime import datetime, timedelta

from projectapp import __version__
from projectapp.health import code_revision


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
            "schema": code_revision(),
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
        sql("INSERT INTO alembic_version VALUES (%s)", code_revision())


def test_the_root_shows_the_way(client):
    found = client.get("/").json
    assert (found["name"], found["version"]) == ("projectapp", __version__)
    for path in found["links"].values():
        with client.get(path) as answer:
            assert answer.status_code == 200, path
