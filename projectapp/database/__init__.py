"""The database: the engine, and `execute`, which runs one statement in one round trip."""

from projectapp.database.engine import init_app
from projectapp.database.execution import (
    WAIT_FOR_REPLICATION,
    Row,
    execute,
    write_repeatably,
)
from projectapp.database.models import db, rfc3339, uuid7

__all__ = [
    "WAIT_FOR_REPLICATION",
    "Row",
    "db",
    "execute",
    "init_app",
    "rfc3339",
    "uuid7",
    "write_repeatably",
]
