"""The checks: each returns a finding about one subject, or None if there is nothing to report."""

from collections.abc import Callable

from flask import current_app

from projectapp.database import db, schema
from projectapp.database.schema import OLDEST_POSTGRESQL, newest_revision
from projectapp.doctor.connection_errors import TOO_MANY_CONNECTIONS_REMEDY
from projectapp.doctor.facts import Facts
from projectapp.doctor.finding import FAIL, OK, WARN, Finding
from settings.database_url import is_public_host

SLOW_ROUND_TRIP_MS = 10  # users notice it, because each request is one round trip
MAX_CLOCK_SKEW_SECONDS = 1

_POOL_MODES = {
    "": "directly",
    "session": "through a pooler in session mode",
    "transaction": "through a pooler in transaction mode",
}


def _server(facts: Facts) -> Finding:
    way = _POOL_MODES[facts.pool_mode]
    summary = f"Connected {way} to PostgreSQL {facts.version}, with {facts.driver}."
    if facts.major_version < OLDEST_POSTGRESQL:
        reason = f"This service needs PostgreSQL {OLDEST_POSTGRESQL} or newer."
        return Finding(FAIL, "server", summary, reason)
    if facts.pool_mode == "transaction" and not facts.has_migrations_url:
        reason = "The service works, but this pooler cannot hold the lock of flask db upgrade."
        remedy = "MIGRATIONS_DATABASE_URL=the direct URL, or that of a pooler in session mode"
        return Finding(WARN, "server", summary, reason, remedy)
    return Finding(OK, "server", summary)


def _tls(facts: Facts) -> Finding:
    mode, version, is_public = facts.sslmode, facts.tls_version, is_public_host(facts.host or "")
    if not version and not is_public:
        summary = "Not encrypted: the server is on this machine or in a private network."
        return Finding(OK, "tls", summary)
    if not version:
        summary = f"The connection is not encrypted (sslmode={mode})."
        reason = "Anyone on the network path can read the data, and may get the password."
        remedy = "set sslmode=verify-full in the URL, or remove sslmode, which means the same"
        return Finding(WARN, "tls", summary, reason, remedy)
    if mode != "verify-full" and is_public:
        summary = f"{version}, but the server's identity is not verified (sslmode={mode})."
        reason = "Anyone on the network path can pose as the server."
        remedy = "sslmode=verify-full; also sslrootcert=FILE, if the provider has its own CA"
        return Finding(WARN, "tls", summary, reason, remedy)
    return Finding(OK, "tls", f"{version}, sslmode={mode}.")


def _latency(facts: Facts) -> Finding:
    summary = f"A round trip takes {facts.round_trip_ms:.1f} ms."
    if facts.round_trip_ms > SLOW_ROUND_TRIP_MS:
        reason = "Every request takes at least this long."
        remedy = "run the service in the same region as the database"
        return Finding(WARN, "latency", summary, reason, remedy)
    return Finding(OK, "latency", summary)


def _clock(facts: Facts) -> Finding:
    skew = facts.clock_skew_seconds
    if abs(skew) <= MAX_CLOCK_SKEW_SECONDS:
        return Finding(OK, "clock", "The server's clock agrees with this machine's.")
    summary = f"The server's clock differs from this machine's by {skew:+.1f} s."
    reason = "Ids and logs contain this machine's time, created_at contains the server's."
    remedy = "timedatectl set-ntp true   # on the machine whose clock is wrong"
    return Finding(WARN, "clock", summary, reason, remedy)


def _schema(facts: Facts) -> Finding | None:
    role = facts.role
    if facts.schema is None:
        summary = f"The role {role} may not use any schema of its search_path."
        remedy = f"GRANT USAGE ON SCHEMA public TO {role};"
        return Finding(FAIL, "schema", summary, "The service cannot find its tables.", remedy)
    if facts.revisions is None:  # _privileges reports it
        return None
    if obstacle := schema.find_obstacle(facts.revisions, facts.columns, db.metadata):
        reason = "The tables may belong to another application, so /ready answers 503."
        return Finding(FAIL, "schema", obstacle.reason, reason, obstacle.remedy)
    needed, current = newest_revision(), max(facts.revisions, default="")
    if current < needed:
        summary = f"The schema is at {current}; this release needs {needed}."
        if not current:
            summary = "The database has not been migrated yet."
        reason, remedy = "Until it is migrated, /ready answers 503.", "flask db upgrade"
        if not (facts.can_change_schema or facts.has_migrations_url):
            reason += f" The role {role} may not migrate it."
            remedy = "MIGRATIONS_DATABASE_URL=a URL whose role may migrate; then flask db upgrade"
        return Finding(FAIL, "schema", summary, reason, remedy)
    comment = ", newer than this release: normal during a rollout" if current > needed else ""
    return Finding(OK, "schema", f"The schema is at {current}{comment}.")


def _indexes(facts: Facts) -> Finding | None:
    if not facts.invalid_indexes:
        return None
    summary = f"Invalid indexes: {', '.join(facts.invalid_indexes)}."
    reason = "Their creation was interrupted. They slow down writes, and no query can use them."
    remedy = "\n".join(f"DROP INDEX CONCURRENTLY {name};" for name in facts.invalid_indexes)
    return Finding(WARN, "indexes", summary, reason, remedy)


def _privileges(facts: Facts) -> Finding:
    role, missing = facts.role, facts.missing_privileges
    if facts.has_migrations_url and facts.can_record_token_use:  # the other role creates tokens
        not_needed = {f"{privilege} on api_tokens" for privilege in ("INSERT", "UPDATE", "DELETE")}
        missing = [privilege for privilege in missing if privilege not in not_needed]
    if missing:
        summary = f"The role {role} lacks {', '.join(missing)}."
        reason = "Requests that need these privileges fail with 503."
        remedy = (
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {facts.schema}"
            f" TO {role};\n# docs/roles.md has the other statements"
        )
        return Finding(FAIL, "privileges", summary, reason, remedy)
    is_devdb = current_app.config["DATABASE_URL"] is None
    if facts.is_superuser and not is_devdb:
        summary = f"The role {role} is a superuser."
        reason = "An attacker who controls the service controls the whole server."
        remedy = "create a role for the service: docs/roles.md"
        return Finding(WARN, "privileges", summary, reason, remedy)
    if facts.can_change_schema and facts.has_migrations_url:
        summary = f"The role {role} may change the schema, although another role migrates."
        reason = "An attacker who controls the service could drop its tables."
        return Finding(WARN, "privileges", summary, reason, "docs/roles.md")
    if facts.can_change_schema or facts.has_migrations_url:
        summary = f"The role {role} serves, and may not change the schema."
        if facts.can_change_schema:
            summary = f"The role {role} serves and migrates (docs/roles.md describes two roles)."
        return Finding(OK, "privileges", summary)
    summary = f"The role {role} may not change the schema, and MIGRATIONS_DATABASE_URL is not set."
    remedy = "MIGRATIONS_DATABASE_URL=a URL with the role that owns the tables"
    return Finding(WARN, "privileges", summary, "flask db upgrade will fail here.", remedy)


def _history(facts: Facts) -> Finding | None:
    if facts.is_history_restored:
        summary = "This database was restored from a dump."
        return Finding(FAIL, "history", summary, "The change feed answers 503.", "flask db upgrade")
    if facts.incomplete_histories:
        tables = ", ".join(facts.incomplete_histories)
        summary = f"Triggers of the history are missing, disabled or outdated: {tables}."
        remedy = "\n".join(f"SELECT keep_history('{name}');" for name in facts.incomplete_histories)
        return Finding(FAIL, "history", summary, "Changes may not be recorded.", remedy)
    if facts.can_change_history and facts.has_migrations_url and not facts.can_change_schema:
        summary = f"The role {facts.role} may change the history, although another role migrates."
        return Finding(WARN, "history", summary, "An attacker could forge it.", "docs/roles.md")
    return None


def _supabase_exposure(facts: Facts) -> Finding | None:
    if not facts.exposed_tables:
        return None
    tables = ", ".join(facts.exposed_tables)
    summary = f"On Supabase, anyone with the public key may use {tables}."
    reason = "Supabase's own API serves these tables. A migration protects them."
    return Finding(FAIL, "exposure", summary, reason, "flask db upgrade")


def _read_only(facts: Facts) -> Finding | None:
    if not facts.is_read_only:
        return None
    reason = (
        "Changes fail with 503. The server is a standby, its disk is full, or an administrator made"
        " it read-only."
    )
    remedy = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only');"
    return Finding(FAIL, "writes", "The database is read-only.", reason, remedy)


def _durability(facts: Facts) -> Finding:
    if not facts.unsafe_settings:
        return Finding(OK, "durability", "Committed data survives a crash.")
    verb = "is" if len(facts.unsafe_settings) == 1 else "are"
    summary = f"{', '.join(facts.unsafe_settings)} {verb} off."
    reason = "A crash may lose acknowledged writes. This is acceptable only for tests."
    statements = [f"ALTER SYSTEM RESET {name};" for name in facts.unsafe_settings]
    remedy = "\n".join([*statements, "SELECT pg_reload_conf();"])
    return Finding(WARN, "durability", summary, reason, remedy)


def _failover(facts: Facts) -> Finding | None:
    parameters = current_app.config["DATABASE_URL"] or {}
    hosts = 1 + max(parameters.get(name, "").count(",") for name in ("host", "hostaddr"))
    if hosts == 1 or facts.is_standby:
        return None
    if not facts.waits_for_standby:
        summary = (
            f"DATABASE_URL names {hosts} hosts, but commits do not wait for a synchronous standby."
        )
        reason = (
            "A failover loses acknowledged writes. If the old primary still runs, it acknowledges"
            " more writes, which are lost, too."
        )
        remedy = (
            "set synchronous_standby_names (Patroni: synchronous_mode), or use a proxy or a"
            "\nwatchdog that fences the old primary: docs/reliability.md, Failover"
        )
        return Finding(WARN, "failover", summary, reason, remedy)
    if all(state in ("async", "potential") for state in facts.standby_states):
        summary = "synchronous_standby_names is set, but no synchronous standby is connected."
        reason = "Every write waits for a standby, and then fails with 503."
        remedy = "SELECT application_name, state, sync_state FROM pg_stat_replication;"
        return Finding(WARN, "failover", summary, reason, remedy)
    return Finding(OK, "failover", "Commits wait for a synchronous standby.")


def _encoding(facts: Facts) -> Finding | None:
    if facts.encoding == schema.ENCODING:
        return None
    summary = f"The database's encoding is {facts.encoding}, not {schema.ENCODING}."
    reason = "Text in most languages cannot be stored."
    remedy = f"CREATE DATABASE ... ENCODING '{schema.ENCODING}' TEMPLATE template0;"
    return Finding(FAIL, "encoding", summary, reason, remedy)


def _jit(facts: Facts) -> Finding | None:
    if not facts.is_jit_on or not facts.revisions:  # the migrations turn it off
        return None
    reason = "PostgreSQL compiles the plan of each search for a frequent word: about 0.1 s each."
    remedy = "ALTER DATABASE ... SET jit = off;"
    return Finding(WARN, "jit", "jit is on.", reason, remedy)


def _connections(facts: Facts) -> Finding:
    config, replicas, allowed = current_app.config, facts.replicas, facts.max_connections
    workers, pool_size = config["WEB_CONCURRENCY"], config["DATABASE_POOL_SIZE"]
    needed = 2 * workers * pool_size * replicas
    summary = (
        f"{needed} connections are needed while a release rolls out (2 x {workers} workers"
        f" x {pool_size} connections x {replicas} replicas); the server allows {allowed}."
    )
    if facts.pool_mode:
        return Finding(OK, "connections", f"{summary} The pooler shares them.")
    if needed > allowed:
        reason = "Requests that get no connection fail with 503."
        level = FAIL if needed > 2 * allowed else WARN
        return Finding(level, "connections", summary, reason, TOO_MANY_CONNECTIONS_REMEDY)
    return Finding(OK, "connections", summary)


CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    *(_server, _tls, _latency, _clock, _encoding, _schema, _indexes, _privileges, _history),
    *(_supabase_exposure, _read_only, _durability, _failover, _jit, _connections),
)
