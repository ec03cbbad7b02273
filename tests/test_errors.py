"""Every error is a problem document that reveals nothing internal."""

import logging
import time

import psycopg2
import pytest
from flask import abort
from sqlalchemy.exc import TimeoutError as PoolTimeout

from faults.processes import free_port
from projectapp import database, problems
from projectapp.database.errors import classify
from tests.conftest import PROJECTS


@pytest.fixture
def failing_client(make_app):
    """The client of an application with two routes that fail."""
    app = make_app()

    @app.get("/fail")
    def fail():
        raise RuntimeError("secret: SELECT 1 FROM host")

    @app.get("/teapot")
    def teapot():
        abort(418)

    return app.test_client()


def test_unknown_route_gets_404_problem(client, problem):
    document = problem(client.get("/nowhere"), 404, "not_found")
    assert document["type"] == "about:blank"
    assert document["title"] == "Not Found"


def test_unexpected_error_gets_500_without_details_and_logs_the_traceback(
    failing_client, problem, caplog
):
    document = problem(
        failing_client.get("/fail", headers={"X-Request-ID": "abc-1"}), 500, "internal_error"
    )
    assert "secret" not in str(document)
    assert document["request_id"] == "abc-1"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "secret" in str(record.exc_info[1])


def test_status_without_its_own_code_is_named_by_its_phrase(failing_client, problem):
    assert problem(failing_client.get("/teapot"), 418)["error"] == "i_m_a_teapot"


def test_double_slash_gets_404_and_no_redirect(client, problem):
    problem(client.get("//api//v1/projects"), 404)


def test_unreachable_database_gets_503_and_health_degraded(make_app, problem, caplog):
    url = f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/test"
    client = make_app(DATABASE_URL=url).test_client()
    assert client.get("/health").json["status"] == "ok"
    for answer in (
        client.get(PROJECTS),
        client.post(PROJECTS, json={"name": "x"}),
        client.get("/ready"),
    ):
        document = problem(answer, 503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert "127.0.0.1" not in str(document)
    assert client.get("/health").json["status"] == "degraded"
    assert "hunter2" not in caplog.text
    assert client.get("/nowhere").status_code == 404
    assert client.delete(PROJECTS).status_code == 405


def test_health_is_ok_again_after_the_database_recovers(make_app, proxy, app):
    client = make_app(DATABASE_URL=proxy.url).test_client()
    client.get(PROJECTS)
    proxy.refuses = True
    proxy.cut()
    assert client.get(PROJECTS).status_code == 503
    assert client.get("/health").json["status"] == "degraded"
    proxy.refuses = False
    assert client.get(PROJECTS).status_code == 200
    assert client.get("/health").json["status"] == "ok"


def test_full_pool_gets_503_within_its_timeout(make_app, sql, problem):
    app = make_app(DATABASE_POOL_SIZE="1", DATABASE_POOL_TIMEOUT="1")
    with app.app_context():
        engine = database.db.engine
    with engine.connect():
        started = time.monotonic()
        problem(app.test_client().get(PROJECTS), 503, "unavailable")
        assert time.monotonic() - started < 20  # SQLAlchemy's own timeout is 30
        assert app.test_client().get("/health").status_code == 200
    assert app.test_client().get(PROJECTS).status_code == 200


def test_missing_table_gets_503(client, sql, problem):
    sql("ALTER TABLE projects RENAME TO renamed_projects")
    try:
        problem(client.get(PROJECTS), 503, "unavailable")
    finally:
        sql("ALTER TABLE renamed_projects RENAME TO projects")


def test_log_of_a_violated_constraint_does_not_quote_the_row(client, make_project, caplog):
    url = f"{PROJECTS}/{make_project()['id']}"
    client.patch(url, json={"attributes": {"a": "secret" * 2000}})
    client.patch(url, json={"attributes": {"b": "secret" * 2000}})
    assert "attributes_size" in caplog.text
    assert "secret" not in caplog.text


def test_read_only_database_serves_reads_and_gets_503_for_writes(
    make_app, direct_url, make_project, problem
):
    make_project()
    url = f"{direct_url}&options=-c%20default_transaction_read_only%3Don"
    client = make_app(DATABASE_URL=url).test_client()
    assert client.get(PROJECTS).json["total"] == 1
    problem(client.post(PROJECTS, json={"name": "x"}), 503, "unavailable")


class FakeError(psycopg2.Error):
    """The error that psycopg2 raises for this SQLSTATE."""

    def __init__(self, state):
        super().__init__("the server's message")
        self.state = state

    pgcode = property(lambda self: self.state)
    diag = type(
        "Diagnostics", (), {"constraint_name": None, "message_primary": "message", "context": None}
    )


@pytest.mark.parametrize(
    ("state", "problem_class"),
    [
        *((state, problems.Conflict) for state in ("23505", "23503", "23P01")),
        *((state, problems.BadRequest) for state in ("23514", "23502")),
        *((state, problems.BadRequest) for state in ("22003", "22P05", "22021")),
        ("54001", problems.BadRequest),
        *(
            (state, problems.ServiceUnavailable)
            for state in (
                *("08006", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03"),
                *("58030", "25006", "28P01", "3D000"),
            )
        ),
        *((state, problems.ServiceUnavailable) for state in ("42P01", "42703", "42501", "42883")),
        ("42601", FakeError),
        (None, FakeError),
    ],
)
def test_database_error_is_classified_by_its_sqlstate(app, state, problem_class):
    result = classify(FakeError(state), was_sent=True).problem
    assert isinstance(result, problem_class)
    assert "server's message" not in getattr(result, "detail", "")
    if state and state.startswith("53"):
        assert result.headers["Retry-After"] == "30"


def test_pool_timeout_is_classified_as_unavailable():
    assert isinstance(classify(PoolTimeout(), was_sent=False).problem, problems.ServiceUnavailable)


def test_violated_check_is_reported_with_the_field_of_the_model(app, sql):
    table = database.db.metadata.tables["projects"]
    statement = table.insert().values(id=database.uuid7(), name="").returning(table.c.id)
    with app.app_context(), pytest.raises(problems.ValidationFailed) as raised:
        database.execute(statement)
    assert raised.value.field_errors == {"name": ["Must not be empty."]}
