"""Which schema a database has, and whether it belongs to this service.

Another application in the same database may also have a table `alembic_version` or `projects`. So
the columns of a table show to which application it belongs; its name does not.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import MetaData, column, text

OLDEST_POSTGRESQL = 15
ENCODING = "UTF8"

_REMEDY = (
    "Give this service its own database or its own schema (docs/database.md), or let it take over"
    " the other application's rows (docs/adopt.md)."
)

# Migration 0001 creates these columns, and every later schema has them: without them,
# alembic_version belongs to another application. Do not add tables that later migrations create.
_COLUMNS_OF_MIGRATION_0001 = {"projects": ("attributes", "version")}

# The rows of alembic_version, read as JSON: another application's table may have other columns.
REVISIONS = text(
    "SELECT ARRAY(SELECT coalesce(to_jsonb(row) ->> 'version_num', 'nothing')"
    " FROM alembic_version AS row) AS revisions"
).columns(column("revisions"))
# The column names of those tables that exist, of `alembic_version` and `tables`.
COLUMNS = text("""
SELECT coalesce(json_object_agg(name, names), '{}') AS columns FROM (
  SELECT name, array_agg(attname ORDER BY attnum) AS names
  FROM unnest(CAST(:tables AS text[]) || 'alembic_version'::text) AS name
  JOIN pg_attribute ON attrelid = to_regclass(name)
  WHERE attnum > 0 AND NOT attisdropped GROUP BY name) AS existing
""").columns(column("columns"))


class Obstacle(NamedTuple):
    """Why the service cannot use a database, and what to do."""

    reason: str
    remedy: str = _REMEDY

    def __str__(self) -> str:
        return f"{self.reason} {self.remedy}"


@cache
def newest_revision() -> str:
    """Return the revision of the newest migration. The names of the files begin with it."""
    versions = Path(__file__).parents[2] / "migrations" / "versions"
    return max(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))


def find_encoding_obstacle(encoding: str) -> Obstacle | None:
    if encoding == ENCODING:
        return None
    return Obstacle(
        f"The database's encoding is {encoding}, not {ENCODING}: text in most languages cannot be"
        " stored.",
        f"Create it with ENCODING '{ENCODING}' TEMPLATE template0.",
    )


def find_obstacle(
    revisions: Sequence[str], columns: Mapping[str, Sequence[str]], models: MetaData | None = None
) -> Obstacle | None:
    """Return why the schema belongs to another application or is damaged, or None.

    `revisions` and `columns` are the results of REVISIONS and COLUMNS. With `models`, a schema at
    this release's revision or ahead of it must have all their columns: a later release keeps those
    of this one (docs/migrations.md). A command that writes or applies migrations passes no `models`
    because a model may have a column that no migration has yet.
    """
    tables = dict(columns)
    version_columns = tables.pop("alembic_version", ["version_num"])
    if version_columns != ["version_num"]:
        names = ", ".join(version_columns)
        return Obstacle(f"alembic_version belongs to another application: its columns are {names}.")
    if not revisions and tables:
        table, table_columns = next(iter(tables.items()))
        names = ", ".join(table_columns)
        return Obstacle(f"The table {table} ({names}) exists, but no recorded migration made it.")
    if not revisions:
        return None
    if len(revisions) > 1 or not re.fullmatch(r"[0-9]{4}", revisions[0]):
        values = ", ".join(revisions)
        return Obstacle(f"alembic_version belongs to another application: it contains {values}.")
    mismatch = f"alembic_version contains {revisions[0]}, but there is no "
    if missing := _list_missing(_COLUMNS_OF_MIGRATION_0001, columns):
        return Obstacle(f"{mismatch}{missing}: it belongs to another application.")
    if not models or revisions[0] < newest_revision():
        return None
    needed = {name: table.c.keys() for name, table in models.tables.items()}
    if missing := _list_missing(needed, columns):
        remedy = "Write the migration that adds it (flask db migrate), or restore it from a backup."
        return Obstacle(f"{mismatch}{missing}.", remedy)
    return None


def _list_missing(needed: Mapping[str, Sequence[str]], columns: Mapping[str, Sequence[str]]) -> str:
    """Return the needed columns that do not exist, as text with at most three names."""
    missing = [
        f"{table}.{name}"
        for table, names in needed.items()
        for name in names
        if name not in columns.get(table, ())
    ]
    rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return ", no ".join(missing[:3]) + rest
