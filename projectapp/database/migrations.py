"""Runs migrations while the service is in use. migrations/env.py calls it.

One process migrates at a time. Its session holds an advisory lock, which ends with the session.
lock_timeout is short, because the service's own statements queue behind a DDL statement that waits
for a lock. After a timeout the migration is tried again.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from alembic.util import CommandError
from flask import current_app
from psycopg2.errors import DeadlockDetected, LockNotAvailable, ReadOnlySqlTransaction
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from projectapp.database.errors import breaks_connection
from projectapp.database.models import db
from projectapp.database.pooler import detect_pool_mode
from projectapp.database.supabase import protect_tables_sql

log = logging.getLogger(__name__)

TRIES = 30
WAIT_SECONDS = 600  # for another process that migrates
_ADVISORY_LOCK_KEY = int.from_bytes(b"projecta")  # each database has its own advisory locks

_SETTINGS = {
    # At most half of DATABASE_LOCK_TIMEOUT, so that statements of the service that queue behind the
    # DDL get their locks in time.
    "lock_timeout": "500ms",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # If the client dies, PostgreSQL ends the session and releases its locks.
    "client_connection_check_interval": "2s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
}
SET_SESSION = "; ".join(f"SET {name} = '{value}'" for name, value in _SETTINGS.items())

# An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index, and IF NOT EXISTS would take it
# for the finished one.
_DROP_INVALID_INDEXES = """
DO $$
DECLARE
  name text;
BEGIN
  FOR name IN
    SELECT format('%I.%I', nspname, relname) FROM pg_index
      JOIN pg_class AS c ON c.oid = indexrelid JOIN pg_namespace AS n ON n.oid = relnamespace
    WHERE NOT indisvalid AND relkind = 'i' AND nspname = current_schema()
      AND pg_has_role(relowner, 'USAGE')
  LOOP
    EXECUTE 'DROP INDEX ' || name;
  END LOOP;
END
$$
"""

_OLDEST_TRANSACTION = """
SELECT format('pid %s of %s (%s), running for %s s', pid, usename, application_name,
  extract(epoch FROM now() - xact_start)::integer)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 1
"""

# SQLSTATEs, or their first characters (PostgreSQL, appendix A), that concern the server, the role
# or the disk. Other errors are mistakes in a migration, whose author needs the traceback.
_ENVIRONMENT_STATES = ("08", "25", "28", "3D", "3F", "42501", "53", "55", "57", "58")
_DUPLICATE_OBJECT_STATES = ("42710", "42723", "42P06", "42P07")
_CONNECTION_LOST = (
    "The connection was lost, so the last step may or may not have happened. `flask db current`"
    " prints the schema's revision; `flask db upgrade` can always be run again."
)
_ASK_DOCTOR = "`flask doctor` says more."
_DUPLICATE_OBJECT = (
    "If another application made it, give this service a database of its own; if an earlier"
    " migration did, change the new one."
)
_NEEDS_DIRECT_URL = (
    "The URL for migrations (MIGRATIONS_DATABASE_URL, else DATABASE_URL) leads to a pooler in"
    " transaction mode, which cannot hold the migration lock. Set MIGRATIONS_DATABASE_URL to the"
    " database's direct URL, or to its pooler in session mode."
)


def create_migration_engine() -> Engine:
    """Create an engine without timeouts, pool and AUTOCOMMIT: each migration is a transaction."""
    engine = create_engine(db.engine.url, creator=_open_connection, poolclass=NullPool)

    # CONCURRENTLY waits for older transactions and blocks no one, so it may wait without a limit.
    @event.listens_for(engine, "before_cursor_execute")
    def disable_lock_timeout(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CONCURRENTLY" in statement.upper():
            cursor.execute("SET lock_timeout = 0")

    @event.listens_for(engine, "after_cursor_execute")
    def restore_lock_timeout(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CONCURRENTLY" in statement.upper():
            cursor.execute(SET_SESSION)

    @event.listens_for(engine, "after_cursor_execute")
    def log_warnings(connection: Any, cursor: Any, *_: Any) -> None:
        for notice in cursor.connection.notices:
            if notice.startswith("WARNING:"):
                log.warning(notice.removeprefix("WARNING:").strip())

    return engine


@contextmanager
def connect() -> Iterator[Connection]:
    """Connect for migrations. Raises CommandError if the connection fails or is lost."""
    connection = None
    try:
        with create_migration_engine().connect() as connection:
            yield connection
    except (DBAPIError, PendingRollbackError, psycopg2.Error) as error:
        raise CommandError(_explain_error(error, is_connected=connection is not None)) from None


def run_exclusively(connection: Connection, migrate: Callable[[], None]) -> None:
    """Call `migrate` while this process holds the migration lock, and again after lock timeouts.

    Raises CommandError if a table stays locked for TRIES attempts, if another process migrates for
    longer than WAIT_SECONDS, or if a pooler in transaction mode cannot hold the migration lock.
    """
    if detect_pool_mode(_open_connection) == "transaction":
        raise CommandError(_NEEDS_DIRECT_URL)
    _acquire_migration_lock(connection)
    try:
        for tries_left in reversed(range(TRIES)):
            try:
                for statement in (SET_SESSION, _DROP_INVALID_INDEXES):
                    _execute_and_commit(connection, statement)
                migrate()
                _execute_and_commit(connection, protect_tables_sql())
                return
            except OperationalError as error:
                connection.rollback()
                if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                    raise
                if not tries_left:
                    raise CommandError(_describe_lock_timeout(connection)) from None
            log.warning(
                "Another session holds a lock that the migration needs; %s tries left.", tries_left
            )
            time.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - not in step with regular queries
    finally:
        # A pooler in session mode may give the session to another client.
        with suppress(SQLAlchemyError):
            connection.rollback()
            for statement in ("SELECT pg_advisory_unlock_all()", "RESET ALL"):
                _execute_and_commit(connection, statement)


def _acquire_migration_lock(connection: Connection) -> None:
    # Polls: a statement that waits has a snapshot, and the CREATE INDEX CONCURRENTLY of the process
    # that migrates waits for older snapshots. That would be a deadlock.
    deadline = time.monotonic() + WAIT_SECONDS
    is_waiting = False
    while not _execute_and_commit(connection, f"SELECT pg_try_advisory_lock({_ADVISORY_LOCK_KEY})"):
        if time.monotonic() > deadline:
            raise CommandError(f"Another process has been migrating for {WAIT_SECONDS} s.")
        if not is_waiting:
            log.info("Another process is migrating: this one waits for it.")
            is_waiting = True
        time.sleep(random.uniform(0.2, 0.6))  # noqa: S311 - so that processes do not poll in step


def _describe_lock_timeout(connection: Connection) -> str:
    oldest = _execute_and_commit(connection, _OLDEST_TRANSACTION) or "one that has ended since"
    return (
        f"In {TRIES} tries the migration did not get a lock that it needs, because other sessions"
        f" hold it. You can run the command again at any time. The oldest transaction is {oldest}."
    )


def _execute_and_commit(connection: Connection, statement: str) -> Any:
    """Run a statement and commit; return its first value, or None if it returns no row."""
    result = connection.execute(text(statement))
    value = result.scalar() if result.returns_rows else None
    connection.commit()
    return value


def _explain_error(error: Exception, is_connected: bool) -> str:
    """Return what a database error means to the person who typed the command.

    Raises the error itself if it is a mistake in a migration, and KeyboardInterrupt after Ctrl-C.
    """
    # If the connection is lost in an autocommit block, Alembic then tries to end the block. This
    # causes a second error, which hides the first one.
    first_error = error.__context__ if isinstance(error, PendingRollbackError) else error
    if isinstance(first_error, KeyboardInterrupt):
        raise first_error from None
    cause: Any = getattr(first_error, "orig", first_error)
    if breaks_connection(cause) and not isinstance(cause, ReadOnlySqlTransaction):
        return f"{str(cause).strip()}\n{_CONNECTION_LOST if is_connected else _ASK_DOCTOR}"
    sqlstate = getattr(cause, "pgcode", None) or ""
    if sqlstate in _DUPLICATE_OBJECT_STATES:
        return f"{cause.diag.message_primary}\n{_DUPLICATE_OBJECT}"
    if not sqlstate.startswith(_ENVIRONMENT_STATES):
        raise error
    return f"{cause.diag.message_primary}\n{_ASK_DOCTOR}"


def _open_connection() -> Any:
    return current_app.extensions["database"].connector.connect_for_migrations()
