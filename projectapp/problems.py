"""Every error that a client gets: one `application/problem+json` object (RFC 9457).

Raise a Problem. Its text is sent to the client; details that are not for clients go to the log.
"""

import json
import re
from http import HTTPStatus
from itertools import islice
from typing import Any

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer that is an error: `detail` says to the client what is wrong and what to do.

    `field_errors` maps a field or parameter to its messages: the member `details` of the document.
    """

    status = 500
    code = "internal_error"

    def __init__(
        self,
        detail: str,
        field_errors: dict[str, list[str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field_errors = field_errors
        self.headers = headers or {}


class BadRequest(Problem):
    status, code = 400, "bad_request"


class ValidationFailed(Problem):
    """One or more fields or parameters break their rules; the detail is made from them."""

    status, code = 400, "validation_error"

    def __init__(self, field_errors: dict[str, list[str]]) -> None:
        # Names of fields may come from the client: this bounds the size of the response.
        bounded = {name[:100]: messages for name, messages in islice(field_errors.items(), 20)}
        sentences = (f"{name}: {text}" for name, texts in bounded.items() for text in texts)
        super().__init__(" ".join(sentences), bounded)


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


class IdempotencyKeyReused(Problem):
    status, code = 422, "idempotency_key_reused"


class TooManyRequests(Problem):
    """Over the RATE_LIMIT; `headers` say when to come back."""

    status, code = 429, "too_many_requests"


class ServiceUnavailable(Problem):
    """The database cannot serve this now; `retry_after` is in whole seconds."""

    status, code = 503, "unavailable"

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class LockTimeout(ServiceUnavailable):
    """A lock was not to be had in time; `context` is what PostgreSQL says of where."""

    def __init__(self, context: str) -> None:
        super().__init__(
            "Another request has locked what this needs. Try again shortly.", retry_after=1
        )
        self.context = context


class OutcomeUnknown(ServiceUnavailable):
    """The answer to a write was lost, and what became of it could not be found out.

    `remedy` says what to do about it where a command cannot simply be run again.
    """

    code = "outcome_unknown"
    what = "The database's answer was lost: this may or may not have happened."

    def __init__(self, remedy: str | None = None) -> None:
        repeat = "Repeat it with the same Idempotency-Key, or read first."
        super().__init__(f"{self.what} {repeat}", retry_after=1)
        self.remedy = remedy


_PROBLEM_CLASSES: list[type[Problem]] = [*Problem.__subclasses__(), Problem]
CODE_BY_STATUS = {
    kind.status: kind.code for kind in _PROBLEM_CLASSES if kind is not ValidationFailed
} | {414: "uri_too_long"}


def problem_json(status: int, detail: str, code: str | None = None, **more: Any) -> str:
    """The problem document as JSON text: RFC 9457's members and the tutorial's."""
    phrase = HTTPStatus(status).phrase
    return json.dumps(
        {
            "type": "about:blank",
            "title": phrase,
            "status": status,
            "detail": detail,
            "error": code or CODE_BY_STATUS.get(status) or re.sub(r"\W+", "_", phrase.lower()),
            "message": detail,
            **more,
        }
    )
