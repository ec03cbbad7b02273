"""The database. Run a statement like this:

    _FIND = sa.select(Project.version, Project.name).where(Project.id == sa.bindparam("this"))
    row = database.execute(_FIND, {"this": project_id})  # row.version, row.name; or None

Make each statement a constant of its module: it is compiled once and cached. Each statement is a
transaction of its own. For a write, also pass `resolve`, which finds out what happened if the
database's answer is lost. If the write may be executed twice, call `write_repeatably` instead.

`plan_once` marks a statement that finds its rows by a key or in the order of an index. It is then
prepared: PostgreSQL plans it once for each connection.
"""

from projectapp.database.engine import init_app
from projectapp.database.execution import WAIT_FOR_REPLICATION, Row, execute, write_repeatably
from projectapp.database.models import db, rfc3339, uuid7
from projectapp.database.prepared import plan_once

__all__ = [
    "WAIT_FOR_REPLICATION",
    "Row",
    "db",
    "execute",
    "init_app",
    "plan_once",
    "rfc3339",
    "uuid7",
    "write_repeatably",
]
