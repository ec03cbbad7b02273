"""Execute one statement within its deadline, and report truthfully whether it took effect.

Only this package and the URL parser of the settings use psycopg2.
"""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any

import psycopg2
from flask import current_app
from sqlalchemy import Executable, bindparam, column, func, select, table, true
from sqlalchemy.exc import SQLAlchemyError

from projectapp.database.connection import watchdog
from projectapp.database.engine import Database
from projectapp.database.errors import DatabaseFault, breaks_connection, classify
from projectapp.database.models import db
from projectapp.database.statements import CompiledStatement, compile_statement
from projectapp.problems import OutcomeUnknown, ServiceUnavailable, Unauthorized
from projectapp.request_state import request_state, seconds_left

Row = Any  # a named tuple of the columns that the statement returns

# Its commit waits until all that was committed before is as durable as it will be.
WAIT_FOR_REPLICATION = select(func.pg_logical_emit_message(true(), "projectapp", ""))

# A process that works on a statement whose answer was lost is ended before anybody looks: it might
# go on, or not even have read it. True or no row: it is gone. Milliseconds to wait for that.
_END = (
    select(func.pg_terminate_backend(column("pid"), 1000))
    .select_from(table("pg_stat_activity"))
    .where(column("pid") == bindparam("pid"), column("pid") != func.pg_backend_pid())
    .where(column("usename") == func.current_user(), column("datname") == func.current_database())
)


def execute(
    statement: Executable | CompiledStatement,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    settle: Callable[[], Any] | None = None,
) -> Any:
    """Run one statement, in one round trip, and return its first row, a named tuple, or None.

    What can be run twice without harm is run again where nothing came of it. For what cannot,
    `settle` finds out what became of it when its answer is lost, and returns what that would have
    been; it is called again while the database is away. Raises the Problem that fits:
    ServiceUnavailable, OutcomeUnknown, Conflict, ValidationFailed, BadRequest.
    """
    database: Database = current_app.extensions["database"]
    if not isinstance(statement, CompiledStatement):
        statement = compile_statement(statement, database.engine.dialect, frozenset(parameters))
    end = time.monotonic() + database.statement_timeout / 2
    for last in (False, True):
        try:
            row = _run(database, statement, parameters)
        except DatabaseFault as fault:
            database.is_available = type(fault.problem) is not ServiceUnavailable
            if fault.lost and settle:
                return _settle(settle, fault)
            if last or not (fault.again or fault.lost) or time.monotonic() > end:
                raise fault.problem from fault.__cause__
            _pause()
        else:
            database.is_available = True
            return row


def write_repeatably(statement: Executable, parameters: Mapping[str, Any]) -> Any:
    """Execute a write that can be repeated: it changes nothing more and returns the same."""

    def settle() -> Any:
        row = execute(statement, parameters)
        execute(
            WAIT_FOR_REPLICATION
        )  # or it might have found what a crash of the server can still undo
        return row

    return execute(statement, parameters, settle)


def _run(database: Database, prepared: CompiledStatement, parameters: Mapping[str, Any]) -> Any:
    text, values = prepared.bind(parameters)
    state = request_state()
    link: Any = None
    end = time.monotonic() + seconds_left()
    _patience(end, 1 + database.pool_timeout)
    try:
        with closing(database.engine.raw_connection()) as lease:
            # One second beyond PostgreSQL's own limit, so that it is the one to say so.
            seconds = min(database.statement_timeout + 1, _patience(end, 1))
            link = lease.dbapi_connection
            # Sent as one message they are one transaction: one round trip, and nothing stays.
            limits = database.connector.set_local_sql if link.pooled else ""
            message = limits + state.statement_prefix + text
            try:
                with watchdog.limit(link, seconds), link.cursor() as cursor:
                    cursor.execute(message, values)
                    row = prepared.read(cursor)
            except psycopg2.Error as error:
                if breaks_connection(error):
                    link.is_over.set()
                raise
            state.prefix_was_sent = True
            if link.is_unreplicated():  # while no other thread can be told instead
                raise DatabaseFault(OutcomeUnknown())
    except (psycopg2.Error, SQLAlchemyError) as error:
        fault = classify(error, link is not None, db.metadata.tables.values())
        fault.pid = link.pid if link and not link.pooled else None
        if fault.problem is error:
            raise
        raise fault from error
    return row


def _settle(settle: Callable[[], Any], fault: DatabaseFault) -> Any:
    """Call `settle` until it finds out, once what was sent can have no more effect."""
    end = time.monotonic() + min(
        current_app.config["DATABASE_STATEMENT_TIMEOUT"], seconds_left() - 1
    )
    while True:
        try:
            alive = fault.pid and execute(_END, {"pid": fault.pid}) == (False,)
            if alive:
                raise OutcomeUnknown
            return settle()
        except OutcomeUnknown:
            raise
        except Unauthorized as error:
            raise OutcomeUnknown from error
        except ServiceUnavailable as error:
            if time.monotonic() > end:
                raise OutcomeUnknown from error
        _pause()


def _patience(end: float, least: float) -> float:
    """Seconds until `end`; raises DatabaseFault if there are less than `least`."""
    left = end - time.monotonic()
    if left < least:
        raise DatabaseFault(
            ServiceUnavailable("The database takes too long. Try again shortly.", 1)
        )
    return left


def _pause() -> None:
    time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - apart from the others who wait
