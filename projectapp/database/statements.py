"""Core statements as psycopg2 takes them: SQLAlchemy compiles each once, and is not asked again.

What it does at each execution takes longer than all else that a request's statement takes in
Python, and a statement in AUTOCOMMIT needs none of it: docs/decisions/0018 has the figures. Nor is
the statement needed any more: that of a list takes 320 KiB with what compiled it, its text 14.
"""

from collections import namedtuple
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from flask import current_app
from sqlalchemy import Executable
from sqlalchemy.engine import Dialect


class Prepared:
    """A statement's `text`, what makes values for it of parameters of these `names`, and a `row`.

    `row` makes a named tuple of what PostgreSQL gives.
    """

    def __init__(self, statement: Any, dialect: Dialect, names: frozenset[str]) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=[*names])
        self.text = str(compiled)
        columns: list[str] = [*statement.exported_columns.keys()]
        row: Any = namedtuple("Row", columns, rename=True)  # type: ignore[misc]
        self.row = row._make
        self._binds = dict(compiled.binds)
        encoders = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in self._binds.items()
        }
        self._encoders = {name: encode for name, encode in encoders.items() if encode}

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Raises KeyError if a parameter is missing."""
        values = {
            name: parameters[name] if bind.required or name in parameters else bind.effective_value
            for name, bind in self._binds.items()
        }
        for name, encode in self._encoders.items():
            values[name] = encode(values[name])
        return values


@lru_cache(maxsize=64)
def prepare(statement: Executable, dialect: Dialect, names: frozenset[str]) -> Prepared:
    """The statement for parameters of these names, once for all executions."""
    return Prepared(statement, dialect, names)


def prepare_select(statement: Executable) -> Prepared:
    """A SELECT for `database.one`, kept by whoever made it in place of what it was made of."""
    return Prepared(statement, current_app.extensions["database"].engine.dialect, frozenset())
