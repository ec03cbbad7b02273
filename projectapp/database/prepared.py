"""Prepared statements: PostgreSQL parses and plans a statement once for each connection.

The plan is *generic*: it is the same for all values of the parameters. This is good for a single
row and for a page in the order of an index, and bad for conditions that are sometimes rare and
sometimes frequent. So only statements of `plan_once` are prepared (docs/decisions/0022).
"""

import re
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.engine import Dialect
from sqlalchemy.types import ARRAY, NullType

MAX_PREPARED = 32  # for each connection: a plan takes 30 to 210 KB of PostgreSQL's memory
_MIN_UNUSED = 1000  # statements that the connection executes before it forgets one that is not used
_OPTION = "parameters_planned_as_null"

# SQLSTATEs of EXECUTE and PREPARE. A session has lost a statement (DISCARD, DEALLOCATE), or has one
# already, or the type of a result has changed. PostgreSQL has then executed nothing.
_FORGET_STATES = ("26000", "42P05", "0A000")
FORGET_SQL = "DEALLOCATE ALL; "

Statement = TypeVar("Statement", bound=Any)


def plan_once(statement: Statement, null_parameters: Collection[str] = ()) -> Statement:
    """Mark a statement whose generic plan is as good as a plan for the values of its parameters.

    The plan is made for NULL in the `null_parameters`. An execution in which one of them has
    another value does not use it.
    """
    marked: Statement = statement.execution_options(**{_OPTION: frozenset(null_parameters)})
    return marked


class PreparedForm(NamedTuple):
    """How a statement is prepared and executed: `prepare_sql` for each session, before the rest.

    Both SQL texts take the values that the statement's own text takes.
    """

    name: str
    prepare_sql: str
    execute_sql: str
    null_parameters: frozenset[str]

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Whether the plan is one for these values of the statement's parameters."""
        return all(values[name] is None for name in self.null_parameters)


def build_prepared_form(
    statement: Any, sql: str, types: Mapping[str, Any], constants: Collection[str], dialect: Dialect
) -> PreparedForm | None:
    """Return the prepared form of a marked statement, or None if it is to be sent as text.

    `sql` has psycopg2's parameters, `%(name)s`, and they have these `types`. Those in `constants`
    always have the same value, so their values become a part of the prepared statement.
    """
    null_parameters = statement.get_execution_options().get(_OPTION)
    names = [name for name in types if name not in constants]
    if null_parameters is None or any(isinstance(types[name], NullType) for name in names):
        return None
    names = [name for name in names if name not in null_parameters]
    type_sql = {name: dialect.type_compiler_instance.process(types[name]) for name in names}
    numbers = {name: f"${number}" for number, name in enumerate(names, 1)}
    texts = {**dict.fromkeys(null_parameters, "NULL"), **numbers}
    body = re.sub(r"%\((\w+)\)s", lambda match: texts.get(match[1], match[0]), sql)
    # Workers have the same names, but a connection has only one of them.
    name = f"s{blake2b(sql.encode(), digest_size=8).hexdigest()}"
    # psycopg2 writes a list as ARRAY[...], which gets its own type; other values are untyped texts.
    values = (
        f"%({name})s::{type_sql[name]}" if isinstance(types[name], ARRAY) else f"%({name})s"
        for name in names
    )
    return PreparedForm(
        name,
        f"PREPARE {name} ({', '.join(type_sql.values())}) AS {body}; ",
        f"EXECUTE {name} ({', '.join(values)})",
        null_parameters,
    )


class PreparedStatements:
    """Which statements the session of a connection has prepared: at most MAX_PREPARED.

    If this is wrong, because a message failed before or after PREPARE or because another command
    changed the session, the next use of the statement fails without an effect, and `has_lost` says
    so.
    """

    def __init__(self) -> None:
        self._use_count = 0
        self._last_uses: dict[str, int] = {}  # by name; the oldest use is the first

    def add(self, form: PreparedForm) -> str | None:
        """Return what the session needs before EXECUTE: SQL, or "" if it knows the statement.

        Returns None if the statement is to be sent as text, because the session has MAX_PREPARED
        others which are in use.
        """
        self._use_count += 1
        is_known = self._last_uses.pop(form.name, None) is not None
        sql = "" if is_known else form.prepare_sql
        if len(self._last_uses) >= MAX_PREPARED:
            oldest, last_use = next(iter(self._last_uses.items()))
            if self._use_count - last_use < _MIN_UNUSED:
                return None
            del self._last_uses[oldest]
            sql = f"DEALLOCATE {oldest}; {sql}"
        self._last_uses[form.name] = self._use_count
        return sql

    def has_lost(self, error: Any) -> bool:
        """Whether the error says that the session has other statements; then forget them all.

        FORGET_SQL must be sent in front of the next statement.
        """
        if error.pgcode not in _FORGET_STATES:
            return False
        self._last_uses.clear()
        return True
