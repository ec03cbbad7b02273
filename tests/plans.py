"""The statements that a request sends to PostgreSQL, and how PostgreSQL executes them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import Any
from unittest.mock import patch

from flask.testing import FlaskClient
from psycopg2.extensions import cursor

from projectapp.database.connection import Connection


@contextmanager
def recorded() -> Iterator[list[tuple[str, Any]]]:
    """Record the statements that are sent while the block runs, each with its parameters."""
    statements: list[tuple[str, Any]] = []

    class Recorder(cursor):  # type: ignore[misc]
        def execute(self, statement: str, parameters: Any = None) -> None:
            statements.append((statement, parameters))
            super().execute(statement, parameters)

    with patch.object(
        Connection, "cursor", partialmethod(Connection.cursor, cursor_factory=Recorder)
    ):
        yield statements


def explain(
    client: FlaskClient, path: str, options: str, headers: dict[str, str] | None = None
) -> list[Any]:
    """Run EXPLAIN (ANALYZE, `options`) for the statement of a GET; return its output's rows."""
    with recorded() as statements:
        response = client.get(path, headers=headers)
    if response.status_code != 200:
        raise ValueError(response.text)
    # There may be other statements: the look-up of a token, and the record that it was used.
    statement, parameters = next(pair for pair in statements if "FROM projects" in pair[0])
    database = client.application.extensions["database"]
    # EXPLAIN is for one statement; the timeouts (behind a pooler) and the token check precede it.
    statement = statement.removeprefix(database.connector.set_local_sql)
    statement = re.sub(r"^SELECT api_token_check\([^)]*\); ", "", statement)
    connection = database.engine.raw_connection()
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, {options}) {statement}", parameters)
            return [row[0] for row in cursor.fetchall()]
    finally:
        connection.close()


def executed(
    client: FlaskClient, path: str, headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the nodes of the plan that were executed, as in EXPLAIN's JSON."""

    def flatten(node: dict[str, Any]) -> list[dict[str, Any]]:
        inner = [descendant for plan in node.get("Plans", ()) for descendant in flatten(plan)]
        return [node, *inner] if node["Actual Loops"] else inner

    return flatten(explain(client, path, "FORMAT JSON", headers)[0][0]["Plan"])
