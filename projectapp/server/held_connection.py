"""A connection that stays open without a thread: see streams.py."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Protocol

from projectapp.server.client_buffer import BufferedClient

SEND_BUFFER_BYTES = 2**16  # in the kernel; by default it accepts up to 4 MiB
LOST_CLIENT_MILLISECONDS = 60_000  # a client that acknowledges nothing for so long has gone


class Subscription(Protocol):
    """What a view gives to Streams."""

    def start(self, connection: HeldConnection) -> None:
        """Begin to use the connection. The main thread calls this, so it must not wait."""


class HeldConnection:
    """A connection that stays open. Its users may call the functions of Streams with it."""

    __slots__ = ("client", "deadline", "is_chunked", "is_open", "pending_bytes", "subscription")

    def __init__(
        self, client: BufferedClient, subscription: Subscription, deadline: float | None
    ) -> None:
        self.client = client
        self.subscription = subscription
        self.deadline = deadline  # of a parked request, on the monotonic clock; None for a stream
        self.is_chunked = False
        self.is_open = False
        self.pending_bytes = 0  # that the kernel has not accepted yet

    def set_socket_options(self) -> None:
        """Limit what the kernel keeps for a client that does not read, or that has gone."""
        with suppress(OSError):
            sock, option = self.client.sock, (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            sock.setsockopt(*option, LOST_CLIENT_MILLISECONDS)  # a Unix socket does not have it
