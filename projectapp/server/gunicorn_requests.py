"""What the service expects of a request that gunicorn parses."""

import re
from typing import Any

from gunicorn.http import Request
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine

from projectapp.server.plain_requests import VALID_HOST


class GunicornRequest(Request):  # type: ignore[misc]
    """A request whose Host is valid, whose path is under `prefix`, and whose target may be UTF-8.

    curl sends raw UTF-8 in a target, and it is percent-encoded here. Only bytes from 0x80 on are
    encoded, none of which ends a line. So the service and a proxy in front of it agree where the
    request ends.
    """

    prefix = ""  # SCRIPT_NAME
    path: str

    def __init__(self, *arguments: Any) -> None:
        """Raise InvalidHeader if the Host is missing or invalid (RFC 9112, 3.2)."""
        super().__init__(*arguments)
        hosts = [value for name, value in self.headers if name == "HOST"]
        if (self.version >= (1, 1) and not hosts) or not all(map(VALID_HOST.fullmatch, hosts)):
            raise InvalidHeader("HOST", req=self)
        # A proxy has removed the prefix, or a probe has not sent it.
        if self.prefix and not f"{self.path}/".startswith(f"{self.prefix}/"):
            self.path = self.prefix + self.path

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
