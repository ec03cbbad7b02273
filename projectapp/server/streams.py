"""Connections that stay open without a thread: event streams, downloads, and requests that wait.

A view finds the Streams of its worker in `environ["projectapp.streams"]`. With `open` it keeps the
connection open after its response, and more of the body can be sent later. With `park` it puts the
request aside (a long poll): the request runs again, like a new one, when it is woken or at its
deadline.

The main thread owns these connections, and waits for all of them in an epoll set of its own. Other
threads give it their work through the worker's `method_queue`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from config import Config
from projectapp.metrics.definitions import DOWNLOADS
from projectapp.server.client_buffer import BufferedClient
from projectapp.server.client_connections import CLOSE_SECONDS, ClientConnections
from projectapp.server.held_connections import (
    Download,
    HeldConnection,
    HeldConnections,
    Subscription,
)
from projectapp.server.request_framing import FRAMING_HEADER

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
        # The other half of the connections is for requests, also if gunicorn.conf.py had to lower
        # worker_connections.
        max_connections = min(settings.STREAMS, worker.worker_connections // 2)
        self.held = HeldConnections(connections, max_connections)
        self.epoll = self.held.epoll
        self.next_heartbeat_at = 0.0  # on the monotonic clock, as the next two
        self.stop_at = 0.0  # when the worker began to stop
        self.download_deadline = 0.0  # of a worker that stops
        self.last_clients: list[BufferedClient] = []  # of event streams that this has ended

    # In the thread that runs the request.

    def open(self, environ: dict[str, Any], subscription: Subscription) -> bool:
        """Keep the connection open after the response to this request, as an event stream.

        The response has the type text/event-stream and no Content-Length. Return False if the
        worker has no room for another connection.
        """
        return self._open(environ, subscription, None)

    def open_download(self, environ: dict[str, Any], download: Download) -> bool:
        """Keep the connection open after the first part of the response to this request.

        The response has no Content-Length. The download sends the next parts, and ends with
        `finish`, or incomplete with `abort`. Return False if the worker has no room for it.
        """
        return self._open(environ, download, download)

    def park(self, environ: dict[str, Any], subscription: Subscription, deadline: float) -> bool:
        """Discard the response to this GET, and run the request again when it is woken.

        `deadline` is on the monotonic clock. When the request runs again,
        `environ["projectapp.has_waited"]` is True. Return False if the worker has no room.
        """
        client: BufferedClient = environ["gunicorn.socket"]
        is_parked = self._reserve(HeldConnection(client, subscription, deadline, None))
        environ["projectapp.is_parked"] = is_parked
        return is_parked

    def _open(
        self, environ: dict[str, Any], subscription: Subscription, download: Download | None
    ) -> bool:
        client: BufferedClient = environ["gunicorn.socket"]
        if not self._reserve(HeldConnection(client, subscription, None, download)):
            return False
        if not client.request:
            client.gunicorn_connection.parser.mesg.force_close()
        return True

    def _reserve(self, held: HeldConnection) -> bool:
        # Where an incomplete request ends is unknown, and so is the start of the next one.
        if not held.client.is_complete or not self.held.free_slots.acquire(blocking=False):
            return False
        held.client.held = held
        return True

    def hold(self, client: BufferedClient) -> bool:
        """Take over the connection of a request that has run; False if its response is an error."""
        held: HeldConnection = client.held
        output = client.pending_output
        if output[9:12] != b"200":  # the status
            client.held = None
            self.held.free_slots.release()
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

    @property
    def pending_bytes(self) -> int:
        """The output of all connections that the kernel has not accepted yet."""
        return self.held.pending_bytes

    @property
    def max_pending_bytes(self) -> int:
        """With more, the connection that has the most is closed."""
        return self.held.max_pending_bytes

    def send(self, messages: Sequence[tuple[Iterable[HeldConnection], bytes]]) -> None:
        """Send to each connection its data. Return when the kernel or our buffers have all of it.

        Do not send an empty part: in chunks it would be the end of the response.
        """
        is_sent = threading.Event()
        self._defer(self._send, messages, is_sent)
        is_sent.wait(MAX_SEND_WAIT_SECONDS)

    def finish(self, connections: Iterable[HeldConnection]) -> None:
        """End streams and downloads, and run parked requests."""
        self._defer(self._finish, connections)

    def abort(self, connection: HeldConnection) -> None:
        """Close the connection of a download that failed, so that its client can tell."""
        self._defer(self._abort, [connection])

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
        self.held.handle_events()
        now = time.monotonic()
        parked = self.held.parked
        self._finish([held for held in parked if held.deadline and held.deadline <= now])
        if now >= self.next_heartbeat_at:
            self.next_heartbeat_at = now + HEARTBEAT_SECONDS
            self.held.send([held for held in self._all() if held.is_event_stream], HEARTBEAT)
            self._abort([held for held in self._all() if held.download and held.is_stalled(now)])
        if self.stop_at and now > self.stop_at + CLOSE_SECONDS:
            for client in self.last_clients:
                self.connections.close_if_waiting(client)
        if self.stop_at and now > self.download_deadline:
            self._abort(self._all())

    def stop(self, download_deadline: float) -> None:
        """End all event streams, and run all parked requests. From now on none is held.

        Downloads go on until the deadline, on the monotonic clock. Then they end incomplete.
        """
        self.stop_at, self.download_deadline = time.monotonic(), download_deadline
        self._finish([held for held in self._all() if not held.download])

    def _all(self) -> list[HeldConnection]:
        return [*self.held.connection_by_fd.values()]

    def _add(self, held: HeldConnection) -> None:
        self.held.add(held)
        if self.stop_at and not held.download:
            self._finish([held])

    def _send(
        self, messages: Sequence[tuple[Iterable[HeldConnection], bytes]], is_sent: threading.Event
    ) -> None:
        try:
            for connections, data in messages:
                self.held.send(connections, data)
        finally:
            is_sent.set()

    def _abort(self, connections: Iterable[HeldConnection]) -> None:
        for held in connections:
            if held.is_open:
                self.held.close(held)

    def _finish(self, connections: Iterable[HeldConnection]) -> None:
        for held in connections:
            if not held.is_open:
                continue
            client = held.client
            self.held.release(held)
            if held.download:
                DOWNLOADS.increase("complete")
            if held.deadline is None:
                client.pending_output += _LAST_CHUNK if held.is_chunked else b""
                client.keep_alive = False
                self.connections.finish_request(client)
                if self.stop_at and not held.download:
                    self.last_clients.append(client)
            else:
                # The same request again, without a body.
                client.received[:0] = FRAMING_HEADER.sub(b"", client.head) + b"\r\n"
                client.has_waited = True
                if self.connections.receive_request(client):
                    self.submit_request(client)
