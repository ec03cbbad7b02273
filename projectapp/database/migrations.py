"""How the schema changes beneath traffic: by one process at a time, and in nobody's way.

A statement that does not get its lock soon gives up its place in the queue, where all that comes
after it would wait, too, and the migration is tried again. Who migrates holds an advisory lock of
the session that does the work: whatever ends the one ends the other.
"""

import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg2
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from flask import current_app
from psycopg2.errors import DeadlockDetected, LockNotAvailable, ReadOnlySqlTransaction
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from projectapp.database import db, schema
from projectapp.database.connection import Connector
from projectapp.database.errors import breaks_connection
from projectapp.database.pooler import pool_mode

log = logging.getLogger(__name__)

TRIES = 30
WAIT_SECONDS = 600  # for another process that migrates
_KEY = int.from_bytes(b"projecta")  # an advisory lock is of one database

_SETTINGS = {
    # At most half of DATABASE_LOCK_TIMEOUT: no statement that queues behind this one's gives up.
    "lock_timeout": "500ms",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # Or a session would work on, and hold its locks, when whoever started it is gone.
    "client_connection_check_interval": "2s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
}
SET = "; ".join(f"SET {name} = '{value}'" for name, value in _SETTINGS.items())

# What a concurrent build leaves behind when it is cut: IF NOT EXISTS would take it for the index.
_DROP_BROKEN_INDEXES = """
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

# Who has Supabase's public key acts as one of these roles, which may use what is in public. The
# policies shut them out whatever they are granted, and nobody else: one that is true costs nothing.
_WEB = "rolname IN ('anon', 'authenticated')"
_OPEN_TABLES = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
WHERE schemaname = current_schema() AND tablename IN ({ours}) AND NOT rowsecurity
  AND EXISTS (SELECT FROM pg_roles WHERE {web})
"""
_TO_CLOSE = _OPEN_TABLES + "AND pg_has_role(tableowner, 'USAGE')"
_CLOSE_TABLES = """
DO $$
DECLARE
  web text := (SELECT string_agg(quote_ident(rolname), ', ') FROM pg_roles WHERE {web});
  name text;
BEGIN
  FOR name IN {open} LOOP
    EXECUTE 'ALTER TABLE ' || name || ' ENABLE ROW LEVEL SECURITY';
    EXECUTE 'DROP POLICY IF EXISTS everybody ON ' || name;
    EXECUTE 'DROP POLICY IF EXISTS web ON ' || name;
    EXECUTE 'CREATE POLICY everybody ON ' || name || ' USING (true)';
    EXECUTE 'CREATE POLICY web ON ' || name || ' AS RESTRICTIVE TO ' || web || ' USING (false)';
    EXECUTE 'REVOKE ALL ON ' || name || ' FROM ' || web;
  END LOOP;
END
$$
"""

_OLDEST = """
SELECT format('%s of %s (%s), for %s s', pid, usename, application_name,
  extract(epoch FROM now() - xact_start)::integer)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 1
"""

# SQLSTATE classes and codes that tell of the server, the role or the disk, and not of a mistake in
# a migration, whose author needs the traceback: PostgreSQL, appendix A.
_FORESEEN = ("08", "25", "28", "3D", "3F", "42501", "53", "55", "57", "58")
_EXISTS = ("42710", "42723", "42P06", "42P07")
_LOST = (
    "The connection was lost, so the last step may or may not have happened. `flask db current`"
    " says where the schema is; `flask db upgrade` can always be run again."
)
_DOCTOR = "`flask doctor` says more."
_NOT_OURS = (
    "If another application made it, give this service a database of its own; if an earlier"
    " migration did, change the new one."
)
_POOLER = (
    "The URL for migrations (MIGRATIONS_DATABASE_URL, else DATABASE_URL) leads to a pooler in"
    " transaction mode, where no lock can be held. Set MIGRATIONS_DATABASE_URL to the database's"
    " direct URL, or to its pooler in session mode."
)


def open_tables(connection: Connection) -> list[str]:
    """Our tables that Supabase's own API would let anybody use."""
    return list(connection.scalars(text(_of_ours(_OPEN_TABLES))))


def has_tables_to_close(connection: Connection) -> bool:
    """Whether there are open ones that the role may close."""
    return _execute(connection, _of_ours(_TO_CLOSE)) is not None


def close_tables() -> str:
    """The statement that closes those that the role may close."""
    return _CLOSE_TABLES.format(web=_WEB, open=_of_ours(_TO_CLOSE))


def _of_ours(query: str) -> str:
    ours = ", ".join(f"'{name}'" for name in ("alembic_version", *db.metadata.tables))
    return query.format(ours=ours, web=_WEB)


def engine() -> Engine:
    """An engine for migrations: no limits, no pool, no AUTOCOMMIT: one is applied whole or not."""
    made = create_engine(db.engine.url, creator=_connector().migrating, poolclass=NullPool)

    # It waits for all who might still read by the old plan, and holds nobody up meanwhile.
    @event.listens_for(made, "before_cursor_execute")
    def be_patient(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CONCURRENTLY" in statement.upper():
            cursor.execute("SET lock_timeout = 0")

    @event.listens_for(made, "after_cursor_execute")
    def be_quick(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CONCURRENTLY" in statement.upper():
            cursor.execute(SET)

    @event.listens_for(made, "after_cursor_execute")
    def warn(connection: Any, cursor: Any, *_: Any) -> None:
        for notice in cursor.connection.notices:
            if notice.startswith("WARNING:"):
                log.warning(notice.removeprefix("WARNING:").strip())

    return made


@contextmanager
def connect() -> Iterator[Connection]:
    """A connection for migrations. Raises CommandError when it is not to be had or kept."""
    connection = None
    try:
        with engine().connect() as connection:
            yield connection
    except (DBAPIError, PendingRollbackError, psycopg2.Error) as error:
        raise CommandError(_explain(error, is_connected=connection is not None)) from None


def check_files(script: ScriptDirectory) -> None:
    """Raise CommandError unless the migrations are one line, each with a number of its own.

    Two branches may each have added one. Alembic only warns of two with the same number, and drops
    one of them.
    """
    names = sorted(path.name for path in Path(script.versions).glob("[0-9]*_*.py"))
    renumber = "Give one of them the next number: docs/migrations.md, Two branches."
    for number, files in groupby(names, lambda name: name.partition("_")[0]):
        if len(same := list(files)) > 1:
            raise CommandError(f"{' and '.join(same)} have the same number, {number}. {renumber}")
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            heads = sorted(script.get_heads())
    except UserWarning as warning:
        raise CommandError(f"{str(warning).rstrip('.')}: see docs/migrations.md.") from None
    if len(heads) > 1:
        raise CommandError(f"There are several newest migrations: {', '.join(heads)}. {renumber}")


def check_database(connection: Connection, revisions: Sequence[str]) -> None:
    """Raise CommandError if this is no database for this service, or another application's."""
    columns = connection.scalar(schema.COLUMNS, {"tables": list(db.metadata.tables)})
    connection.rollback()
    server: Any = connection.connection.dbapi_connection
    version = server.info.server_version // 10000
    encoding = server.info.parameter_status("server_encoding")
    if version < schema.OLDEST_POSTGRESQL:
        raise CommandError(
            f"This is PostgreSQL {version}, which is too old: {schema.OLDEST_POSTGRESQL} is the"
            " oldest that works."
        )
    obstacle = schema.find_encoding_obstacle(encoding) or schema.find_obstacle(revisions, columns)
    if obstacle:
        raise CommandError(str(obstacle))


def alone(connection: Connection, work: Callable[[], None]) -> None:
    """Do `work` as the only process that migrates this database, again while others hold its locks.

    Raises CommandError when the locks are never free, when another process migrates for longer than
    WAIT_SECONDS, and where a pooler lends sessions by the transaction: they could hold no lock.
    """
    if pool_mode(_connector().migrating) == "transaction":
        raise CommandError(_POOLER)
    _wait_for_turn(connection)
    try:
        for tries_left in reversed(range(TRIES)):
            try:
                for statement in (SET, _DROP_BROKEN_INDEXES):
                    _execute(connection, statement)
                work()
                _execute(connection, close_tables())
            except OperationalError as error:
                connection.rollback()
                if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                    raise
                if not tries_left:
                    raise CommandError(_blocked(connection)) from None
            else:
                return
            log.warning("Others hold a lock that the migration needs; %s tries left.", tries_left)
            time.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - apart from what comes regularly
    finally:
        # A pooler in session mode may give the session to somebody else.
        with suppress(SQLAlchemyError):
            connection.rollback()
            for statement in ("SELECT pg_advisory_unlock_all()", "RESET ALL"):
                _execute(connection, statement)


def _wait_for_turn(connection: Connection) -> None:
    # Asked for again and again: who waits in one statement has a snapshot, for which a concurrent
    # build waits in turn.
    end = time.monotonic() + WAIT_SECONDS
    told = False
    while not _execute(connection, f"SELECT pg_try_advisory_lock({_KEY})"):
        if time.monotonic() > end:
            raise CommandError(f"Another process has been migrating for {WAIT_SECONDS} s.")
        if not told:
            log.info("Another process is migrating: this one waits for it.")
            told = True
        time.sleep(random.uniform(0.2, 0.6))  # noqa: S311 - they need not come together


def _blocked(connection: Connection) -> str:
    oldest = _execute(connection, _OLDEST) or "one that is over now"
    return (
        f"The migration needs a lock that others held in {TRIES} tries. Try again later: that is"
        f" safe. The oldest transaction is {oldest}."
    )


def _execute(connection: Connection, statement: str) -> Any:
    """Run a statement, and commit; its first value, if it has any."""
    result = connection.execute(text(statement))
    value = result.scalar() if result.returns_rows else None
    connection.commit()
    return value


def _explain(error: Exception, is_connected: bool) -> str:
    """What an error of the database means to the person who typed the command.

    Raises the error itself where it is a mistake in a migration, or Ctrl-C.
    """
    # Alembic ends an autocommit block on the connection that it has just lost.
    ended = error.__context__ if isinstance(error, PendingRollbackError) else error
    if isinstance(ended, KeyboardInterrupt):
        raise ended from None
    cause: Any = getattr(ended, "orig", ended)
    message = str(cause).strip()
    if breaks_connection(cause) and not isinstance(cause, ReadOnlySqlTransaction):
        return f"{message}\n{_LOST if is_connected else _DOCTOR}"
    state = getattr(cause, "pgcode", None) or ""
    if state in _EXISTS:
        return f"{cause.diag.message_primary}\n{_NOT_OURS}"
    if not state.startswith(_FORESEEN):
        raise error
    return f"{cause.diag.message_primary}\n{_DOCTOR}"


def _connector() -> Connector:
    connector: Connector = current_app.extensions["database"].connector
    return connector
