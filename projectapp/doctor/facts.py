"""The facts about a server that the checks judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Facts about one connection, its server, its role and the schema."""

    driver: str  # the versions of psycopg2 and libpq
    host: str | None
    sslmode: str | None
    tls_version: str | None  # None: not encrypted
    round_trip_ms: float
    clock_skew_seconds: float  # the server's clock minus this machine's

    server_identity: str  # the same for two connections to the same database of the same server
    version: str
    major_version: int
    encoding: str
    max_connections: int  # for this role and database
    is_read_only: bool
    is_jit_on: bool
    unsafe_settings: Sequence[str]  # settings that may lose commits in a crash
    is_standby: bool
    waits_for_standby: bool  # commits wait for a synchronous standby
    standby_states: Sequence[str | None]  # None: this role may not see the state

    role: str  # quoted for SQL, like schema
    is_superuser: bool
    can_change_schema: bool
    can_record_token_use: bool | None  # None: there is no table api_tokens
    missing_privileges: Sequence[str]

    schema: str | None  # None: the search_path has no schema that the role may use
    revisions: Sequence[str] | None  # None: the role may not read them
    columns: Mapping[str, Sequence[str]]  # by table
    invalid_indexes: Sequence[str]
    exposed_tables: Sequence[str]  # tables that Supabase's API serves to everyone
    is_history_restored: bool  # the history came with a dump of another database
    incomplete_histories: Sequence[str]  # tables without all triggers of the history
    can_change_history: bool | None  # None: there is no history

    pool_mode: str = ""  # "transaction" or "session"; "" if there is no pooler
    has_migrations_url: bool = False
    replicas: int = 1  # servers that run this release
