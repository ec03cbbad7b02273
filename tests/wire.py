"""A proxy before PostgreSQL that sees each message as it does, and can harm the line."""

import random
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_SSL_REQUEST, _GSSENC_REQUEST = 80877103, 80877104  # protocol 3.0, 55.2
_NO_ENCRYPTION_YET = {_SSL_REQUEST, _GSSENC_REQUEST}


def free_port() -> int:
    """A port that is free on 127.0.0.1, below the ephemeral ones, and that no other run takes."""
    for port in random.sample(range(20000, 32768), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


class Proxy(socketserver.ThreadingTCPServer):
    """Forwards to the server that libpq's `parameters` name; `queries` are the texts sent to it.

    While it `refuses` it ends new connections; while it is `silent` it takes what comes and keeps
    it, as it does with a query that has `mute` in it. Of a query whose text has the first of `lose`
    the answer is lost, of one with the first of `drop` the query itself, and the link with it;
    `meanwhile` is called in between. As a `pooler` it gives connections a process id of its own.
    With `tls` it speaks that to who asks for it, as embedded servers do not.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, parameters: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", free_port()), _Link)
        self.upstream = parameters
        self.queries: list[str] = []
        self.farewells = 0  # of connections that PostgreSQL has ended
        self.links: list[socket.socket] = []
        self.refuses = False
        self.silent = False
        self.mute: str | None = None
        self.lose: list[str] = []
        self.drop: list[str] = []
        self.meanwhile: Callable[[], Any] = lambda: None
        self.pooler = False
        self.tls: ssl.SSLContext | None = None
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        given = self.upstream
        login = given.get("user", "") + (f":{given['password']}" if "password" in given else "")
        host, port = self.server_address[0], self.server_address[1]
        return f"postgresql://{login}@{host!s}:{port}/{given['dbname']}?sslmode=disable"

    def connect(self) -> socket.socket:
        host, port = self.upstream.get("host", "localhost"), self.upstream.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        link = socket.socket(socket.AF_UNIX)
        link.connect(f"{host}/.s.PGSQL.{port}")
        return link

    def cut(self) -> None:
        """End every connection, as a server that goes away does."""
        for link in self.links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)  # close alone would wait for the reading thread
            link.close()
        self.links.clear()


class _Link(socketserver.BaseRequestHandler):
    server: Proxy

    losing = False

    def handle(self) -> None:
        if self.server.refuses:
            return
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent is there
        self.server.links.append(self.request)
        upstream = self.server.connect()
        threading.Thread(target=self._answers, args=(upstream,), daemon=True).start()
        buffer, started = b"", False
        try:
            while part := self.request.recv(65536):
                buffer += part
                while message := _first_message(buffer, started):
                    buffer = buffer[len(message) :]
                    if not started:
                        code = struct.unpack("!i", message[4:8])[0]
                        started = code not in _NO_ENCRYPTION_YET
                        if self.server.tls and code == _SSL_REQUEST:
                            self.request.sendall(b"S")
                            self.request = self.server.tls.wrap_socket(self.request, True)
                            continue
                    elif message[:1] == b"Q":
                        text = message[5:-1].decode()
                        self.server.queries.append(text)
                        if self.server.drop and self.server.drop[0] in text:
                            self.server.drop.pop(0)
                            raise ConnectionAbortedError
                        if self.server.lose and self.server.lose[0] in text:
                            self.losing = bool(self.server.lose.pop(0))
                        if self.server.mute and self.server.mute in text:
                            continue
                    while self.server.silent:
                        time.sleep(0.02)
                    upstream.sendall(message)
        except ConnectionAbortedError:
            self.server.meanwhile()
        except OSError:
            pass
        with suppress(OSError):
            upstream.shutdown(socket.SHUT_RDWR)  # close alone would wait for the reading thread
        upstream.close()
        self.request.close()  # with TLS it is not the one that the server knows

    def _answers(self, upstream: Any) -> None:
        try:
            while part := upstream.recv(65536):
                if self.server.pooler:
                    part = re.sub(rb"K\0\0\0\x0c....", b"K\0\0\0\x0c\x7f\0\0\0", part, flags=re.S)
                if self.losing:
                    self.server.meanwhile()
                    self.request.shutdown(socket.SHUT_RDWR)
                    return
                self.request.sendall(part)
                self.server.farewells += b"57P01" in part
        except OSError:
            pass


def _first_message(buffer: bytes, started: bool) -> bytes:
    head = 1 if started else 0
    if len(buffer) < head + 4:
        return b""
    length = head + struct.unpack("!i", buffer[head : head + 4])[0]
    return buffer[:length] if len(buffer) >= length else b""
