"""The class of the gunicorn worker.

gunicorn's gthread blocks a thread while a client is slow to send or to read, so a few slow clients
block the server. And each request goes from the main thread to another thread and back. Here
threads wait for all clients together, and never for one of them. The main thread accepts, enforces
deadlines and limits, and sheds load (docs/decisions/0008).

gunicorn.conf.py runs this file by its path in the master, and again at a reload. Python does not
reload modules that the master has imported, so projectapp is imported in the worker only.
"""

import math
import os
import select
import signal
import sys
import time
from functools import partial
from queue import SimpleQueue
from typing import Any

import gunicorn.util
from gunicorn.arbiter import Arbiter
from gunicorn.http import RequestParser, get_parser
from gunicorn.workers.gthread import TConn, ThreadWorker

from config import load_config

settings = load_config()

ORPHAN_SECONDS = 1.0  # a worker whose master has died starts requests for this long
STOP_SECONDS = 2.0  # a worker that stops ends its downloads so long before its deadline


class Worker(ThreadWorker):  # type: ignore[misc]
    """gthread, except that the threads wait for clients together, on one epoll set.

    It is plain gthread with TLS in gunicorn, because only a thread can wait for a TLS client, and
    on systems without epoll.
    """

    alive: bool

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.is_gthread = self.cfg.is_ssl or not hasattr(select, "epoll")
        self.early_signals: SimpleQueue[int] = SimpleQueue()  # gunicorn.conf.py replaces it
        self.start_deadline = math.inf  # no request starts later; on the monotonic clock

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
        from projectapp import metrics, tracing
        from projectapp.metrics.definitions import WORKER_STARTS, WORKERS
        from projectapp.server.gunicorn_requests import GunicornRequest
        from projectapp.server.unparsed_responses import write_problem

        # gunicorn has no settings for these two.
        gunicorn.util.write_error = partial(write_problem, settings, self.cfg)
        RequestParser.mesg_class = GunicornRequest
        GunicornRequest.prefix = settings.SCRIPT_NAME
        metrics.sample_regularly("the worker", lambda: WORKERS.set(1))
        WORKER_STARTS.increase()
        if self.is_gthread:
            return
        from projectapp.server.client_connections import ClientConnections
        from projectapp.server.plain_requests import PlainRequests
        from projectapp.server.request_threads import RequestThreads
        from projectapp.server.streams import Streams

        self.poller.close()  # gthread's
        self.plain_requests = PlainRequests(self.cfg, settings, self.log.access_log_enabled)
        self.connections = ClientConnections(self, settings, self.plain_requests)
        self.request_threads = RequestThreads(self, settings, self.connections)
        self.stop_tracing = tracing.stop
        submit = self.request_threads.submit
        self.streams = Streams(self, settings, self.connections, submit)
        metrics.sample_regularly("the threads", self.request_threads.sample)
        metrics.sample_regularly("the streams", self.streams.held.sample)
        application: Any = self.wsgi  # type: ignore[has-type]

        def extend_environ(environ: dict[str, Any], start_response: Any) -> Any:
            client = environ["gunicorn.socket"]
            environ["projectapp.received_at"] = client.received_at
            environ["projectapp.has_waited"] = client.has_waited
            environ["projectapp.streams"] = self.streams
            return application(environ, start_response)

        self.wsgi = extend_environ

    # Serve.

    def run(self) -> None:
        if self.is_gthread:
            return super().run()
        self.request_threads.start()
        for listener in self.sockets:
            listener.setblocking(False)
        while self.alive and self.is_parent_alive():
            has_room = len(self.connections.client_by_fd) < self.worker_connections
            self._run_turn(self.sockets if has_room else [])
        self.connections.stop_at = time.monotonic()
        deadline = self.connections.stop_at + self.cfg.graceful_timeout
        # The master kills its workers at nearly the same time as this deadline.
        self.streams.stop(min(deadline - STOP_SECONDS, self.start_deadline))
        self._accept_backlog()
        while self.connections.client_by_fd and time.monotonic() < deadline:
            self._run_turn([])
        self.request_threads.stop(deadline)
        self.stop_tracing()

    def _run_turn(self, listeners: list[Any]) -> None:
        """Wait for a new client, a signal or the next turn. Do what is due."""
        self.notify()
        signals, seconds = self.method_queue, self.request_threads.turn_seconds()
        ready_files = select.select([signals, self.streams.epoll, *listeners], [], [], seconds)[0]
        # Before new clients are accepted, because it looks for idle threads.
        self.request_threads.receive_for_busy_threads()
        for ready in ready_files:
            if ready is signals:
                signals.run_callbacks(None)
            elif ready is not self.streams.epoll:
                self.accept(ready)
        self.streams.do_turn()
        self.request_threads.refuse_late_requests()
        self.connections.enforce_limits()

    def accept(self, listener: Any) -> None:
        if self.is_gthread:
            return super().accept(listener)
        self.connections.accept(listener)

    # Run a request, in a thread.

    def run_request(self, client: Any) -> None:
        """Run a client's request: put the response into `pending_output`, and set `keep_alive`."""
        client.keep_alive = False
        try:
            if time.monotonic() > self.start_deadline:
                return
            if client.request:
                self._run_plain(client)
            else:
                self._run_with_gunicorn(client)
        except BaseException:
            self.log.exception("Error handling request")

    def _run_plain(self, client: Any) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        try:
            client.request.run(self.wsgi, client)
            may_keep_alive = bool(self.alive and self.cfg.keepalive and self.max_keepalived > 0)
            may_keep_alive &= not client.held
            client.keep_alive = self.plain_requests.respond(client, may_keep_alive)
        except Exception as error:
            client.pending_output.clear()
            self.handle_error(client.request, client, client.address, error)

    def _run_with_gunicorn(self, client: Any) -> None:
        conn = client.gunicorn_connection
        if not conn:
            conn = TConn(self.cfg, client, client.address, client.server_address)
            conn.parser = get_parser(self.cfg, client, client.address)
            conn.initialized = conn.data_ready = True  # so gunicorn does not wait for data
            client.gunicorn_connection = conn
        keep_alive = self.handle(conn)
        # Unread bytes mean that gunicorn has found another end of the request. Then the connection
        # is closed, so that the rest is not read as the next request (request smuggling).
        has_unread_bytes = client.readable_bytes or conn.parser.unreader.buf.getvalue()
        client.keep_alive = keep_alive and not has_unread_bytes
        conn.parser.mesg = None  # frees the memory

    def handle(self, conn: Any) -> bool:
        return time.monotonic() <= self.start_deadline and super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> bool:
        if not self.is_gthread and not conn.sock.is_complete:
            req.force_close()  # its end is unknown, and so is the start of the next request
        return super().handle_request(req, conn)

    # Stop.

    def handle_usr2(self, sig: int, frame: Any) -> None:
        """Start to drain: /ready answers 503, and all other requests are served as before."""
        self.method_queue.defer(_set_draining)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Exit without cleanup, which would wait for the running requests."""
        os._exit(0)

    def is_parent_alive(self) -> bool:
        if not super().is_parent_alive():
            self.alive = False
            # Another master may serve the port soon, so this worker must not take long.
            self.start_deadline = time.monotonic() + ORPHAN_SECONDS
            if not self.is_gthread:
                self.connections.stop_linger_seconds = ORPHAN_SECONDS
        return self.alive

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            self._accept_backlog()

    def _accept_backlog(self) -> None:
        """Accept all clients: the kernel resets them when the last worker closes its listener."""
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()


def _set_draining() -> None:
    from projectapp.http import health

    health.is_draining = True
