"""Classifies database errors, by SQLSTATE and by whether the statement had been sent."""

import logging
import random
from collections.abc import Iterable

import psycopg2
from sqlalchemy import ForeignKeyConstraint, Table
from sqlalchemy.exc import TimeoutError as PoolTimeout

from projectapp.problems import (
    BadRequest,
    Conflict,
    InvalidToken,
    LockTimeout,
    Problem,
    ServiceUnavailable,
    UnknownReference,
    ValidationFailed,
)

log = logging.getLogger(__name__)

# SQLSTATEs (PostgreSQL, appendix A), or their first characters. The same request may succeed later:
_TRANSIENT_STATES = ("25", "28", "3D", "3F", "40", "42501", "53", "55", "57014", "XX")
_READ_ONLY = "25006"
# The statement had no effect, and may succeed at once. The first two states are a serialization
# failure and a deadlock. A server is read-only if it has become a standby.
_RETRY_STATES = ("40001", "40P01", _READ_ONLY)
_TOKEN_REFUSED = "PA401"  # noqa: S105 - raised by api_token_check
# Connection, shutdown and system errors: the server or a pooler ends the connection.
_DISCONNECT_STATES = ("08", "57P", "58")


class DatabaseFault(Exception):
    """A classified error. `problem` is the exception to raise.

    `can_retry`: the statement had no effect, so it may be executed again. `is_answer_lost`: the
    connection broke before the answer came, so a write may have taken effect. `pid` is the server
    process that got the statement, or None if a pooler hides it.
    """

    pid: int | None = None

    def __init__(
        self, problem: Exception, can_retry: bool = False, is_answer_lost: bool = False
    ) -> None:
        super().__init__(str(problem))
        self.problem, self.can_retry, self.is_answer_lost = problem, can_retry, is_answer_lost


def breaks_connection(error: BaseException | None) -> bool:
    """Whether the connection broke or leads to a standby: then its generation has ended."""
    sqlstate = getattr(error, "pgcode", None)
    if sqlstate is None:  # psycopg2 raises a plain DatabaseError for a broken connection, too
        types = (psycopg2.OperationalError, psycopg2.InterfaceError)
        return isinstance(error, types) or type(error) is psycopg2.DatabaseError
    return sqlstate == _READ_ONLY or sqlstate.startswith(_DISCONNECT_STATES)


def classify(error: Exception, was_sent: bool, tables: Iterable[Table] = ()) -> DatabaseFault:
    """Return the DatabaseFault of an error.

    `was_sent`: the statement may have reached the server. `problem` is an UnknownReference for a
    foreign key of `tables`, and a ValidationFailed for another constraint of theirs whose `info`
    has a `field` and a `message`. It is the error itself if that is a bug of ours, caused neither
    by the database nor by the client.
    """
    if isinstance(error, PoolTimeout):
        message = "Every database connection is busy. Try again shortly."
        return DatabaseFault(ServiceUnavailable(message, 1, "pool_timeout"))
    if not isinstance(error, psycopg2.Error):
        return DatabaseFault(error)
    sqlstate = error.pgcode
    if breaks_connection(error) and sqlstate != _READ_ONLY:
        log.warning("database unreachable: %s", str(error).strip())
        seconds = random.randint(1, 3)  # noqa: S311 - so that clients do not all return at once
        message = "The database cannot be reached. Try again shortly."
        problem = ServiceUnavailable(message, seconds, "database_unreachable")
        return DatabaseFault(problem, can_retry=not was_sent, is_answer_lost=was_sent)
    if sqlstate is None:
        return DatabaseFault(error)
    if sqlstate == _TOKEN_REFUSED:
        return DatabaseFault(InvalidToken())
    # Only the primary message: the other fields quote the row.
    log.warning("database error %s: %s", sqlstate, error.diag.message_primary)
    if sqlstate.startswith("23"):
        return DatabaseFault(_classify_violation(sqlstate, error.diag.constraint_name, tables))
    if sqlstate.startswith("22") or sqlstate == "54001":  # invalid data, or too deep
        return DatabaseFault(BadRequest("The database does not accept this value."))
    if sqlstate in ("42P01", "42703", "42883"):  # there is no such table, column or function
        message = "The database schema is older than this release. Run: flask db upgrade."
        return DatabaseFault(ServiceUnavailable(message, 5, "not_ready"))
    if not sqlstate.startswith(_TRANSIENT_STATES):
        return DatabaseFault(error)
    if sqlstate == "55P03":  # a lock timeout
        return DatabaseFault(LockTimeout(error.diag.context or ""))
    if sqlstate == "42501":  # no privilege
        message = "The service's database role lacks a privilege for this. See docs/roles.md."
        return DatabaseFault(ServiceUnavailable(message, 30, "database_refused"))
    # 53: no disk space, memory or connections. 57014: a statement timeout.
    seconds, reason = 2, "database_refused"
    if sqlstate.startswith("53"):
        seconds, reason = 30, "database_overloaded"
    elif sqlstate == "57014":
        seconds, reason = 1, "statement_timeout"
    message = "The database cannot do this now. Try again later."
    problem = ServiceUnavailable(message, seconds, reason)
    return DatabaseFault(problem, can_retry=sqlstate in _RETRY_STATES)


def _classify_violation(sqlstate: str, name: str | None, tables: Iterable[Table]) -> Problem:
    """Return the problem of the violated constraint `name`."""
    for constraint in (c for table in tables for c in table.constraints if c.name == name):
        if isinstance(constraint, ForeignKeyConstraint):
            referred = constraint.referred_table.name
            return UnknownReference(constraint.table.name, constraint.column_keys[0], referred)
        if constraint.info:
            return ValidationFailed({constraint.info["field"]: [constraint.info["message"]]})
    if sqlstate in ("23505", "23503", "23P01"):  # unique, foreign key, exclusion
        return Conflict("This conflicts with data that is already stored.")
    return BadRequest("The database does not accept this value.")
