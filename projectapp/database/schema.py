"""Which schema a database has, and whether it is this service's own.

A database may hold another application's tables. Both `alembic_version` and `projects` are names
that others use, too, so neither name says whose table it is.
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
    "Give this service a database of its own or, with no other in the search_path, a schema of its"
    " own (docs/database.md), or have it take over the other application's rows (docs/adopt.md)."
)

# Migration 0001 makes these, and every release has them.
_ALWAYS = {"projects": ("attributes", "version")}

# As JSON, because another application's table may have other columns.
REVISIONS = text(
    "SELECT ARRAY(SELECT coalesce(to_jsonb(row) ->> 'version_num', 'nothing')"
    " FROM alembic_version AS row) AS revisions"
).columns(column("revisions"))
# The columns of `alembic_version` and of those of `tables` that exist, by table.
COLUMNS = text("""
SELECT coalesce(json_object_agg(name, names), '{}') AS columns FROM (
  SELECT name, array_agg(attname ORDER BY attnum) AS names
  FROM unnest(CAST(:tables AS text[]) || 'alembic_version'::text) AS name
  JOIN pg_attribute ON attrelid = to_regclass(name)
  WHERE attnum > 0 AND NOT attisdropped GROUP BY name) AS existing
""").columns(column("columns"))


class Obstacle(NamedTuple):
    """Why a database cannot serve or be migrated, and what to do; each is a sentence."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


@cache
def newest_revision() -> str:
    """The revision of the newest migration: files are numbered, so the names sort."""
    versions = Path(__file__).parents[2] / "migrations" / "versions"
    return max(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))


def find_encoding_obstacle(encoding: str) -> Obstacle | None:
    if encoding == ENCODING:
        return None
    what = f"The database's encoding is {encoding}, not {ENCODING}: most languages do not fit."
    return Obstacle(what, f"Create it with ENCODING '{ENCODING}' TEMPLATE template0.")


def find_obstacle(
    revisions: Sequence[str], columns: Mapping[str, Sequence[str]], models: MetaData | None = None
) -> Obstacle | None:
    """What shows that the schema is another application's, or is damaged; None if it is ours.

    With `models`, a schema at this release's revision or ahead of it must have all their columns: a
    later release keeps those of this one (docs/migrations.md). A command that writes or applies
    migrations leaves `models` out, because they may have a column that no migration has yet.
    """
    tables = dict(columns)
    recorded = tables.pop("alembic_version", ["version_num"])
    if recorded != ["version_num"]:
        what = f"alembic_version is another application's: its columns are {', '.join(recorded)}."
        return Obstacle(what, _REMEDY)
    if not revisions and tables:
        table, names = next(iter(tables.items()))
        what = f"There is a table {table} ({', '.join(names)}), and no recorded migration made it."
        return Obstacle(what, _REMEDY)
    if not revisions:
        return None
    if len(revisions) > 1 or not re.fullmatch(r"[0-9]{4}", revisions[0]):
        what = f"alembic_version is another application's: it says {', '.join(revisions)}."
        return Obstacle(what, _REMEDY)
    at = f"alembic_version says {revisions[0]}, but there is no "
    if missing := _missing(_ALWAYS, columns):
        return Obstacle(f"{at}{missing}: it is another application's.", _REMEDY)
    if not models or revisions[0] < newest_revision():
        return None
    needed = {name: table.c.keys() for name, table in models.tables.items()}
    if missing := _missing(needed, columns):
        remedy = "Write the migration that adds it (flask db migrate), or restore it from a backup."
        return Obstacle(f"{at}{missing}.", remedy)
    return None


def _missing(needed: Mapping[str, Sequence[str]], columns: Mapping[str, Sequence[str]]) -> str:
    """Those of the needed columns that do not exist, in words; three by name."""
    missing = [
        f"{table}.{name}"
        for table, names in needed.items()
        for name in names
        if name not in columns.get(table, ())
    ]
    rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return ", no ".join(missing[:3]) + rest
