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
    "Give this service a database or a schema of its own (docs/database.md), or have it take over"
    " the rows of the other application (docs/adopt.md)."
)

# Migration 0001 makes these, and every release has them.
_ALWAYS = {"projects": ("attributes", "version")}

REVISIONS = text(
    "SELECT ARRAY(SELECT version_num::text FROM alembic_version) AS revisions"
).columns(column("revisions"))
# The columns of those of `tables` that exist, by table.
COLUMNS = text("""
SELECT coalesce(json_object_agg(name, names), '{}') AS columns FROM (
  SELECT name, array_agg(attname ORDER BY attnum) AS names
  FROM unnest(CAST(:tables AS text[])) AS name JOIN pg_attribute ON attrelid = to_regclass(name)
  WHERE attnum > 0 AND NOT attisdropped GROUP BY name) AS existing
""").columns(column("columns"))


class Obstacle(NamedTuple):
    """Why a database cannot serve or be migrated, and what to do; each is a sentence."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


@cache
def code_revision() -> str:
    """The revision of the newest migration: files are numbered, so the names sort."""
    versions = Path(__file__).parents[2] / "migrations" / "versions"
    return max(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))


def find_encoding_obstacle(encoding: str) -> Obstacle | None:
    if encoding == ENCODING:
        return None
    what = f"The database's encoding is {encoding}, not {ENCODING}: most languages do not fit."
    return Obstacle(what, f"Create it with ENCODING '{ENCODING}' TEMPLATE template0.")


def find_obstacle(
    revisions: Sequence[str], columns: Mapping[str, Sequence[str]], models: MetaData
) -> Obstacle | None:
    """What shows that the schema is another application's, or is damaged; None if it is ours.

    A schema of a later release is ours: it has the columns of this one, too (docs/migrations.md).
    """
    if not revisions and columns:
        table, names = next(iter(columns.items()))
        what = f"There is a table {table} ({', '.join(names)}), and no recorded migration made it."
        return Obstacle(what, _REMEDY)
    if not revisions:
        return None
    if len(revisions) > 1 or not re.fullmatch(r"[0-9]{4}", revisions[0]):
        what = f"alembic_version is another application's: it says {', '.join(revisions)}."
        return Obstacle(what, _REMEDY)
    needed: Mapping[str, Sequence[str]] = _ALWAYS
    if revisions[0] >= code_revision():
        needed = {name: table.c.keys() for name, table in models.tables.items()}
    missing = [
        f"{table}.{name}"
        for table, names in needed.items()
        for name in names
        if name not in columns.get(table, ())
    ]
    if not missing:
        return None
    what = f"alembic_version says {revisions[0]}, but there is no {', no '.join(missing[:3])}"
    rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    what += f"{rest}: it is another application's, or columns were dropped."
    return Obstacle(what, _REMEDY)
