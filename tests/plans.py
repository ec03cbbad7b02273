"""What PostgreSQL does for a request."""

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
    """The statements that are sent meanwhile, each with its values."""
    sent: list[tuple[str, Any]] = []

    class Recorder(cursor):  # type: ignore[misc]
        def execute(self, statement: str, values: Any = None) -> None:
            sent.append((statement, values))
            super().execute(statement, values)

    with patch.object(
        Connection, "cursor", partialmethod(Connection.cursor, cursor_factory=Recorder)
    ):
        yield sent


def explain(
    client: FlaskClient, path: str, options: str, headers: dict[str, str] | None = None
) -> list[Any]:
    """The rows of EXPLAIN ANALYZE of the statement that a GET of `path` runs."""
    with recorded() as sent:
        answer = client.get(path, headers=headers)
    if answer.status_code != 200:
        raise ValueError(answer.text)
    # Who calls may have been looked up before, and that they did is recorded beside it.
    statement, parameters = next(one for one in sent if "FROM projects" in one[0])
    served_by = client.application.extensions["database"]
    # Behind a pooler it has its limits.
    statement = statement.removeprefix(served_by.connector.set_local_sql)
    statement = re.sub(r"^SELECT api_token_check\([^)]*\); ", "", statement)
    connection = served_by.engine.raw_connection()
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
