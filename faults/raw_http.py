"""An HTTP connection on which any bytes can be sent, well-formed or not."""

import http.client
import io
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from faults.client import TIMEOUT_SECONDS, find_violations
from faults.processes import ADDRESS

# Instead of a status: the server closed the connection, or sent nothing within the timeout.
CLOSED, SILENT = 0, -1
_OPEN_STATES = {"01", "08"}  # ESTABLISHED, CLOSE_WAIT (include/net/tcp_states.h)


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    violations: list[str]
    closes: bool  # the response says that the server closes the connection


class RawConnection:
    """A connection to 127.0.0.1. It can also read responses to requests that it did not send."""

    def __init__(
        self, port: int, timeout: float = TIMEOUT_SECONDS, receive_buffer: int | None = None
    ) -> None:
        """`timeout` is in seconds, for each step; `receive_buffer` is the kernel's, in bytes."""
        self.sock = socket.socket()
        self.sock.settimeout(timeout)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect((ADDRESS, port))
        self.port = self.sock.getsockname()[1]
        self._input = _UnclosedReader(socket.SocketIO(self.sock, "r"))

    def __enter__(self) -> "RawConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def makefile(self, *_: object) -> io.BufferedReader:
        """Return what http.client reads a response from: each time the same buffer."""
        return self._input

    def send(self, data: bytes) -> bool:
        """Send all of the data; return False if the server has closed the connection."""
        try:
            self.sock.sendall(data)
        except OSError:
            return False
        return True

    def read_response(self, method: str = "GET") -> Response | int:
        """Return the next response, or CLOSED or SILENT. `method` is that of the request."""
        response = http.client.HTTPResponse(self, method=method)
        try:
            response.begin()
            body = response.read()
        except TimeoutError:
            return SILENT
        except (OSError, http.client.HTTPException):
            return CLOSED
        violations = find_violations(response, body)
        return Response(
            response.status, response.headers, body, violations, bool(response.will_close)
        )

    def read_to_end(self) -> bytes | None:
        """Return all that comes until the server closes; None if it does not close in time."""
        data = b""
        try:
            while part := self._input.read1():
                data += part
        except TimeoutError:
            return None
        except OSError:
            pass  # a reset is an end, too
        return data

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close the connection with an RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        """Tell the server that nothing more will be sent."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)


class _UnclosedReader(io.BufferedReader):
    def close(self) -> None:
        """Do nothing: http.client closes its file after each response."""


def open_client_ports(port: int) -> set[int]:
    """Return the ports of the clients whose connections to `port` the server has not closed."""
    ports = set()
    for line in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if int(local.rpartition(":")[2], 16) == port and state in _OPEN_STATES:
            ports.add(int(remote.rpartition(":")[2], 16))
    return ports
