"""Connects with both URLs, and collects the facts that the checks need."""

import statistics
import time
import timeit
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg2
from flask import current_app
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from projectapp.database import db, migrations, schema, supabase
from projectapp.database.connector import Connector
from projectapp.database.pooler import detect_pool_mode
from projectapp.database.watchdog import watchdog
from projectapp.doctor.checks import CHECKS
from projectapp.doctor.connection_errors import explain_connection_error
from projectapp.doctor.facts import Facts
from projectapp.doctor.finding import FAIL, OK, Finding
from projectapp.resources.history_migrations import find_incomplete_histories, is_restored

QUERIES_SECONDS = 3  # for all queries on one connection

_SERVER_QUERY = text("""
SELECT pg_postmaster_start_time() || current_database() AS server_identity,
  quote_ident(current_user) AS role, quote_ident(current_schema()) AS schema,
  rolsuper AS is_superuser,
  current_setting('server_version') AS version,
  current_setting('server_version_num')::integer / 10000 AS major_version,
  current_setting('server_encoding') AS encoding,
  current_setting('transaction_read_only') = 'on' AS is_read_only,
  current_setting('jit') = 'on' AS is_jit_on,
  extract(epoch FROM clock_timestamp())::float AS server_time,
  ARRAY(SELECT name FROM pg_settings WHERE setting = 'off'
        AND name IN ('fsync', 'full_page_writes', 'synchronous_commit')) AS unsafe_settings,
  current_setting('synchronous_standby_names') <> ''
    AND current_setting('synchronous_commit') NOT IN ('off', 'local') AS waits_for_standby,
  ARRAY(SELECT sync_state FROM pg_stat_replication) AS standby_states,
  pg_is_in_recovery() AS is_standby,
  least(current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', true)::integer, 0),
    nullif(rolconnlimit, -1), (SELECT nullif(datconnlimit, -1) FROM pg_database
    WHERE datname = current_database())) AS max_connections,
  coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) OR EXISTS (
    SELECT FROM pg_tables WHERE schemaname = current_schema()
    AND tablename = ANY (CAST(:tables AS text[]) || 'alembic_version'::text)
    AND pg_has_role(tableowner, 'USAGE')) AS can_change_schema,
  to_regclass('alembic_version') IS NOT NULL AS has_revisions,
  ARRAY(SELECT privilege || ' on ' || name FROM unnest(CAST(:tables AS text[])) AS name,
        unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS privilege
        WHERE NOT has_table_privilege(to_regclass(name), privilege)
          AND (privilege = 'SELECT' OR name NOT IN ('changes', 'histories'))
        UNION ALL SELECT 'SELECT on alembic_version'
        WHERE NOT has_table_privilege(to_regclass('alembic_version'), 'SELECT')
  ) AS missing_privileges,
  has_column_privilege(to_regclass('api_tokens'), 'last_used_at', 'UPDATE')
    AS can_record_token_use,
  has_table_privilege(to_regclass('changes'), 'INSERT')
    OR has_table_privilege(to_regclass('histories'), 'UPDATE') AS can_change_history,
  ARRAY(SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON oid = indexrelid
        WHERE NOT indisvalid AND relnamespace = to_regnamespace(current_schema())
  ) AS invalid_indexes
FROM pg_roles WHERE rolname = current_user
""")


def check_servers(replicas: int) -> Iterator[Finding]:
    """Connect with DATABASE_URL and run all checks; then check MIGRATIONS_DATABASE_URL."""
    config, connector = current_app.config, current_app.extensions["database"].connector
    url, migrations_url = config["DATABASE_URL"], config["MIGRATIONS_DATABASE_URL"]
    server_identity = None
    try:
        with db.engine.connect() as connection:
            facts = _collect_facts(connection)
        server_identity = facts.server_identity
        facts = replace(
            facts,
            pool_mode=detect_pool_mode(connector),
            has_migrations_url=migrations_url is not None,
            replicas=replicas,
        )
    except (SQLAlchemyError, psycopg2.Error) as error:
        yield explain_connection_error("DATABASE_URL", getattr(error, "orig", error), url or {})
    else:
        yield from filter(None, (check(facts) for check in CHECKS))
    if migrations_url is not None:
        yield _check_migrations_url(connector, migrations_url, server_identity)


def _collect_facts(connection: Connection) -> Facts:
    """Measure the connection and query the server. Raises SQLAlchemyError or psycopg2.Error."""
    dbapi_connection: Any = connection.connection.dbapi_connection
    tables = list(db.metadata.tables)
    with watchdog.timeout(dbapi_connection, QUERIES_SECONDS):
        round_trips = timeit.repeat(lambda: connection.scalar(text("SELECT 1")), number=1)
        started_at = time.time()
        server = dict(connection.execute(_SERVER_QUERY, {"tables": tables}).mappings().one())
        clock_skew = server.pop("server_time") - (started_at + time.time()) / 2
        exposed_tables = supabase.find_unprotected_tables(connection)
        columns = connection.scalar(schema.COLUMNS, {"tables": tables})
        has_revisions = server.pop("has_revisions")
        revisions: list[str] | None = None if has_revisions else []
        if has_revisions and "SELECT on alembic_version" not in server["missing_privileges"]:
            revisions = connection.scalar(schema.REVISIONS)
        has_history = "histories" in columns
        may_read = "SELECT on histories" not in server["missing_privileges"]
        is_history_restored = has_history and may_read and is_restored(connection)
        incomplete_histories = find_incomplete_histories(connection) if has_history else []
    info = dbapi_connection.info
    libpq_version = "{}.{}".format(*divmod(psycopg2.extensions.libpq_version(), 10000))
    return Facts(
        **server,
        columns=columns,
        revisions=revisions,
        exposed_tables=exposed_tables,
        is_history_restored=is_history_restored,
        incomplete_histories=incomplete_histories,
        round_trip_ms=statistics.median(round_trips) * 1000,
        clock_skew_seconds=clock_skew,
        driver=f"psycopg2 {psycopg2.__version__.split()[0]}, libpq {libpq_version}",
        host=info.host,
        sslmode=info.dsn_parameters.get("sslmode"),
        tls_version=info.ssl_attribute("protocol") if info.ssl_in_use else None,
    )


def _check_migrations_url(
    connector: Connector, parameters: dict[str, str], server_identity: str | None
) -> Finding:
    """Check MIGRATIONS_DATABASE_URL. `server_identity` is that of DATABASE_URL, if it works."""
    name, check = "MIGRATIONS_DATABASE_URL", "migrations"
    try:
        with migrations.create_migration_engine().connect() as connection:
            facts = _collect_facts(connection)
        mode = detect_pool_mode(connector.connect_for_migrations)
    except (SQLAlchemyError, psycopg2.Error) as error:
        return explain_connection_error(name, getattr(error, "orig", error), parameters)
    if server_identity and facts.server_identity != server_identity:
        summary = f"{name} leads to another database than DATABASE_URL."
        reason = "Migrations would change the other database, and not that of the service."
        return Finding(FAIL, check, summary, reason)
    if mode == "transaction":
        summary = f"{name} leads to a pooler in transaction mode."
        reason = "This pooler cannot hold the lock that lets only one migration run."
        remedy = f"{name}=the direct URL, or that of a pooler in session mode"
        return Finding(FAIL, check, summary, reason, remedy)
    if not facts.can_change_schema:
        summary = f"The role {facts.role} of {name} may not change the schema."
        remedy = f"GRANT USAGE, CREATE ON SCHEMA {facts.schema or 'public'} TO {facts.role};"
        return Finding(FAIL, check, summary, "flask db upgrade will fail.", remedy)
    return Finding(OK, check, f"The role {facts.role} of {name} can migrate.")
