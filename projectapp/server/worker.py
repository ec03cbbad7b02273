"""The gunicorn worker in which the event loop waits for clients, and threads only work.

In gunicorn's own gthread a thread waits for the client: for the rest of a request, for what it
shall discard, for room to write to. A handful of slow clients takes all threads. Here a thread
gets a request that is whole, and leaves an answer behind; the loop does what waits, under
deadlines and bounds. `docs/decisions/0008-the-event-loop-waits.md` says why.

gunicorn.conf.py runs this file by its path, in the master, and again at a reload: what the master
imports stays as it was, so nothing of projectapp is imported here but in a worker.
"""

import math
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from itertools import islice, takewhile
from queue import SimpleQueue
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import gunicorn.util
from gunicorn.arbiter import Arbiter
from gunicorn.http import Request, RequestParser, get_parser
from gunicorn.http.errors import InvalidRequestLine, LimitRequestHeaders
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from config import load_config

settings = load_config()

MOST_HELD = max(2**24, 4 * settings.MAX_CONTENT_LENGTH)  # of all clients of a worker
LINGER = 2.0
AT_ONCE = 8  # refusals in a turn of the loop, which has others to look after; the next follows
_PROBES = [
    f"{method} {prefix}" for method in ("GET", "HEAD") for prefix in {"", settings.SCRIPT_NAME}
]
HEALTH = tuple(f"{probe}/health ".encode() for probe in _PROBES)
# Refused, its load would be sent to the next server.
READY = tuple(f"{probe}/ready ".encode() for probe in _PROBES)


def _say_stopping() -> None:
    from projectapp.http import health

    health.is_draining = True


class UTF8Request(Request):  # type: ignore[misc]
    """A request whose target may have raw UTF-8, as curl sends it: the same as percent-encoded.

    Only bytes from 0x80 on are encoded, so where the line, the head and the request end is what
    it was to a proxy.
    """

    def parse_request_line(self, line_bytes: bytes) -> None:
        parts = line_bytes.split(b" ", 2)
        if len(parts) == 3 and not parts[1].isascii():
            try:
                parts[1].decode()
            except UnicodeDecodeError:
                raise InvalidRequestLine("not UTF-8") from None
            parts[1] = re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % ord(byte[0]), parts[1])
        super().parse_request_line(b" ".join(parts))


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's gthread, but for who waits; with TLS of its own it is gthread altogether.

    A connection is with the threads or in `waiting`; `step` of its Wire is what to do when its
    socket is ready, `timeout` when it is too late.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.plain = not self.cfg.is_ssl
        self.waiting: dict[Any, None] = {}  # the longest first
        self.submitted: dict[Any, Future[bool]] = {}  # with a thread or waiting for one, in order
        self.was_free = 0.0  # when one of the threads last was
        self.held = 0
        self.swept = 0.0
        self.linger = STOP_KEEPALIVE_LINGER  # seconds for a client of a worker that stops
        self.last_start = math.inf
        self.missed: SimpleQueue[int] = SimpleQueue()  # signals from before it had handlers
        self.thread = threading.local()

    def init_process(self) -> None:
        # gunicorn would print an error that is logged already, and Python a ConfigError as text.
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

    def get_thread_pool(self) -> ThreadPoolExecutor:
        # Whether this process lives is to be seen also when all threads wait for the database.
        self.prober = ThreadPoolExecutor(1)
        return super().get_thread_pool()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from projectapp.server.refusal import write_refusal
        from projectapp.server.wire import Wire

        self.wire = Wire
        # gunicorn has no setting for either.
        gunicorn.util.write_error = partial(write_refusal, settings, self.cfg)
        RequestParser.mesg_class = UTF8Request
        application: Any = self.wsgi  # type: ignore[has-type]

        def timed(environ: dict[str, Any], start_response: Any) -> Any:
            environ["projectapp.arrived"] = self.thread.arrived
            return application(environ, start_response)

        self.wsgi = timed

    # A request comes.

    def enqueue_req(self, conn: Any) -> None:
        """Begin to read a request: of a new client, a kept one, or one that sent two at once."""
        if not self.plain:
            return super().enqueue_req(conn)
        if not conn.parser:
            conn.sock = self.wire(conn.sock, settings.MAX_CONTENT_LENGTH)
            conn.parser = get_parser(self.cfg, conn.sock, conn.client)
            conn.initialized = conn.data_ready = True
        conn.sock.begin()
        conn.timeout = self._in(settings.READ_TIMEOUT)
        self._read(conn)

    def _read(self, conn: Any) -> None:
        wire = conn.sock
        try:
            is_ready = wire.read()
        except OSError:
            return self._close(conn)
        except LimitRequestHeaders:
            return self._refuse(conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not is_ready:
            return self._wait(conn, self._read, EVENT_READ, conn.timeout)
        self.waiting.pop(conn, None)
        wire.step = self._look_away
        if wire.input.startswith(HEALTH):
            future = self.prober.submit(self.handle, conn)
        else:
            future = self.submitted[conn] = self.tpool.submit(self.handle, conn)
        future.add_done_callback(
            lambda future: self.method_queue.defer(self.finish_request, conn, future)
        )

    def _look_away(self, conn: Any) -> None:
        """More came while a thread works: the socket is looked at when it has finished."""
        self._watch(conn, 0)

    def _shed(self) -> None:
        """Refuse who has waited too long for a thread; that is sooner while none has been free.

        Only what no thread has begun can be cancelled, and then none will begin it.
        """
        now = time.monotonic()
        if len(self.submitted) < self.cfg.threads or not self.alive:
            self.was_free = now
            return
        is_standing = now - self.was_free > settings.QUEUE_TIMEOUT
        since = now - settings.QUEUE_TIMEOUT / (8 if is_standing else 1)
        late = list(takewhile(lambda conn: conn.sock.arrived < since, self.submitted))
        can_go = (conn for conn in late if not conn.sock.input.startswith(READY))
        for conn in islice((conn for conn in can_go if self.submitted[conn].cancel()), AT_ONCE):
            del self.submitted[conn]
            self._refuse(conn, HTTPStatus.SERVICE_UNAVAILABLE)

    # It is answered.

    def handle(self, conn: Any) -> bool:
        """Runs in a thread."""
        if time.monotonic() > self.last_start:
            return False
        self.thread.arrived = conn.sock.arrived if self.plain else time.monotonic()
        keep = super().handle(conn)
        if self.plain:
            conn.sock.flush()
        return keep

    def handle_request(self, req: Any, conn: Any) -> bool:
        if self.plain and not conn.sock.is_whole:
            req.force_close()  # where the next one begins will not be known
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        if not self.plain:
            return super().finish_request(conn, fs)
        if fs.cancelled():
            return  # it is refused, and may be closed
        self.submitted.pop(conn, None)
        wire = conn.sock
        # What is left of a request means that gunicorn sees its end elsewhere.
        left = wire.ready or conn.parser.unreader.buf.getvalue()
        wire.keep = not (left or fs.exception()) and fs.result()
        self._send(conn)

    def _refuse(self, conn: Any, status: HTTPStatus) -> None:
        wire = conn.sock
        wire.keep = False
        wire.keep_head()
        gunicorn.util.write_error(wire, status.value, status.phrase, "")
        self._write(conn)

    def _write(self, conn: Any) -> None:
        conn.sock.flush()
        self._send(conn)

    def _send(self, conn: Any) -> None:
        wire = conn.sock
        if wire.output:  # as long as the client takes some of it now and then
            wire.is_taken()
            until = time.monotonic() + settings.READ_TIMEOUT
            return self._wait(conn, self._write, EVENT_WRITE, until)
        if not wire.keep:
            return self._leave(conn)
        if wire.input:
            return self.enqueue_req(conn)
        self._wait(conn, self.enqueue_req, EVENT_READ, self._in(self.cfg.keepalive))

    # It waits, and goes.

    def _in(self, seconds: float) -> float:
        """Until when a client may take its time; in a worker that stops it has little."""
        return time.monotonic() + (seconds if self.alive else min(seconds, self.linger))

    def _wait(self, conn: Any, step: Callable[[Any], None], events: int, until: float) -> None:
        wire = conn.sock
        wire.step, conn.timeout = step, until
        self.waiting[conn] = None
        self._watch(conn, events)
        held = len(wire.input) + len(wire.output)
        self.held += held - wire.held
        wire.held = held
        while self.held > MOST_HELD and self.waiting:
            self._close(max(self.waiting, key=lambda conn: conn.sock.held))

    def _watch(self, conn: Any, events: int) -> None:
        """Have the poller look for `events`: for most requests there is nothing to change."""
        wire = conn.sock
        if events == wire.watched:
            return
        if wire.watched:
            self.poller.unregister(wire.sock)
        if events:
            self.poller.register(wire.sock, events, partial(self._is_ready, conn))
        wire.watched = events

    def _is_ready(self, conn: Any, sock: socket.socket) -> None:
        conn.sock.step(conn)

    def _leave(self, conn: Any) -> None:
        """Close, but let the client read what it was sent: RFC 9112, 9.6."""
        wire = conn.sock
        wire.input.clear()
        try:
            wire.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return self._close(conn)
        self._wait(conn, self._discard, EVENT_READ, time.monotonic() + LINGER)

    def _discard(self, conn: Any) -> None:
        if not conn.sock.discard():
            self._close(conn)

    def _close(self, conn: Any) -> None:
        wire = conn.sock
        self._watch(conn, 0)
        self.waiting.pop(conn, None)
        self.held -= wire.held
        self.nr_conns -= 1
        wire.step = wire.ignore  # it may be ready, too
        wire.sock.close()

    def murder_pending(self) -> None:
        """Give up those who are late; of too many clients, those who have waited longest."""
        super().murder_pending()
        self._shed()
        now = time.monotonic()
        if now > self.swept + 0.2:
            self.swept = now
            for conn in [conn for conn in self.waiting if conn.timeout < now]:
                if conn.sock.step == self._read and conn.sock.input:
                    self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT)
                elif conn.sock.step == self._write and conn.sock.is_taken():
                    conn.timeout = now + settings.READ_TIMEOUT
                elif conn in self.waiting:
                    self._close(conn)
        while self.nr_conns >= self.worker_connections and self.waiting:
            self._close(next(iter(self.waiting)))

    # It stops.

    def init_signals(self) -> None:
        super().init_signals()
        # A Ctrl-C reaches the whole process group, and the master passes it on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, self.handle_usr2)
        while not self.missed.empty():
            if self.missed.get() in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
                os._exit(0)

    def handle_usr2(self, sig: int, frame: Any) -> None:
        """The server will stop: /ready says so, and everything is served as before."""
        self.method_queue.defer(_say_stopping)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """End at once. Whatever ends a thread pool takes its lock, which may be held just now."""
        os._exit(0)

    def is_parent_alive(self) -> bool:
        if not super().is_parent_alive():
            self.alive = False
            self.linger = 1.0  # another master may have begun already
            self.last_start = time.monotonic() + self.linger
        return self.alive

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            # Whom the kernel let in would be reset when the last worker closes its listener.
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
                listener.close()

    def _cap_keepalive(self, deadline: float) -> None:
        deadline = min(deadline, self._in(self.linger))
        super()._cap_keepalive(deadline)
        for conn in self.waiting:
            if conn.sock.step in (self._read, self.enqueue_req):
                conn.timeout = min(conn.timeout, deadline)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        is_late = not self.alive or len(self.submitted) > self.cfg.threads
        super().wait_for_and_dispatch_events(min(timeout, 0.1) if is_late else timeout)
