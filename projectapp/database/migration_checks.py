"""Checks before a migration: its files, and the database."""

import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from projectapp.database import schema
from projectapp.database.models import db


def check_files(script: ScriptDirectory) -> None:
    """Raise CommandError unless the migrations form one line, each with its own number.

    Two branches may each have added one. Alembic itself only warns of two migrations with the same
    number, and ignores one of them.
    """
    names = sorted(path.name for path in Path(script.versions).glob("[0-9]*_*.py"))
    remedy = "Give one of them the next number: docs/migrations.md, Two branches."
    for number, group in groupby(names, lambda name: name.partition("_")[0]):
        if len(same_number := list(group)) > 1:
            files = " and ".join(same_number)
            raise CommandError(f"{files} have the same number, {number}. {remedy}")
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            heads = sorted(script.get_heads())
    except UserWarning as warning:
        raise CommandError(f"{str(warning).rstrip('.')}: see docs/migrations.md.") from None
    if len(heads) > 1:
        raise CommandError(f"There are several newest migrations: {', '.join(heads)}. {remedy}")


def check_database(connection: Connection, revisions: Sequence[str]) -> None:
    """Raise CommandError if the database is unsuitable or belongs to another application.

    `revisions` are the rows of alembic_version. Ends the transaction.
    """
    columns = connection.scalar(schema.COLUMNS, {"tables": list(db.metadata.tables)})
    connection.rollback()
    driver: Any = connection.connection.dbapi_connection
    version = driver.info.server_version // 10000
    encoding = driver.info.parameter_status("server_encoding")
    if version < schema.OLDEST_POSTGRESQL:
        raise CommandError(
            f"PostgreSQL {version} is too old. This service needs PostgreSQL"
            f" {schema.OLDEST_POSTGRESQL} or newer."
        )
    obstacle = schema.find_encoding_obstacle(encoding) or schema.find_obstacle(revisions, columns)
    if obstacle:
        raise CommandError(str(obstacle))
