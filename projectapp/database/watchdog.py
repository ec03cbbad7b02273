"""The watchdog aborts connections whose server does not answer in time.

PostgreSQL's timeouts work inside PostgreSQL, and TCP's timeouts detect a host that is gone. Neither
detects a server that acknowledges packets but never answers.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from projectapp.database.connection import Connection


class Watchdog:
    """A thread, one for each process, that aborts connections after their deadlines."""

    def __init__(self) -> None:
        self._deadlines: dict[Connection, float] = {}
        self._lock = threading.Lock()
        self._started = False

    @contextmanager
    def timeout(self, connection: Connection, seconds: float) -> Iterator[None]:
        """Abort the connection if the `with` block takes longer than `seconds`."""
        self.start(connection, seconds)
        try:
            yield
        finally:
            self.stop(connection)

    def start(self, connection: Connection, seconds: float) -> None:
        """Abort the connection unless `stop` is called in `seconds`. Faster than `timeout`."""
        if not self._started:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
            self._started = True
        self._deadlines[connection] = time.monotonic() + seconds

    def stop(self, connection: Connection) -> None:
        with self._lock:  # or it could be aborted while it already serves the next request
            del self._deadlines[connection]

    def _watch(self) -> None:
        while True:
            time.sleep(0.1)
            with self._lock:
                for connection, deadline in list(self._deadlines.items()):
                    if deadline < time.monotonic():
                        connection.abort()


watchdog = Watchdog()
os.register_at_fork(after_in_child=watchdog.__init__)  # type: ignore[misc]
