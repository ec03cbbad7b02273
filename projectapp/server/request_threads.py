"""The threads that run requests, and load shedding: a request must not wait long for a thread.

The rule is the controlled delay of "Fail at Scale" (ACM Queue, 2015), which is CoDel (RFC 8289)
for servers. docs/decisions/0017 explains it.
"""

import os
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from select import EPOLLIN, EPOLLONESHOT
from typing import Any

from config import Config
from projectapp.metrics.definitions import QUEUED_REQUESTS, THREADS
from projectapp.server.client_buffer import BufferedClient
from projectapp.server.client_connections import ClientConnections

# At most so many in one turn of the main thread, which has other work, too. The next turn goes on.
MAX_RECEIVED_PER_TURN, MAX_REFUSALS_PER_TURN = 256, 64
# How long the main thread waits at most before it looks at deadlines and waiting requests.
NO_CLIENT_TURN_SECONDS, IDLE_TURN_SECONDS, BUSY_TURN_SECONDS = 1.0, 0.1, 0.02


class RequestThreads:
    """Threads that wait for clients, and run a request in the thread that has received it.

    While no thread is idle, requests wait in their sockets, and their waiting time is unknown. So
    the main thread then receives them, and queues them with the time. Threads take queued requests
    first.

    `queue` and `idle_threads` are shared without a lock: each operation on them is atomic. A thread
    adds itself to `idle_threads` before it looks into the queue for the last time, and the main
    thread adds to the queue before it looks into `idle_threads`. So no request stays in the queue
    while a thread sleeps.
    """

    def __init__(self, worker: Any, settings: Config, connections: ClientConnections) -> None:
        self.worker = worker
        self.connections = connections
        self.queue: deque[BufferedClient] = deque()  # their requests are complete; oldest first
        self.idle_threads: set[int] = set()
        self.threads: list[threading.Thread] = []
        self.is_stopping = False
        # These have their own threads, so they are answered while all others wait for the database.
        self.own_threads = {
            _request_starts(path, settings.SCRIPT_NAME): ThreadPoolExecutor(1)
            for path in ("/health", "/metrics")
        }
        self.last_idle_thread_at = self.last_turn_at = 0.0
        self.timeout_seconds = settings.QUEUE_TIMEOUT
        self.ready_requests = _request_starts("/ready", settings.SCRIPT_NAME)
        self.wake_fd = os.eventfd(1)  # always readable: watching it for an event wakes a thread
        connections.epoll.register(self.wake_fd, 0)

    def start(self) -> None:
        for number in range(self.worker.cfg.threads):
            thread = threading.Thread(target=self._serve, args=(number,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop(self, deadline: float) -> None:
        """End the threads. Requests may run until `deadline`, on the monotonic clock."""
        self.is_stopping = True
        self.connections.epoll.modify(self.wake_fd, EPOLLIN)
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def sample(self) -> None:
        """Set the metrics of the threads, in any thread."""
        idle_threads = len(self.idle_threads)
        THREADS.set(idle_threads, "idle")
        THREADS.set(len(self.threads) - idle_threads, "busy")
        QUEUED_REQUESTS.set(len(self.queue))

    # In the threads.

    def _serve(self, number: int) -> None:
        while not self.is_stopping:
            if client := self._take_queued_client():
                if self.queue:
                    self._wake_thread()  # epoll may wake one thread for several queued requests
                self._run(client)
            else:
                self._wait_for_clients(number)

    def _wait_for_clients(self, number: int) -> None:
        self.idle_threads.add(number)
        clients = [] if self.queue else [*self.connections.take_ready_clients(-1, 1)]
        self.idle_threads.discard(number)
        for client in clients:
            if self.connections.handle_event(client):
                self._run(client)

    def _run(self, client: BufferedClient) -> None:
        """Run a client's request. If the next one has arrived, put it at the end of the queue."""
        self.worker.run_request(client)
        if client.held and self.worker.streams.hold(client):
            return
        if self.connections.finish_request(client):
            self.submit(client)

    def _take_queued_client(self) -> BufferedClient | None:
        try:
            return self.queue.popleft()
        except IndexError:  # another thread may have taken the last one just now
            return None

    # In the main thread.

    def receive_for_busy_threads(self) -> None:
        """Queue the requests for which no thread is idle.

        A thread that has an event already, but not yet Python's lock, is still in `idle_threads`.
        So the main thread looks for ready clients even if a thread seems to be idle.
        """
        now = time.monotonic()
        if now < self.last_turn_at + BUSY_TURN_SECONDS:
            return
        self.last_turn_at = now
        if len(self.idle_threads) < len(self.threads):
            for client in self.connections.take_ready_clients(0, MAX_RECEIVED_PER_TURN):
                if self.connections.handle_event(client):
                    self.submit(client)
        if self.idle_threads and not self.queue:
            self.last_idle_thread_at = now

    def submit(self, client: BufferedClient) -> None:
        for request_starts, thread in self.own_threads.items():
            if client.head.startswith(request_starts):
                thread.submit(self._run, client)
                return
        self.queue.append(client)
        self._wake_thread()

    def _wake_thread(self) -> None:
        if self.idle_threads:
            self.connections.epoll.modify(self.wake_fd, EPOLLIN | EPOLLONESHOT)

    def turn_seconds(self) -> float:
        """Return how long the main thread may wait for new clients."""
        if not self.connections.client_by_fd:
            return NO_CLIENT_TURN_SECONDS
        return IDLE_TURN_SECONDS if self.idle_threads else BUSY_TURN_SECONDS

    def refuse_late_requests(self) -> None:
        """Refuse requests that have waited too long for a thread.

        A request may wait for QUEUE_TIMEOUT, or an eighth of it if no thread has been idle for
        QUEUE_TIMEOUT. These requests are not refused: those of a worker that stops, because its
        queue does not grow; and /ready, because a load balancer that removed an overloaded server
        would overload the next one.
        """
        if not self.worker.alive:
            return
        now = time.monotonic()
        is_overloaded = now - self.last_idle_thread_at > self.timeout_seconds
        limit_seconds = self.timeout_seconds / (8 if is_overloaded else 1)
        refusals, skipped_clients = 0, []
        while refusals < MAX_REFUSALS_PER_TURN:
            if not (client := self._take_queued_client()):
                break
            if now - client.received_at <= limit_seconds:
                skipped_clients.append(client)
                break
            if client.head.startswith(self.ready_requests):
                skipped_clients.append(client)
            else:
                self.connections.refuse(client, HTTPStatus.SERVICE_UNAVAILABLE)
                refusals += 1
        self.queue.extendleft(reversed(skipped_clients))
        if skipped_clients:
            self._wake_thread()


def _request_starts(path: str, prefix: str) -> tuple[bytes, ...]:
    """How a GET or HEAD of the path begins, with the prefix of SCRIPT_NAME and without it."""
    return tuple(
        f"{method} {p}{path} ".encode() for method in ("GET", "HEAD") for p in {"", prefix}
    )
