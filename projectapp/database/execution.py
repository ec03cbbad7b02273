"""The engine, and the one way to run a statement: within its deadline, and with a true answer.

All that knows psycopg2 stands in this package, but for the reading of its URL in config.py.
Connections are in AUTOCOMMIT: a statement is atomic in PostgreSQL already, so a request that is one
statement is one round trip.
"""

import functools
import json
import os
import random
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg2
from flask import Flask, current_app, g
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    ColumnElement,
    Executable,
    MetaData,
    bindparam,
    column,
    event,
    func,
    literal_column,
    select,
    table,
    true,
)
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase

from projectapp.database.connection import Connector, watchdog
from projectapp.database.faults import Fault, classify, ends_link
from projectapp.database.statements import Prepared, prepare
from projectapp.embedded import EmbeddedError, Server
from projectapp.errors import OutcomeUnknown, Unauthorized, Unavailable

Row = Any  # a named tuple of what the statement selects


class Base(DeclarativeBase):
    # PostgreSQL's own default names, so that a hand-made constraint and ours look alike.
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )


db = SQLAlchemy(model_class=Base)


def uuid7() -> UUID:
    """A version 7 UUID (RFC 9562, 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    bits = secrets.randbits(74)
    high = time.time_ns() // 1_000_000 << 16 | 7 << 12 | bits >> 62
    return UUID(int=high << 64 | 2 << 62 | bits & (1 << 62) - 1)


def rfc3339(column: Any) -> ColumnElement[str]:
    """A timestamptz as text in UTC with microseconds, whatever the session's time zone."""
    return func.to_char(
        func.timezone(literal_column("'UTC'"), column),
        literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""),
    )


# Its commit waits until all that was committed before is as durable as it will be.
BARRIER = select(func.pg_logical_emit_message(true(), "projectapp", ""))

# A process that works on a statement whose answer was lost is ended before anybody looks: it might
# go on, or not even have read it. True or no row: it is gone. Milliseconds to wait for that.
_END = (
    select(func.pg_terminate_backend(column("pid"), 1000))
    .select_from(table("pg_stat_activity"))
    .where(column("pid") == bindparam("pid"), column("pid") != func.pg_backend_pid())
    .where(column("usename") == func.current_user(), column("datname") == func.current_database())
)


class Database:
    """What the statements of an application run on; `ok` says whether the last one came through."""

    def __init__(self, app: Flask, connector: Connector) -> None:
        self.ok = True
        self.connector = connector
        self.statement_timeout: int = app.config["DATABASE_STATEMENT_TIMEOUT"]
        self.pool_timeout: int = app.config["DATABASE_POOL_TIMEOUT"]
        with app.app_context():
            self.engine = db.engine


def init_app(app: Flask) -> None:
    server = None
    if app.config["DATABASE_URL"] is None:
        try:
            server = Server(
                app.config["EMBEDDED_POSTGRES_DIR"],
                app.config["EMBEDDED_POSTGRES_BIN"],
                app.testing,
            )
        except EmbeddedError as error:
            raise SystemExit(str(error)) from None
    connector = Connector(app.config, server, _time_left)
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "creator": connector,
        "isolation_level": "AUTOCOMMIT",
        "pool_reset_on_return": None,  # nothing to roll back in AUTOCOMMIT
        "pool_size": app.config["DATABASE_POOL_SIZE"],
        "max_overflow": 0,
        "pool_timeout": app.config["DATABASE_POOL_TIMEOUT"],
        "pool_use_lifo": True,
        "hide_parameters": True,  # they are the users'
        "use_native_hstore": False,  # not used, so nobody asks for its oid
        "json_serializer": functools.partial(json.dumps, ensure_ascii=False),
    }
    db.init_app(app)
    app.extensions["database"] = database = Database(app, connector)
    engine = database.engine
    # Connections made before a fork belong to the parent; closing them here would cut it off.
    os.register_at_fork(after_in_child=functools.partial(engine.dispose, close=False))
    connector.guard_first(engine)
    ping_after = app.config["DATABASE_PING_AFTER_IDLE"]

    @event.listens_for(engine, "checkin")
    def remember(dbapi: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def try_idle(dbapi: Any, record: Any, proxy: Any) -> None:
        if "idle_since" not in record.info:
            return
        try:
            if dbapi.is_over.is_set() or dbapi.has_news():
                raise InvalidatePoolError
            if time.monotonic() - record.info["idle_since"] > ping_after:
                connector.ping(dbapi)
        except psycopg2.Error as error:
            raise InvalidatePoolError from error


def one(
    statement: Executable | Prepared,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    settle: Callable[[], Any] | None = None,
) -> Any:
    """Run one statement, in one round trip, and return its first row, a named tuple, or None.

    What can be run twice without harm is run again where nothing came of it. For what cannot,
    `settle` finds out what became of it when its answer is lost, and returns what that would have
    been; it is called again while the database is away. Raises the Problem that fits: Unavailable,
    OutcomeUnknown, Conflict, Invalid, BadRequest.
    """
    database: Database = current_app.extensions["database"]
    if not isinstance(statement, Prepared):
        statement = prepare(statement, database.engine.dialect, frozenset(parameters))
    end = time.monotonic() + database.statement_timeout / 2
    for last in (False, True):
        try:
            row = _run(database, statement, parameters)
        except Fault as fault:
            database.ok = type(fault.problem) is not Unavailable
            if fault.lost and settle:
                return _settle(settle, fault)
            if last or not (fault.again or fault.lost) or time.monotonic() > end:
                raise fault.problem from fault.__cause__
            _pause()
        else:
            database.ok = True
            return row


def write_repeatably(statement: Executable, parameters: Mapping[str, Any]) -> Any:
    """`one`, for a write that can be run again: that changes nothing more and returns the same."""

    def settle() -> Any:
        row = one(statement, parameters)
        one(BARRIER)  # or it might have found what a crash of the server can still undo
        return row

    return one(statement, parameters, settle)


def _run(database: Database, prepared: Prepared, parameters: Mapping[str, Any]) -> Any:
    text, values = prepared.bind(parameters)
    link: Any = None
    end = time.monotonic() + _time_left()
    _patience(end, 1 + database.pool_timeout)
    try:
        with closing(database.engine.raw_connection()) as lease:
            # One second beyond PostgreSQL's own limit, so that it is the one to say so.
            seconds = min(database.statement_timeout + 1, _patience(end, 1))
            link = lease.dbapi_connection
            # Sent as one message they are one transaction: one round trip, and nothing stays.
            limits = database.connector.local_limits if link.pooled else ""
            message = limits + g.get("guard", "") + text
            try:
                with watchdog.limit(link, seconds), link.cursor() as cursor:
                    cursor.execute(message, values)
                    row = prepared.read(cursor)
            except psycopg2.Error as error:
                if ends_link(error):
                    link.is_over.set()
                raise
            g.was_guarded = True
            if link.is_unreplicated():  # while no other thread can be told instead
                raise Fault(OutcomeUnknown())
    except (psycopg2.Error, SQLAlchemyError) as error:
        fault = classify(error, link is not None, db.metadata.tables.values())
        fault.pid = link.pid if link and not link.pooled else None
        if fault.problem is error:
            raise
        raise fault from error
    return row


def _settle(settle: Callable[[], Any], fault: Fault) -> Any:
    """Call `settle` until it finds out, once what was sent can have no more effect."""
    end = time.monotonic() + min(current_app.config["DATABASE_STATEMENT_TIMEOUT"], _time_left() - 1)
    while True:
        try:
            alive = fault.pid and one(_END, {"pid": fault.pid}) == (False,)
            if alive:
                raise OutcomeUnknown
            return settle()
        except OutcomeUnknown:
            raise
        except Unauthorized as error:
            raise OutcomeUnknown from error
        except Unavailable as error:
            if time.monotonic() > end:
                raise OutcomeUnknown from error
        _pause()


def _patience(end: float, least: float) -> float:
    """Seconds until `end`; raises Fault if there are less than `least`."""
    left = end - time.monotonic()
    if left < least:
        raise Fault(Unavailable("The database takes too long. Try again shortly.", 1))
    return left


def _time_left() -> float:
    """Seconds that the request, if there is one, may still take."""
    started = g.get("started") if g else None
    if started is None:
        return float("inf")
    return current_app.config["REQUEST_TIMEOUT"] - (time.monotonic() - started)


def _pause() -> None:
    time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - apart from the others who wait
