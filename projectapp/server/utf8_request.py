"""A gunicorn request that accepts raw UTF-8 in its target."""

import re

from gunicorn.http import Request
from gunicorn.http.errors import InvalidRequestLine


class UTF8Request(Request):  # type: ignore[misc]
    """A request whose target may contain raw UTF-8, as curl sends it: it is percent-encoded here.

    Only bytes from 0x80 on are encoded. So the request line, the head and the request end where
    a proxy in front of the service saw their ends.
    """

    def parse_request_line(self, line_bytes: bytes) -> None:
        parts = line_bytes.split(b" ", 2)
        if len(parts) == 3 and not parts[1].isascii():
            try:
                parts[1].decode()
            except UnicodeDecodeError:
                raise InvalidRequestLine("not UTF-8") from None
            parts[1] = re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % ord(byte[0]), parts[1])
        super().parse_request_line(b" ".join(parts))
