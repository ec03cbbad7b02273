"""The event loop's side of client connections: it receives, sends, waits and closes.

All of this has deadlines and memory limits. docs/decisions/0008 explains why.
"""

import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import gunicorn.util
from gunicorn.http import get_parser
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER

from config import Config
from projectapp.server.client_buffer import BufferedClient
from projectapp.server.request_queue import RequestQueue

CLOSE_SECONDS = 2.0  # for a client to read the last response before its connection is closed
SWEEP_SECONDS = 0.2  # between two searches for connections past their deadline


class ClientConnections:
    """The connections of a worker. `conn` is gunicorn's TConn; its `sock` is a BufferedClient.

    While a thread handles a request, its connection is in `requests`. While the service waits for
    the client, the connection is in `waiting`: the event loop calls `on_ready` when the socket is
    ready. After `deadline` it closes the connection, with a 408 if a request is incomplete.
    """

    def __init__(self, worker: Any, settings: Config) -> None:
        self.worker = worker
        self.requests = RequestQueue(worker, settings, self.finish_request)
        self.waiting: dict[Any, None] = {}  # the longest wait first
        self.read_timeout_seconds = settings.READ_TIMEOUT
        self.max_body_bytes = settings.MAX_CONTENT_LENGTH
        self.max_buffered_bytes = max(2**24, 4 * settings.MAX_CONTENT_LENGTH)
        self.buffered_bytes = 0  # of all waiting clients
        self.last_sweep_at = 0.0
        self.stop_linger_seconds = STOP_KEEPALIVE_LINGER

    # Receive a request, let a thread handle it, send the response.

    def receive_request(self, conn: Any) -> None:
        """Start to receive the first or the next request of a connection."""
        if not conn.parser:
            conn.sock = BufferedClient(conn.sock, self.max_body_bytes)
            conn.parser = get_parser(self.worker.cfg, conn.sock, conn.client)
            conn.initialized = conn.data_ready = True  # so gunicorn does not wait for data
        client = conn.sock
        client.follow_next_request()
        client.deadline = self._deadline_in(self.read_timeout_seconds)
        self._receive(conn)

    def _receive(self, conn: Any) -> None:
        client = conn.sock
        try:
            is_ready = client.receive()
        except OSError:
            return self._close(conn)
        except LimitRequestHeaders:
            return self._refuse(conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not is_ready:
            return self._wait_for(conn, EVENT_READ, self._receive, client.deadline)
        self.waiting.pop(conn, None)
        client.on_ready = self._stop_watching
        self.requests.submit(conn)

    def _stop_watching(self, conn: Any) -> None:
        """Leave data that arrives during a request in the kernel until the request has ended."""
        self._watch_events(conn, 0)

    def finish_request(self, conn: Any, future: Future[bool]) -> None:
        """Send the response that a thread has written."""
        if future.cancelled():
            return  # it was refused, and the connection may be closed
        self.requests.futures.pop(conn, None)
        client = conn.sock
        # Unread bytes mean that gunicorn has found another end of the request. Then the connection
        # is closed, so that the rest is not read as the next request (request smuggling).
        has_unread_bytes = client.readable_bytes or conn.parser.unreader.buf.getvalue()
        client.keep_alive = not (has_unread_bytes or future.exception()) and future.result()
        self._continue_after_flush(conn)

    def _refuse(self, conn: Any, status: HTTPStatus) -> None:
        client = conn.sock
        client.keep_alive = False
        client.save_head()
        gunicorn.util.write_error(client, status.value, status.phrase, "")
        self._send(conn)

    def _send(self, conn: Any) -> None:
        conn.sock.flush()
        self._continue_after_flush(conn)

    def _continue_after_flush(self, conn: Any) -> None:
        """Wait to send the rest, receive the next request, or close the connection."""
        client = conn.sock
        if client.pending_output:
            client.check_send_progress()  # the sweep compares with this call
            deadline = time.monotonic() + self.read_timeout_seconds
            return self._wait_for(conn, EVENT_WRITE, self._send, deadline)
        if not client.keep_alive:
            return self._close_gracefully(conn)
        if client.received:
            return self.receive_request(conn)
        deadline = self._deadline_in(self.worker.cfg.keepalive)
        self._wait_for(conn, EVENT_READ, self.receive_request, deadline)

    # Wait for a client.

    def _deadline_in(self, seconds: float) -> float:
        """Return a deadline for a client. While the worker stops, it is earlier."""
        if not self.worker.alive:
            seconds = min(seconds, self.stop_linger_seconds)
        return time.monotonic() + seconds

    def _wait_for(
        self, conn: Any, events: int, on_ready: Callable[[Any], None], deadline: float
    ) -> None:
        client = conn.sock
        client.on_ready, client.deadline = on_ready, deadline
        self.waiting[conn] = None
        self._watch_events(conn, events)
        buffered_bytes = len(client.received) + len(client.pending_output)
        self.buffered_bytes += buffered_bytes - client.buffered_bytes
        client.buffered_bytes = buffered_bytes
        while self.buffered_bytes > self.max_buffered_bytes and self.waiting:
            self._close(max(self.waiting, key=lambda conn: conn.sock.buffered_bytes))

    def _watch_events(self, conn: Any, events: int) -> None:
        """Watch the socket for `events`. Most requests need no system call: they change nothing."""
        client = conn.sock
        if events == client.watched_events:
            return
        poller = self.worker.poller
        if client.watched_events:
            poller.unregister(client.sock)
        if events:
            poller.register(client.sock, events, lambda sock: client.on_ready(conn))
        client.watched_events = events

    # Close a connection.

    def _close_gracefully(self, conn: Any) -> None:
        """Close after the client has read the response (RFC 9112, 9.6)."""
        client = conn.sock
        client.received.clear()
        try:
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return self._close(conn)
        self._wait_for(conn, EVENT_READ, self._discard_input, time.monotonic() + CLOSE_SECONDS)

    def _discard_input(self, conn: Any) -> None:
        if not conn.sock.discard_input():
            self._close(conn)

    def _close(self, conn: Any) -> None:
        client = conn.sock
        self._watch_events(conn, 0)
        self.waiting.pop(conn, None)
        self.buffered_bytes -= client.buffered_bytes
        self.worker.nr_conns -= 1
        client.on_ready = client.ignore  # the loop may be about to dispatch an event of it
        client.sock.close()

    def enforce_limits(self) -> None:
        """Refuse requests that wait too long for a thread. Close late and surplus connections."""
        for conn in self.requests.cancel_late_requests():
            self._refuse(conn, HTTPStatus.SERVICE_UNAVAILABLE)
        now = time.monotonic()
        if now > self.last_sweep_at + SWEEP_SECONDS:
            self.last_sweep_at = now
            self._sweep(now)
        worker = self.worker
        while worker.nr_conns >= worker.worker_connections and self.waiting:
            self._close(next(iter(self.waiting)))

    def _sweep(self, now: float) -> None:
        """Close connections past their deadline. An incomplete request gets a 408 first."""
        for conn in [conn for conn in self.waiting if conn.sock.deadline < now]:
            client = conn.sock
            if client.on_ready == self._receive and client.received:
                self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT)
            elif client.on_ready == self._send and client.check_send_progress():
                client.deadline = now + self.read_timeout_seconds
            elif conn in self.waiting:  # a refusal above may have closed it, to free memory
                self._close(conn)

    def cap_deadlines(self, deadline: float) -> None:
        """Wait for requests no longer than until `deadline`. Responses keep their deadlines."""
        for conn in self.waiting:
            if conn.sock.on_ready in (self._receive, self.receive_request):
                conn.sock.deadline = min(conn.sock.deadline, deadline)
