"""Connections that stay open without a thread: streams, and requests that wait (long polls).

A view finds the Streams of its worker in `environ["projectapp.streams"]`. With `open` it keeps the
connection open after its response, and more of the body can be sent later. With `park` it puts the
request aside; the request runs again, like a new one, when it is woken or at its deadline.

The main thread owns these connections, and waits for all of them in an epoll set of its own. Other
threads give it their work through the worker's `method_queue`.
"""

import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from select import EPOLLOUT, EPOLLRDHUP
from typing import Any

from config import Config
from projectapp.server.client_buffer import BufferedClient
from projectapp.server.client_connections import CLOSE_SECONDS, ClientConnections
from projectapp.server.held_connection import HeldConnection, Subscription
from projectapp.server.request_framing import FRAMING_HEADER

MAX_PENDING_BYTES = 2**18  # of a stream whose client does not read
HEARTBEAT = b":\n\n"  # a comment, so that both ends notice a lost connection
HEARTBEAT_SECONDS = 14.0
MAX_SEND_WAIT_SECONDS = 5.0

_LAST_CHUNK = b"0\r\n\r\n"


class Streams:
    """The connections of a worker that stay open.

    `submit_request` queues the request of a client, which then belongs to a thread.
    """

    def __init__(
        self,
        worker: Any,
        settings: Config,
        connections: ClientConnections,
        submit_request: Callable[[BufferedClient], None],
    ) -> None:
        self.worker = worker
        self.connections = connections
        self.submit_request = submit_request
        self.epoll = select.epoll()
        self.connection_by_fd: dict[int, HeldConnection] = {}
        self.parked: set[HeldConnection] = set()
        # The other half of the connections is for requests, also if gunicorn.conf.py had to lower
        # worker_connections.
        max_connections = min(settings.STREAMS, worker.worker_connections // 2)
        self.free_places = threading.BoundedSemaphore(max_connections)
        self.max_pending_bytes = connections.max_buffered_bytes  # of all streams together
        self.pending_bytes = 0
        self.next_heartbeat_at = 0.0  # on the monotonic clock, as stop_at
        self.stop_at = 0.0  # when the worker began to stop
        self.last_clients: list[BufferedClient] = []  # of streams that this has ended

    # In the thread that runs the request.

    def open(self, environ: dict[str, Any], subscription: Subscription) -> bool:
        """Keep the connection open after the response to this request, as a stream.

        The response has the type text/event-stream and no Content-Length. Return False if the
        worker has no room for another connection.
        """
        if not self._reserve(environ, subscription, None):
            return False
        client: BufferedClient = environ["gunicorn.socket"]
        if not client.request:
            client.gunicorn_connection.parser.mesg.force_close()
        return True

    def park(self, environ: dict[str, Any], subscription: Subscription, deadline: float) -> bool:
        """Discard the response to this GET, and run the request again when it is woken.

        `deadline` is on the monotonic clock. When the request runs again,
        `environ["projectapp.has_waited"]` is True. Return False if the worker has no room.
        """
        environ["projectapp.is_parked"] = self._reserve(environ, subscription, deadline)
        return bool(environ["projectapp.is_parked"])

    def _reserve(
        self, environ: dict[str, Any], subscription: Subscription, deadline: float | None
    ) -> bool:
        client: BufferedClient = environ["gunicorn.socket"]
        # Where an incomplete request ends is unknown, and so is the start of the next one.
        if not client.is_complete or not self.free_places.acquire(blocking=False):
            return False
        client.held = HeldConnection(client, subscription, deadline)
        return True

    def hold(self, client: BufferedClient) -> bool:
        """Take over the connection of a request that has run; False if its response is an error."""
        held: HeldConnection = client.held
        output = client.pending_output
        if output[9:12] != b"200":  # the status
            client.held = None
            self.free_places.release()
            return False
        client.request = client.framing = client.gunicorn_connection = None  # frees the memory
        if held.deadline is None:
            head_size = output.find(b"\r\n\r\n") + 2
            held.is_chunked = b"\r\nTransfer-Encoding: chunked\r\n" in output[:head_size]
            if held.is_chunked:
                del output[-len(_LAST_CHUNK) :]
            client.received.clear()  # the response says Connection: close
            client.head, client.base_environ = b"", {}
        else:
            output.clear()
            del client.received[: client.readable_bytes]  # a body that nothing has read
        client.readable_bytes = 0
        self.connections.forget_buffered_bytes(client)
        self._defer(self._add, held)
        return True

    # In any thread.

    def send(self, messages: Sequence[tuple[Iterable[HeldConnection], bytes]]) -> None:
        """Send to each stream its data. Return when the kernel or our buffers have all of it."""
        is_sent = threading.Event()
        self._defer(self._send, messages, is_sent)
        is_sent.wait(MAX_SEND_WAIT_SECONDS)

    def finish(self, connections: Iterable[HeldConnection]) -> None:
        """End streams, and run parked requests."""
        self._defer(self._finish, connections)

    def _defer(self, function: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            try:
                function(*arguments)
            except Exception:  # otherwise it would end the worker
                self.worker.log.exception("Error handling a stream")

        self.worker.method_queue.defer(run)

    # In the main thread.

    def do_turn(self) -> None:
        """Do what is due: send, close the connections of lost clients, run parked requests."""
        for fd, events in self.epoll.poll(0):
            if held := self.connection_by_fd.get(fd):
                self._flush(held) if events == EPOLLOUT else self._close(held)
        now = time.monotonic()
        self._finish([held for held in self.parked if held.deadline and held.deadline <= now])
        if now >= self.next_heartbeat_at:
            self.next_heartbeat_at = now + HEARTBEAT_SECONDS
            self._send_to([*self.connection_by_fd.values()], HEARTBEAT)
        if self.stop_at and now > self.stop_at + CLOSE_SECONDS:
            for client in self.last_clients:
                self.connections.close_if_waiting(client)

    def stop(self) -> None:
        """End all streams, and run all parked requests. From now on nothing is held."""
        self.stop_at = time.monotonic()
        self._finish([*self.connection_by_fd.values()])

    def _add(self, held: HeldConnection) -> None:
        client = held.client
        held.is_open = True
        self.connection_by_fd[client.fd] = held
        # Not EPOLLIN: what the client sends now stays in the kernel.
        self.epoll.register(client.fd, EPOLLRDHUP)
        if held.deadline is None:
            held.set_socket_options()
            self._flush(held)
        else:
            self.parked.add(held)
        held.subscription.start(held)
        if self.stop_at:
            self._finish([held])

    def _send(
        self, messages: Sequence[tuple[Iterable[HeldConnection], bytes]], is_sent: threading.Event
    ) -> None:
        try:
            for connections, data in messages:
                self._send_to(connections, data)
        finally:
            is_sent.set()

    def _send_to(self, connections: Iterable[HeldConnection], data: bytes) -> None:
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        for held in connections:
            if held.is_open and held.deadline is None:
                self._write(held, chunk if held.is_chunked else data)

    def _write(self, held: HeldConnection, data: bytes) -> None:
        client, sent_bytes = held.client, 0
        if not client.pending_output:
            try:
                sent_bytes = client.sock.send(data)
                if sent_bytes == len(data):
                    return
            except BlockingIOError:
                pass
            except OSError:
                return self._close(held)
            self.epoll.modify(client.fd, EPOLLRDHUP | EPOLLOUT)
        elif len(client.pending_output) + len(data) > MAX_PENDING_BYTES:
            return self._close(held)
        client.pending_output += data[sent_bytes:]
        self._count_pending_bytes(held)
        while self.pending_bytes > self.max_pending_bytes:
            self._close(max(self.connection_by_fd.values(), key=lambda held: held.pending_bytes))

    def _flush(self, held: HeldConnection) -> None:
        held.client.flush()
        out_event = EPOLLOUT if held.client.pending_output else 0
        self.epoll.modify(held.client.fd, EPOLLRDHUP | out_event)
        self._count_pending_bytes(held)

    def _count_pending_bytes(self, held: HeldConnection) -> None:
        pending_bytes = len(held.client.pending_output)
        self.pending_bytes += pending_bytes - held.pending_bytes
        held.pending_bytes = pending_bytes

    def _finish(self, connections: Iterable[HeldConnection]) -> None:
        for held in connections:
            if not held.is_open:
                continue
            client = held.client
            self._release(held)
            if held.deadline is None:
                client.pending_output += _LAST_CHUNK if held.is_chunked else b""
                client.keep_alive = False
                self.connections.finish_request(client)
                if self.stop_at:
                    self.last_clients.append(client)
            else:
                # The same request again, without a body.
                client.received[:0] = FRAMING_HEADER.sub(b"", client.head) + b"\r\n"
                client.has_waited = True
                if self.connections.receive_request(client):
                    self.submit_request(client)

    def _close(self, held: HeldConnection) -> None:
        self._release(held)
        self.connections.close(held.client)

    def _release(self, held: HeldConnection) -> None:
        held.is_open, held.client.held = False, None
        self.pending_bytes -= held.pending_bytes
        self.parked.discard(held)
        del self.connection_by_fd[held.client.fd]
        self.epoll.unregister(held.client.fd)
        self.free_places.release()
