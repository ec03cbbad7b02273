"""The pool of connections. The connection that was returned last is used next.

A pool of our own, because the checkout of SQLAlchemy's takes as long as everything else that a
statement costs in Python (docs/decisions/0022). SQLAlchemy's engine borrows its connections here.
"""

import time
from collections import deque
from threading import Condition

import psycopg2
from sqlalchemy.exc import TimeoutError as PoolTimeout

from projectapp.database.connection import Connection
from projectapp.database.connector import Connector


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
        # A stack of idle connections. None stands for a connection that may be opened.
        self._idle: deque[Connection | None] = deque([None] * self._size)
        self._has_idle = Condition()
        self._waiting_threads = 0

    def take(self) -> Connection:
        """Return a connection that no other thread uses, until `put_back`.

        Raises psycopg2.Error, and sqlalchemy.exc.TimeoutError if all are in use for too long.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._wait_for_idle()
        try:
            if connection and not self._is_usable(connection):
                connection.close()
                connection = None
            return connection or self._connector()
        except BaseException:
            self._push(None)
            raise

    def put_back(self, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        self._push(connection)

    def lend(self) -> Connection:
        """Take a connection for SQLAlchemy's engine. Its method `close` puts it back."""
        connection = self.take()
        connection.put_back = self.put_back
        return connection

    def close_idle(self) -> None:
        """Close the idle connections. Those that are needed later are opened again."""
        for _ in range(self._size):
            try:
                connection = self._idle.popleft()
            except IndexError:
                return
            if connection:
                connection.close()
            self._push(None)

    def _push(self, connection: Connection | None) -> None:
        self._idle.append(connection)
        # A thread that begins to wait after this line finds the connection that was just appended.
        if self._waiting_threads:
            with self._has_idle:
                self._has_idle.notify()

    def _wait_for_idle(self) -> Connection | None:
        deadline = time.monotonic() + self._timeout_seconds
        with self._has_idle:
            self._waiting_threads += 1
            try:
                while True:
                    try:
                        return self._idle.pop()
                    except IndexError:
                        if not self._has_idle.wait(deadline - time.monotonic()):
                            raise PoolTimeout("all connections are in use") from None
            finally:
                self._waiting_threads -= 1

    def _is_usable(self, connection: Connection) -> bool:
        """Whether an idle connection still works. If not, its generation has ended."""
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
