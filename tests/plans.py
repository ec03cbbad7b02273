"""What PostgreSQL does for a request."""

from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import event

from projectapp import database


def explain(client: FlaskClient, path: str, options: str) -> list[Any]:
    """The rows of EXPLAIN ANALYZE of the statement that a GET of `path` runs."""
    seen: list[Any] = []
    with client.application.app_context():
        engine = database.db.engine
    event.listen(engine, "before_cursor_execute", lambda *given: seen.append(given[2:4]), once=True)
    answer = client.get(path)
    if answer.status_code != 200:
        raise ValueError(answer.text)
    [(statement, parameters)] = seen
    limits = client.application.extensions["database"]["connector"].local_limits
    statement = statement.removeprefix(limits)  # it has them behind a pooler
    connection = engine.raw_connection()
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, {options}) {statement}", parameters)
            return [row[0] for row in cursor.fetchall()]
    finally:
        connection.close()


def executed(client: FlaskClient, path: str) -> list[dict[str, Any]]:
    """The nodes of the plan that were executed, as EXPLAIN's JSON has them."""

    def flat(node: dict[str, Any]) -> list[dict[str, Any]]:
        inner = [found for plan in node.get("Plans", ()) for found in flat(plan)]
        return [node, *inner] if node["Actual Loops"] else inner

    return flat(explain(client, path, "FORMAT JSON")[0][0]["Plan"])
