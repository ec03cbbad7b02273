"""What a thread has for a socket, and the event loop for a client."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from gunicorn.http.errors import NoMoreData

from projectapp.server.framing import MOST_HEAD, framing

PIECE = 2**16
MOST_DISCARDED = 2**24  # so that who sends a body too large to the end gets to read its 413


class Wire:
    """A client as a thread sees it: a socket on which nothing waits.

    What can be read of it came before, and what is written stays here until the kernel takes it.
    `most` is the length of the longest body that is worth waiting for.
    """

    def __init__(self, sock: socket.socket, most: int) -> None:
        self.sock = sock
        self.most = most
        self.input = bytearray()
        self.is_whole = False  # nothing of the request is missing
        self.ready = 0  # so much of the input is the request that a thread may read
        self.head = b""  # for an answer that the application does not make
        self.arrived = 0.0  # when it was whole, on the monotonic clock
        self.output = bytearray()
        self.framing: Iterator[int] = iter(())
        self.keep = False
        self.step: Callable[[Any], None] = self.ignore  # what to do when the socket is ready
        self.watched = 0
        self.held = 0
        self.discarded = 0
        self.left = 0

    # For a thread.

    def recv(self, size: int) -> bytes:
        data = bytes(self.input[: min(size, self.ready)])
        if not data:
            raise NoMoreData()
        self.ready -= len(data)
        del self.input[: len(data)]
        return data

    def sendall(self, data: bytes) -> None:
        self.output += data

    def send(self, data: bytes) -> int:
        """Drop gunicorn's 100 Continue: it was sent when it was of use."""
        return len(data)

    def gettimeout(self) -> float:
        return 0.0

    def setblocking(self, flag: bool) -> None: ...

    def shutdown(self, how: int) -> None:
        raise OSError("the event loop closes")

    def close(self) -> None: ...

    # For the event loop, but for flush, which is for both.

    @staticmethod
    def ignore(conn: Any) -> None: ...

    def begin(self) -> None:
        """Follow another request."""
        self.framing = framing(self.input, self.most, self.sock.send)

    def read(self) -> bool:
        """Take what came, and tell whether a thread may have it: nothing is worth waiting for.

        Raises OSError if the client has gone, LimitRequestHeaders if the head is too long.
        """
        try:
            size = next(self.framing, None) if self.input else 0
            if size == 0:
                data = self.sock.recv(PIECE)
                self.input += data
                if not self.input:
                    raise ConnectionResetError
                size = next(self.framing, None) if data else None
        except BlockingIOError:
            size = 0
        if size == 0:
            return False
        self.is_whole, self.ready = size is not None, size or len(self.input)
        self.keep_head()
        self.arrived = time.monotonic()
        return True

    def keep_head(self) -> None:
        """Remember what there is of the request's head: a thread takes it off the input."""
        end = self.input.find(b"\r\n\r\n", 2, MOST_HEAD)
        self.head = bytes(self.input[: MOST_HEAD if end < 0 else end + 2])

    def flush(self) -> None:
        """Send what the kernel takes now."""
        try:
            if self.output:
                del self.output[: self.sock.send(self.output)]
        except BlockingIOError:
            pass
        except OSError:
            self.output.clear()  # nobody will read it, which the next read finds out

    def is_taken(self) -> bool:
        """Whether the client has taken some of what the kernel has for it since it was asked."""
        before = self.left
        with suppress(OSError):
            self.left = int.from_bytes(ioctl(self.sock, TIOCOUTQ, bytes(4)), sys.byteorder)
        return self.left < before

    def discard(self) -> bool:
        """Read what nobody wants, and tell whether there may be more of it."""
        data = b""
        with suppress(OSError):
            data = self.sock.recv(PIECE)
        self.discarded += len(data)
        return bool(data) and self.discarded <= MOST_DISCARDED
