"""What `flask db` does for the history: it gives each resource its triggers, and adopts a restore.

migrations/env.py imports this module. `flask db migrate` then writes keep_history('TABLE') into the
migration of a new resource, and `flask db check` reports a resource with missing triggers.
"""

import logging
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import ExecuteSQLOp, UpgradeOps
from alembic.util import DispatchPriority
from sqlalchemy import Connection

from projectapp.database import db
from projectapp.resources.changes import HISTORIES
from projectapp.resources.models import ResourceColumns

log = logging.getLogger("projectapp.migrations")

_TRIGGERS = {
    f"history_{event}"
    for event in (
        "after_insert",
        "after_update",
        "after_delete",
        "before_truncate",
    )
}
# The triggers that fire, and their arguments, which are the columns that they omit.
_READ_TRIGGERS = sa.text("""
SELECT relname, tgname, string_to_array(encode(tgargs, 'escape'), '\\000') AS arguments
FROM pg_trigger JOIN pg_class AS c ON c.oid = tgrelid
WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))
  AND tgname LIKE 'history\\_%' AND tgenabled IN ('O', 'A')
""")

_IS_RESTORED = sa.text("SELECT bool_or(database_id <> history_database_id()) FROM histories")
_MAY_ADOPT = sa.text("SELECT has_table_privilege('histories', 'UPDATE')")
# The lock waits for transactions that have drawn a `seq` and are not committed: they belong to this
# database. If only rows were restored, the sequence may still be at its start. After a restore with
# --no-acl everyone may execute the functions.
_ADOPT = sa.text("""
DO $$
DECLARE
  sequence CONSTANT text := pg_get_serial_sequence('changes', 'seq');
BEGIN
  LOCK TABLE changes IN SHARE ROW EXCLUSIVE MODE;
  UPDATE histories SET database_id = history_database_id(),
    purged_xid = '0', restored_seq = setval(sequence,
      greatest(nextval(sequence), (SELECT max(seq) + 1 FROM changes)))
  WHERE database_id <> history_database_id();
  REVOKE EXECUTE ON FUNCTION record_change, keep_history, end_history FROM PUBLIC;
END
$$
""")


class KeepHistory(ExecuteSQLOp):
    """Give a table the triggers, or give them the present list of columns to omit."""

    def __init__(self, table: str, is_new: bool) -> None:
        super().__init__(_call("keep_history", table))
        self._table, self._is_new = table, is_new

    def reverse(self) -> ExecuteSQLOp:
        return EndHistory(self._table) if self._is_new else self


class EndHistory(ExecuteSQLOp):
    """Remove the triggers of a table and delete its history."""

    def __init__(self, table: str) -> None:
        super().__init__(_call("end_history", table))
        self._table = table

    def reverse(self) -> ExecuteSQLOp:
        return KeepHistory(self._table, is_new=True)


def _call(function: str, table: str) -> str:
    literal = table.replace("'", "''")
    return f"SELECT {function}('{literal}')"


@comparators.dispatch_for("schema", priority=DispatchPriority.LAST)
def compare_histories(context: AutogenContext, upgrade_ops: UpgradeOps, _: Any) -> None:
    """Add the calls that the triggers need: after new tables, and before tables are dropped."""
    connection = context.connection
    if context.metadata is not db.metadata or connection is None:
        return
    recorded: Collection[str] = ()
    if sa.inspect(connection).has_table(HISTORIES.name):
        recorded = {*connection.scalars(sa.select(HISTORIES.c.resource))}
    for name in find_incomplete_histories(connection):
        upgrade_ops.ops.append(KeepHistory(name, is_new=name not in recorded))
    for name in sorted({*recorded} - _resource_tables().keys()):
        upgrade_ops.ops.insert(0, EndHistory(name))


def find_incomplete_histories(connection: Connection) -> list[str]:
    """Return the resources whose table does not have all triggers, or one that is out of date."""
    triggers: dict[str, dict[str, list[str]]] = {}
    for table, trigger, arguments in connection.execute(_READ_TRIGGERS):
        triggers.setdefault(table, {})[trigger] = arguments
    return [
        name
        for name, computed in sorted(_resource_tables().items())
        if triggers.get(name, {}).keys() != _TRIGGERS
        or not computed.issubset(triggers[name]["history_after_update"])
    ]


def is_restored(connection: Connection) -> bool:
    """Whether the history came with a dump of another database."""
    is_present = sa.inspect(connection).has_table(HISTORIES.name)
    return bool(is_present and connection.scalar(_IS_RESTORED))


def is_adoption_needed(connection: Connection) -> bool:
    """Whether the history came with a dump, and the role may adopt it. Ends the transaction."""
    is_needed = is_restored(connection) and bool(connection.scalar(_MAY_ADOPT))
    connection.rollback()
    return is_needed


def adopt_restored_history(connection: Connection) -> None:
    """If the history came with a dump, make it the history of this database. Commits.

    The transaction ids in `changes` have no meaning in this database: `restored_seq` says so. It
    also ends all cursors of the change feed, because the restored rows may be older than they.
    """
    if is_adoption_needed(connection):
        connection.execute(_ADOPT)
        connection.commit()
        log.info("The database was restored from a dump. Its history is adopted.")


def _resource_tables() -> dict[str, set[str]]:
    """Return the names of the tables of resources, each with its generated columns."""
    models: Any = [
        mapper.class_
        for mapper in db.Model.registry.mappers  # type: ignore[attr-defined]
        if issubclass(mapper.class_, ResourceColumns)
    ]
    return {
        model.__table__.name: {column.key for column in model.__table__.c if column.computed}
        for model in models
    }
