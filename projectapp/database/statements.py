"""Core statements as psycopg2 takes them: SQLAlchemy compiles each once, and is not asked again.

What it does at each execution takes longer than all else that a request's statement takes in
Python, and a statement in AUTOCOMMIT needs none of it: docs/decisions/0018 has the figures. Nor is
the statement needed any more: that of a list takes 320 KiB with what compiled it, its text 14.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from flask import current_app
from sqlalchemy import Executable
from sqlalchemy.engine import Dialect


class CompiledStatement:
    """A statement as `bind` gives it to psycopg2, for parameters of these `names`.

    `read` makes named tuples of its rows.
    """

    def __init__(self, statement: Any, dialect: Dialect, names: frozenset[str]) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=[*names])
        columns = statement.exported_columns
        row: Any = namedtuple("Row", columns.keys(), rename=True)  # type: ignore[misc]
        self._text, self._row, self._dialect = str(compiled), row._make, dialect
        self._types = [column.type for column in columns]
        self._decoders: dict[int, Callable[[Any], Any]] | None = None
        self._binds = dict(compiled.binds)
        encoders = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in self._binds.items()
        }
        self._encoders = {name: encode for name, encode in encoders.items() if encode}
        self._escaped = dict(compiled.escaped_bind_names)  # names that psycopg2 could not read
        # The text of a list of values, as in_() takes it, depends on how many there are.
        is_fixed = not compiled.post_compile_params and not compiled.literal_execute_params
        self._unfinished = None if is_fixed else compiled

    def bind(self, parameters: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Return the statement's text and its values. Raises KeyError if a parameter is missing."""
        values = {
            name: parameters[name] if bind.required or name in parameters else bind.effective_value
            for name, bind in self._binds.items()
        }
        text, encoders = self._text, self._encoders
        if self._unfinished:
            state = self._unfinished.construct_expanded_state(values, escape_names=False)
            text, values = state.statement, dict(state.parameters)
            encoders = {**encoders, **state.processors}
            encoders = {name: encode for name, encode in encoders.items() if name in values}
        for name, encode in encoders.items():
            values[name] = encode(values[name])
        for name, escaped in self._escaped.items():
            if name in values:  # a list of values has names of its own
                values[escaped] = values.pop(name)
        return text, values

    def read(self, cursor: Any) -> Any:
        """Return the next row as a named tuple of Python values, or None."""
        row = cursor.fetchone()
        if row is None:
            return None
        if self._decoders is None:
            decoders = (
                kind.dialect_impl(self._dialect).result_processor(self._dialect, column.type_code)
                for kind, column in zip(self._types, cursor.description, strict=True)
            )
            self._decoders = {n: decode for n, decode in enumerate(decoders) if decode}
        if self._decoders:
            row = list(row)
            for number, decode in self._decoders.items():
                row[number] = decode(row[number])
        return self._row(row)


@lru_cache(maxsize=64)
def compile_statement(
    statement: Executable, dialect: Dialect, names: frozenset[str]
) -> CompiledStatement:
    """The statement for parameters of these names, once for all executions."""
    return CompiledStatement(statement, dialect, names)


def compile_select(statement: Executable) -> CompiledStatement:
    """A SELECT for `database.execute`, kept by whoever made it in place of what it was made of."""
    return CompiledStatement(
        statement, current_app.extensions["database"].engine.dialect, frozenset()
    )
