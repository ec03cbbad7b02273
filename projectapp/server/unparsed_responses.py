"""The answers that the worker gives by itself, to requests that never reach the application."""

import re
from typing import Any

import gunicorn.util

from config import Config
from projectapp import problems
from projectapp.http import cors, request_log, security_headers


def write_refusal(
    settings: Config, limits: Any, sock: Any, status: int, reason: str, message: str
) -> None:
    """Answer with a problem document; `limits` is gunicorn's configuration.

    The head of the request, as far as it was read, says what the answer needs to be: a web page
    gets to see it if the application would let it, and a HEAD has no body.
    """
    head: bytes = getattr(sock, "head", b"").lstrip(b"\r\n")
    request_id = request_log.log_refusal(status, _field(head, b"x-request-id") or "")
    detail = _detail(status, head, settings, limits)
    body = problems.problem_json(status, detail, request_id=request_id).encode()
    fields = {
        "Date": gunicorn.util.http_date(),
        "Connection": "close",
        "X-Request-ID": request_id,
        "Content-Type": problems.CONTENT_TYPE,
        "Content-Length": len(body),
        **({"Retry-After": 1} if status == 503 else {}),
        **security_headers.HEADERS,
        **cors.response_headers(settings.ALLOWED_ORIGINS, _field(head, b"origin")),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    answer = f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode()
    gunicorn.util.write_nonblock(sock, answer if head.startswith(b"HEAD ") else answer + body)


def _field(head: bytes, name: bytes) -> str | None:
    """A field's value if its line was read to the end; several as the application gets them."""
    found = re.findall(rb"\r\n%s:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)" % name, head, re.IGNORECASE)
    return b",".join(found).decode("latin-1") if found else None


def _detail(status: int, head: bytes, settings: Config, limits: Any) -> str:
    if status == 400 and not _is_utf8(head.partition(b"\r\n")[0]):
        return "The path or the query is not UTF-8. Percent-encode it."
    details = {
        408: f"The request was not whole after {settings.READ_TIMEOUT} seconds.",
        414: f"The request line is longer than {limits.limit_request_line} bytes.",
        417: "This expectation cannot be met.",
        431: f"A header is longer than {limits.limit_request_field_size} bytes, all together are"
        " longer than 65536, or there are too many.",
        500: "Something went wrong here. The request_id finds it in the log.",
        501: "This transfer coding is not known.",
        503: "More requests come than can be served. Try again shortly.",
    }
    return details.get(status, "The request is not well-formed HTTP.")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
