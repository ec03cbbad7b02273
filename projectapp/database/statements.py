"""Core statements as psycopg2 takes them: SQLAlchemy compiles each once, and is not asked again.

What it does at each execution takes longer than all else that a request's statement takes in
Python, and a statement in AUTOCOMMIT needs none of it: docs/decisions/0018 has the figures.
"""

from collections import namedtuple
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.engine import Dialect


class Prepared:
    """A statement's `text`, what makes values for it of parameters of these `names`, and a `row`.

    `row` makes a named tuple of what PostgreSQL gives.
    """

    def __init__(self, statement: Any, dialect: Dialect, names: frozenset[str]) -> None:
        self._compiled = statement.compile(dialect=dialect, column_keys=[*names])
        self.text = str(self._compiled)
        columns: list[str] = [*statement.exported_columns.keys()]
        row: Any = namedtuple("Row", columns, rename=True)  # type: ignore[misc]
        self.row = row._make
        encoders = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in self._compiled.binds.items()
        }
        self._encoders = {name: encode for name, encode in encoders.items() if encode}

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Raises sqlalchemy.exc.InvalidRequestError if a parameter is missing."""
        values: dict[str, Any] = self._compiled.construct_params(parameters)
        for name, encode in self._encoders.items():
            values[name] = encode(values[name])
        return values


@lru_cache(maxsize=64)  # a list takes some 200 KiB, and there are many forms of it
def prepare(statement: Executable, dialect: Dialect, names: frozenset[str]) -> Prepared:
    """The statement for parameters of these names, once for all executions."""
    return Prepared(statement, dialect, names)
