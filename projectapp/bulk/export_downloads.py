"""Sends exports to their clients with one thread for a whole worker, however slow the clients are.

server/streams.py keeps the connections. It asks for the next page when a client has read nearly all
of the last one. The thread then reads and sends this page. It runs only while pages are needed.
"""

import logging
import threading
from collections import deque
from typing import Any, cast

from projectapp.bulk.export_pages import PAGE_BYTES, Export
from projectapp.problems import Problem

# A page gets one 32nd of the bytes that are left for the output of all exports, so that many slow
# clients can share them.
_PAGE_DIVISOR = 32

log = logging.getLogger(__name__)


def max_page_bytes(streams: Any) -> int:
    """Return how large the next page may be. `streams` is the Streams of the worker."""
    bytes_left = max(0, streams.max_pending_bytes // 2 - streams.pending_bytes)
    return cast(int, min(PAGE_BYTES, bytes_left // _PAGE_DIVISOR))


class ExportDownload:
    """An export on a connection that stays open without a thread (held_connections.Download)."""

    def __init__(self, thread: "ExportThread", export: Export) -> None:
        self.thread, self.export = thread, export
        self.connection: Any = None

    @property
    def is_complete(self) -> bool:
        return self.export.is_complete

    def start(self, connection: Any) -> None:
        self.connection = connection

    def continue_output(self) -> None:
        self.thread.add(self)


class ExportThread:
    """The thread that reads the next pages of all exports of a worker."""

    def __init__(self, streams: Any) -> None:
        self._streams = streams
        self._queue: deque[ExportDownload] = deque()
        self._lock = threading.Lock()  # for the start and the end of the thread
        self._is_running = False

    def add(self, download: ExportDownload) -> None:
        with self._lock:
            self._queue.append(download)
            if not self._is_running:
                threading.Thread(target=self._run, name="exports", daemon=True).start()
                self._is_running = True  # not reached if no thread can be started

    def _run(self) -> None:
        while download := self._take():
            try:
                self._continue(download)
            except Exception as error:
                self._streams.abort(download.connection)
                self._log_abort(download.export, error)

    def _take(self) -> ExportDownload | None:
        with self._lock:
            self._is_running = bool(self._queue)
            return self._queue.popleft() if self._queue else None

    def _continue(self, download: ExportDownload) -> None:
        connection, export = download.connection, download.export
        if not connection.is_open:
            return
        if export.is_complete:
            self._streams.finish([connection])
        elif data := export.read_next_page(max_page_bytes(self._streams)):
            self._streams.send([([connection], data)])
        else:
            self.add(download)  # behind the others

    def _log_abort(self, export: Export, error: Exception) -> None:
        caller = export.caller
        extra = {
            "request_id": export.request_id,
            "caller": caller.subject,
            "credential": caller.credential,
        }
        message = "An export of %s was aborted after %d rows: %s"
        values = (export.resource.name, export.rows)
        if isinstance(error, Problem):
            log.warning(message, *values, error.detail, extra=extra)
        else:
            log.error(message, *values, "an internal error", exc_info=error, extra=extra)
