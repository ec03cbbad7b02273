"""Who calls and what they may: bearer credentials (RFC 6750), scopes, and whose rows they see.

AUTH says which credentials are taken. An `Operation` names the scope it needs; `admitted` looks at
the credentials before anything else of the request is read. Rows with an owner are filtered by
`mine`, and by nothing else.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import sqlalchemy as sa
from flask import Flask, current_app, g, request

from config import LOOPBACK
from projectapp import database, limits, logs
from projectapp.auth import tokens
from projectapp.auth.caller import Caller
from projectapp.errors import (
    InsufficientScope,
    InvalidToken,
    MalformedToken,
    Problem,
    Unauthorized,
    Unavailable,
)

log = logging.getLogger(__name__)

_ANYBODY = Caller(None, frozenset(), "none")
_NOTHING: sa.Select[Any] = sa.select(sa.literal_column("1"))


def init_app(app: Flask) -> None:
    kinds = app.config["AUTH"]
    tokens.init_app(app)
    if "jwt" in kinds:
        from projectapp.auth import jwt  # and cryptography

        app.extensions["jwt"] = jwt.Verifier(app.config)
    is_open = app.config["WARN_WITHOUT_AUTH"] or app.config["HOST"] not in LOOPBACK
    if is_open and not kinds:
        log.warning("AUTH=none: whoever reaches the port may read, change and delete everything.")


@contextmanager
def admitted(scope: str) -> Iterator[None]:
    """Run the block, a whole view, for a caller who may do what `scope` names.

    Raises Unauthorized, InsufficientScope, TooManyRequests, Unavailable. What the block raises or
    returns counts only if the caller's token was good at that time: where no statement of the block
    has asked, one of its own does.
    """
    g.guard, g.was_guarded = "", False  # where a context outlives its request, as in tests
    if not current_app.config["AUTH"]:
        g.caller = _ANYBODY
        limits.count_request(None)
        yield
        return
    try:
        g.caller = caller = _authenticate()
        limits.count_request(caller.subject)
        try:
            if not caller.may(scope):
                raise InsufficientScope(scope)
            yield
        except (Unauthorized, Unavailable):
            raise
        except Problem:
            _confirm()
            raise
        _confirm()
    except (Unauthorized, InsufficientScope) as problem:
        _tell(problem)
        raise


def subject() -> str | None:
    """Who makes the current request, as the owner of what it makes; None while AUTH is none."""
    return cast(Caller, g.caller).subject


def sees(resource: str) -> str | None:
    """The one owner whose rows of `resource`, a table, the caller sees; None for everybody's."""
    caller: Caller = g.caller
    return None if caller.sees_all(resource) else caller.subject


def mine(owner: Any, resource: str) -> sa.ColumnElement[bool]:
    """Whether the current caller sees a row of `resource` with this `owner`, a column.

    It asks for the caller when it is run, and fails where there is none. PostgreSQL sees a constant
    on the left, so that what is left for its planner is one comparison, or nothing.
    """
    seen: sa.BindParameter[str | None] = sa.bindparam(
        "seen", callable_=lambda: sees(resource), type_=sa.Text
    )
    return sa.or_(seen.is_(None), owner == seen)


def _authenticate() -> Caller:
    """The caller of the request's one credential, in the Authorization header."""
    given = request.headers.get("Authorization", "")
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized("Send a token: Authorization: Bearer TOKEN.", "no credentials")
    token = token.strip(" ")
    if not re.fullmatch(r"[A-Za-z0-9\-._~+/]+=*", token):
        raise MalformedToken("Authorization must be Bearer and one token.", "malformed header")
    kinds = current_app.config["AUTH"]
    if "tokens" in kinds and token.startswith(tokens.PREFIX):
        caller = tokens.find_caller(token)
        g.guard = tokens.guard(caller)
        return caller
    if "jwt" in kinds:
        return cast(Caller, current_app.extensions["jwt"].verify(token))
    raise InvalidToken("This is no token of this service.", "no token of this service")


def _confirm() -> None:
    if g.guard and not g.was_guarded:
        database.one(_NOTHING)


def _tell(problem: Unauthorized | InsufficientScope) -> None:
    """Log a failure as an event of OWASP's logging vocabulary, unless the address has too many."""
    caller: Caller | None = g.get("caller")
    if isinstance(problem, Unauthorized):
        event, reason = "authn_fail", problem.reason
        if caller:
            tokens.forget(caller)
        limits.count_failure()
    else:
        event, reason = "authz_fail", problem.detail
    log.warning("%s: %s", event, reason, extra={"event": event, "reason": reason, **logs.who()})
