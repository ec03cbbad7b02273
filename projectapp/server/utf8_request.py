"""A gunicorn request that accepts raw UTF-8 in its target."""

import re

from gunicorn.http import Request
from gunicorn.http.errors import InvalidRequestLine


class UTF8Request(Request):  # type: ignore[misc]
    """A request whose target may contain raw UTF-8, as curl sends it: it is percent-encoded here.

    Only bytes from 0x80 on are encoded, none of which ends a line. So the service and a proxy in
    front of it agree where the request ends.
    """

    def parse_request_line(self, line_bytes: bytes) -> None:
        parts = line_bytes.split(b" ", 2)
        if len(parts) == 3 and not parts[1].isascii():
            if not is_utf8(parts[1]):
                raise InvalidRequestLine("not UTF-8")
            parts[1] = re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % ord(byte[0]), parts[1])
        super().parse_request_line(b" ".join(parts))


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
