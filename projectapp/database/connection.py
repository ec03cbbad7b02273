"""A connection to PostgreSQL that another thread can abort."""

import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from projectapp.database.prepared import PreparedStatements


class Connection(psycopg2.extensions.connection):  # type: ignore[misc]
    """A psycopg2 connection that another thread can abort.

    `is_behind_pooler` is True if the connection leads to a pooler such as PgBouncer. Its sessions
    are shared with other clients, so timeouts can only be set for one transaction.

    When a connection breaks, the other connections are probably broken, too. So all connections
    that were made since the last break are a generation and share the event `generation_ended`.
    When it is set, the pool drops them.

    `idle_since` is a time on the monotonic clock. `put_back` is set while SQLAlchemy's engine
    borrows the connection from the pool.
    """

    is_behind_pooler = False
    generation_ended: threading.Event
    notices: list[str]
    idle_since = 0.0
    put_back: Callable[["Connection"], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pid = self.info.backend_pid  # of PostgreSQL; a pooler sends an invented one
        self._inode = os.fstat(self.fileno()).st_ino
        self._input_poll = select.poll()
        self._input_poll.register(self.fileno(), select.POLLIN)
        self.prepared_statements = PreparedStatements()

    def close(self) -> None:
        """Close the connection, or put it back if SQLAlchemy's engine has borrowed it.

        A borrowed connection that is in a transaction, or not in AUTOCOMMIT mode, is closed before
        it is put back. The pool replaces it.
        """
        put_back, self.put_back = self.put_back, None
        is_idle = not self.closed and self.info.transaction_status == TRANSACTION_STATUS_IDLE
        if not (put_back and is_idle and self.autocommit):
            super().close()
        if put_back:
            put_back(self)

    def abort(self) -> None:
        """Shut down the socket. A thread that waits for the server then gets an error."""
        # libpq may have closed the socket a moment ago, and its file descriptor may already be that
        # of another file. The inode shows this. libpq cannot close the duplicate.
        with (
            suppress(OSError, psycopg2.Error),
            socket.socket(fileno=os.dup(self.fileno())) as duplicate,
        ):
            if os.fstat(duplicate.fileno()).st_ino == self._inode:
                duplicate.shutdown(socket.SHUT_RDWR)

    def has_unread_input(self) -> bool:
        """Whether an idle connection has unread data, usually the server's shutdown message."""
        return bool(self._input_poll.poll(0))

    def pop_replication_warning(self) -> bool:
        """Whether a commit was canceled while it waited for its synchronous standby.

        PostgreSQL then reports success and sends a warning (syncrep.c). It is recognized by its
        English text, so lc_messages must stay English. Deletes the connection's notices.
        """
        notices = self.notices
        if not notices:
            return False
        self.notices = []
        return any("synchronous replication" in notice for notice in notices)


def open_connection(parameters: Mapping[str, Any], seconds: float | None) -> Connection:
    """Connect with libpq's `parameters` within `seconds`; None is no limit.

    libpq's connect_timeout does not limit the lookup of host names, and applies to each address
    separately. Raises psycopg2.Error.
    """
    result: Future[Connection] = Future()

    def run() -> None:
        try:
            result.set_result(psycopg2.connect(**parameters, connection_factory=Connection))
        except UnicodeDecodeError:  # the server's message has another encoding
            result.set_exception(psycopg2.OperationalError("the server refuses"))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="connect", daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError:
        result.add_done_callback(_close_late)
        raise psycopg2.OperationalError("connecting takes too long") from None


def _close_late(result: Future[Connection]) -> None:
    if not result.exception():
        result.result().close()
