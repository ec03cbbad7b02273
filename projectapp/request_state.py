"""What one request carries from its first hook to its last: one typed object in Flask's `g`."""

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from flask import g, has_app_context, request

OWNER_LENGTH = 255  # the longest `sub` of OpenID Connect Core 1.0, 2


class Caller(NamedTuple):
    """Who makes a request, and what they may do.

    `subject` becomes the owner of the rows that they create; None is anybody, while AUTH is none. A
    scope is "RESOURCE:read", "RESOURCE:write" or "RESOURCE:all", which is both on everybody's rows.
    `credential` is the public name of the token, for the log. `digest` is the SHA-256 of an API
    token, which may be revoked at any time.
    """

    subject: str | None
    scopes: frozenset[str]
    credential: str
    digest: bytes = b""

    def has_scope(self, scope: str) -> bool:
        return scope in self.scopes or self.can_see_all(scope.partition(":")[0])

    def can_see_all(self, resource: str) -> bool:
        return self.subject is None or f"{resource}:all" in self.scopes


@dataclass(slots=True)
class RequestState:
    """The state of one request, or of one command. Each field is written in one module.

    Times are seconds on the monotonic clock.
    """

    request_id: str | None = None  # http.request_log
    started_at: float = 0.0  # http.request_log
    deadline: float = math.inf  # http.request_log: no statement begins after it
    caller: Caller | None = None  # auth.access
    statement_prefix: str = ""  # auth.access: SQL to send in the same message before a statement
    prefix_was_sent: bool = False  # database.execution
    raw_body: dict[str, Any] | None = None  # http.request_data: the JSON object as it was sent
    rate_limit: str | None = None  # rate_limit.limiter: the RateLimit header


def request_state() -> RequestState:
    """Return the state of the current request, or that of the current command."""
    state = g.get("state")
    if state is None:
        state = g.state = RequestState()
    return cast(RequestState, state)


def set_request_state(state: RequestState) -> None:
    """Begin a request or a command with this state."""
    g.state = state


def seconds_left() -> float:
    """Return the seconds until the deadline of the request; infinity outside of a request."""
    return request_state().deadline - time.monotonic() if has_app_context() else math.inf


def caller_fields() -> dict[str, Any]:
    """Return the log fields `address` and, if the caller is known, `caller` and `credential`."""
    caller = request_state().caller
    known = {"caller": caller.subject, "credential": caller.credential} if caller else {}
    return {"address": request.remote_addr, **known}
