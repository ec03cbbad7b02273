"""Detects a connection pooler between us and PostgreSQL, and its mode."""

import random
from collections.abc import Callable

import psycopg2

from projectapp.database.connection import Connection
from projectapp.database.connector import PROBE_SECONDS
from projectapp.database.watchdog import watchdog

_PROBES = 24  # a pooler in transaction mode goes unnoticed only if all of them agree by chance


def detect_pool_mode(connect: Callable[[], Connection]) -> str:
    """Return the mode of the pooler: "transaction" or "session"; "" if there is no pooler.

    A pooler reports an invented pid when a client connects. In transaction mode it uses any free
    session for a transaction. So sooner or later two connections share a server process, or one of
    them changes its process. They are probed in random order: in a fixed order, a busy pooler or
    one that uses its sessions in turn could give each connection the same session every time.

    Raises psycopg2.Error, also if the pooler has no second session free.
    """
    connections = [connect(), connect()]
    try:
        for connection in connections:
            connection.autocommit = True
        first_pids = [_read_backend_pid(connection) for connection in connections]
        if first_pids == [connection.pid for connection in connections]:
            return ""
        is_shared = first_pids[0] == first_pids[1] or any(
            _read_backend_pid(connections[number]) != first_pids[number]
            for number in random.choices((0, 1), k=_PROBES)  # noqa: S311 - it is no secret
        )
        return "transaction" if is_shared else "session"
    finally:
        for connection in connections:
            connection.close()


def _read_backend_pid(connection: Connection) -> int:
    try:
        with watchdog.timeout(connection, PROBE_SECONDS), connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])
    except psycopg2.Error as error:
        message = str(error).partition("\n")[0]
        raise psycopg2.OperationalError(
            f"no answer; if a pooler is in between, it may have no free session: {message}"
        ) from error
