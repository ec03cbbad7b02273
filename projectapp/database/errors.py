"""What an error of the database means, decided once: by when it came, then by its SQLSTATE."""

import logging
import random
from collections.abc import Iterable

import psycopg2
from sqlalchemy import ForeignKeyConstraint, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from projectapp.problems import (
    BadRequest,
    Conflict,
    InvalidToken,
    LockTimeout,
    ServiceUnavailable,
    UnknownReference,
    ValidationFailed,
)

log = logging.getLogger(__name__)

# SQLSTATE classes and codes (PostgreSQL, appendix A) after which the same request may succeed.
_LATER = ("25", "28", "3D", "3F", "40", "42501", "53", "55", "57014", "XX")
_ROLLED_BACK = ("40001", "40P01")
_READ_ONLY = "25006"
_TOKEN_REFUSED = "PA401"  # noqa: S105 - api_token_check raises it
# The server's or a pooler's last words: connection, shutdown, system.
_FAREWELLS = ("08", "57P", "58")


class DatabaseFault(Exception):
    """A classified error: `problem` is what the client is told.

    `again` says that nothing has happened, so that the same may be tried once more; `lost` that the
    link ended before the answer came, so that a write may have happened; `pid` is then the server
    process that was asked, unless a pooler hides it.
    """

    pid: int | None = None

    def __init__(self, problem: Exception, again: bool = False, lost: bool = False) -> None:
        super().__init__(str(problem))
        self.problem, self.again, self.lost = problem, again, lost


def breaks_connection(error: BaseException | None) -> bool:
    """Whether no connection as old as this one is of use: it broke, or leads to a standby."""
    state = getattr(error, "pgcode", None)
    if state is None:  # a plain DatabaseError is libpq's "no message", for a link that broke
        broken = (psycopg2.OperationalError, psycopg2.InterfaceError)
        return isinstance(error, broken) or type(error) is psycopg2.DatabaseError
    return state == _READ_ONLY or state.startswith(_FAREWELLS)


def classify(error: Exception, sent: bool, tables: Iterable[Table] = ()) -> DatabaseFault:
    """Return the DatabaseFault of an error that came before or after a statement was `sent`.

    The `info` of a violated constraint of `tables` says which field and what is wrong. What is no
    fault of the database's or the client's is a bug of ours: the error itself is then its problem.
    """
    if isinstance(error, PoolTimeout):
        return DatabaseFault(
            ServiceUnavailable("Every database connection is busy. Try again shortly.", 1)
        )
    if isinstance(error, DBAPIError):  # of what SQLAlchemy asks on an engine's first connection
        error = error.orig or error
    if not isinstance(error, psycopg2.Error):
        return DatabaseFault(error)
    state = error.pgcode
    if breaks_connection(error) and state != _READ_ONLY:
        log.warning("database unreachable: %s", str(error).strip())
        seconds = random.randint(1, 3)  # noqa: S311 - or all who were sent away return at once
        problem = ServiceUnavailable("The database cannot be reached. Try again shortly.", seconds)
        return DatabaseFault(problem, again=not sent, lost=sent)
    if state is None:
        return DatabaseFault(error)
    if state == _TOKEN_REFUSED:
        return DatabaseFault(InvalidToken())
    said = error.diag
    log.warning("database error %s: %s", state, said.message_primary)  # the rest quotes the row
    if state.startswith("23"):
        return DatabaseFault(_violation(state, said.constraint_name, tables))
    if state.startswith("22") or state == "54001":
        return DatabaseFault(BadRequest("The database does not accept this value."))
    if state in ("42P01", "42703", "42883"):
        return DatabaseFault(
            ServiceUnavailable("The database is behind this release: flask db upgrade.", 5)
        )
    if not state.startswith(_LATER):
        return DatabaseFault(error)
    if state == "55P03":
        return DatabaseFault(LockTimeout(said.context or ""))
    if state == "42501":
        what = "The service's database role may not do this: docs/roles.md says which role may."
        return DatabaseFault(ServiceUnavailable(what, 30))
    seconds = 30 if state.startswith("53") else 1 if state == "57014" else 2
    problem = ServiceUnavailable("The database cannot do this now. Try again later.", seconds)
    return DatabaseFault(problem, again=state == _READ_ONLY or state in _ROLLED_BACK)


def _violation(
    state: str, name: str | None, tables: Iterable[Table]
) -> Conflict | ValidationFailed | BadRequest:
    for table in tables:
        for constraint in table.constraints:
            if constraint.name == name and isinstance(constraint, ForeignKeyConstraint):
                referred = constraint.referred_table.name
                return UnknownReference(table.name, constraint.column_keys[0], referred)
            if constraint.name == name and constraint.info:
                return ValidationFailed({constraint.info["field"]: [constraint.info["message"]]})
    if state in ("23505", "23503", "23P01"):
        return Conflict("This contradicts what is stored already.")
    return BadRequest("The database does not accept this value.")
