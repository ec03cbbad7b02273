"""Every error response: one `application/problem+json` object (RFC 9457).

Raise a Problem. Its text is sent to the client; details that are not for clients go to the log.
"""

import json
import re
from http import HTTPStatus
from itertools import islice
from typing import Any

CONTENT_TYPE = "application/problem+json"
INTERNAL_ERROR_DETAIL = "Internal error. The server's log contains the cause with this request_id."


class Problem(Exception):
    """An error response: `detail` tells the client what is wrong and what to do.

    `field_errors` maps a field or parameter to its messages; the client gets them as `details`.
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


def _summarize(field_errors: dict[str, list[str]]) -> tuple[str, dict[str, list[str]]]:
    """Return a detail with all messages, and at most 20 of the errors.

    The names come from the client, so the size of the response needs a limit.
    """
    bounded = {name[:100]: messages for name, messages in islice(field_errors.items(), 20)}
    sentences = (f"{name}: {text}" for name, texts in bounded.items() for text in texts)
    return " ".join(sentences), bounded


class BadRequest(Problem):
    status, code = 400, "bad_request"


class ValidationFailed(Problem):
    """Fields or parameters are invalid. The detail contains all of their messages."""

    status, code = 400, "validation_error"

    def __init__(self, field_errors: dict[str, list[str]]) -> None:
        super().__init__(*_summarize(field_errors))


class UnknownReference(ValidationFailed):
    """The `field` of a row of `table` would refer to a row that does not exist."""

    def __init__(self, table: str, field: str, referred: str) -> None:
        super().__init__({field: [f"There are no {referred} with this id."]})
        self.table = table


class Unauthorized(Problem):
    """Missing or invalid credentials (RFC 6750, 3).

    The client gets `error` and the detail. The `reason` is only for the log.
    """

    status, code = 401, "unauthorized"
    error: str | None = None

    def __init__(
        self,
        detail: str = "The token is unknown, expired or revoked.",
        reason: str = "unknown, expired or revoked token",
    ) -> None:
        challenge = f' error="{self.error}", error_description="{detail}"' if self.error else ""
        super().__init__(detail, headers={"WWW-Authenticate": f"Bearer{challenge}"})
        self.reason = reason


class InvalidToken(Unauthorized):
    code = error = "invalid_token"


class MalformedToken(Unauthorized):
    status, code, error = 400, "invalid_request", "invalid_request"


class NotSameOrigin(Problem):
    """The request is only for pages of this service."""

    status, code = 403, "not_same_origin"


class InsufficientScope(Problem):
    status, code = 403, "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"This request needs the scope {scope}.",
            headers={"WWW-Authenticate": f'Bearer error="{self.code}", scope="{scope}"'},
        )


class NotFound(Problem):
    """The same response for everything that does not exist, so that it reveals nothing."""

    status, code = 404, "not_found"

    def __init__(self) -> None:
        super().__init__("Nothing was found at this path.")


class ItemsNotFound(NotFound):
    """Items of a bulk change name rows that do not exist. `item_errors` maps them to messages."""

    def __init__(self, item_errors: dict[str, list[str]]) -> None:
        detail, bounded = _summarize(item_errors)
        Problem.__init__(self, f"Nothing was changed. {detail}", bounded)


class Conflict(Problem):
    status, code = 409, "conflict"


class CursorGone(Problem):
    """The feed no longer has all changes after the cursor."""

    status, code = 410, "cursor_gone"

    def __init__(self) -> None:
        super().__init__(
            "Changes after this cursor were purged, or the database was replaced. Get a new cursor"
            " (send no since), then read all data again, then the changes after the new cursor."
        )


class HistoryGone(Problem):
    """The history starts later than the requested time."""

    status, code = 410, "history_gone"


class PreconditionFailed(Problem):
    status, code = 412, "precondition_failed"


class ItemsPreconditionFailed(PreconditionFailed):
    """Rows of a bulk change have other versions. `item_errors` maps the items to messages."""

    def __init__(self, item_errors: dict[str, list[str]]) -> None:
        detail, bounded = _summarize(item_errors)
        super().__init__(f"Nothing was changed. {detail}", bounded)


class PayloadTooLarge(Problem):
    status, code = 413, "payload_too_large"


class UnsupportedMediaType(Problem):
    status, code = 415, "unsupported_media_type"


class IdempotencyKeyReused(Problem):
    status, code = 422, "idempotency_key_reused"


class TooManyRequests(Problem):
    """The caller exceeded RATE_LIMIT. `headers` must contain Retry-After."""

    status, code = 429, "too_many_requests"


class NotSupported(Problem):
    status, code = 501, "not_supported"


class ServiceUnavailable(Problem):
    """The request may succeed later. The `reason` is only for the metrics."""

    status, code = 503, "unavailable"

    def __init__(self, detail: str, retry_after_seconds: int, reason: str = "other") -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})
        self.reason = reason


class LockTimeout(ServiceUnavailable):
    """Waiting for a lock took too long. PostgreSQL's `context` names the row or the statement."""

    def __init__(self, context: str) -> None:
        message = "Another request has locked this data. Try again shortly."
        super().__init__(message, 1, "lock_timeout")
        self.context = context


class OutcomeUnknown(ServiceUnavailable):
    """The database's answer to a write was lost, and we could not find out if the write happened.

    `remedy` tells the user of a command what to do if the command is not safe to run again.
    """

    code = "outcome_unknown"
    summary = "The connection to the database was lost: the change may or may not have been made."

    def __init__(self, remedy: str | None = None) -> None:
        advice = (
            "If you sent an Idempotency-Key, repeat the request with it. Otherwise read the data"
            " first."
        )
        super().__init__(f"{self.summary} {advice}", 1, self.code)
        self.remedy = remedy


_PROBLEM_CLASSES: list[type[Problem]] = [*Problem.__subclasses__(), Problem]
CODE_BY_STATUS = {
    problem.status: problem.code for problem in _PROBLEM_CLASSES if problem is not ValidationFailed
} | {414: "uri_too_long"}


def problem_json(status: int, detail: str, code: str | None = None, **members: Any) -> str:
    """Return a problem document as JSON text, with RFC 9457's members and the tutorial's."""
    phrase = HTTPStatus(status).phrase
    return json.dumps(
        {
            "type": "about:blank",
            "title": phrase,
            "status": status,
            "detail": detail,
            "error": code or CODE_BY_STATUS.get(status) or re.sub(r"\W+", "_", phrase.lower()),
            "message": detail,
            **members,
        }
    )
