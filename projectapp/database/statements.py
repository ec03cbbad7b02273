"""SQLAlchemy Core statements that are compiled once and then executed by psycopg2.

This skips what SQLAlchemy does at each execution. That takes more time than everything else that a
statement costs in Python, and in AUTOCOMMIT it is not needed: docs/decisions/0018 has the figures.
It also saves memory: the statement of a list takes 320 KiB, its compiled text 14 KiB.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from flask import current_app
from sqlalchemy import Executable, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.visitors import iterate

from projectapp.database.prepared import PreparedForm, build_prepared_form


class CompiledStatement:
    """A statement's SQL, the encoders of its parameters and the named tuple of its rows.

    Each execution must have the parameters `names`. `is_write` is True if the statement contains an
    INSERT, UPDATE or DELETE. `summary` names its operations and tables. `sql` has placeholders for
    the values.
    """

    def __init__(self, statement: Any, dialect: Dialect, names: frozenset[str]) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=[*names])
        columns = statement.exported_columns
        elements = [*iterate(statement)]
        self.is_write = any(map(_is_write, elements))
        self.summary = _summarize(elements)
        row: Any = namedtuple("Row", columns.keys(), rename=True)  # type: ignore[misc]
        self.sql, self._make_row, self._dialect = str(compiled), row._make, dialect
        self._types = [column.type for column in columns]
        self._decoders: dict[int, Callable[[Any], Any]] | None = None
        binds = compiled.binds
        # A value comes with the execution, or from a function, or is part of the statement.
        self._names = [name for name, bind in binds.items() if bind.required or name in names]
        others = {name: bind for name, bind in binds.items() if name not in self._names}
        self._functions = [(name, bind.callable) for name, bind in others.items() if bind.callable]
        self._constants = {name: bind.value for name, bind in others.items() if not bind.callable}
        encoders = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in binds.items()
        }
        self._encoders = {name: encode for name, encode in encoders.items() if encode}
        # Names that psycopg2 cannot parse, and the names that the SQL has for them.
        self._escaped_names = dict(compiled.escaped_bind_names)
        # The SQL of in_() depends on the number of its values, so each execution completes it.
        is_complete = not compiled.post_compile_params and not compiled.literal_execute_params
        self._incomplete = None if is_complete else compiled
        self._was_executed = False
        self._prepared_form = None
        if is_complete and not self._escaped_names:
            types = {name: bind.type for name, bind in binds.items()}
            self._prepared_form = build_prepared_form(
                statement, self.sql, types, self._constants, dialect
            )

    def bind_parameters(self, parameters: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Return the SQL and the encoded values, as psycopg2's cursor.execute() takes them.

        Raises KeyError if a parameter is missing.
        """
        values = {name: parameters[name] for name in self._names}
        for name, function in self._functions:
            values[name] = function()
        values |= self._constants
        sql, encoders = self.sql, self._encoders
        if self._incomplete:
            state = self._incomplete.construct_expanded_state(values, escape_names=False)
            sql, values = state.statement, dict(state.parameters)
            encoders = {**encoders, **state.processors}
            encoders = {name: encode for name, encode in encoders.items() if name in values}
        for name, encode in encoders.items():
            values[name] = encode(values[name])
        for name, escaped_name in self._escaped_names.items():
            if name in values:  # the parameter of an in_() is replaced by one for each value
                values[escaped_name] = values.pop(name)
        return sql, values

    def next_prepared_form(self) -> PreparedForm | None:
        """Return how to prepare the next execution, or None to send the text.

        The first execution sends the text, so that a statement that is used once is not prepared.
        """
        form = self._prepared_form if self._was_executed else None
        self._was_executed = True
        return form

    def fetch_row(self, cursor: Any) -> Any:
        """Return the next row as a named tuple of Python values, or None."""
        row = cursor.fetchone()
        if row is None:
            return None
        if self._decoders is None:
            decoders = (
                type_.dialect_impl(self._dialect).result_processor(self._dialect, column.type_code)
                for type_, column in zip(self._types, cursor.description, strict=True)
            )
            self._decoders = {index: decode for index, decode in enumerate(decoders) if decode}
        if self._decoders:
            row = list(row)
            for index, decode in self._decoders.items():
                row[index] = decode(row[index])
        return self._make_row(row)


def _summarize(elements: list[Any]) -> str:
    """Return the writes with their tables, such as `UPDATE projects`; or SELECT and one table."""
    writes = [
        f"{element.__visit_name__.upper()} {element.table.name}"
        for element in elements
        if _is_write(element)
    ]
    tables = [element.name for element in elements if isinstance(element, Table)]
    return " ".join(dict.fromkeys(writes)) or " ".join(["SELECT", *tables[:1]])


def _is_write(element: Any) -> bool:
    return isinstance(element, UpdateBase)


@lru_cache(maxsize=256)  # a resource has about 15 statements
def compile_statement(
    statement: Executable, dialect: Dialect, names: frozenset[str]
) -> CompiledStatement:
    """Compile a statement, once for all executions with parameters of these names."""
    return CompiledStatement(statement, dialect, names)


def compile_select(statement: Executable) -> CompiledStatement:
    """Compile a SELECT. The caller caches the result instead of the statement."""
    dialect = current_app.extensions["database"].engine.dialect
    return CompiledStatement(statement, dialect, frozenset())
