"""Sends GET requests to other servers, which may send anything: a response has limits."""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit


def get(
    url: str,
    headers: Mapping[str, str],
    *,
    read_timeout_seconds: float,
    deadline_seconds: float,
    max_bytes: int,
) -> tuple[int, Any, bytes]:
    """Return the status, the headers and the body of the response to a GET of `url`.

    The timeout is for the connection and for each read, the deadline for the whole response.
    Redirects are not followed. Raises OSError, HTTPException or ValueError.
    """
    parts = urlsplit(url)
    connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    path = f"{parts.path or '/'}?{parts.query}".removesuffix("?")
    with closing(connection_class(parts.netloc, timeout=read_timeout_seconds)) as connection:
        connection.connect()
        # The timeout applies to each read, and a slow server may send one byte per read. So a timer
        # shuts down the TCP socket. It must not touch the TLS object, which this thread uses.
        deadline = time.monotonic() + deadline_seconds
        abort_timer = threading.Timer(deadline_seconds, _shut_down, args=(connection.sock,))
        abort_timer.daemon = True
        abort_timer.start()
        try:
            connection.request("GET", path, headers=dict(headers))
            response = connection.getresponse()
            body = response.read(max_bytes + 1)
        except (OSError, HTTPException):
            if time.monotonic() < deadline:
                raise
        finally:
            abort_timer.cancel()
    if time.monotonic() >= deadline:
        raise TimeoutError(f"the response took {deadline_seconds:g} s or more")
    if len(body) > max_bytes:
        raise HTTPException(f"the response is longer than {max_bytes} bytes")
    if response.length:  # the number of bytes that Content-Length promised and that did not come
        raise HTTPException("the response ends early")
    return response.status, response.headers, body


def _shut_down(tcp_socket: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(tcp_socket, socket.SHUT_RDWR)
