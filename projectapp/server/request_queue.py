"""Gives complete requests to threads, and sheds load: a request must not wait long for a thread.

The rule is the controlled delay of "Fail at Scale" (ACM Queue, 2015), which is CoDel (RFC 8289)
for servers. docs/decisions/0017 explains it.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from config import Config

# A refusal takes the event loop some time. The next turn of the loop refuses the others.
MAX_REFUSALS_PER_TURN = 8


class RequestQueue:
    """The requests that wait for a thread, and those that a thread handles.

    Only the event loop calls the methods, so there is no lock. It also calls `on_done(conn,
    future)` when a request has ended or is cancelled.
    """

    def __init__(
        self, worker: Any, settings: Config, on_done: Callable[[Any, Future[bool]], None]
    ) -> None:
        self.worker = worker
        self.on_done = on_done
        # /health has its own thread, so it is answered while all others wait for the database.
        self.health_pool = ThreadPoolExecutor(1)
        self.futures: dict[Any, Future[bool]] = {}  # by connection, the oldest first
        self.last_idle_thread_at = 0.0
        self.timeout_seconds = settings.QUEUE_TIMEOUT
        self.health_requests = _request_starts("/health", settings.SCRIPT_NAME)
        self.ready_requests = _request_starts("/ready", settings.SCRIPT_NAME)

    def submit(self, conn: Any) -> None:
        worker = self.worker
        if conn.sock.received.startswith(self.health_requests):
            future = self.health_pool.submit(worker.handle, conn)
        else:
            future = self.futures[conn] = worker.tpool.submit(worker.handle, conn)
        future.add_done_callback(
            lambda future: worker.method_queue.defer(self.on_done, conn, future)
        )

    def cancel_late_requests(self) -> list[Any]:
        """Cancel requests that have waited too long for a thread. Return their connections.

        A request may wait for QUEUE_TIMEOUT, or an eighth of it if no thread has been idle for
        QUEUE_TIMEOUT. These requests are not cancelled: one that a thread has started; those of a
        worker that stops, because its queue does not grow; and /ready, because a load balancer
        that removed an overloaded server would overload the next one.
        """
        now = time.monotonic()
        if len(self.futures) < self.worker.cfg.threads or not self.worker.alive:
            self.last_idle_thread_at = now
            return []
        is_overloaded = now - self.last_idle_thread_at > self.timeout_seconds
        limit_seconds = self.timeout_seconds / (8 if is_overloaded else 1)
        cancelled: list[Any] = []
        for conn, future in self.futures.items():
            client = conn.sock
            if now - client.received_at <= limit_seconds or len(cancelled) == MAX_REFUSALS_PER_TURN:
                break
            if not client.received.startswith(self.ready_requests) and future.cancel():
                cancelled.append(conn)
        for conn in cancelled:
            del self.futures[conn]
        return cancelled


def _request_starts(path: str, prefix: str) -> tuple[bytes, ...]:
    """How a GET or HEAD of the path begins, with the prefix of SCRIPT_NAME and without it."""
    return tuple(
        f"{method} {p}{path} ".encode() for method in ("GET", "HEAD") for p in {"", prefix}
    )
