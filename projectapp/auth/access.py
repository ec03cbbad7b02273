"""Who calls and what they may: bearer credentials (RFC 6750), scopes, and whose rows they see.

AUTH says which credentials are taken. An `Operation` names the scope it needs; `authorize` looks at
the credentials before anything else of the request is read. Rows with an owner are filtered by
`mine`, and by nothing else.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import sqlalchemy as sa
from flask import Flask, current_app, request

from config import LOOPBACK
from projectapp import database, rate_limit
from projectapp.auth import tokens
from projectapp.problems import (
    InsufficientScope,
    InvalidToken,
    MalformedToken,
    Problem,
    ServiceUnavailable,
    Unauthorized,
)
from projectapp.request_state import Caller, caller_fields, request_state

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
def authorize(scope: str) -> Iterator[None]:
    """Run the block, a whole view, for a caller who may do what `scope` names.

    Raises Unauthorized, InsufficientScope, TooManyRequests, ServiceUnavailable. What the block
    raises or returns counts only if the caller's token was good at that time: where no statement of
    the block has asked, one of its own does.
    """
    state = request_state()
    if not current_app.config["AUTH"]:
        state.caller = _ANYBODY
        rate_limit.count_request(None)
        yield
        return
    try:
        state.caller = caller = _authenticate()
        rate_limit.count_request(caller.subject)
        try:
            if not caller.has_scope(scope):
                raise InsufficientScope(scope)
            yield
        except (Unauthorized, ServiceUnavailable):
            raise
        except Problem:
            _confirm()
            raise
        _confirm()
    except (Unauthorized, InsufficientScope) as problem:
        _tell(problem)
        raise


def all_scopes(app: Flask) -> set[str]:
    """Return every scope there is: those that the endpoints name, and RESOURCE:all for each."""
    endpoints = (getattr(view, "endpoint", None) for view in app.view_functions.values())
    scopes = {endpoint.scope for endpoint in endpoints if endpoint and endpoint.scope}
    return scopes | {f"{scope.partition(':')[0]}:all" for scope in scopes}


def current_owner() -> str | None:
    """Who makes the current request, as the owner of what it makes; None while AUTH is none."""
    return cast(Caller, request_state().caller).subject


def visible_owner(resource: str) -> str | None:
    """The one owner whose rows of `resource`, a table, the caller sees; None for everybody's."""
    caller = cast(Caller, request_state().caller)
    return None if caller.can_see_all(resource) else caller.subject


def is_visible(owner: Any, resource: str) -> sa.ColumnElement[bool]:
    """Whether the current caller sees a row of `resource` with this `owner`, a column.

    It asks for the caller when it is run, and fails where there is none. PostgreSQL sees a constant
    on the left, so that what is left for its planner is one comparison, or nothing.
    """
    seen: sa.BindParameter[str | None] = sa.bindparam(
        "seen", callable_=lambda: visible_owner(resource), type_=sa.Text
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
        request_state().statement_prefix = tokens.token_check_sql(caller)
        return caller
    if "jwt" in kinds:
        return cast(Caller, current_app.extensions["jwt"].verify(token))
    raise InvalidToken("This is no token of this service.", "no token of this service")


def _confirm() -> None:
    state = request_state()
    if state.statement_prefix and not state.prefix_was_sent:
        database.execute(_NOTHING)


def _tell(problem: Unauthorized | InsufficientScope) -> None:
    """Log a failure as an event of OWASP's logging vocabulary, unless the address has too many."""
    caller = request_state().caller
    if isinstance(problem, Unauthorized):
        event, reason = "authn_fail", problem.reason
        if caller:
            tokens.forget(caller)
        rate_limit.count_failure()
    else:
        event, reason = "authz_fail", problem.detail
    log.warning(
        "%s: %s", event, reason, extra={"event": event, "reason": reason, **caller_fields()}
    )
