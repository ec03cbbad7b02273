"""Why a server does not let us in: what libpq and servers say, in plain words.

libpq's texts are those of fe-connect.c and fe-secure-openssl.c, servers' those of PostgreSQL,
PgBouncer and Supavisor.
"""

import re

from projectapp.doctor.finding import FAIL, Finding

_SUPABASE = (
    "Supabase: Connect > Session pooler, postgresql://postgres.REF:...@...pooler.supabase.com"
)
_ROOTS = (
    "where the provider publishes its root (Supabase: Database settings > SSL; RDS:\n"
    "global-bundle.pem), add sslmode=verify-full&sslrootcert=FILE to the query of {name};\n"
    "where it has none (Heroku, Railway's public proxy), sslmode=require: encrypted, not verified"
)

# Of those that fit the first is told: a pattern, why it is so, and what to do. `{name}` is the
# setting's, `{user}` and so on the parameters of its URL.
_CAUSES = (
    (
        r"could not translate host name",
        "The host's name has no address: it is misspelt, or the database was deleted or paused.",
        "nslookup {host}",
    ),
    (
        r"[( \"][0-9a-f]*:[0-9a-f:]+[)\"].*(unreachable|No route|Cannot assign)",
        "The host has an IPv6 address only, and from here there is no way to it.",
        _SUPABASE,
    ),
    (
        r"Connection refused",
        "The machine is there, but nothing listens on this port.",
        "pg_isready -h {host} -p {port}",
    ),
    (
        r"timeout|timed out|takes too long|no time left|unreachable|No route",
        "Nothing comes back: a firewall or the provider's list of allowed addresses is in the"
        " way, or the host is down.",
        "pg_isready -h {host} -p {port} -t 3",
    ),
    (
        r"on socket .* No such file",
        "No server has its socket in this folder.",
        "ls -a {host}",
    ),
    (
        r"certificate verify failed|root certificate|does not match host name",
        "The server's certificate is not one that the system's roots vouch for, so it might be"
        " anybody's. Some providers have a root of their own.",
        _ROOTS,
    ),
    (
        r"does not support SSL",
        "The server has no TLS, which is the default for a public host.",
        "add ?sslmode=disable to {name}, if nobody can listen on the way",
    ),
    (
        r"[Tt]enant or user not found",
        "Supabase's poolers need the project in the user's name.",
        _SUPABASE,
    ),
    (
        r"password authentication failed|[Ww]rong password|no password supplied",
        "The user or the password is wrong.",
        "ALTER ROLE {user} PASSWORD '...'   -- as a role that may; then in {name}, encoded",
    ),
    (
        r"role .* does not exist|no such user",
        "The server has no such role.",
        "CREATE ROLE {user} LOGIN PASSWORD '...';",
    ),
    (
        r"database .* does not exist|no such database",
        "The server has no such database.",
        "CREATE DATABASE {dbname} OWNER {user} ENCODING 'UTF8' TEMPLATE template0;",
    ),
    (
        r"no pg_hba\.conf entry",
        "The server lets this user in from elsewhere only, or only with TLS.",
        "add ?sslmode=require to {name}, or a line to the server's pg_hba.conf",
    ),
    (
        r"not permitted to log in",
        "The role is one that others are members of, not one that logs in.",
        "ALTER ROLE {user} LOGIN;",
    ),
    (
        r"permission denied for database",
        "The role may not connect to this database.",
        "GRANT CONNECT ON DATABASE {dbname} TO {user};",
    ),
    (
        r"too many connections for (role|database)",
        "Every connection that the role, or the database, is allowed is taken; the doctor needs 3.",
        "ALTER ROLE {user} CONNECTION LIMIT -1;\nALTER DATABASE {dbname} CONNECTION LIMIT -1;",
    ),
    (
        r"too many (clients|connections)|connection slots|[Mm]ax client connections",
        "Every connection that the server allows is taken.",
        "lower WEB_CONCURRENCY or DATABASE_POOL_SIZE, raise max_connections,"
        " or put a pooler between",
    ),
    (
        r"closed the connection unexpectedly",
        "The server ended the connection, or was silent for longer than the doctor waits.",
        "flask doctor   # again in a moment; then the server's log",
    ),
    (
        r"starting up|shutting down|recovery mode|not accepting connections",
        "The server is on its way up or down.",
        "flask doctor   # again in a moment",
    ),
    (
        r"hot standby|read-only|not read-write|not primary",
        "Only standbys answer, which take no writes.",
        "name the primary, too, in {name}: ...@host1,host2/...",
    ),
)


def explain(name: str, error: object, target: dict[str, str]) -> Finding:
    """The finding for a connection that failed; `target` has libpq's parameters of the URL."""
    said = " ".join(re.sub(r"\tIs the server .*", "", str(error)).split())
    if len(target.get("password", "")) > 3:
        said = said.replace(target["password"], "***")
    what = f"{name} does not lead to a database: {said}"
    values = {"host": "HOST", "port": "5432", "user": "USER", "dbname": "DATABASE", **target}
    values |= {key: values[key].partition(",")[0] or "5432" for key in ("host", "port")}
    values |= {key: _identifier(values[key]) for key in ("user", "dbname")}
    for pattern, why, do in _CAUSES:
        if re.search(pattern, said):
            return Finding(FAIL, "connection", what, why, do.format(name=name, **values))
    return Finding(FAIL, "connection", what)


def _identifier(name: str) -> str:
    """A name as SQL has it."""
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*|USER|DATABASE", name)
    return name if plain else '"{}"'.format(name.replace('"', '""'))
