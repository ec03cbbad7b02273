"""What the doctor makes of what it knows of a server, one thing after the other."""

import math
from collections.abc import Callable
from typing import Any

from flask import current_app

from config import is_public
from projectapp.database import db, schema
from projectapp.database.schema import OLDEST_POSTGRESQL as OLDEST
from projectapp.database.schema import newest_revision
from projectapp.doctor.finding import FAIL, OK, WARN, Finding

FAR_MS = 10  # a round trip that is felt: each request is one
SKEW_SECONDS = 1

Facts = dict[str, Any]


def _server(facts: Facts) -> Finding:
    modes = {"": "directly", "transaction": "by a pooler in transaction mode"}
    how = modes.get(facts["pooling"], "by a pooler in session mode")
    what = f"PostgreSQL {facts['version']} is reached {how}, with {facts['driver']}."
    if facts["major"] < OLDEST:
        return Finding(FAIL, "server", what, f"{OLDEST} is the oldest that works here.")
    if facts["pooling"] == "transaction" and not facts["separate"]:
        why = "The service works; flask db upgrade needs a lock, which such a pooler cannot hold."
        do = "MIGRATIONS_DATABASE_URL=the direct URL, or session mode"
        return Finding(WARN, "server", what, why, do)
    return Finding(OK, "server", what)


def _tls(facts: Facts) -> Finding:
    mode, public = facts["sslmode"], is_public(facts["host"] or "")
    if not facts["tls"]:
        if not public:
            return Finding(OK, "tls", "Not encrypted, inside this machine or a private network.")
        what = f"The connection is not encrypted (sslmode={mode})."
        why = "Whoever is on the way reads the data, and can take the login."
        return Finding(WARN, "tls", what, why, "sslmode=verify-full in the URL, or nothing at all")
    if mode != "verify-full" and public:
        what = f"{facts['tls']}, but nobody checks who the server is (sslmode={mode})."
        why = "Whoever is on the way can pose as the server."
        do = "sslmode=verify-full, with sslrootcert=FILE where the provider has its own root"
        return Finding(WARN, "tls", what, why, do)
    return Finding(OK, "tls", f"{facts['tls']}, sslmode={mode}.")


def _distance(facts: Facts) -> Finding:
    what = f"A round trip takes {facts['trip']:.1f} ms."
    if facts["trip"] > FAR_MS:
        why = "Every request takes at least that: the service belongs where its database is."
        return Finding(WARN, "distance", what, why, "deploy to the database's region")
    return Finding(OK, "distance", what)


def _clock(facts: Facts) -> Finding:
    if abs(facts["skew"]) <= SKEW_SECONDS:
        return Finding(OK, "clock", "The server's clock agrees with this machine's.")
    what = f"The server's clock is {facts['skew']:+.1f} s from this machine's."
    why = "Ids carry this machine's time, created_at the server's, and logs will not match."
    return Finding(WARN, "clock", what, why, "timedatectl set-ntp true   # where it is wrong")


def _schema(facts: Facts) -> Finding | None:
    role = facts["role"]
    if facts["schema"] is None:
        what = f"The role {role} may use no schema of its search_path."
        do = f"GRANT USAGE ON SCHEMA public TO {role};"
        return Finding(FAIL, "schema", what, "It finds no table.", do)
    if facts["revisions"] is None:  # _rights says so
        return None
    if obstacle := schema.find_obstacle(facts["revisions"], facts["columns"], db.metadata):
        why = "The service does not touch what may be another application's: /ready says 503."
        return Finding(FAIL, "schema", obstacle.reason, why, obstacle.remedy)
    needed, at = newest_revision(), max(facts["revisions"], default=None)
    if at is None or at < needed:
        what = f"The schema is at {at}, this release needs {needed}."
        if at is None:
            what = "The database has not been migrated yet."
        if facts["ddl"] or facts["separate"]:
            return Finding(FAIL, "schema", what, "Until then /ready says 503.", "flask db upgrade")
        why = f"Until then /ready says 503; the role {role} may not change it."
        do = "MIGRATIONS_DATABASE_URL=a role that may, then: flask db upgrade"
        return Finding(FAIL, "schema", what, why, do)
    ahead = ", ahead of this release, as it is while a newer one rolls out" if at > needed else ""
    return Finding(OK, "schema", f"The schema is at {at}{ahead}.")


def _indexes(facts: Facts) -> Finding | None:
    if not facts["invalid"]:
        return None
    names = ", ".join(facts["invalid"])
    why = "A concurrent build was cut; it costs writes and helps no read."
    do = "\n".join(f"DROP INDEX CONCURRENTLY {name};" for name in facts["invalid"])
    return Finding(WARN, "indexes", f"ValidationFailed: {names}.", why, do)


def _rights(facts: Facts) -> Finding:
    role, schema = facts["role"], facts["schema"]
    missing = facts["missing"]
    if facts["separate"] and facts["marks_tokens"]:  # the other role makes the tokens
        spared = {f"{privilege} on api_tokens" for privilege in ("INSERT", "UPDATE", "DELETE")}
        missing = [privilege for privilege in missing if privilege not in spared]
    if missing:
        what = f"The role {role} lacks {', '.join(missing)}."
        do = (
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};"
            "\ndocs/roles.md has the rest"
        )
        return Finding(FAIL, "rights", what, "What needs it answers 503.", do)
    own = current_app.config["DATABASE_URL"] is None
    if facts["superuser"] and not own:
        what = f"The role {role} is a superuser."
        why = "Whoever finds a hole in the service has the whole server."
        return Finding(WARN, "rights", what, why, "docs/roles.md: a role that serves")
    if facts["ddl"] and facts["separate"]:
        what = f"The serving role {role} may change the schema, though another role migrates."
        return Finding(WARN, "rights", what, "It need not.", "docs/roles.md")
    if facts["ddl"]:
        return Finding(OK, "rights", f"The role {role} serves and migrates (docs/roles.md: two).")
    if facts["separate"]:
        return Finding(OK, "rights", f"The role {role} serves, and may not change the schema.")
    what = f"The role {role} may not change the schema, and no other is named to migrate."
    do = "MIGRATIONS_DATABASE_URL=the URL with the role that owns the tables"
    return Finding(WARN, "rights", what, "flask db upgrade will fail from here.", do)


def _exposure(facts: Facts) -> Finding | None:
    if not facts["open"]:
        return None
    what = f"On Supabase, anybody with the public key may use {', '.join(facts['open'])}."
    return Finding(FAIL, "exposure", what, "Its own API serves them.", "flask db upgrade")


def _writes(facts: Facts) -> Finding | None:
    if not facts["read_only"]:
        return None
    why = "Changes answer 503: it is a standby, its disk is full, or somebody set it."
    do = "SHOW default_transaction_read_only;"
    return Finding(FAIL, "writes", "The database takes no writes.", why, do)


def _durability(facts: Facts) -> Finding:
    if not facts["volatile"]:
        return Finding(OK, "durability", "What is committed survives a crash.")
    what = f"{', '.join(facts['volatile'])} {'is' if len(facts['volatile']) == 1 else 'are'} off."
    why = "A crash may lose what was acknowledged: fine for tests only."
    do = "\n".join(f"ALTER SYSTEM RESET {name};" for name in facts["volatile"])
    return Finding(WARN, "durability", what, why, do + " SELECT pg_reload_conf();")


def _failover(facts: Facts) -> Finding | None:
    target = current_app.config["DATABASE_URL"] or {}
    hosts = 1 + max(target.get(name, "").count(",") for name in ("host", "hostaddr"))
    if hosts == 1 or facts["standby"]:
        return None
    if not facts["synchronous"]:
        what = f"DATABASE_URL names {hosts} hosts, and commits wait for no synchronous standby."
        why = (
            "A failover loses acknowledged writes. If the old primary is not stopped, it goes on"
            " acknowledging writes that are lost."
        )
        do = (
            "synchronous_standby_names (Patroni: synchronous_mode), or a proxy or a watchdog"
            "\nthat fences the old primary: docs/reliability.md, Failover"
        )
        return Finding(WARN, "failover", what, why, do)
    if all(state in ("async", "potential") for state in facts["standbys"]):
        what = "synchronous_standby_names is set, but no synchronous standby is connected."
        do = "SELECT application_name, state, sync_state FROM pg_stat_replication;"
        return Finding(WARN, "failover", what, "Every write waits for one, and answers 503.", do)
    return Finding(OK, "failover", "Commits wait for a synchronous standby.")


def _text(facts: Facts) -> Finding | None:
    if facts["encoding"] == schema.ENCODING:
        return None
    what = f"The database's encoding is {facts['encoding']}, not {schema.ENCODING}."
    do = f"CREATE DATABASE ... ENCODING '{schema.ENCODING}' TEMPLATE template0;"
    return Finding(FAIL, "encoding", what, "Most languages cannot be stored.", do)


def _jit(facts: Facts) -> Finding | None:
    if not facts["jit"] or not facts["revisions"]:  # the migrations turn it off
        return None
    why = "Searches for frequent words would compile their plans, for a tenth of a second each."
    do = "ALTER DATABASE ... SET jit = off;"
    return Finding(WARN, "jit", "jit is on.", why, do)


def _connections(facts: Facts) -> Finding:
    config, replicas = current_app.config, facts["replicas"]
    factors = config["WEB_CONCURRENCY"], config["DATABASE_POOL_SIZE"], replicas
    needed, slots = 2 * math.prod(factors), facts["slots"]
    what = (
        f"{needed} connections are needed while a release rolls out (2 x {factors[0]} workers"
        f" x {factors[1]} threads x {replicas} replicas), the server allows {slots}."
    )
    if facts["pooling"]:
        return Finding(OK, "connections", f"{what} The pooler shares them.")
    if needed > slots:
        why = "Who gets none answers 503."
        do = (
            "lower WEB_CONCURRENCY or DATABASE_POOL_SIZE, raise max_connections,"
            " or put a pooler between"
        )
        return Finding(FAIL if needed > 2 * slots else WARN, "connections", what, why, do)
    return Finding(OK, "connections", what)


CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    *(_server, _tls, _distance, _clock, _text, _schema, _indexes, _rights, _exposure),
    *(_writes, _durability, _failover, _jit, _connections),
)
