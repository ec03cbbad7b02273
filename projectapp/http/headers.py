"""The headers that the API defines, as the OpenAPI document describes them.

CORS allows and exposes them too. A new header is added here and to the `Endpoint` of each view that
reads or sets it.
"""

from typing import Any

IDEMPOTENCY_KEY_LENGTH = 255  # characters


def _header(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


_ETAG_LIST = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'

REQUEST_HEADERS = {
    "If-Match": _header(
        "ETags, or `*` for any version. If the current version is not among them, nothing changes"
        " and the response is a 412.",
        pattern=_ETAG_LIST,
    ),
    "If-None-Match": _header(
        "ETags, or `*` for any version. If the current version is among them, the response is a 304"
        " to a GET and a 412 to a write, which changes nothing.",
        pattern=_ETAG_LIST,
    ),
    "Idempotency-Key": _header(
        f"1 to {IDEMPOTENCY_KEY_LENGTH} printable ASCII characters, with or without quotes.",
        pattern=r'^("[ !#-\[\]-~]+"|[!#-~]([ -~]*[!-~])?)$',
        maxLength=IDEMPOTENCY_KEY_LENGTH,
    ),
    "X-Request-ID": _header("An id for this request: the response and the log contain it."),
}
RESPONSE_HEADERS = {
    "ETag": _header("The version, as a strong ETag."),
    "Location": _header("The path of the new item."),
    "Link": _header("Links to other pages of the list (RFC 8288): first, prev, next."),
    "Retry-After": _header("Seconds to wait before the next attempt."),
    "X-Request-ID": _header("The id of this request in the log."),
    "Idempotency-Replayed": _header("`true` if this repeats the response to an earlier request."),
    "WWW-Authenticate": _header("Which credentials are needed, or what is wrong (RFC 6750)."),
    "RateLimit": _header("Remaining requests (r), and seconds until more are allowed (t)."),
    "RateLimit-Policy": _header("The limit: requests (q) in a number of seconds (w)."),
    "Accept": _header("The content types that are accepted."),
    "Accept-Patch": _header("The content types that PATCH accepts."),
    "Accept-Encoding": _header("The content encodings that are accepted."),
}
PROBLEM_HEADERS = {  # by status
    409: ("Retry-After",),
    412: ("ETag",),
    415: ("Accept", "Accept-Patch", "Accept-Encoding"),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
