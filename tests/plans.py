"""What PostgreSQL does for a request."""

import re
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import event

from projectapp import database


def explain(
    client: FlaskClient, path: str, options: str, headers: dict[str, str] | None = None
) -> list[Any]:
    """The rows of EXPLAIN ANALYZE of the statement that a GET of `path` runs."""
    seen: list[Any] = []
    with client.application.app_context():
        engine = database.db.engine

    def listen(*given: Any) -> None:
        seen.append(given[2:4])

    event.listen(engine, "before_cursor_execute", listen)
    answer = client.get(path, headers=headers)
    event.remove(engine, "before_cursor_execute", listen)
    if answer.status_code != 200:
        raise ValueError(answer.text)
    # Who calls may have been looked up before, and that they did is recorded beside it.
    statement, parameters = next(one for one in seen if "FROM projects" in one[0])
    limits = client.application.extensions["database"]["connector"].local_limits
    statement = statement.removeprefix(limits)  # it has them behind a pooler
    statement = re.sub(r"^SELECT api_token_check\([^)]*\); ", "", statement)
    connection = engine.raw_connection()
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, {options}) {statement}", parameters)
            return [row[0] for row in cursor.fetchall()]
    finally:
        connection.close()


def executed(
    client: FlaskClient, path: str, headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """The nodes of the plan that were executed, as EXPLAIN's JSON has them."""

    def flat(node: dict[str, Any]) -> list[dict[str, Any]]:
        inner = [found for plan in node.get("Plans", ()) for found in flat(plan)]
        return [node, *inner] if node["Actual Loops"] else inner

    return flat(explain(client, path, "FORMAT JSON", headers)[0][0]["Plan"])
