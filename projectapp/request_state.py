"""The state of one request: one typed object in Flask's `g`, which nothing else uses.

All packages may import this module. So `database` can read what `auth` wrote, without importing it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from flask import Request, g, has_app_context, request

if TYPE_CHECKING:
    from projectapp.tracing.spans import RequestSpan

# Faster than `request.path` and `g.state`: a proxy finds its object again for each attribute.
current_request = cast(Callable[[], Request], request._get_current_object)  # type: ignore[attr-defined]
_current_g = cast(Callable[[], Any], g._get_current_object)

OWNER_LENGTH = 255  # characters: the maximum of `sub` in OpenID Connect Core 1.0, section 2


class Caller(NamedTuple):
    """The authenticated client.

    `subject` is the owner of the rows that the caller creates, and None with AUTH=none. A scope is
    "RESOURCE:read", "RESOURCE:write" or "RESOURCE:all". "RESOURCE:all" permits reading and writing
    the rows of all owners. `credential` names the token in the log, without revealing it. `digest`
    is the SHA-256 of an API token, and empty for a JWT. `expires_at` is the end of a JWT in Unix
    time.
    """

    subject: str | None
    scopes: frozenset[str]
    credential: str
    digest: bytes = b""
    expires_at: float = math.inf

    def has_scope(self, scope: str) -> bool:
        return scope in self.scopes or self.can_see_all(scope.partition(":")[0])

    def can_see_all(self, resource: str) -> bool:
        return self.subject is None or f"{resource}:all" in self.scopes


@dataclass(slots=True)
class RequestState:
    """The state of one request or one command. Times are seconds on the monotonic clock.

    http/request_log.py sets the first five fields of a request. The comment of each other field
    names the module that writes it.
    """

    request_id: str | None = None
    trace_id: str | None = None  # of a valid traceparent
    address: str | None = None  # of the client
    started_at: float = 0.0
    deadline: float = math.inf  # no statement starts after it

    caller: Caller | None = None  # auth/access.py
    token_source: str | None = None  # auth/access.py: "cookie"; None for the Authorization header
    statement_prefix: str = ""  # auth/access.py: SQL to send in front of each statement
    prefix_was_sent: bool = False  # database/execution.py: a statement was executed
    span: "RequestSpan | None" = None  # http/request_spans.py: if TRACES is on
    raw_body: Any = None  # http/request_data.py: the body as it was sent, serializable as JSON
    operation: str = ""  # resources/restore.py: "restore" if the request's changes are restores
    rate_limit: str | None = None  # rate_limit/limiter.py: the value of the RateLimit header

    def trace_fields(self) -> dict[str, str]:
        """Return the log fields `trace_id`, and `span_id` of the request's own span."""
        if self.span:
            return self.span.log_fields
        return {"trace_id": self.trace_id} if self.trace_id else {}

    def caller_fields(self) -> dict[str, Any]:
        """Return the log fields `address` and, after authentication, `caller` and `credential`.

        If the token came in the console's cookie, there is a `token_source`, too.
        """
        caller = self.caller
        fields = {"caller": caller.subject, "credential": caller.credential} if caller else {}
        source = {"token_source": self.token_source} if self.token_source else {}
        return {**fields, **source, "address": self.address}


def request_state() -> RequestState:
    current_g = _current_g()
    state = current_g.get("state")
    if state is None:
        state = current_g.state = RequestState()
    return cast(RequestState, state)


def set_request_state(state: RequestState) -> None:
    _current_g().state = state


def seconds_left() -> float:
    """Return the seconds until the deadline of the request; infinity if there is no request."""
    return request_state().deadline - time.monotonic() if has_app_context() else math.inf
