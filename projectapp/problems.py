"""Every error is one `application/problem+json` object (RFC 9457), made here and nowhere else.

Raise a Problem; the handlers turn it, Flask's own HTTP errors and anything unforeseen into the
document. What a client may know is in the Problem's text; what it may not is in the log.
"""

import json
import logging
import re
from http import HTTPStatus
from itertools import islice
from typing import Any

from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException

CONTENT_TYPE = "application/problem+json"

log = logging.getLogger(__name__)


class Problem(Exception):
    """An answer that is an error: `detail` says to the client what is wrong and what to do.

    `details` maps a field or parameter to its list of messages.
    """

    status = 500
    code = "internal_error"

    def __init__(
        self,
        detail: str,
        details: dict[str, list[str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.details = details
        self.headers = headers or {}


class BadRequest(Problem):
    status, code = 400, "bad_request"


class Invalid(Problem):
    """One or more fields or parameters break their rules; the detail is made from them."""

    status, code = 400, "validation_error"

    def __init__(self, details: dict[str, list[str]]) -> None:
        # The names may be the client's own: a bad megabyte shall not be answered with three.
        details = {name[:100]: messages for name, messages in islice(details.items(), 20)}
        told = (f"{name}: {message}" for name, messages in details.items() for message in messages)
        super().__init__(" ".join(told), details)


class Unauthorized(Problem):
    """No credentials, or none of use: RFC 6750, 3.

    `error` and the detail go into WWW-Authenticate; the `reason` is for the log alone.
    """

    status, code = 401, "unauthorized"
    error: str | None = None

    def __init__(
        self,
        detail: str = "The token is unknown, expired or revoked.",
        reason: str = "unknown, expired or revoked token",
    ) -> None:
        told = f' error="{self.error}", error_description="{detail}"' if self.error else ""
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer" + told})
        self.reason = reason


class InvalidToken(Unauthorized):
    code = error = "invalid_token"


class MalformedToken(Unauthorized):
    status, code, error = 400, "invalid_request", "invalid_request"


class InsufficientScope(Problem):
    status, code = 403, "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"This needs the scope {scope}.",
            headers={"WWW-Authenticate": f'Bearer error="{self.code}", scope="{scope}"'},
        )


class NotFound(Problem):
    """One answer for all that is not there, so that it tells nothing of what is."""

    status, code = 404, "not_found"

    def __init__(self) -> None:
        super().__init__("There is nothing at this path.")


class Conflict(Problem):
    status, code = 409, "conflict"


class PreconditionFailed(Problem):
    status, code = 412, "precondition_failed"


class PayloadTooLarge(Problem):
    status, code = 413, "payload_too_large"


class UnsupportedMediaType(Problem):
    status, code = 415, "unsupported_media_type"


class KeyReused(Problem):
    status, code = 422, "idempotency_key_reused"


class TooManyRequests(Problem):
    """Over the RATE_LIMIT; `headers` say when to come back."""

    status, code = 429, "too_many_requests"


class Unavailable(Problem):
    """The database cannot serve this now; `retry_after` is in whole seconds."""

    status, code = 503, "unavailable"

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Locked(Unavailable):
    """A lock was not to be had in time; `context` is what PostgreSQL says of where."""

    def __init__(self, context: str) -> None:
        super().__init__(
            "Another request has locked what this needs. Try again shortly.", retry_after=1
        )
        self.context = context


class OutcomeUnknown(Unavailable):
    """The answer to a write was lost, and what became of it could not be found out.

    `remedy` says what to do about it where a command cannot simply be run again.
    """

    code = "outcome_unknown"
    what = "The database's answer was lost: this may or may not have happened."

    def __init__(self, remedy: str | None = None) -> None:
        repeat = "Repeat it with the same Idempotency-Key, or read first."
        super().__init__(f"{self.what} {repeat}", retry_after=1)
        self.remedy = remedy


_KINDS: list[type[Problem]] = [*Problem.__subclasses__(), Problem]
CODES = {kind.status: kind.code for kind in _KINDS if kind is not Invalid} | {414: "uri_too_long"}


def document(status: int, detail: str, code: str | None = None, **more: Any) -> str:
    """The problem document as JSON text: RFC 9457's members and the tutorial's."""
    phrase = HTTPStatus(status).phrase
    return json.dumps(
        {
            "type": "about:blank",
            "title": phrase,
            "status": status,
            "detail": detail,
            "error": code or CODES.get(status) or re.sub(r"\W+", "_", phrase.lower()),
            "message": detail,
            **more,
        }
    )


def _response(status: int, detail: str, headers: Any = (), **more: Any) -> Response:
    text = document(status, detail, **more, request_id=g.get("request_id"))
    return Response(text, status, headers, content_type=CONTENT_TYPE)


def _problem(problem: Problem) -> Response:
    more = {"details": problem.details} if problem.details else {}
    return _response(problem.status, problem.detail, problem.headers, code=problem.code, **more)


def _http_error(error: HTTPException) -> HTTPException | Response:
    if error.code is None or error.code < 400:
        return error
    if error.code == NotFound.status:
        return _problem(NotFound())
    kept = {
        k: v for k, v in error.get_headers() if k.lower() not in ("content-type", "content-length")
    }
    return _response(error.code, error.description or HTTPStatus(error.code).phrase, kept)


def _unforeseen(error: Exception) -> Response:
    log.exception("unhandled %s", type(error).__name__)
    return _response(500, "Something went wrong here. The request_id finds it in the log.")


def init_app(app: Flask) -> None:
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unforeseen)
