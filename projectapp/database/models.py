"""The base of all models, and what their columns have in common."""

import json
import secrets
import time
from typing import Any
from uuid import UUID

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ColumnElement, MetaData, func, literal_column
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import UserDefinedType


class Base(DeclarativeBase):
    # PostgreSQL's default names: a constraint that was made by hand gets the same name.
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )


db = SQLAlchemy(model_class=Base)


class XID8(UserDefinedType[str]):
    """PostgreSQL's type of transaction ids. Values are texts of decimal digits."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


ischema_names["xid8"] = XID8  # so that Alembic recognizes the type of an existing column


class JSONText(str):
    """A value of a JSON column as JSON text: as Python objects its numbers would lose digits."""

    __slots__ = ()


def encode_json(value: Any) -> str:
    return value if isinstance(value, JSONText) else json.dumps(value, ensure_ascii=False)


def uuid7() -> UUID:
    """Return a version 7 UUID (RFC 9562, 5.7): 48 bits of Unix milliseconds, 74 random bits."""
    bits = secrets.randbits(74)
    high = time.time_ns() // 1_000_000 << 16 | 7 << 12 | bits >> 62
    return UUID(int=high << 64 | 2 << 62 | bits & (1 << 62) - 1)


def rfc3339(column: Any) -> ColumnElement[str]:
    """Render a timestamptz as text in UTC with microseconds, whatever the session's time zone."""
    return func.to_char(
        func.timezone(literal_column("'UTC'"), column),
        literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""),
    )
