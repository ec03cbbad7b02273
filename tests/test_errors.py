"""Every error has one shape, tells what it may, and shows nothing inside."""

import logging
import time

import psycopg2
import pytest
from flask import abort
from sqlalchemy.exc import TimeoutError as PoolTimeout

from projectapp import database, problems
from projectapp.database.errors import classify
from tests.conftest import PROJECTS
from tests.wire import free_port


@pytest.fixture
def broken(make_app, direct_url):
    """An application with a route that fails as told."""
    app = make_app()

    @app.get("/fail")
    def fail():
        raise RuntimeError("secret: SELECT 1 FROM host")

    @app.get("/teapot")
    def teapot():
        abort(418)

    return app.test_client()


def test_an_unknown_route_is_a_problem(client, problem):
    found = problem(client.get("/nowhere"), 404, "not_found")
    assert found["type"] == "about:blank"
    assert found["title"] == "Not Found"


def test_a_500_tells_nothing_and_logs_the_trace_with_its_request_id(broken, problem, caplog):
    found = problem(broken.get("/fail", headers={"X-Request-ID": "abc-1"}), 500, "internal_error")
    assert "secret" not in str(found)
    assert found["request_id"] == "abc-1"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "secret" in str(record.exc_info[1])


def test_an_error_without_a_code_of_ours_is_named_by_its_phrase(broken, problem):
    assert problem(broken.get("/teapot"), 418)["error"] == "i_m_a_teapot"


def test_a_double_slash_is_no_redirect(client, problem):
    problem(client.get("//api//v1/projects"), 404)


def test_a_database_that_is_away_is_a_503_and_health_says_degraded(make_app, problem, caplog):
    url = f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/test"
    client = make_app(DATABASE_URL=url).test_client()
    assert client.get("/health").json["status"] == "ok"
    for answer in (
        client.get(PROJECTS),
        client.post(PROJECTS, json={"name": "x"}),
        client.get("/ready"),
    ):
        found = problem(answer, 503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert "127.0.0.1" not in str(found)
    assert client.get("/health").json["status"] == "degraded"
    assert "hunter2" not in caplog.text
    assert client.get("/nowhere").status_code == 404
    assert client.delete(PROJECTS).status_code == 405


def test_health_is_ok_again_once_the_database_is(make_app, proxy, app):
    client = make_app(DATABASE_URL=proxy.url).test_client()
    client.get(PROJECTS)
    proxy.refuses = True
    proxy.cut()
    assert client.get(PROJECTS).status_code == 503
    assert client.get("/health").json["status"] == "degraded"
    proxy.refuses = False
    assert client.get(PROJECTS).status_code == 200
    assert client.get("/health").json["status"] == "ok"


def test_a_full_pool_is_a_503_within_its_timeout(make_app, app, problem):
    busy = make_app(DATABASE_POOL_SIZE="1", DATABASE_POOL_TIMEOUT="1")
    with busy.app_context():
        engine = database.db.engine
    with engine.connect():
        started = time.monotonic()
        problem(busy.test_client().get(PROJECTS), 503, "unavailable")
        assert time.monotonic() - started < 20  # SQLAlchemy's own timeout is 30
        assert busy.test_client().get("/health").status_code == 200
    assert busy.test_client().get(PROJECTS).status_code == 200


def test_a_missing_table_is_a_503(client, sql, problem):
    sql("ALTER TABLE projects RENAME TO elsewhere")
    try:
        problem(client.get(PROJECTS), 503, "unavailable")
    finally:
        sql("ALTER TABLE elsewhere RENAME TO projects")


def test_the_log_does_not_quote_the_row(client, make_project, caplog):
    url = f"{PROJECTS}/{make_project()['id']}"
    client.patch(url, json={"attributes": {"a": "secret" * 2000}})
    client.patch(url, json={"attributes": {"b": "secret" * 2000}})
    assert "attributes_size" in caplog.text
    assert "secret" not in caplog.text


def test_a_read_only_database_serves_reads_and_refuses_writes(
    make_app, direct_url, make_project, problem
):
    make_project()
    url = f"{direct_url}&options=-c%20default_transaction_read_only%3Don"
    client = make_app(DATABASE_URL=url).test_client()
    assert client.get(PROJECTS).json["total"] == 1
    problem(client.post(PROJECTS, json={"name": "x"}), 503, "unavailable")


class Raised(psycopg2.Error):
    """What PostgreSQL would raise with this SQLSTATE."""

    def __init__(self, state):
        super().__init__("the server's words")
        self.state = state

    pgcode = property(lambda self: self.state)
    diag = type(
        "Diagnostics", (), {"constraint_name": None, "message_primary": "said", "context": None}
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
        *((s, problems.ServiceUnavailable) for s in ("42P01", "42703", "42501", "42883")),
        ("42601", Raised),
        (None, Raised),
    ],
)
def test_a_database_error_is_classified_by_its_sqlstate(app, state, problem_class):
    found = classify(Raised(state), sent=True).problem
    assert isinstance(found, problem_class)
    assert "server's words" not in getattr(found, "detail", "")
    if state and state.startswith("53"):
        assert found.headers["Retry-After"] == "30"


def test_an_error_of_the_pool_is_classified_without_a_sqlstate():
    assert isinstance(classify(PoolTimeout(), sent=False).problem, problems.ServiceUnavailable)


def test_a_violated_check_names_the_field_that_its_model_says(app, sql):
    table = database.db.metadata.tables["projects"]
    statement = table.insert().values(id=database.uuid7(), name="").returning(table.c.id)
    with app.app_context(), pytest.raises(problems.ValidationFailed) as raised:
        database.execute(statement)
    assert raised.value.field_errors == {"name": ["Must not be empty."]}
