"""The buffers between a client's socket, the event loop and the threads."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from gunicorn.http.errors import NoMoreData

from projectapp.server.request_framing import MAX_HEAD_BYTES, follow_request

RECEIVE_BYTES = 2**16
# A client that sends all of a body that is too large can still read the 413.
MAX_DISCARDED_BYTES = 2**24


class BufferedClient:
    """A client's socket with two buffers: a thread reads from one and writes to the other.

    So a thread never waits for the client. The event loop fills and empties the buffers. It waits
    for a request until it is complete, or until its body is longer than `max_body_bytes`.
    """

    def __init__(self, sock: socket.socket, max_body_bytes: int) -> None:
        self.sock = sock
        self.max_body_bytes = max_body_bytes
        self.received = bytearray()
        self.readable_bytes = 0  # of `received`: the current request, which a thread may read
        self.pending_output = bytearray()
        self.keep_alive = False

        # The current request.
        self.framing: Iterator[int] = iter(())
        self.is_complete = False
        self.received_at = 0.0  # when it was complete, on the monotonic clock
        self.head = b""  # for unparsed_responses.py

        # For the event loop.
        self.on_ready: Callable[[Any], None] = self.ignore  # called when the socket is ready
        self.watched_events = 0
        self.deadline = 0.0  # on the monotonic clock
        self.buffered_bytes = 0  # its part of ClientConnections.buffered_bytes
        self.kernel_queue_bytes = 0  # sent, but not acknowledged by the client
        self.discarded_bytes = 0

    # What gunicorn calls in a thread, as on a socket.

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
        raise OSError("the event loop closes the socket")

    def close(self) -> None: ...

    # What the event loop calls. A thread calls only `flush`.

    @staticmethod
    def ignore(conn: Any) -> None: ...

    def follow_next_request(self) -> None:
        self.framing = follow_request(self.received, self.max_body_bytes, self.sock.send)

    def receive(self) -> bool:
        """Receive data. Return whether a thread should handle the request now.

        It should if the request is complete, or if it will be refused, so that waiting for the rest
        makes no sense. Raises OSError if the client has gone, LimitRequestHeaders if the head is
        too long.
        """
        try:
            size = next(self.framing, None) if self.received else 0
            if size == 0:
                data = self.sock.recv(RECEIVE_BYTES)
                self.received += data
                if not self.received:
                    raise ConnectionResetError
                size = next(self.framing, None) if data else None
        except BlockingIOError:
            return False
        if size == 0:
            return False
        self.is_complete = size is not None
        self.readable_bytes = size or len(self.received)
        self.save_head()
        self.received_at = time.monotonic()
        return True

    def save_head(self) -> None:
        """Copy the head as far as it has arrived: a thread removes it from `received`."""
        end = self.received.find(b"\r\n\r\n", 2, MAX_HEAD_BYTES)
        self.head = bytes(self.received[: MAX_HEAD_BYTES if end < 0 else end + 2])

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
        data = b""
        with suppress(OSError):
            data = self.sock.recv(RECEIVE_BYTES)
        self.discarded_bytes += len(data)
        return bool(data) and self.discarded_bytes <= MAX_DISCARDED_BYTES
