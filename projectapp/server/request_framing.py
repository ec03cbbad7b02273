"""Finds the end of a request in incoming bytes (RFC 9112).

gunicorn parses and validates the request.
"""

import re
from collections.abc import Callable, Iterator

from gunicorn.http.errors import LimitRequestHeaders

MAX_HEAD_BYTES = 2**16

FRAMING_HEADER = re.compile(rb"\r\n(content-length|transfer-encoding|expect):([^\r\n]*)", re.I)
_CHUNK_SIZE_LINE = re.compile(rb"([0-9a-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n", re.I)
_CONTINUE = b"100-continue"


def follow_request(
    received: bytearray, max_body_bytes: int, send: Callable[[bytes], int]
) -> Iterator[int]:
    """Follow one request while `received` grows: yield 0 until it is complete, then its length.

    The iterator ends without a length if gunicorn or the application will refuse the request: its
    framing is invalid, or its body is longer than `max_body_bytes`. Then waiting for the rest makes
    no sense. Raises LimitRequestHeaders if the head is too long. Sends a 100 Continue with `send`
    if the client expects it.
    """
    while (end := received.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)) < 0:
        if len(received) >= MAX_HEAD_BYTES:
            raise LimitRequestHeaders("the head is too long")
        line_end = received.find(b"\r\n", 2)  # an empty line may precede the request line
        if line_end > 0 and b" HTTP/1." not in received[:line_end]:
            return
        if received.count(b"\n") != received.count(b"\r\n"):
            return
        yield 0
    body_start = end + 4
    lines = FRAMING_HEADER.findall(received, 0, end + 2)
    if not lines:  # no body: the usual case
        yield body_start
        return
    headers = {name.lower(): value.strip(b" \t") for name, value in lines}
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    has_duplicates = len(headers) < len(lines)
    if has_duplicates or headers.get(b"expect", _CONTINUE).lower() != _CONTINUE:
        return
    if coding is None:
        digits = length or b"0"
        if not digits.isdigit() or len(digits) > 9 or int(digits) > max_body_bytes:
            return
        body = _follow_sized_body(received, body_start + int(digits))
    elif coding.lower() == b"chunked" and length is None:
        body = _follow_chunked_body(received, body_start, max_body_bytes)
    else:
        return
    has_no_body_yet = len(received) == body_start
    if b"expect" in headers and has_no_body_yet and b" HTTP/1.1\r\n" in received[:body_start]:
        send(b"HTTP/1.1 100 Continue\r\n\r\n")
    yield from body


def _follow_sized_body(received: bytearray, end: int) -> Iterator[int]:
    while len(received) < end:
        yield 0
    yield end


def _follow_chunked_body(received: bytearray, start: int, max_body_bytes: int) -> Iterator[int]:
    max_body_bytes += 1024  # gunicorn reads up to 1 KiB more than the application asks for
    body_bytes = 0
    while True:
        while not (size_line := _CHUNK_SIZE_LINE.match(received, start)):
            if received.find(b"\n", start) >= 0 or len(received) - start > MAX_HEAD_BYTES:
                return
            yield 0
        data_start, chunk_bytes = size_line.end(), int(size_line[1], 16)
        if not chunk_bytes:
            break
        start = data_start + chunk_bytes + 2
        while len(received) < start:
            if body_bytes + len(received) - data_start > max_body_bytes:
                return
            yield 0
        body_bytes += chunk_bytes
        if body_bytes > max_body_bytes or received[start - 2 : start] != b"\r\n":
            return
    # The trailers end with an empty line. Without trailers it follows the last chunk's size line.
    while (end := received.find(b"\r\n\r\n", data_start - 2)) < 0:
        if len(received) - data_start > MAX_HEAD_BYTES:
            return
        yield 0
    yield end + 4
