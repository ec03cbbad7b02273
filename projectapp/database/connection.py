"""How a connection to PostgreSQL comes about, and what bounds the time that it may take.

PostgreSQL's own limits hold inside it. The watchdog covers what none of its settings and none of
TCP's does: a peer that goes on acknowledging packets but never answers.
"""

import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import psycopg2.extensions
from sqlalchemy import Engine

PROBE_SECONDS = 2  # for a statement that takes PostgreSQL no time
_TURN_SECONDS = 0.2  # for another thread to connect, where nothing is wrong any more


class Connection(psycopg2.extensions.connection):  # type: ignore[misc]
    """A connection that another thread can cut.

    `pooled` says that a pooler stands before PostgreSQL: then a session is shared with strangers,
    and limits can only be set inside a statement's own transaction. `is_over` is shared by all that
    are as old, and set when they are of no more use.
    """

    pooled = False
    is_over: threading.Event

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pid = self.info.backend_pid  # as the server, or a pooler, told it
        self._inode = os.fstat(self.fileno()).st_ino

    def cut(self) -> None:
        """End the connection under whoever waits for its answer."""
        # Of the number alone one could not know that it still means this socket: libpq may have
        # closed it a moment ago. The copy keeps what it found.
        with (
            suppress(OSError, psycopg2.Error),
            socket.socket(fileno=os.dup(self.fileno())) as link,
        ):
            if os.fstat(link.fileno()).st_ino == self._inode:
                link.shutdown(socket.SHUT_RDWR)

    def has_news(self) -> bool:
        """Whether the server has spoken unasked: mostly its farewell, on a connection at rest."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def is_unreplicated(self) -> bool:
        """Whether a commit was cancelled while it waited for its synchronous standby.

        PostgreSQL then answers with success and a warning (syncrep.c), in English: keep lc_messages
        as it is. Each notice is looked at once.
        """
        notices, self.notices[:] = self.notices[:], []
        return any("synchronous replication" in notice for notice in notices)


class Watchdog:
    """One thread of a process, that cuts each connection whose answer is overdue."""

    def __init__(self) -> None:
        self._due: dict[Connection, float] = {}
        self._lock = threading.Lock()
        self._started = False

    @contextmanager
    def limit(self, connection: Connection, seconds: float) -> Iterator[None]:
        """Bound by `seconds` how long the block may wait for the connection's peer."""
        if not self._started:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
            self._started = True
        self._due[connection] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:  # or it might be cut when it serves another request already
                del self._due[connection]

    def _watch(self) -> None:
        while True:
            time.sleep(0.1)
            with self._lock:
                for connection, end in list(self._due.items()):
                    if end < time.monotonic():
                        connection.cut()


watchdog = Watchdog()
os.register_at_fork(after_in_child=watchdog.__init__)  # type: ignore[misc]


class Connector:
    """Makes connections to `get_primary`, which returns libpq's parameters, as `config` says.

    None of this takes longer than the seconds that `time_left` tells. While the database is away
    only one thread at a time tries to reach it: the others are told at once, so that they are free
    for requests that need no database.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        get_primary: Callable[[], dict[str, str]],
        time_left: Callable[[], float],
    ) -> None:
        self._config, self._get_primary, self._time_left = config, get_primary, time_left
        self._is_over = threading.Event()  # for the connections that are made now
        self._away = False
        self._probing = threading.Lock()
        self._limits = {
            "lock_timeout": f"{config['DATABASE_LOCK_TIMEOUT']}s",
            "statement_timeout": f"{config['DATABASE_STATEMENT_TIMEOUT']}s",
            "idle_in_transaction_session_timeout": (
                f"{config['DATABASE_IDLE_IN_TRANSACTION_TIMEOUT']}s"
            ),
        }
        # Who had a pooler's session before may have left it without a search_path, as pg_dump does.
        local = [f"{name} = '{value}'" for name, value in self._limits.items()]
        self.set_local_sql = "".join(
            f"SET LOCAL {one}; " for one in [*local, "search_path TO DEFAULT"]
        )

    def __call__(self) -> Connection:
        """Return a new connection with its limits set. Raises psycopg2.Error."""
        if self._time_left() < PROBE_SECONDS:
            raise psycopg2.OperationalError("there is no time left to connect")
        if self._is_over.is_set():
            self._is_over = threading.Event()
        is_over, probes = self._is_over, self._away
        if probes and not self._probing.acquire(timeout=_TURN_SECONDS):
            raise psycopg2.OperationalError("another thread is trying to reach the database")
        try:
            connection = self._open(self._get_primary())
            connection.autocommit, connection.is_over = True, is_over
            self._set_limits(connection)
        except psycopg2.Error:
            self._away = True
            raise
        finally:
            if probes:
                self._probing.release()
        self._away = False
        return connection

    def migrating(self) -> Connection:
        """Return a new connection as a migration needs it: direct and without limits.

        Raises psycopg2.Error.
        """
        return self._open(self._config["MIGRATIONS_DATABASE_URL"] or self._get_primary())

    def _open(self, target: dict[str, str]) -> Connection:
        left, hosts = self._time_left(), target.get("host", "").count(",") + 1
        # libpq takes it for each address in turn, whole, and not less than 2.
        each = max(2, min(self._config["DATABASE_CONNECT_TIMEOUT"], left / hosts))
        defaults = {
            "connect_timeout": int(each),
            "application_name": "projectapp",
            "client_encoding": "utf8",
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 5000,
        }
        return _connect(defaults | target, None if left == math.inf else left)

    def ping(self, connection: Connection) -> None:
        """Find out whether the peer still answers. Raises psycopg2.Error."""
        self._ask(connection, "SELECT 1")

    def _set_limits(self, connection: Connection) -> None:
        """Limit the session, unless it is a pooler's: that has a process id of its own making."""
        found = self._ask(
            connection,
            "SELECT set_config(name, setting, false)"
            " FROM unnest(%s, %s) AS limits (name, setting) WHERE pg_backend_pid() = %s",
            (list(self._limits), list(self._limits.values()), connection.pid),
        )
        connection.pooled = found == 0

    def _ask(self, connection: Connection, statement: str, values: Any = None) -> int:
        seconds = min(PROBE_SECONDS, self._time_left())
        with watchdog.limit(connection, seconds), connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.rowcount

    def guard_first(self, engine: Engine) -> None:
        """Bound what SQLAlchemy asks on an engine's first connection as all else is."""
        initialize = engine.dialect.initialize

        def bounded(connection: Any) -> None:
            seconds = min(PROBE_SECONDS, self._time_left())
            with watchdog.limit(connection.connection.dbapi_connection, seconds):
                initialize(connection)

        engine.dialect.initialize = bounded  # type: ignore[method-assign]


def _connect(parameters: Mapping[str, Any], seconds: float | None) -> Connection:
    """psycopg2.connect, but bounded: libpq waits for names without end, and for each address."""
    result: Future[Connection] = Future()

    def run() -> None:
        try:
            result.set_result(psycopg2.connect(**parameters, connection_factory=Connection))
        except UnicodeDecodeError:  # a server that speaks another encoding
            result.set_exception(psycopg2.OperationalError("the server refuses"))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="connect", daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError:
        result.add_done_callback(lambda late: late.exception() or late.result().close())
        raise psycopg2.OperationalError("connecting takes too long") from None
