"""Where a request ends, seen in bytes that come one after another (RFC 9112).

That is all that is looked for: what a request means, and whether it is right, gunicorn says.
"""

import re
from collections.abc import Callable, Iterator

from gunicorn.http.errors import LimitRequestHeaders

MOST_HEAD = 2**16

_FIELD = re.compile(rb"\r\n(content-length|transfer-encoding|expect):([^\r\n]*)", re.I)
_CHUNK = re.compile(rb"([0-9a-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n", re.I)
_CONTINUE = b"100-continue"


def framing(data: bytearray, most: int, send: Callable[[bytes], int]) -> Iterator[int]:
    """Follow one request while `data` grows: yield its length once it is whole, until then 0.

    It ends where nothing is worth waiting for, as gunicorn or the application refuse what is there:
    bad framing, or a body longer than `most`. Raises LimitRequestHeaders. A client that asks
    whether to go on is told so with `send`.
    """
    while (end := data.find(b"\r\n\r\n", 0, MOST_HEAD)) < 0:
        if len(data) >= MOST_HEAD:
            raise LimitRequestHeaders("the head is too long")
        line = data.find(b"\r\n", 2)  # one empty line may come first
        if line > 0 and b" HTTP/1." not in data[:line]:
            return
        if data.count(b"\n") != data.count(b"\r\n"):
            return
        yield 0
    body = end + 4
    fields = _FIELD.findall(data, 0, end + 2)
    if not fields:
        yield body
    found = {name.lower(): value.strip(b" \t") for name, value in fields}
    length, coding = found.get(b"content-length"), found.get(b"transfer-encoding")
    if len(found) < len(fields) or found.get(b"expect", _CONTINUE).lower() != _CONTINUE:
        return
    if coding is None:
        size = length or b"0"
        if not size.isdigit() or len(size) > 9 or int(size) > most:
            return
        rest = _counted(data, body + int(size))
    elif coding.lower() == b"chunked" and length is None:
        rest = _chunked(data, body, most)
    else:
        return
    if b"expect" in found and len(data) == body and b" HTTP/1.1\r\n" in data[:body]:
        send(b"HTTP/1.1 100 Continue\r\n\r\n")
    yield from rest


def _counted(data: bytearray, end: int) -> Iterator[int]:
    while len(data) < end:
        yield 0
    yield end


def _chunked(data: bytearray, at: int, most: int) -> Iterator[int]:
    most += 1024  # gunicorn reads up to a kilobyte further than it is asked to
    size = 0
    while True:
        while not (line := _CHUNK.match(data, at)):
            if data.find(b"\n", at) >= 0 or len(data) - at > MOST_HEAD:
                return
            yield 0
        start, chunk = line.end(), int(line[1], 16)
        if not chunk:
            break
        at = start + chunk + 2
        while len(data) < at:
            if size + len(data) - start > most:
                return
            yield 0
        size += chunk
        if size > most or data[at - 2 : at] != b"\r\n":
            return
    while (end := data.find(b"\r\n\r\n", start - 2)) < 0:  # the trailers' end
        if len(data) - start > MOST_HEAD:
            return
        yield 0
    yield end + 4
