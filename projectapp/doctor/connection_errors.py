"""Explains why a connection failed.

It knows the messages of libpq (fe-connect.c, fe-secure-openssl.c), PostgreSQL, PgBouncer and
Supavisor.
"""

import re

from projectapp.doctor.finding import FAIL, Finding

TOO_MANY_CONNECTIONS_REMEDY = (
    "lower WEB_CONCURRENCY or DATABASE_POOL_SIZE, raise max_connections, or use a pooler"
)
_SUPABASE_POOLER = (
    "use the URL in Supabase's Connect > Session pooler:\n"
    "postgresql://postgres.REF:...@...pooler.supabase.com:5432/postgres"
)
_CERTIFICATE_REMEDY = (
    "download the provider's CA certificate (Supabase: Database settings > SSL; RDS:\n"
    "global-bundle.pem), and add sslmode=verify-full&sslrootcert=FILE to the query of {name};\n"
    "without one (Heroku, Railway's public proxy): sslmode=require, encrypted but not verified"
)

# The cause and the remedy by the pattern of the message. The first match wins. `{name}` is the
# setting, and `{host}`, `{port}`, `{user}` and `{dbname}` are from its URL.
_CAUSES = {
    r"could not translate host name": (
        "The host name has no address: it is misspelt, or the database was deleted or paused.",
        "nslookup {host}",
    ),
    r"[( \"][0-9a-f]*:[0-9a-f:]+[)\"].*(unreachable|No route|Cannot assign)": (
        "The host has only an IPv6 address, and this machine has no IPv6 connection.",
        _SUPABASE_POOLER,
    ),
    r"Connection refused": (
        "The machine answers, but nothing listens on this port.",
        "pg_isready -h {host} -p {port}",
    ),
    r"timeout|timed out|takes too long|no time left|unreachable|No route": (
        "No response: a firewall or an IP allow-list blocks the connection, or the host is down.",
        "pg_isready -h {host} -p {port} -t 3",
    ),
    r"on socket .* No such file": ("No server has its socket in this folder.", "ls -a {host}"),
    r"certificate verify failed|root certificate|does not match host name": (
        "The server's certificate is not signed by a CA that this machine trusts, or it is for"
        " another host name. Some providers have their own CA.",
        _CERTIFICATE_REMEDY,
    ),
    r"does not support SSL": (
        "The server does not support TLS, which is the default for a public host.",
        "add ?sslmode=disable to {name}, but only if the network is trusted",
    ),
    r"[Tt]enant or user not found": (
        "Supabase's poolers need the project's REF in the user name.",
        _SUPABASE_POOLER,
    ),
    r"password authentication failed|[Ww]rong password|no password supplied": (
        "The user or the password is wrong.",
        "ALTER ROLE {user} PASSWORD '...';\n-- as an administrator; then encode it for {name}",
    ),
    r"role .* does not exist|no such user": (
        "The server does not have this role.",
        "CREATE ROLE {user} LOGIN PASSWORD '...';",
    ),
    r"database .* does not exist|no such database": (
        "The server does not have this database.",
        "CREATE DATABASE {dbname} OWNER {user} ENCODING 'UTF8' TEMPLATE template0;",
    ),
    r"no pg_hba\.conf entry": (
        "The server's pg_hba.conf does not allow this user and database from this address, or only"
        " with TLS.",
        "add ?sslmode=require to {name}, or a line to the server's pg_hba.conf",
    ),
    r"not permitted to log in": (
        "The role has no LOGIN attribute, for example because it is a group of other roles.",
        "ALTER ROLE {user} LOGIN;",
    ),
    r"permission denied for database": (
        "The role may not connect to this database.",
        "GRANT CONNECT ON DATABASE {dbname} TO {user};",
    ),
    r"too many connections for (role|database)": (
        "The role or the database has reached its connection limit. The doctor needs three"
        " connections.",
        "ALTER ROLE {user} CONNECTION LIMIT -1;\nALTER DATABASE {dbname} CONNECTION LIMIT -1;",
    ),
    r"too many (clients|connections)|connection slots|[Mm]ax client connections": (
        "All connections that the server allows are in use.",
        TOO_MANY_CONNECTIONS_REMEDY,
    ),
    r"closed the connection unexpectedly": (
        "The server closed the connection, or did not answer before the doctor's deadline.",
        "flask doctor   # try again in a moment; then read the server's log",
    ),
    r"starting up|shutting down|recovery mode|not accepting connections": (
        "The server is starting or stopping.",
        "flask doctor   # try again in a moment",
    ),
    r"hot standby|read-only|not read-write|not primary": (
        "Only standbys answered, and they do not accept writes.",
        "add the primary's host to {name}: ...@host1,host2/...",
    ),
}


def explain_connection_error(name: str, error: object, parameters: dict[str, str]) -> Finding:
    """Explain why connecting with the setting `name` failed. `parameters` are those of its URL."""
    message = " ".join(re.sub(r"\tIs the server .*", "", str(error)).split())
    if len(parameters.get("password", "")) > 3:
        message = message.replace(parameters["password"], "***")
    summary = f"Cannot connect with {name}: {message}"
    values = {key: parameters.get(key, "").partition(",")[0] for key in ("host", "port")}
    values |= {key: _quote_identifier(parameters.get(key, "")) for key in ("user", "dbname")}
    defaults = {"host": "HOST", "port": "5432", "user": "USER", "dbname": "DATABASE"}
    values = {key: values[key] or default for key, default in defaults.items()}
    for pattern, (cause, remedy) in _CAUSES.items():
        if re.search(pattern, message):
            remedy = remedy.format(name=name, **values)
            return Finding(FAIL, "connection", summary, cause, remedy)
    return Finding(FAIL, "connection", summary)


def _quote_identifier(name: str) -> str:
    """Quote a name for SQL, if it needs quotes."""
    is_plain = not name or re.fullmatch(r"[a-z_][a-z0-9_]*", name)
    return name if is_plain else '"{}"'.format(name.replace('"', '""'))
