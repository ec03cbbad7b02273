"""The engine: a pool of connections in AUTOCOMMIT mode.

A single statement is atomic in PostgreSQL. Without BEGIN and COMMIT it needs only one round trip.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
from flask import Flask
from sqlalchemy import Engine, event
from sqlalchemy.pool import NullPool

from projectapp import metrics
from projectapp.database.connector import Connector
from projectapp.database.models import db, encode_json
from projectapp.database.pool import ConnectionPool
from projectapp.request_state import seconds_left


class Database:
    """The engine of an application, and its timeouts in seconds.

    `is_available` is False if the last statement could not be executed.
    """

    engine: Engine

    def __init__(self, app: Flask, connector: Connector) -> None:
        self.is_available = True
        self.connector = connector
        self.statement_timeout: int = app.config["DATABASE_STATEMENT_TIMEOUT"]
        self.pool_timeout: int = app.config["DATABASE_POOL_TIMEOUT"]
        self.pool = ConnectionPool(
            connector,
            app.config["DATABASE_POOL_SIZE"],
            self.pool_timeout,
            app.config["DATABASE_PING_AFTER_IDLE"],
        )
        # Connections made before a fork belong to the parent. The child must not close them.
        os.register_at_fork(after_in_child=self.pool.forget_connections)
        metrics.sample_regularly("the database pool", self.pool.sample)


def init_app(app: Flask) -> None:
    """Add Flask-SQLAlchemy to `app`. Raises SystemExit if there is no PostgreSQL to connect to."""
    connector = Connector(app.config, _make_get_server(app.config), seconds_left)
    app.extensions["database"] = database = Database(app, connector)
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg2://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "creator": database.pool.lend,
        "poolclass": NullPool,  # closes a connection after each use, which puts it back
        "isolation_level": "AUTOCOMMIT",
        "pool_reset_on_return": None,  # there is nothing to roll back in AUTOCOMMIT
        "hide_parameters": True,  # parameters contain users' data
        "use_native_hstore": False,  # saves the query for the type's oid
        "json_serializer": encode_json,
    }
    db.init_app(app)
    with app.app_context():
        database.engine = db.engine
    event.listen(database.engine, "engine_disposed", lambda _: database.pool.close_idle())


def _make_get_server(config: Mapping[str, Any]) -> Callable[[], dict[str, str]]:
    """Return the function that returns libpq's parameters of the server.

    Without a DATABASE_URL that function starts the PostgreSQL of development, and raises
    psycopg2.OperationalError if it does not start.
    """
    url = config["DATABASE_URL"]
    if url is not None:
        return lambda: url
    from projectapp.devdb import DevPostgres, DevPostgresError  # never in production

    folder, binaries = config["EMBEDDED_POSTGRES_DIR"], config["EMBEDDED_POSTGRES_BIN"]
    try:
        server = DevPostgres(folder, binaries, config["TESTING"])
    except DevPostgresError as error:
        raise SystemExit(str(error)) from None

    def get_server() -> dict[str, str]:
        try:
            server.start()
        except DevPostgresError as error:
            raise psycopg2.OperationalError(str(error)) from error
        return server.parameters

    return get_server
