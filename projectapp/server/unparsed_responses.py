"""Error responses of the worker itself, to requests that do not reach the application."""

import re
from typing import Any

import gunicorn.util

from config import Config
from projectapp import problems
from projectapp.http import cors, request_log, security_headers
from projectapp.metrics.definitions import REQUESTS_REFUSED
from projectapp.server.gunicorn_requests import is_utf8
from projectapp.server.request_framing import MAX_HEAD_BYTES

_REASON_BY_STATUS = {
    408: "read_timeout",
    414: "head_too_large",
    431: "head_too_large",
    500: "other",
    503: "queue_timeout",
}


def write_problem(
    settings: Config, gunicorn_config: Any, sock: Any, status: int, reason: str, message: str
) -> None:
    """Write a problem document (RFC 9457) to `sock`; replaces gunicorn's `write_error`.

    The head of the request, as far as it has arrived, decides three things: whether CORS allows a
    web page to read the response, which request id it has, and whether it has a body (not for
    HEAD). gunicorn's `message` may quote the request, so it is not sent.
    """
    head: bytes = getattr(sock, "head", b"").lstrip(b"\r\n")
    REQUESTS_REFUSED.increase(_REASON_BY_STATUS.get(status, "invalid_request"))
    client_ids = (_header(head, name) or "" for name in (b"x-request-id", b"traceparent"))
    request_id = request_log.log_refusal(status, *client_ids)
    detail = _detail(status, head, settings, gunicorn_config)
    body = problems.problem_json(status, detail, request_id=request_id).encode()
    headers = {
        "Date": gunicorn.util.http_date(),
        "Connection": "close",
        "X-Request-ID": request_id,
        "Content-Type": problems.CONTENT_TYPE,
        "Content-Length": len(body),
        **({"Retry-After": 1} if status == 503 else {}),
        **security_headers.HEADERS,
        **cors.response_headers(settings.ALLOWED_ORIGINS, _header(head, b"origin")),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    response = f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode()
    gunicorn.util.write_nonblock(sock, response if head.startswith(b"HEAD ") else response + body)


def _header(head: bytes, name: bytes) -> str | None:
    """Return the value of a header whose line is complete. Join repeated headers, as WSGI does."""
    values = re.findall(rb"\r\n%s:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)" % name, head, re.IGNORECASE)
    return b",".join(values).decode("latin-1") if values else None


def _detail(status: int, head: bytes, settings: Config, gunicorn_config: Any) -> str:
    if status == 400 and not is_utf8(head.partition(b"\r\n")[0]):
        return "The path or the query is not UTF-8. Percent-encode it."
    detail_by_status = {
        408: f"The request was not received completely within {settings.READ_TIMEOUT} seconds.",
        414: f"The request line is longer than {gunicorn_config.limit_request_line} bytes.",
        417: "The only supported value of the Expect header is 100-continue.",
        431: f"A header is longer than {gunicorn_config.limit_request_field_size} bytes, there are"
        f" more than {gunicorn_config.limit_request_fields} headers, or all headers together are"
        f" longer than {MAX_HEAD_BYTES} bytes.",
        500: problems.INTERNAL_ERROR_DETAIL,
        501: "This Transfer-Encoding is not supported. Send Content-Length, or use chunked.",
        503: "The server is overloaded. Try again after the seconds in the Retry-After header.",
    }
    return detail_by_status.get(status, "The request is not valid HTTP.")
