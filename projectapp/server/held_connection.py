"""A connection that stays open without a thread: see streams.py."""

from __future__ import annotations

from typing import Protocol

from projectapp.server.client_buffer import BufferedClient


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
