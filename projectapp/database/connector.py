"""Connects to PostgreSQL, and sets the timeouts of the new sessions."""

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
from psycopg2.extras import register_uuid

from projectapp.database.connection import Connection, open_connection
from projectapp.database.watchdog import watchdog

PROBE_SECONDS = 2  # the timeout of a trivial statement
_RECONNECT_WAIT_SECONDS = 0.2  # how long other threads wait for the one that reconnects


class Connector:
    """Connects to the server whose libpq parameters `get_server` returns.

    Connecting takes no longer than `seconds_left()`. While the database is unreachable, one thread
    at a time tries to connect. The others fail after _RECONNECT_WAIT_SECONDS, so that they are free
    for requests that need no database.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        get_server: Callable[[], dict[str, str]],
        seconds_left: Callable[[], float],
    ) -> None:
        self._config, self._get_server, self._seconds_left = config, get_server, seconds_left
        self._generation_ended = threading.Event()  # of the current generation
        self._is_unreachable = False
        self._reconnect_lock = threading.Lock()
        self._timeouts = {
            "lock_timeout": f"{config['DATABASE_LOCK_TIMEOUT']}s",
            "statement_timeout": f"{config['DATABASE_STATEMENT_TIMEOUT']}s",
            "idle_in_transaction_session_timeout": (
                f"{config['DATABASE_IDLE_IN_TRANSACTION_TIMEOUT']}s"
            ),
        }
        # An earlier client of a pooler's session, such as pg_dump, may have changed search_path.
        assignments = [f"{name} = '{value}'" for name, value in self._timeouts.items()]
        assignments.append("search_path TO DEFAULT")
        self.set_local_sql = "".join(f"SET LOCAL {assignment}; " for assignment in assignments)

    def __call__(self) -> Connection:
        """Return a new connection with its timeouts set. Raises psycopg2.Error."""
        if self._seconds_left() < PROBE_SECONDS:
            raise psycopg2.OperationalError("there is no time left to connect")
        if self._generation_ended.is_set():
            self._generation_ended = threading.Event()
        generation_ended, is_reconnect = self._generation_ended, self._is_unreachable
        if is_reconnect and not self._reconnect_lock.acquire(timeout=_RECONNECT_WAIT_SECONDS):
            raise psycopg2.OperationalError("another thread is trying to reach the database")
        try:
            connection = self._open(self._get_server())
            connection.autocommit, connection.generation_ended = True, generation_ended
            register_uuid(None, connection)
            self._set_session_limits(connection)
        except psycopg2.Error:
            self._is_unreachable = True
            raise
        finally:
            if is_reconnect:
                self._reconnect_lock.release()
        self._is_unreachable = False
        return connection

    def connect_for_migrations(self) -> Connection:
        """Connect without timeouts, with MIGRATIONS_DATABASE_URL if it is set.

        Raises psycopg2.Error.
        """
        server = self._config["MIGRATIONS_DATABASE_URL"]  # {} if libpq reads it from PGHOST etc.
        return self._open(self._get_server() if server is None else server)

    def _open(self, server: dict[str, str]) -> Connection:
        seconds, hosts = self._seconds_left(), server.get("host", "").count(",") + 1
        # libpq applies connect_timeout to each address. Its minimum is 2 seconds.
        timeout_per_host = max(2, min(self._config["DATABASE_CONNECT_TIMEOUT"], seconds / hosts))
        defaults = {
            "connect_timeout": int(timeout_per_host),
            "application_name": "projectapp",
            "client_encoding": "utf8",
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 5000,
        }
        return open_connection(defaults | server, None if seconds == math.inf else seconds)

    def _set_session_limits(self, connection: Connection) -> None:
        """Set the session's timeouts and its kind of plans, but not in the sessions of a pooler.

        They are shared. The pid that a pooler sends when a client connects is not that of the
        server process.
        """
        # With `auto` PostgreSQL would compare the estimated costs of custom and generic plans.
        limits = {**self._timeouts, "plan_cache_mode": "force_generic_plan"}
        row_count = self.probe(
            connection,
            "SELECT set_config(name, setting, false)"
            " FROM unnest(%s, %s) AS limits (name, setting) WHERE pg_backend_pid() = %s",
            (list(limits), list(limits.values()), connection.pid),
        )
        connection.is_behind_pooler = row_count == 0

    def probe(self, connection: Connection, sql: str = "SELECT 1", values: Any = None) -> int:
        """Run a trivial statement; return the number of its rows. Raises psycopg2.Error."""
        seconds = min(PROBE_SECONDS, self._seconds_left())
        with watchdog.timeout(connection, seconds), connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.rowcount
