"""Prepared statements: PostgreSQL parses and plans a statement once for each connection.

The plan is *generic*: it is the same for all values of the parameters. Such a plan is as fast as
any for a single row, and for a page in the order of an index. It can be 200 times slower for a
condition that matches few rows with one value and many rows with another. So only statements of
`plan_once` are prepared (docs/decisions/0022).
"""

import re
import time
from collections.abc import Collection, Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.engine import Dialect
from sqlalchemy.types import ARRAY, NullType

MAX_PREPARED = 32  # for each connection: a plan takes 30 to 210 KB of PostgreSQL's memory
# PostgreSQL plans again after ANALYZE. An empty table may get a million rows before that.
MAX_AGE_SECONDS = 10
_OPTION = "planned_values"

# SQLSTATEs of EXECUTE and PREPARE: the session has lost the statement (DISCARD, DEALLOCATE), it
# already has the statement, or a column's type has changed. PostgreSQL has then executed nothing.
_LOST_STATES = ("26000", "42P05", "0A000")
FORGET_SQL = "DEALLOCATE ALL; "
# For the EXECUTE that makes the plan. While a table is small, a sequential scan is the best plan.
# But the table may have 50 000 rows before the statement is prepared again.
_PREFER_INDEXES = "SET LOCAL enable_seqscan = off; "

Statement = TypeVar("Statement", bound=Any)


def plan_once(
    statement: Statement, planned_values: Mapping[str, Collection[Any]] = MappingProxyType({})
) -> Statement:
    """Mark a statement whose generic plan is as good as a plan for the values of its parameters.

    `planned_values` are parameters whose values the plan depends on: there is one plan for each of
    these values. An execution with another value is sent as text, and so has a plan of its own.
    """
    marked: Statement = statement.execution_options(**{_OPTION: planned_values})
    return marked


class PreparedForm(NamedTuple):
    """How a marked statement is prepared and executed.

    `text` and `arguments` have psycopg2's parameters, `%(name)s`. PREPARE has `$1`, `$2` and so on
    with `types` for the parameters in `numbers`. It has the values of the others: constants, which
    are also a part of `name`, and those in `planned_values`.
    """

    name: str
    text: str
    numbers: Mapping[str, str]
    types: str
    arguments: str
    planned_values: Mapping[str, Collection[Any]]

    def name_for(self, values: Mapping[str, Any]) -> str:
        """Return the name in the session for these values; "" if there is no plan for them."""
        name = self.name
        for parameter, planned_values in self.planned_values.items():
            value = values[parameter]
            if value not in planned_values:
                return ""
            name = f"{name}_{value}".lower()
        return name

    def prepare_sql(self, name: str) -> str:
        body = re.sub(r"%\((\w+)\)s", lambda match: self.numbers.get(match[1], match[0]), self.text)
        return f"PREPARE {name} {self.types} AS {body}; "

    def execute_sql(self, name: str) -> str:
        return f"EXECUTE {name} {self.arguments}"


def build_prepared_form(
    statement: Any,
    sql: str,
    types: Mapping[str, Any],
    constants: Mapping[str, Any],
    dialect: Dialect,
) -> PreparedForm | None:
    """Return the prepared form of a marked statement, or None if it must be sent as text.

    `types` are the types of all parameters in `sql`. `constants` are the values of those that have
    the same value in each execution.
    """
    planned_values = statement.get_execution_options().get(_OPTION)
    names = [name for name in types if name not in constants]
    if planned_values is None or any(isinstance(types[name], NullType) for name in names):
        return None
    names = [name for name in names if name not in planned_values]
    type_sql = {name: dialect.type_compiler_instance.process(types[name]) for name in names}
    declared_types = _in_parentheses(type_sql.values())
    constant_values = [value for name, value in constants.items() if f"%({name})s" in sql]
    identity = repr((declared_types, sql, constant_values))
    digest = blake2b(identity.encode(), digest_size=8)
    # psycopg2 writes a list as ARRAY[...], which has a type; other values are untyped texts.
    arguments = [
        f"%({name})s::{type_sql[name]}" if isinstance(types[name], ARRAY) else f"%({name})s"
        for name in names
    ]
    return PreparedForm(
        name=f"s{digest.hexdigest()}",
        text=sql,
        numbers={name: f"${number}" for number, name in enumerate(names, 1)},
        types=declared_types,
        arguments=_in_parentheses(arguments),
        planned_values=dict(sorted(planned_values.items())),  # a name has the values in this order
    )


def _in_parentheses(items: Collection[str]) -> str:
    return f"({', '.join(items)})" if items else ""


class PreparedStatements:
    """Which statements the session of a connection has prepared: at most MAX_PREPARED.

    This may be wrong: a message failed before its PREPARE, or another command changed the session.
    Then EXECUTE or PREPARE fails, and `forget_if_lost` returns True.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._renew_at = 0.0  # on the monotonic clock

    def message(self, form: PreparedForm, values: Mapping[str, Any], prefix: str) -> str | None:
        """Return the message that executes a statement, with `prefix` in front of it.

        Returns None if the text must be sent: there is no plan for these values, or the session has
        MAX_PREPARED other statements.
        """
        if not (name := form.name_for(values)):
            return None
        sql = prefix + form.execute_sql(name)
        now = time.monotonic()
        if now < self._renew_at and name in self._names:
            return sql
        forget_sql = ""
        if now >= self._renew_at:
            self._names.clear()
            self._renew_at = now + MAX_AGE_SECONDS
            forget_sql = FORGET_SQL
        if len(self._names) == MAX_PREPARED:
            return None
        # If the message fails, it probably fails after PREPARE, which then stays in effect.
        self._names.add(name)
        return forget_sql + _PREFER_INDEXES + form.prepare_sql(name) + sql

    def forget_if_lost(self, error: Any) -> bool:
        """Whether the error shows that the session has other statements. If so, forget them.

        Then nothing was executed. Send FORGET_SQL in front of the next statement.
        """
        is_lost = error.pgcode in _LOST_STATES
        if is_lost:
            self._names.clear()
        return is_lost
