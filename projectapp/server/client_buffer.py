"""A client's socket with its buffers."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from gunicorn.http.errors import NoMoreData

from projectapp.server.plain_requests import PlainRequest, PlainRequests
from projectapp.server.request_framing import MAX_HEAD_BYTES, follow_request

RECEIVE_BYTES = 2**16
# A client that sends all of a body that is too large can still read the 413.
MAX_DISCARDED_BYTES = 2**24


class BufferedClient:
    """A client's socket with two buffers, so that no thread ever waits for the client.

    A request starts when it is complete, or when its body is longer than `max_body_bytes`. A
    response is complete before its first byte is sent. `address` and `server_address` are those of
    the two ends of the connection, as the socket module returns them.
    """

    def __init__(
        self, sock: socket.socket, address: Any, server_address: Any, plain_requests: PlainRequests
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.address, self.server_address = address, server_address
        self.plain_requests = plain_requests
        self.base_environ = plain_requests.base_environ_of(address, server_address)
        self.received = bytearray()
        self.readable_bytes = 0  # of `received`: the current request, which gunicorn may read
        self.pending_output = bytearray()
        self.keep_alive = False
        self.gunicorn_connection: Any = None  # exists from the first request that is not plain

        # The current request.
        self.request: PlainRequest | None = None
        self.framing: Iterator[int] | None = None  # if the request is not plain
        self.is_complete = False
        self.received_at = 0.0  # when it was complete, on the monotonic clock
        self.head = b""  # for unparsed_responses.py and streams.py
        self.has_waited = False  # it was parked
        self.held: Any = None  # the HeldConnection if a view has opened a stream or parked it

        # For ClientConnections.
        self.events = 0
        self.on_ready: Callable[[BufferedClient], bool]
        self.deadline = self.waiting_since = 0.0  # on the monotonic clock
        self.buffered_bytes = 0  # its part of ClientConnections.buffered_bytes
        self.kernel_queue_bytes = 0  # sent, but not acknowledged by the client
        self.discarded_bytes = 0

    # Receive a request.

    def receive(self) -> bool:
        """Receive data. Return whether the request should run now.

        It should if it is complete, or if it will be refused, so that waiting for the rest makes no
        sense. Raises OSError if the client has gone, LimitRequestHeaders if the head is too long.
        """
        try:
            size = self._find_end() if self.received else 0
            if size == 0:
                data = self.sock.recv(RECEIVE_BYTES)
                self.received += data
                if not self.received:
                    raise ConnectionResetError
                size = self._find_end() if data else None
        except BlockingIOError:
            return False
        if size == 0:
            return False
        self.is_complete = size is not None
        if not self.is_complete:
            self.request = None  # gunicorn refuses it
        self.readable_bytes = size or len(self.received)
        self.save_head()
        self.received_at = time.monotonic()
        return True

    def _find_end(self) -> int | None:
        """Return the length of the request, 0 if it is incomplete, None if it will be refused."""
        if not (self.request or self.framing):
            self.request = self.plain_requests.parse(self.received, self.base_environ)
            if not self.request:
                self.framing = follow_request(
                    self.received, self.plain_requests.max_body_bytes, self.sock.send
                )
        if self.request:
            return self.request.size if len(self.received) >= self.request.size else 0
        return next(self.framing, None) if self.framing else None

    def save_head(self) -> None:
        """Copy the head as far as it has arrived: a request removes it from `received`."""
        end = self.received.find(b"\r\n\r\n", 2, MAX_HEAD_BYTES)
        self.head = bytes(self.received[: MAX_HEAD_BYTES if end < 0 else end + 2])

    # What gunicorn calls, as on a socket.

    def recv(self, size: int) -> bytes:
        data = bytes(self.received[: min(size, self.readable_bytes)])
        if not data:
            raise NoMoreData()
        self.readable_bytes -= len(data)
        del self.received[: len(data)]
        return data

    def sendall(self, data: bytes) -> None:
        self.pending_output += data

    def send(self, data: bytes) -> int:
        """Drop gunicorn's 100 Continue: `follow_request` has already sent it."""
        return len(data)

    def gettimeout(self) -> float:
        return 0.0

    def setblocking(self, flag: bool) -> None: ...

    def shutdown(self, how: int) -> None:
        raise OSError("ClientConnections closes the socket")

    def close(self) -> None: ...

    # Send the response.

    def flush(self) -> None:
        """Send as much as the kernel accepts now."""
        try:
            if self.pending_output:
                del self.pending_output[: self.sock.send(self.pending_output)]
        except BlockingIOError:
            pass
        except OSError:
            self.pending_output.clear()  # the client has gone: the next receive() raises

    def check_send_progress(self) -> bool:
        """Return whether the kernel's send queue has become shorter since the last call."""
        previous_bytes = self.kernel_queue_bytes
        with suppress(OSError):
            queue_bytes = ioctl(self.sock, TIOCOUTQ, bytes(4))
            self.kernel_queue_bytes = int.from_bytes(queue_bytes, sys.byteorder)
        return self.kernel_queue_bytes < previous_bytes

    def discard_input(self) -> bool:
        """Read and discard data. Return False at the end of the data and at the limit."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.discarded_bytes += len(data)
        return bool(data) and self.discarded_bytes <= MAX_DISCARDED_BYTES
