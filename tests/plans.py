"""The statements that a request sends to PostgreSQL, and how PostgreSQL executes them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partialmethod
from typing import Any, NamedTuple
from unittest.mock import patch
from uuid import uuid4

from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor

from projectapp.database.connection import Connection

_PREPARE = re.compile(r"\b(PREPARE \w+ .*?); (?:SELECT api_token_check\([^)]*\); )?EXECUTE ", re.S)


class SentStatement(NamedTuple):
    """A statement without what precedes it in its message, and the parameters for psycopg2.

    If `sql` is an EXECUTE, `prepare_sql` is the PREPARE of its statement; otherwise it is "".
    """

    sql: str
    parameters: Any
    prepare_sql: str

    @property
    def text(self) -> str:
        return self.prepare_sql or self.sql


@contextmanager
def recorded() -> Iterator[list[SentStatement]]:
    """Record the statements that are sent while the block runs."""
    statements: list[SentStatement] = []

    class Recorder(cursor):  # type: ignore[misc]
        def execute(self, message: str, parameters: Any = None) -> None:
            sql = re.sub(r"^(SET LOCAL [^;]*; )*", "", message)
            sql = re.sub(r"^SELECT api_token_check\([^)]*\); ", "", sql)
            prepare_sql = ""
            if executed := re.search(r"EXECUTE (\w+) \(.*", message, re.S):
                sql = executed[0]
                first_message = self.mogrify(message, parameters).decode()
                if "PREPARE " not in message:
                    super().execute(
                        "SELECT statement FROM pg_prepared_statements WHERE name = %s",
                        executed.groups(),
                    )
                    first_message = self.fetchone()[0]
                prepare_sql = _PREPARE.search(first_message)[1]  # type: ignore[index]
            statements.append(SentStatement(sql, parameters, prepare_sql))
            super().execute(message, parameters)

    with patch.object(
        Connection, "cursor", partialmethod(Connection.cursor, cursor_factory=Recorder)
    ):
        yield statements


def explain_sent(
    app: Flask, statement: SentStatement, options: str, plan_cache_mode: str
) -> list[Any]:
    """Run EXPLAIN (ANALYZE, `options`); return its output's rows. A write is rolled back.

    A prepared statement gets the plan of `plan_cache_mode`. With force_custom_plan this is the plan
    of the text with the values.
    """
    connector = app.extensions["database"].connector
    with closing(connector.connect_for_migrations()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('plan_cache_mode', %s, false)", (plan_cache_mode,))
        if statement.prepare_sql:
            cursor.execute(statement.prepare_sql)
        cursor.execute(f"EXPLAIN (ANALYZE, {options}) {statement.sql}", statement.parameters)
        return [row[0] for row in cursor.fetchall()]


def explain(
    client: FlaskClient, path: str, options: str, headers: dict[str, str] | None = None
) -> list[Any]:
    """Run EXPLAIN (ANALYZE, `options`) for the statement of a GET; return its output's rows."""
    with recorded() as statements:
        response = client.get(path, headers=headers)
    if response.status_code != 200:
        raise ValueError(response.text)
    # There may be other statements: the look-up of a token, and the record that it was used.
    statement = next(statement for statement in statements if "FROM projects" in statement.text)
    return explain_sent(client.application, statement, options, "force_generic_plan")


def flatten(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of a plan that were executed, as in EXPLAIN's JSON."""
    inner = [descendant for plan in node.get("Plans", ()) for descendant in flatten(plan)]
    return [node, *inner] if node["Actual Loops"] else inner


def executed(
    client: FlaskClient, path: str, headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the nodes of the plan of a GET's statement that were executed."""
    return flatten(explain(client, path, "FORMAT JSON", headers)[0][0]["Plan"])


def compare_plans(client: FlaskClient, requests: Sequence[tuple[str, str, Any]]) -> None:
    """Assert that the prepared statement of the last request reads no more than its text.

    The `requests` must send the same statement: the first as text, the last as EXECUTE. Each is a
    method, a path and the options of the client.
    """
    # Statements of earlier requests may take all places for prepared statements of a session.
    client.application.extensions["database"].pool.close_idle()
    for method, path, options in requests:
        with recorded() as statements:
            response = client.open(path, method=method, **options)
        assert response.status_code < 300, response.text
    [statement] = statements
    assert statement.prepare_sql, (path, "is not prepared")
    # The rows and keys of the requests exist already.
    new = {"id": uuid4(), "key": str(uuid4())}
    parameters = {**statement.parameters, **{n: new[n] for n in new if n in statement.parameters}}
    statement = statement._replace(parameters=parameters)
    for_all, for_values = (
        explain_sent(client.application, statement, "BUFFERS, FORMAT JSON", mode)[0][0]["Plan"]
        for mode in ("force_generic_plan", "force_custom_plan")
    )
    context = (path, statement.prepare_sql, for_all, for_values)
    assert count_rows(for_all) <= count_rows(for_values), context
    assert count_buffers(for_all) <= 1.1 * count_buffers(for_values) + 20, context


def count_rows(plan: dict[str, Any]) -> int:
    """Return how many rows a plan read from tables, before they were filtered."""
    counts = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return sum(
        node["Actual Loops"] * node.get(count, 0)
        for node in flatten(plan)
        if "Relation Name" in node and node["Node Type"] != "ModifyTable"
        for count in counts
    )


def count_buffers(plan: dict[str, Any]) -> int:
    """Return how many pages of tables and indexes a plan used."""
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
