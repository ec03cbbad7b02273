"""Execute one statement before a deadline, and report truthfully whether it took effect."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any

import psycopg2
from flask import current_app
from sqlalchemy import Executable, bindparam, column, func, select, table, true
from sqlalchemy.exc import TimeoutError as PoolTimeout

from projectapp.database.connection import Connection
from projectapp.database.engine import Database
from projectapp.database.errors import DatabaseFault, breaks_connection, classify
from projectapp.database.models import db
from projectapp.database.prepared import FORGET_SQL
from projectapp.database.statements import CompiledStatement, compile_statement
from projectapp.database.watchdog import watchdog
from projectapp.metrics.definitions import LOST_ANSWERS, STATEMENT_DURATION, STATEMENTS_RETRIED
from projectapp.problems import OutcomeUnknown, ServiceUnavailable, Unauthorized
from projectapp.request_state import Caller, RequestState, request_state, seconds_left

# A named tuple with the columns that the statement returns. mypy does not know which these are.
Row = Any

# A write that changes nothing. Its commit waits for the synchronous standby, which then has all
# earlier commits, too.
WAIT_FOR_REPLICATION = select(func.pg_logical_emit_message(true(), "projectapp", ""))

# Ends the server process that got a statement whose answer was lost, so that it cannot execute the
# statement later. Waits up to 1000 ms. Returns True, or no row, if the process is gone.
_TERMINATE_BACKEND = (
    select(func.pg_terminate_backend(column("pid"), 1000))
    .select_from(table("pg_stat_activity"))
    .where(column("pid") == bindparam("pid"), column("pid") != func.pg_backend_pid())
    .where(column("usename") == func.current_user(), column("datname") == func.current_database())
)

_NOT_TRACED = nullcontext()

# Says who changes rows, for the triggers of migration 0014, until the end of the transaction.
_SET_CHANGE_SOURCE = "SET LOCAL projectapp.change = %(change_source)s; "


def execute(
    statement: Executable | CompiledStatement,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    resolve: Callable[[], Any] | None = None,
) -> Any:
    """Run one statement in one round trip; return its first Row, or None if it has no row.

    A statement that had no effect, because of a deadlock or a failed connect, is executed once
    more. If the connection breaks after the statement was sent, its answer is lost, and a write may
    have taken effect. Then `resolve` is called, and again while the database is unreachable. It
    finds out what happened, and returns the lost row. Without `resolve` the statement is executed
    once more: use that for reads, and for writes whose repeat is harmless.

    Raises ServiceUnavailable, OutcomeUnknown, Conflict, ValidationFailed, BadRequest, Unauthorized.
    """
    database: Database = current_app.extensions["database"]
    if not isinstance(statement, CompiledStatement):
        statement = compile_statement(statement, database.engine.dialect, frozenset(parameters))
    state = request_state()
    retry_deadline = time.monotonic() + database.statement_timeout / 2
    for is_last_try in (False, True):
        try:
            with state.span.trace_statement(statement) if state.span else _NOT_TRACED:
                row = _run(database, state, statement, parameters)
        except DatabaseFault as fault:
            database.is_available = type(fault.problem) is not ServiceUnavailable
            if fault.is_answer_lost and resolve:
                return _resolve_lost_answer(resolve, fault)
            may_retry = fault.can_retry or fault.is_answer_lost
            if is_last_try or not may_retry or time.monotonic() > retry_deadline:
                raise fault.problem from fault.__cause__
            STATEMENTS_RETRIED.increase()
            _wait_before_retry()
        else:
            database.is_available = True
            return row


def write_repeatably(statement: Executable, parameters: Mapping[str, Any]) -> Any:
    """Execute a write that may be executed twice: its effect and its row are then the same."""

    def resolve() -> Any:
        row = execute(statement, parameters)
        # If this repeat changed nothing, its commit did not wait for the standby.
        execute(WAIT_FOR_REPLICATION)
        return row

    return execute(statement, parameters, resolve)


def _run(
    database: Database,
    state: RequestState,
    statement: CompiledStatement,
    parameters: Mapping[str, Any],
) -> Any:
    sql, values = statement.bind_parameters(parameters)
    prefix = state.statement_prefix
    if statement.is_write and state.caller:
        prefix += _SET_CHANGE_SOURCE
        values = {**values, "change_source": _change_source(state, state.caller)}
    connection: Any = None
    _require_time_left(state.deadline, 1 + database.pool_timeout)
    try:
        connection = database.pool.take()
        try:
            # One second more than PostgreSQL's own timeout, so that PostgreSQL reports it first.
            seconds = min(database.statement_timeout + 1, _require_time_left(state.deadline, 1))
            watchdog.start(connection, seconds)
            sent_at = time.monotonic()
            try:
                # One message is one transaction, so SET LOCAL leaves nothing behind.
                set_local = database.connector.set_local_sql if connection.is_behind_pooler else ""
                row = _send(connection, statement, set_local + prefix, sql, values)
            finally:
                watchdog.stop(connection)
                if state.started_at:  # a request: the batches of an import take much longer
                    kind = "write" if statement.is_write else "read"
                    STATEMENT_DURATION.observe(time.monotonic() - sent_at, kind)
            state.prefix_was_sent = True
            # Before `put_back`: then another thread may get the connection and its warning.
            if connection.pop_replication_warning():
                raise DatabaseFault(OutcomeUnknown())
        except psycopg2.Error as error:
            if breaks_connection(error):
                connection.generation_ended.set()
            raise
        finally:
            database.pool.put_back(connection)
    except (psycopg2.Error, PoolTimeout) as error:
        fault = classify(error, connection is not None, db.metadata.tables.values())
        fault.pid = connection.pid if connection and not connection.is_behind_pooler else None
        if fault.problem is error:
            raise
        raise fault from error
    return row


def _change_source(state: RequestState, caller: Caller) -> str:
    """Return the caller, the credential, the request id and the operation, one on each line.

    An owner with a line break cannot forge the other fields.
    """
    values = (caller.subject, caller.credential, state.request_id, state.operation)
    return "\n".join((value or "").replace("\n", " ") for value in values)


def _send(
    connection: Connection, statement: CompiledStatement, prefix: str, sql: str, values: Any
) -> Any:
    """Send `prefix` and the statement in one message; return the row.

    If the session does not have the prepared statement that it should have, nothing was executed.
    Then the text is sent.
    """
    prepared_statements = connection.prepared_statements
    form = None if connection.is_behind_pooler else statement.next_prepared_form()
    if form and (message := prepared_statements.message(form, values, prefix)):
        try:
            return _fetch_row(connection, statement, message, values)
        except psycopg2.Error as error:
            if not prepared_statements.forget_if_lost(error):
                raise
        prefix = FORGET_SQL + prefix
    return _fetch_row(connection, statement, prefix + sql, values)


def _fetch_row(
    connection: Connection, statement: CompiledStatement, message: str, values: Any
) -> Any:
    cursor = connection.cursor()  # the end of the function also closes it, which frees the result
    cursor.execute(message, values)
    return statement.fetch_row(cursor)


def _resolve_lost_answer(resolve: Callable[[], Any], fault: DatabaseFault) -> Any:
    """End the server process that got the statement, then call `resolve` until it succeeds.

    Raises OutcomeUnknown if the database stays unreachable.
    """
    outcome = "resolved"
    try:
        return _try_to_resolve(resolve, fault)
    except OutcomeUnknown:
        outcome = "unknown"
        raise
    finally:
        LOST_ANSWERS.increase(outcome)


def _try_to_resolve(resolve: Callable[[], Any], fault: DatabaseFault) -> Any:
    timeout = current_app.config["DATABASE_STATEMENT_TIMEOUT"]
    deadline = time.monotonic() + min(timeout, seconds_left() - 1)
    while True:
        try:
            if fault.pid and execute(_TERMINATE_BACKEND, {"pid": fault.pid}) == (False,):
                raise OutcomeUnknown  # the process is still running
            return resolve()
        except OutcomeUnknown:
            raise
        except Unauthorized as error:  # the caller's token was revoked in the meantime
            raise OutcomeUnknown from error
        except ServiceUnavailable as error:
            if time.monotonic() > deadline:
                raise OutcomeUnknown from error
        _wait_before_retry()


def _require_time_left(deadline: float, minimum_seconds: float) -> float:
    """Return the seconds until the deadline; raise DatabaseFault if there are too few."""
    seconds = deadline - time.monotonic()
    if seconds < minimum_seconds:
        message = "The database takes too long. Try again shortly."
        raise DatabaseFault(ServiceUnavailable(message, 1, "request_timeout"))
    return seconds


def _wait_before_retry() -> None:
    time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - so that threads do not all retry at once
