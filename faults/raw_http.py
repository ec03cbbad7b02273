"""HTTP as bytes, well-formed or not: a connection on which anything can be sent."""

import http.client
import io
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from faults.client import TIMEOUT, _flaws
from faults.processes import ADDRESS

CLOSED, SILENT = 0, -1  # in the place of a status: hung up, or said nothing in the given time
_OPEN = {"01", "08"}  # ESTABLISHED, CLOSE_WAIT (include/net/tcp_states.h)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    flaws: list[str]
    closes: bool  # nothing more can be asked on this connection


class Line:
    """A connection to 127.0.0.1 from which also answers are read that were not asked for."""

    def __init__(self, port: int, timeout: float = TIMEOUT, buffer: int | None = None) -> None:
        """`timeout` is in seconds, for each step; `buffer` in bytes, of what was not read yet."""
        self.sock = socket.socket()
        self.sock.settimeout(timeout)
        if buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.sock.connect((ADDRESS, port))
        self.port = self.sock.getsockname()[1]
        self._input = _Kept(socket.SocketIO(self.sock, "r"))

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def makefile(self, *_: object) -> io.BufferedReader:
        """What http.client reads an answer from: the same buffer each time."""
        return self._input

    def send(self, data: bytes) -> bool:
        """Send it all; False if the other side would not have it."""
        try:
            self.sock.sendall(data)
        except OSError:
            return False
        return True

    def answer(self, method: str = "GET") -> Answer | int:
        """The next answer, or CLOSED or SILENT."""
        answer = http.client.HTTPResponse(self, method=method)
        try:
            answer.begin()
            body = answer.read()
        except TimeoutError:
            return SILENT
        except (OSError, http.client.HTTPException):
            return CLOSED
        flaws = _flaws(answer, body, answer.headers.get("Retry-After", ""))
        return Answer(answer.status, answer.headers, body, flaws, answer.will_close)

    def rest(self) -> bytes | None:
        """All that comes until the other side hangs up; None if it does not."""
        data = b""
        try:
            while part := self._input.read1():
                data += part
        except TimeoutError:
            return None
        except OSError:
            pass  # a reset is an end as well
        return data

    def reset(self) -> None:
        """Hang up with an RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)


class _Kept(io.BufferedReader):
    def close(self) -> None:
        """Stay open: http.client closes it after each answer."""


def held(port: int) -> set[int]:
    """The ports of the clients whose connections to `port` the server has not closed."""
    peers = set()
    for line in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if int(local.rpartition(":")[2], 16) == port and state in _OPEN:
            peers.add(int(remote.rpartition(":")[2], 16))
    return peers
