"""The pool of connections. The connection that was returned last is used next.

A pool of our own, because it takes 2 us for a statement, and SQLAlchemy's 9 to 30 us
(docs/decisions/0022). SQLAlchemy's engine borrows its connections here.
"""

import threading
import time
from collections import deque
from contextlib import suppress

import psycopg2
from sqlalchemy.exc import TimeoutError as PoolTimeout

from projectapp.database.connection import Connection
from projectapp.database.connector import Connector
from projectapp.metrics.definitions import (
    DATABASE_CONNECTIONS,
    DATABASE_CONNECTIONS_MAX,
    DATABASE_WAIT,
    DATABASE_WAITING,
)


class ConnectionPool:
    """At most `size` connections, which are opened when they are needed.

    A connection that was idle for longer than `ping_after_seconds` is tested before it is used.
    """

    def __init__(
        self, connector: Connector, size: int, timeout_seconds: float, ping_after_seconds: float
    ) -> None:
        self._connector, self._size = connector, size
        self._timeout_seconds, self._ping_after_seconds = timeout_seconds, ping_after_seconds
        self.forget_connections()

    def forget_connections(self) -> None:
        """Begin without connections, and close none: after a fork they belong to the parent."""
        self._idle: deque[Connection] = deque()  # a stack
        self._in_use: set[Connection] = set()
        self._waiting_threads: set[int] = set()
        # Counts the idle connections, and those that may still be opened.
        self._unused = threading.Semaphore(self._size)

    def take(self) -> Connection:
        """Return a connection that no other thread uses, until `put_back`.

        Raises psycopg2.Error, and sqlalchemy.exc.TimeoutError if all are in use for too long.
        """
        if not self._unused.acquire(blocking=False):
            self._wait()
        try:
            connection = self._take_idle() or self._connector()
        except BaseException:
            self._unused.release()
            raise
        self._in_use.add(connection)
        return connection

    def _wait(self) -> None:
        """Wait until this thread may have a connection. Raises PoolTimeout."""
        started_at, thread = time.monotonic(), threading.get_ident()
        self._waiting_threads.add(thread)
        try:
            if not self._unused.acquire(timeout=self._timeout_seconds):
                raise PoolTimeout("all connections are in use")
        finally:
            self._waiting_threads.discard(thread)
            DATABASE_WAIT.observe(time.monotonic() - started_at)

    def _take_idle(self) -> Connection | None:
        try:
            connection = self._idle.pop()
        except IndexError:
            return None
        if self._is_usable(connection):
            return connection
        connection.close()
        return None

    def sample(self) -> None:
        """Set the metrics of the pool."""
        DATABASE_CONNECTIONS.set(len(self._in_use), "in_use")
        DATABASE_CONNECTIONS.set(len(self._idle), "idle")
        DATABASE_CONNECTIONS_MAX.set(self._size)
        DATABASE_WAITING.set(len(self._waiting_threads))

    def put_back(self, connection: Connection) -> None:
        self._in_use.discard(connection)
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        self._unused.release()

    def lend(self) -> Connection:
        """Take a connection for SQLAlchemy's engine. Its method `close` puts it back."""
        connection = self.take()
        connection.put_back = self.put_back
        return connection

    def close_idle(self) -> None:
        """Close the idle connections. Those that are needed later are opened again."""
        while self._idle:
            with suppress(IndexError):  # another thread has taken the last one
                self._idle.pop().close()

    def _is_usable(self, connection: Connection) -> bool:
        """Whether an idle connection still works. A broken one ends its generation."""
        if connection.closed or connection.generation_ended.is_set():
            return False
        try:
            if connection.has_unread_input():
                raise psycopg2.OperationalError("the server has ended the connection")
            if time.monotonic() - connection.idle_since > self._ping_after_seconds:
                self._connector.probe(connection)
        except psycopg2.Error:
            connection.generation_ended.set()
            return False
        return True
