"""The connections of a worker that stay open without a thread, and their output: see streams.py."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from select import EPOLLOUT, EPOLLRDHUP
from typing import Protocol

from projectapp.metrics.definitions import DOWNLOADS, STREAMS, STREAMS_MAX
from projectapp.server.client_buffer import BufferedClient
from projectapp.server.client_connections import ClientConnections

SEND_BUFFER_BYTES = 2**16  # in the kernel; by default it accepts up to 4 MiB
LOST_CLIENT_MILLISECONDS = 60_000  # a client that acknowledges nothing for so long has gone
# A download waits longer for its client. The kernel's own timeout would also end a client that
# reads slowly with a small receive window: on loopback it acknowledges 64 KiB at once.
STALLED_DOWNLOAD_SECONDS = 120.0
MAX_PENDING_BYTES = 2**18  # of an event stream whose client does not read
MIN_PENDING_BYTES = 2**16  # with less, a download gets its next part

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() discards unsent data and sends a reset


class Subscription(Protocol):
    """What a view gives to Streams. The main thread calls its methods, so they must not wait."""

    def start(self, connection: HeldConnection) -> None:
        """Begin to use the connection."""


class Download(Subscription, Protocol):
    """The subscription of a response that is sent in parts, as fast as its client reads them."""

    @property
    def is_complete(self) -> bool:
        """Whether there is no other part."""

    def continue_output(self) -> None:
        """Send the next part, or finish the response: the client has read nearly everything.

        It is called once before each part, and at the end when nothing is pending.
        """


class HeldConnection:
    """A connection that stays open. Its users may call the functions of Streams with it.

    It has an event stream, a download, or a parked request.
    """

    __slots__ = (
        *("client", "deadline", "download", "is_chunked", "is_open", "needs_data"),
        *("pending_bytes", "progress_at", "subscription", "unread_bytes"),
    )

    def __init__(
        self,
        client: BufferedClient,
        subscription: Subscription,
        deadline: float | None,
        download: Download | None,
    ) -> None:
        self.client = client
        self.subscription = subscription
        self.deadline = deadline  # of a parked request, on the monotonic clock; else None
        self.download = download  # the subscription if it is one
        self.needs_data = False  # the download has been asked for its next part
        self.is_chunked = False
        self.is_open = False
        self.pending_bytes = 0  # that the kernel has not accepted yet
        # Of a download: the pending bytes and those in the kernel, and when they changed last.
        self.unread_bytes, self.progress_at = (0, 0), 0.0

    @property
    def kind(self) -> str:
        if self.download:
            return "download"
        return "event_stream" if self.deadline is None else "long_poll"

    @property
    def is_event_stream(self) -> bool:
        return self.kind == "event_stream"

    def set_socket_options(self) -> None:
        """Limit what the kernel keeps for a client that does not read, or that has gone."""
        with suppress(OSError):
            sock, option = self.client.sock, (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if not self.download:
                sock.setsockopt(*option, LOST_CLIENT_MILLISECONDS)  # a Unix socket has no such one

    def is_stalled(self, now: float) -> bool:
        """Whether the client of a download has read nothing for too long."""
        client = self.client
        client.check_send_progress()
        unread_bytes = len(client.pending_output), client.kernel_queue_bytes
        if unread_bytes != self.unread_bytes or unread_bytes == (0, 0):
            self.unread_bytes, self.progress_at = unread_bytes, now
        return now > self.progress_at + STALLED_DOWNLOAD_SECONDS


class HeldConnections:
    """All held connections of a worker. Only the main thread uses them.

    There are at most `max_connections`. An event stream whose client does not read is closed at
    MAX_PENDING_BYTES. If all together have more than `max_pending_bytes`, the one that has the most
    is closed.
    """

    def __init__(self, connections: ClientConnections, max_connections: int) -> None:
        self.connections = connections
        self.epoll = select.epoll()
        self.connection_by_fd: dict[int, HeldConnection] = {}
        self.parked: set[HeldConnection] = set()
        self.max_connections = max_connections
        self.free_slots = threading.BoundedSemaphore(max_connections)  # any thread takes one
        self.max_pending_bytes = connections.max_buffered_bytes
        self.pending_bytes = 0

    def add(self, held: HeldConnection) -> None:
        client = held.client
        held.is_open = True
        self.connection_by_fd[client.fd] = held
        # Not EPOLLIN: what the client sends now stays in the kernel.
        self.epoll.register(client.fd, EPOLLRDHUP)
        if held.deadline is not None:
            self.parked.add(held)
        held.subscription.start(held)
        if held.deadline is None:
            held.set_socket_options()
            self._flush(held)

    def handle_events(self) -> None:
        for fd, events in self.epoll.poll(0):
            if held := self.connection_by_fd.get(fd):
                self._flush(held) if events == EPOLLOUT else self.close(held)

    def sample(self) -> None:
        """Set the metrics of these connections, in any thread."""
        kinds = Counter(held.kind for held in [*self.connection_by_fd.values()])
        for kind in ("event_stream", "long_poll", "download"):
            STREAMS.set(kinds[kind], kind)
        STREAMS_MAX.set(self.max_connections)

    def send(self, connections: Iterable[HeldConnection], data: bytes) -> None:
        """Send data to event streams and downloads. Closed connections and others are skipped."""
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        for held in connections:
            if held.is_open and held.deadline is None:
                held.needs_data = False
                self._write(held, chunk if held.is_chunked else data)

    def close(self, held: HeldConnection) -> None:
        """Close the connection. The client of a download can tell that its response is incomplete.

        With chunks, the last chunk is missing. A response without chunks (HTTP/1.0) ends when the
        connection is closed, so a reset shows that it is incomplete. nginx uses HTTP/1.0 by
        default.
        """
        self.release(held)
        if held.download:
            DOWNLOADS.increase("aborted")
            with suppress(OSError):
                held.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.connections.close(held.client)

    def release(self, held: HeldConnection) -> None:
        """Remove a connection, which its caller closes or uses from now on."""
        held.is_open, held.client.held = False, None
        self.pending_bytes -= held.pending_bytes
        self.parked.discard(held)
        del self.connection_by_fd[held.client.fd]
        self.epoll.unregister(held.client.fd)
        self.free_slots.release()

    def _write(self, held: HeldConnection, data: bytes) -> None:
        client, sent_bytes = held.client, 0
        if not client.pending_output:
            try:
                sent_bytes = client.sock.send(data)
                if sent_bytes == len(data):
                    return self._continue_download(held)
            except BlockingIOError:
                pass
            except OSError:
                return self.close(held)
            self.epoll.modify(client.fd, EPOLLRDHUP | EPOLLOUT)
        elif held.is_event_stream and len(client.pending_output) + len(data) > MAX_PENDING_BYTES:
            return self.close(held)
        client.pending_output += data[sent_bytes:]
        self._count_pending_bytes(held)
        while self.pending_bytes > self.max_pending_bytes:
            self.close(max(self.connection_by_fd.values(), key=lambda held: held.pending_bytes))
        if held.is_open:
            self._continue_download(held)

    def _flush(self, held: HeldConnection) -> None:
        held.client.flush()
        out_event = EPOLLOUT if held.client.pending_output else 0
        self.epoll.modify(held.client.fd, EPOLLRDHUP | out_event)
        self._count_pending_bytes(held)
        self._continue_download(held)

    def _continue_download(self, held: HeldConnection) -> None:
        if not held.download or held.needs_data:
            return
        if len(held.client.pending_output) < (
            1 if held.download.is_complete else MIN_PENDING_BYTES
        ):
            held.needs_data = True
            try:
                held.download.continue_output()
            except Exception:  # no thread could be started; otherwise it would end the worker
                self.connections.worker.log.exception("Error continuing a download")
                self.close(held)

    def _count_pending_bytes(self, held: HeldConnection) -> None:
        pending_bytes = len(held.client.pending_output)
        self.pending_bytes += pending_bytes - held.pending_bytes
        held.pending_bytes = pending_bytes
