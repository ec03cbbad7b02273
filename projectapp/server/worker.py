"""The class of the gunicorn worker.

gunicorn's gthread blocks a thread while a client is slow to send or to read, so a few slow clients
block the server. Here the event loop does all waiting for clients, with deadlines and memory
limits; threads get complete requests and return complete responses (docs/decisions/0008).

gunicorn.conf.py runs this file by its path in the master, and again at a reload. Python does not
reload modules that the master has imported, so projectapp is imported in the worker only.
"""

import math
import os
import select
import signal
import sys
import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import Any

import gunicorn.util
from gunicorn.arbiter import Arbiter
from gunicorn.http import RequestParser
from gunicorn.workers.gthread import ThreadWorker

from config import load_config

settings = load_config()

ORPHAN_SECONDS = 1.0  # a worker whose master has died starts requests for this long


class Worker(ThreadWorker):  # type: ignore[misc]
    """gthread, except that the event loop waits for clients.

    With TLS in gunicorn it is plain gthread, because only a thread can wait for a TLS client.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.has_tls = self.cfg.is_ssl
        self.early_signals: SimpleQueue[int] = SimpleQueue()  # gunicorn.conf.py replaces it
        self.start_deadline = math.inf  # no request starts later; on the monotonic clock
        self.thread_local = threading.local()

    # Start.

    def init_process(self) -> None:
        # Log each error once, in the format of the log: gunicorn would also print it, and Python
        # would print a ConfigError as plain text.
        try:
            super().init_process()
        except SystemExit as error:
            if isinstance(error.code, str):
                self.log.error(error.code)
                sys.exit(1)
            raise
        except Exception:
            self.log.exception("Exception in worker process")
            sys.exit(-1 if self.booted else Arbiter.WORKER_BOOT_ERROR)

    def init_signals(self) -> None:
        super().init_signals()
        # A Ctrl-C reaches the whole process group, and the master forwards it to the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, self.handle_usr2)
        while not self.early_signals.empty():
            if self.early_signals.get() in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
                os._exit(0)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from projectapp.server.client_connections import ClientConnections
        from projectapp.server.unparsed_responses import write_problem
        from projectapp.server.utf8_request import UTF8Request

        self.clients = ClientConnections(self, settings)
        # gunicorn has no settings for these two.
        gunicorn.util.write_error = partial(write_problem, settings, self.cfg)
        RequestParser.mesg_class = UTF8Request
        application: Any = self.wsgi  # type: ignore[has-type]

        def add_received_at(environ: dict[str, Any], start_response: Any) -> Any:
            environ["projectapp.received_at"] = self.thread_local.received_at
            return application(environ, start_response)

        self.wsgi = add_received_at

    # Serve. gunicorn calls these in its event loop, and `handle` and `handle_request` in threads.

    def enqueue_req(self, conn: Any) -> None:
        if self.has_tls:
            return super().enqueue_req(conn)
        self.clients.receive_request(conn)

    def handle(self, conn: Any) -> bool:
        """Run a request. Return whether the connection can be kept alive."""
        if time.monotonic() > self.start_deadline:
            return False
        self.thread_local.received_at = time.monotonic() if self.has_tls else conn.sock.received_at
        keep_alive = super().handle(conn)
        if not self.has_tls:
            conn.sock.flush()
        return keep_alive

    def handle_request(self, req: Any, conn: Any) -> bool:
        if not (self.has_tls or conn.sock.is_complete):
            req.force_close()  # its end is unknown, and so is the start of the next request
        return super().handle_request(req, conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        # While the worker stops or requests wait for a thread, check the deadlines more often.
        is_urgent = not self.alive or len(self.clients.requests.futures) > self.cfg.threads
        super().wait_for_and_dispatch_events(min(timeout, 0.1) if is_urgent else timeout)

    def murder_pending(self) -> None:
        super().murder_pending()
        self.clients.enforce_limits()

    # Stop.

    def handle_usr2(self, sig: int, frame: Any) -> None:
        """Start to drain: /ready answers 503, and all other requests are served as before."""
        self.method_queue.defer(_set_draining)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Exit without cleanup: a signal handler that shuts down the thread pool could deadlock."""
        os._exit(0)

    def is_parent_alive(self) -> bool:
        if not super().is_parent_alive():
            self.alive = False
            # Another master may serve the port soon, so this worker must not take long.
            self.clients.stop_linger_seconds = ORPHAN_SECONDS
            self.start_deadline = time.monotonic() + ORPHAN_SECONDS
        return self.alive

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            # Accept the backlog: the kernel resets it when the last worker closes its listener.
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
                listener.close()

    def _cap_keepalive(self, deadline: float) -> None:
        deadline = min(deadline, time.monotonic() + self.clients.stop_linger_seconds)
        super()._cap_keepalive(deadline)  # the connections of plain gthread, with TLS
        self.clients.cap_deadlines(deadline)


def _set_draining() -> None:
    from projectapp.http import health

    health.is_draining = True
