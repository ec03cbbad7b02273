"""What the server is asked: whether it lets us in, what it is, and what we may do there."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
from flask import current_app
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from projectapp.database import db, migrations, schema, supabase
from projectapp.database.connector import Connector
from projectapp.database.pooler import detect_pool_mode
from projectapp.database.watchdog import watchdog
from projectapp.doctor.checks import CHECKS, Facts
from projectapp.doctor.connection_errors import explain
from projectapp.doctor.finding import FAIL, OK, Finding

ANSWER_SECONDS = 3  # for all that is asked on one connection

_FACTS = text("""
SELECT pg_postmaster_start_time() || current_database() AS place, quote_ident(current_user) AS role,
  quote_ident(current_schema()) AS schema, rolsuper AS superuser,
  current_setting('server_version') AS version,
  current_setting('server_version_num')::integer / 10000 AS major,
  current_setting('server_encoding') AS encoding,
  current_setting('transaction_read_only') = 'on' AS read_only,
  current_setting('jit') = 'on' AS jit,
  extract(epoch FROM clock_timestamp())::float AS clock,
  ARRAY(SELECT name FROM pg_settings WHERE setting = 'off'
        AND name IN ('fsync', 'full_page_writes', 'synchronous_commit')) AS volatile,
  current_setting('synchronous_standby_names') <> ''
    AND current_setting('synchronous_commit') NOT IN ('off', 'local') AS synchronous,
  ARRAY(SELECT sync_state FROM pg_stat_replication) AS standbys,  -- NULL where it is not shown
  pg_is_in_recovery() AS standby,
  least(current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', true)::integer, 0),
    nullif(rolconnlimit, -1), (SELECT nullif(datconnlimit, -1) FROM pg_database
    WHERE datname = current_database())) AS slots,
  coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) OR EXISTS (
    SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = ANY (:ours)
    AND pg_has_role(tableowner, 'USAGE')) AS ddl,
  to_regclass('alembic_version') IS NOT NULL AS migrated,
  ARRAY(SELECT may || ' on ' || name FROM unnest(CAST(:tables AS text[])) AS name,
        unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS may
        WHERE NOT has_table_privilege(to_regclass(name), may)
        UNION ALL SELECT 'SELECT on alembic_version'
        WHERE NOT has_table_privilege(to_regclass('alembic_version'), 'SELECT')) AS missing,
  has_column_privilege(to_regclass('api_tokens'), 'last_used_at', 'UPDATE') AS marks_tokens,
  ARRAY(SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON oid = indexrelid
        WHERE NOT indisvalid AND relnamespace = to_regnamespace(current_schema())) AS invalid
FROM pg_roles WHERE rolname = current_user
""")


def examine(replicas: int) -> Iterator[Finding]:
    """Try both URLs; of the server that DATABASE_URL leads to, say all that matters."""
    connector: Connector = current_app.extensions["database"].connector
    serving, other = (current_app.config[f"{of}DATABASE_URL"] for of in ("", "MIGRATIONS_"))
    facts: Facts = {"separate": other is not None, "replicas": replicas}
    try:
        with db.engine.connect() as connection:
            facts |= _ask(connection)
        facts["pooling"] = detect_pool_mode(connector)
    except (SQLAlchemyError, psycopg2.Error) as error:
        yield explain("DATABASE_URL", getattr(error, "orig", error), serving or {})
    else:
        yield from filter(None, (check(facts) for check in CHECKS))
    if other is not None:
        yield from _examine_migrations(connector, other, facts.get("place"))


def _ask(connection: Connection) -> Facts:
    link: Any = connection.connection.dbapi_connection
    with watchdog.timeout(link, ANSWER_SECONDS):
        trips = [_seconds(lambda: connection.scalar(text("SELECT 1"))) for _ in range(5)]
        begun = time.time()
        tables = list(db.metadata.tables)
        names = {"tables": tables, "ours": ["alembic_version", *tables]}
        facts = dict(connection.execute(_FACTS, names).mappings().one())
        skew = facts["clock"] - (begun + time.time()) / 2
        exposed = supabase.find_unprotected_tables(connection)
        columns = connection.scalar(schema.COLUMNS, {"tables": tables})
        revisions: list[str] | None = None if facts["migrated"] else []  # None: not readable
        if facts["migrated"] and "SELECT on alembic_version" not in facts["missing"]:
            revisions = connection.scalar(schema.REVISIONS)
    info, libpq = link.info, divmod(psycopg2.extensions.libpq_version(), 10000)
    return facts | {
        "revisions": revisions,
        "columns": columns,
        "open": exposed,
        "trip": statistics.median(trips) * 1000,
        "skew": skew,
        "tls": info.ssl_attribute("protocol") if info.ssl_in_use else None,
        "sslmode": info.dsn_parameters.get("sslmode"),
        "host": info.host,
        "driver": f"psycopg2 {psycopg2.__version__.split()[0]}, libpq {libpq[0]}.{libpq[1]}",
    }


def _examine_migrations(
    connector: Connector, target: dict[str, str], place: str | None
) -> Iterator[Finding]:
    name = "MIGRATIONS_DATABASE_URL"
    try:
        with migrations.create_migration_engine().connect() as connection:
            facts = _ask(connection)
        pooling = detect_pool_mode(connector.connect_for_migrations)
    except (SQLAlchemyError, psycopg2.Error) as error:
        yield explain(name, getattr(error, "orig", error), target)
        return
    if place and facts["place"] != place:
        what = f"{name} leads to another database than DATABASE_URL."
        yield Finding(FAIL, "migrating", what, "That one would be migrated, and not this one.")
    elif pooling == "transaction":
        what = f"{name} leads to a pooler in transaction mode, which cannot hold a lock."
        why = "A migration needs one, so that it is alone."
        yield Finding(FAIL, "migrating", what, why, f"{name}=the direct URL, or session mode")
    elif not facts["ddl"]:
        what = f"The role {facts['role']} of {name} may not change the schema."
        do = f"GRANT USAGE, CREATE ON SCHEMA {facts['schema'] or 'public'} TO {facts['role']};"
        yield Finding(FAIL, "migrating", what, "flask db upgrade will fail.", do)
    else:
        yield Finding(OK, "migrating", f"The role {facts['role']} of {name} migrates.")


def _seconds(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun
