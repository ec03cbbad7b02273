"""The headers of the API: the OpenAPI document describes them, and CORS lets web pages use them.

To add a header, add it here and to the `Endpoint` of each view that reads or sets it.
"""

from typing import Any

IDEMPOTENCY_KEY_LENGTH = 255  # characters


def _header(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


_ETAG_LIST = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'

REQUEST_HEADERS = {
    "If-Match": _header(
        "A list of ETags, or `*` for any version. If the current version is not in the list, the"
        " request changes nothing and gets a 412.",
        pattern=_ETAG_LIST,
    ),
    "If-None-Match": _header(
        "A list of ETags, or `*` for any version. If the current version is in the list, a GET gets"
        " a 304, and a write gets a 412 and changes nothing.",
        pattern=_ETAG_LIST,
    ),
    "Idempotency-Key": _header(
        "Makes it safe to repeat this request: a repetition with the same key has no second effect."
        f" 1 to {IDEMPOTENCY_KEY_LENGTH} printable ASCII characters, with or without quotes.",
        pattern=r'^("[ !#-\[\]-~]+"|[!#-~]([ -~]*[!-~])?)$',
        maxLength=IDEMPOTENCY_KEY_LENGTH,
    ),
    "Last-Event-ID": _header(
        "The id of the last event that was received. An event stream starts after it, and ignores"
        " since. Browsers send it when they connect again."
    ),
    "X-Request-ID": _header(
        "Your id for this request: the response and the server's log contain it. If it is missing"
        " or invalid, the server creates one."
    ),
}
RESPONSE_HEADERS = {
    "ETag": _header('The current version, as a strong ETag such as `"3"`.'),
    "Location": _header("The path of the new item."),
    "Link": _header("Links to other pages of the list (RFC 8288): first, prev, next."),
    "Retry-After": _header("Seconds to wait before the next attempt."),
    "X-Request-ID": _header("The id of this request in the log."),
    "Changes-Cursor": _header("Where the feed of changes stood before the first row was read."),
    "Idempotency-Replayed": _header(
        "`true` if this is the response to an earlier request with the same Idempotency-Key."
    ),
    "WWW-Authenticate": _header("Which credentials are needed, or what is wrong (RFC 6750)."),
    "RateLimit": _header("r: the remaining requests; t: the seconds until more are allowed."),
    "RateLimit-Policy": _header("The limit: q requests in w seconds."),
    "Accept": _header("The content types that are accepted."),
    "Accept-Patch": _header("The content types that PATCH accepts."),
    "Accept-Encoding": _header("The content encodings that are accepted."),
}
PROBLEM_HEADERS = {  # by status
    401: ("WWW-Authenticate",),
    409: ("Retry-After",),
    412: ("ETag",),
    415: ("Accept", "Accept-Patch", "Accept-Encoding"),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
