"""Authentication and authorization: bearer tokens (RFC 6750), scopes, and owners of rows.

How a request is authenticated:

1. An `Endpoint` with a scope runs `authorize(scope)` around its view, and before it parses the
   query string and the body.
2. `_authenticate` reads the token: in the Authorization header or, for requests of the console, in
   its cookie (session_cookie.py). The setting AUTH selects the accepted kinds of tokens. A JWT is
   verified in this process (jwt.py) and is valid until it expires.
3. The owner and the scopes of an API token are cached (tokens.py), but the token may have been
   revoked since. So `authorize` stores SQL that checks the token in
   `RequestState.statement_prefix`. database/execution.py sends this SQL in front of every statement
   of the request, in the same message. So the check costs no round trip, and if it fails,
   PostgreSQL does not run the statement.
4. The request is counted (`rate_limit`), the scope is checked, and the view runs.
5. If the request has executed no statement, for instance because its body is invalid,
   `_check_token` sends the check alone. So a revoked token gets a 401, and not a 400 or 403. (The
   query for a token that is not cached also counts as a statement: it finds only active tokens.)

Every statement on rows with an owner contains the condition that `is_visible` returns. Nothing else
decides which rows a caller may see or change.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import sqlalchemy as sa
from flask import Flask, current_app, request

from projectapp import database, rate_limit
from projectapp.auth import session_cookie, tokens
from projectapp.metrics.definitions import TOKENS_REFUSED
from projectapp.problems import (
    InsufficientScope,
    InvalidToken,
    MalformedToken,
    Problem,
    ServiceUnavailable,
    Unauthorized,
)
from projectapp.request_state import Caller, RequestState, request_state
from settings.parsers import LOOPBACK

log = logging.getLogger(__name__)

# The scope of GET /metrics, which is no resource: no JWT has it by default.
METRICS_SCOPE = "metrics:read"

_ANONYMOUS = Caller(subject=None, scopes=frozenset(), credential="none")
_END_OF_DATES = datetime(9999, 12, 31, tzinfo=UTC).timestamp()  # the `exp` of a JWT may be later
_SELECT_1: sa.Select[Any] = sa.select(sa.literal_column("1"))


def init_app(app: Flask) -> None:
    """Prepare for the kinds of tokens in AUTH.

    Call this after the endpoints are registered: their scopes are the default of JWT_SCOPES.
    """
    methods = app.config["AUTH"]
    app.extensions["tokens"] = tokens.TokenCache(app)
    if "jwt" in methods:
        from projectapp.auth import jwt  # only here: the library cryptography is large

        scopes = all_scopes(app) - {METRICS_SCOPE}
        read_and_write = (s for s in scopes if s.endswith((":read", ":write")))
        default_scopes = frozenset(app.config["JWT_SCOPES"] or read_and_write)
        app.extensions["jwt"] = jwt.Verifier(app.config, default_scopes)
    is_reachable = app.config["WARN_WITHOUT_AUTH"] or app.config["HOST"] not in LOOPBACK
    if is_reachable and not methods:
        message = "AUTH=none: anyone who can reach the port can read, change and delete everything."
        log.warning(message)


@contextmanager
def authorize(scope: str | None) -> Iterator[None]:
    """Run the block, which is a whole view, for a caller who has `scope`; None is for any caller.

    Raises Unauthorized and InsufficientScope, which it logs, TooManyRequests and
    ServiceUnavailable.
    """
    state = request_state()
    try:
        caller = _authenticate()
        act_for(caller)
        if not request.environ.get("projectapp.has_waited"):  # it was counted before it waited
            rate_limit.count_request(caller.subject)
        try:
            if scope and not caller.has_scope(scope):
                raise InsufficientScope(scope)
            yield
        except (Unauthorized, ServiceUnavailable):
            raise  # the check has failed already, or cannot be sent
        except Problem:
            _check_token(state)  # if this fails, its 401 replaces the problem
            raise
        _check_token(state)
    except (Unauthorized, InsufficientScope) as problem:
        _log_failure(problem)
        raise


def act_for(caller: Caller) -> None:
    """Execute the next statements for this caller, as long as the caller's token is valid.

    Raises InvalidToken for an expired JWT. Each statement checks an API token by itself.
    """
    if time.time() >= caller.expires_at:
        raise InvalidToken()
    state = request_state()
    state.caller = caller
    if caller.digest:
        state.statement_prefix = tokens.token_check_sql(caller)


def all_scopes(app: Flask) -> set[str]:
    """Return the scopes that the endpoints of the app need, and RESOURCE:all for each resource."""
    endpoints = (getattr(view, "endpoint", None) for view in app.view_functions.values())
    scopes = {endpoint.scope for endpoint in endpoints if endpoint and endpoint.scope}
    return scopes | {f"{scope.partition(':')[0]}:all" for scope in scopes - {METRICS_SCOPE}}


def find_valid_callers(callers: Iterable[Caller]) -> set[Caller]:
    """Return the callers whose tokens are still valid. For API tokens this is one statement.

    Raises ServiceUnavailable.
    """
    unexpired = {caller for caller in callers if time.time() < caller.expires_at}
    digests = {caller.digest for caller in unexpired if caller.digest}
    active_digests = tokens.find_active_digests(digests) if digests else set()
    return {caller for caller in unexpired if caller.digest in {b"", *active_digests}}


def current_caller() -> Caller:
    """Return the caller of this request, whom `authorize` has authenticated."""
    return cast(Caller, request_state().caller)


def current_owner() -> str | None:
    """Return the owner of the rows that this request creates; None with AUTH=none."""
    return current_caller().subject


def find_expiry() -> datetime | None:
    """Return when the caller's token expires, or None. For an API token this is one statement."""
    caller = current_caller()
    if caller.digest:
        return tokens.find_expiry(caller)
    has_date = caller.expires_at < _END_OF_DATES
    return datetime.fromtimestamp(caller.expires_at, UTC) if has_date else None


def visible_owner(resource: str) -> str | None:
    """Return the only owner whose rows the caller may see; None if the caller may see all rows.

    `resource` is the name of a table, and the first part of its scopes.
    """
    caller = current_caller()
    return None if caller.can_see_all(resource) else caller.subject


def is_visible(owner: Any, resource: str) -> sa.ColumnElement[bool]:
    """Return the SQL condition "the caller may see this row"; `owner` is its owner column.

    A statement is compiled once for all callers. Its parameter gets its value, `visible_owner`, at
    each execution. Each resource has its own parameter, because a statement may filter several
    resources, and the caller may have `:all` for only some of them.

    psycopg2 writes the values into the SQL: `NULL IS NULL OR owner = NULL`, or
    `'ann' IS NULL OR owner = 'ann'`. PostgreSQL's planner evaluates the constant parts, so that the
    plan contains no condition, or only the comparison. The plan of a prepared statement contains
    the whole condition, except for NULL (`plan_once` with this parameter).
    """
    only_owner: sa.BindParameter[str | None] = sa.bindparam(
        owner_parameter(resource), callable_=lambda: visible_owner(resource), type_=sa.Text
    )
    return sa.or_(only_owner.is_(None), owner == only_owner)


def owner_parameter(resource: str) -> str:
    """Return the name of the parameter of `is_visible`."""
    return f"visible_owner_of_{resource}"


def read_bearer_token() -> str:
    """Return the token in the Authorization header. Raises Unauthorized and MalformedToken."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized("Send a token: Authorization: Bearer TOKEN.", "no credentials")
    token = token.strip(" ")
    if not re.fullmatch(r"[A-Za-z0-9\-._~+/]+=*", token):
        raise MalformedToken("Send one token: Authorization: Bearer TOKEN.", "malformed header")
    return token


def _authenticate() -> Caller:
    """Return the caller whose token the request contains. Raises Unauthorized."""
    config = current_app.config
    methods = config["AUTH"]
    if not methods:
        return _ANONYMOUS
    token = session_cookie.read_token() if config["CONSOLE"] else None
    if token:
        request_state().token_source = "cookie"  # noqa: S105
    else:
        token = read_bearer_token()
    if "tokens" in methods and token.startswith(tokens.PREFIX):
        token_cache: tokens.TokenCache = current_app.extensions["tokens"]
        return token_cache.find_caller(token)
    if "jwt" in methods:
        return cast(Caller, current_app.extensions["jwt"].verify(token))
    raise InvalidToken("This service does not accept this kind of token.", "unknown kind of token")


def _check_token(state: RequestState) -> None:
    """Send the token check alone if no statement of this request has sent it."""
    if state.statement_prefix and not state.prefix_was_sent:
        database.execute(_SELECT_1)


def _log_failure(problem: Unauthorized | InsufficientScope) -> None:
    """Log an event with its name in OWASP's logging vocabulary.

    Counts a failed authentication for the client's address. Raises TooManyRequests, and logs
    nothing, if the address has had too many.
    """
    state = request_state()
    if isinstance(problem, Unauthorized):
        event, reason = "authn_fail", problem.reason
        if state.caller:
            current_app.extensions["tokens"].forget(state.caller)
        rate_limit.count_failure()
    else:
        event, reason = "authz_fail", problem.detail
    label = reason if isinstance(problem, Unauthorized) else problem.code
    TOKENS_REFUSED.increase(re.sub(r"\W+", "_", label))
    extra = {"event": event, "reason": reason, **state.caller_fields()}
    log.warning("%s: %s", event, reason, extra=extra)
