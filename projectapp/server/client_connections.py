"""What each connection waits for, and which thread owns it.

All waiting for clients has deadlines and memory limits. docs/decisions/0008 explains why.
"""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from select import EPOLLIN, EPOLLONESHOT, EPOLLOUT
from typing import Any

import gunicorn.util
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER

from config import Config
from projectapp.server.client_buffer import BufferedClient
from projectapp.server.plain_requests import PlainRequests

CLOSE_SECONDS = 2.0  # for a client to read the last response before its connection is closed
SWEEP_SECONDS = 0.2  # between two searches for connections past their deadline


class ClientConnections:
    """The connections of a worker, in one epoll set on which all its threads wait.

    A connection in `waiting` belongs to no thread. A thread that removes it from there owns it, and
    only the owner may use it. dict.pop is atomic, so there is one owner. It ends its ownership with
    `_wait_for` or `close`, or gives the connection to Streams (streams.py). So the main thread,
    which closes late connections, and a thread that gets an event cannot have the same connection.

    Each connection is in the epoll set once, with EPOLLONESHOT: after an event it is silent until
    `_wait_for`. An event, or a change in the epoll set, may come late, when the connection has been
    closed and a new one has its file descriptor number. A late event is harmless: sockets do not
    block, and the owner ends with `_wait_for`, after which epoll reports again what the socket is
    ready for. A late change can at worst hide that a client is ready to read; then the sweep at the
    client's deadline calls `_wait_for`.
    """

    def __init__(self, worker: Any, settings: Config, plain_requests: PlainRequests) -> None:
        self.worker = worker
        self.plain_requests = plain_requests
        self.epoll = select.epoll()
        self.client_by_fd: dict[int, BufferedClient] = {}  # all open connections
        self.waiting: dict[BufferedClient, bool] = {}
        self.read_timeout_seconds = settings.READ_TIMEOUT
        self.max_buffered_bytes = max(2**24, 4 * settings.MAX_CONTENT_LENGTH)
        self.buffered_bytes = 0  # of clients that have waited
        self.buffered_bytes_lock = threading.Lock()
        self.last_sweep_at = 0.0
        self.stop_at = 0.0  # when the worker began to stop, on the monotonic clock
        self.stop_linger_seconds = STOP_KEEPALIVE_LINGER

    def accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            sock, address = listener.accept()
            client = BufferedClient(sock, address, listener.getsockname(), self.plain_requests)
            self.client_by_fd[client.fd] = client
            self.epoll.register(client.fd, EPOLLONESHOT)
            self._wait_for_request(client, self.read_timeout_seconds)

    def take_ready_clients(
        self, timeout_seconds: float, max_clients: int
    ) -> Iterator[BufferedClient]:
        """Wait until clients are ready. Return those that the caller owns now."""
        for fd, _ in self.epoll.poll(timeout_seconds, max_clients):
            client = self.client_by_fd.get(fd)
            if client and self.waiting.pop(client, False):
                yield client

    # Only the owner of a client calls what follows. Each function returns whether the client's
    # request must run now: then the caller still owns the client, else no longer.

    def handle_event(self, client: BufferedClient) -> bool:
        """Do what the client was waiting for."""
        try:
            return client.on_ready(client)
        except Exception:
            self.worker.log.exception("Error handling a connection")
            return self.close(client)

    def finish_request(self, client: BufferedClient) -> bool:
        """Send the response to a request that has run."""
        client.request, client.framing, client.head = None, None, b""  # frees the memory
        client.has_waited = False
        client.on_ready = self._send
        return self.handle_event(client)

    def receive_request(self, client: BufferedClient) -> bool:
        """Start to receive the first or the next request of a connection."""
        client.waiting_since = time.monotonic()
        client.deadline = client.waiting_since + self.read_timeout_seconds
        return self._receive(client)

    def _receive(self, client: BufferedClient) -> bool:
        try:
            if client.receive():
                return True
        except OSError:
            return self.close(client)
        except LimitRequestHeaders:
            return self.refuse(client, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return self._wait_for(client, EPOLLIN, self._receive, client.deadline)

    def refuse(self, client: BufferedClient, status: HTTPStatus) -> bool:
        client.keep_alive = False
        client.save_head()
        gunicorn.util.write_error(client, status.value, status.phrase, "")
        return self._send(client)

    def _send(self, client: BufferedClient) -> bool:
        """Send the response. Wait to send the rest, or for the next request, or close."""
        client.flush()
        if client.pending_output:
            client.check_send_progress()  # the sweep compares with this call
            deadline = time.monotonic() + self.read_timeout_seconds
            return self._wait_for(client, EPOLLOUT, self._send, deadline)
        if not client.keep_alive:
            return self._close_gracefully(client)
        if client.received:
            return self.receive_request(client)
        return self._wait_for_request(client, self.worker.cfg.keepalive)

    # Wait for a client.

    def _wait_for_request(self, client: BufferedClient, seconds: float) -> bool:
        client.waiting_since = time.monotonic()
        deadline = client.waiting_since + seconds
        return self._wait_for(client, EPOLLIN, self.receive_request, deadline)

    def _wait_for(
        self,
        client: BufferedClient,
        events: int,
        on_ready: Callable[[BufferedClient], bool],
        deadline: float,
    ) -> bool:
        client.events, client.on_ready, client.deadline = events, on_ready, deadline
        buffered_bytes = len(client.received) + len(client.pending_output)
        if change := buffered_bytes - client.buffered_bytes:
            client.buffered_bytes = buffered_bytes
            self._count_buffered_bytes(change)
        self.waiting[client] = True
        # From here on another thread may own the client.
        with suppress(OSError):  # it has closed the client already
            self.epoll.modify(client.fd, events | EPOLLONESHOT)
        if change > 0:
            self._limit_buffered_bytes()
        return False

    def forget_buffered_bytes(self, client: BufferedClient) -> None:
        """Do not count a client that `close_if_waiting` cannot close."""
        self._count_buffered_bytes(-client.buffered_bytes)
        client.buffered_bytes = 0

    def _count_buffered_bytes(self, change: int) -> None:
        with self.buffered_bytes_lock:
            self.buffered_bytes += change

    def _limit_buffered_bytes(self) -> None:
        while self.buffered_bytes > self.max_buffered_bytes:
            client = max([*self.waiting], key=lambda client: client.buffered_bytes, default=None)
            if not client or not client.buffered_bytes:
                break  # the other bytes belong to requests that run
            self.close_if_waiting(client)

    # Close a connection.

    def _close_gracefully(self, client: BufferedClient) -> bool:
        """Close after the client has read the response (RFC 9112, 9.6)."""
        client.received.clear()
        try:
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return self.close(client)
        deadline = time.monotonic() + CLOSE_SECONDS
        return self._wait_for(client, EPOLLIN, self._discard_input, deadline)

    def _discard_input(self, client: BufferedClient) -> bool:
        if not client.discard_input():
            return self.close(client)
        return self._wait_for(client, EPOLLIN, self._discard_input, client.deadline)

    def close_if_waiting(self, client: BufferedClient) -> None:
        if self.waiting.pop(client, False):
            self.close(client)

    def close(self, client: BufferedClient) -> bool:
        self.forget_buffered_bytes(client)
        del self.client_by_fd[client.fd]  # before a new connection can have the same number
        client.sock.close()
        return False

    # What the main thread does regularly.

    def enforce_limits(self) -> None:
        """Close late and surplus connections."""
        now = time.monotonic()
        if now > self.last_sweep_at + SWEEP_SECONDS:
            self.last_sweep_at = now
            self._sweep(now)
        while len(self.client_by_fd) >= self.worker.worker_connections:
            client = min([*self.waiting], key=lambda client: client.waiting_since, default=None)
            if not client:
                break
            self.close_if_waiting(client)

    def _sweep(self, now: float) -> None:
        """Close connections past their deadline. An incomplete request gets a 408 first."""
        late_clients = [client for client in [*self.waiting] if self._deadline_of(client) < now]
        for client in late_clients:
            if not self.waiting.pop(client, False):
                continue
            if self._deadline_of(client) >= now:  # it was ready in between, and waits again
                self._wait_for(client, client.events, client.on_ready, client.deadline)
            elif client.on_ready == self._receive and client.received:
                self.refuse(client, HTTPStatus.REQUEST_TIMEOUT)
            elif client.on_ready == self._send and client.check_send_progress():
                deadline = now + self.read_timeout_seconds
                self._wait_for(client, EPOLLOUT, self._send, deadline)
            else:
                self.close(client)

    def _deadline_of(self, client: BufferedClient) -> float:
        """Return the deadline of a client. While the worker stops, requests have less time."""
        if self.stop_at and client.on_ready in (self._receive, self.receive_request):
            start = max(self.stop_at, client.waiting_since)
            return min(client.deadline, start + self.stop_linger_seconds)
        return client.deadline
