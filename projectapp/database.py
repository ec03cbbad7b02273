"""The engine, the one way to run a statement, and what a database error means to a client.

All that knows psycopg2 stands here, but for the reading of its URL in config.py. Connections are in
AUTOCOMMIT: a statement is atomic in PostgreSQL already, so a request that is one statement is one
round trip.
"""

import functools
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import psycopg2
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ColumnElement, Executable, MetaData, event, func, literal_column
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase

from projectapp.embedded import EmbeddedError, Server
from projectapp.errors import BadRequest, Conflict, Invalid, Unavailable

log = logging.getLogger(__name__)


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
    random = secrets.randbits(74)
    high = time.time_ns() // 1_000_000 << 16 | 7 << 12 | random >> 62
    return UUID(int=high << 64 | 2 << 62 | random & (1 << 62) - 1)


def rfc3339(column: Any) -> ColumnElement[str]:
    """A timestamptz as text in UTC with microseconds, whatever the session's time zone."""
    return func.to_char(
        func.timezone(literal_column("'UTC'"), column),
        literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""),
    )


def init_app(app: Flask) -> None:
    server = None
    if app.config["DATABASE_URL"] is None:
        try:
            server = Server(app.config["DATABASE_HOME"], app.config["PG_BIN"], app.testing)
        except EmbeddedError as error:
            raise SystemExit(str(error)) from None
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "creator": functools.partial(_connect, app.config, server),
        "isolation_level": "AUTOCOMMIT",
        "pool_reset_on_return": None,  # nothing to roll back in AUTOCOMMIT
        "pool_size": app.config["THREADS"],
        "max_overflow": 0,
        "pool_timeout": app.config["DATABASE_POOL_TIMEOUT"],
        "pool_use_lifo": True,
        "query_cache_size": 40,  # a list takes some 200 KiB, and there are many forms of it
        "use_native_hstore": False,  # not used, so nobody asks for its oid
        "json_serializer": functools.partial(json.dumps, ensure_ascii=False),
    }
    db.init_app(app)
    app.extensions["database_seen"] = {"ok": True}
    with app.app_context():
        engine = db.engine
    # Connections made before a fork belong to the parent; closing them here would cut it off.
    os.register_at_fork(after_in_child=functools.partial(engine.dispose, close=False))
    ping_after = app.config["DATABASE_PING_AFTER"]

    @event.listens_for(engine, "checkin")
    def remember(dbapi: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping_idle(dbapi: Any, record: Any, proxy: Any) -> None:
        if time.monotonic() - record.info.get("idle_since", time.monotonic()) > ping_after:
            try:
                with dbapi.cursor() as cursor:
                    cursor.execute("SELECT 1")
            except psycopg2.Error as error:
                raise InvalidatePoolError from error


def _connect(config: Mapping[str, Any], server: Server | None) -> Any:
    defaults = {
        "connect_timeout": config["DATABASE_CONNECT_TIMEOUT"],
        "application_name": "projectapp",
        "client_encoding": "utf8",
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 5000,
    }
    if server:
        try:
            server.start()
        except EmbeddedError as error:
            raise psycopg2.OperationalError(str(error)) from error
    return psycopg2.connect(**defaults | (server.parameters if server else config["DATABASE_URL"]))


def one(statement: Executable, parameters: Mapping[str, Any] | None = None) -> Any:
    """Run one statement, in one round trip, and return its first row, or None.

    Raises the Problem that fits what the database said: Unavailable, Conflict, Invalid, BadRequest.
    """
    seen = current_app.extensions["database_seen"]
    try:
        with db.engine.connect() as connection:
            row = connection.execute(statement, parameters).first()
    except SQLAlchemyError as error:
        problem = classify(error)
        seen["ok"] = not isinstance(problem, Unavailable)
        raise problem from error
    seen["ok"] = True
    return row


# SQLSTATE classes and codes (PostgreSQL, appendix A) after which the same request may succeed:
# connection, rollback, resources, locks, shutdown, system, read-only, access.
_LATER = ("08", "40", "53", "55", "57", "58", "25006", "28", "3D", "42501")


def classify(error: SQLAlchemyError) -> Exception:
    """Return the Problem for a database error, or the error itself where it is a bug of ours."""
    if isinstance(error, PoolTimeout):
        return Unavailable("Every database connection is busy. Try again shortly.", retry_after=1)
    if not isinstance(error, DBAPIError):
        return error
    state = getattr(error.orig, "pgcode", None)
    if state is None:
        if isinstance(error.orig, psycopg2.OperationalError | psycopg2.InterfaceError):
            log.warning("database unreachable: %s", str(error.orig).strip())
            return Unavailable("The database cannot be reached. Try again shortly.", retry_after=2)
        return error
    said = error.orig.diag  # type: ignore[union-attr]
    log.warning("database error %s: %s", state, said.message_primary)  # the rest quotes the row
    if state.startswith("23"):
        return _violation(state, said.constraint_name)
    if state.startswith("22") or state == "54001":
        return BadRequest("The database does not accept this value.")
    if state in ("42P01", "42703", "42883"):
        return Unavailable("The database is behind this release: flask db upgrade.", retry_after=5)
    if state.startswith(_LATER):
        return Unavailable(
            "The database cannot do this now. Try again later.",
            retry_after=30 if state.startswith("53") else 2,
        )
    return error


def _violation(state: str, name: str | None) -> Conflict | Invalid | BadRequest:
    """What a violated constraint means: its own `info` says which field and what is wrong."""
    for table in db.metadata.tables.values():
        for constraint in table.constraints:
            if constraint.name == name and constraint.info:
                return Invalid({constraint.info["field"]: [constraint.info["message"]]})
    if state in ("23505", "23503", "23P01"):
        return Conflict("This contradicts what is stored already.")
    return BadRequest("The database does not accept this value.")
