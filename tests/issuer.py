"""A small identity provider: signs tokens, publishes its keys, and can do so badly."""

import base64
import functools
import json
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwk
from joserfc.jws import JWSRegistry

from faults.processes import free_port

AUDIENCE = "projects-api"


@functools.cache
def make_key(kind: str, size: Any, number: int = 0) -> jwk.Key:
    """A key pair, made once a run; another `number` is another key."""
    return jwk.generate_key(kind, size)


RSA, EC = make_key("RSA", 2048), make_key("EC", "P-256")


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def sign(header: Any, payload: Any, key: jwk.Key, alg: str | None = None) -> str:
    """A token of a header and a payload, each as JSON or as the bytes that stand for it.

    It is signed with the header's alg, or another.
    """
    parts = [
        part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)
    ]
    text = ".".join(map(encode, parts))
    model = JWSRegistry.algorithms[alg or header["alg"]]
    return f"{text}.{encode(model.sign(text.encode(), key))}"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Issuer(ThreadingHTTPServer):
    """`published` are the keys by kid; `answer` is how a request for them is answered."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.host = "localhost" if tls else "127.0.0.1"
        super().__init__(("127.0.0.1", free_port()), _Handler)
        if tls:
            self.socket = tls.wrap_socket(self.socket, True, do_handshake_on_connect=False)
        self.name = f"http{'s' if tls else ''}://{self.host}:{self.server_port}"
        self.published: dict[str, jwk.Key] = {"first": RSA}
        self.answer: Callable[[_Handler], None] = well
        self.fetches = 0
        self.ended = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def settings(self) -> dict[str, str]:
        return {
            "AUTH": "jwt",
            "JWT_ISSUER": self.name,
            "JWT_AUDIENCE": AUDIENCE,
            "JWT_JWKS_URL": f"{self.name}/jwks.json",
        }

    def claims(self, **over: Any) -> dict[str, Any]:
        """A user's claims; None leaves one out."""
        now = int(time.time())
        found = {"iss": self.name, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 60}
        return {name: value for name, value in (found | over).items() if value is not None}

    def token(self, kid: str | None = "first", alg: str = "RS256", **over: Any) -> str:
        """A token as the issuer gives it, under a key that it may not publish."""
        key = self.published.get(kid or "first", RSA)
        return sign({"alg": alg, "typ": "JWT", "kid": kid}, self.claims(**over), key)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.as_dict(False, kid=kid) for kid, key in self.published.items()]}

    def server_close(self) -> None:
        self.ended.set()
        self.shutdown()
        super().server_close()

    def handle_error(self, *_: Any) -> None: ...  # who asks may go away


class _Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        self.server.fetches += 1
        with suppress(OSError):
            self.server.answer(self)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Length": str(len(body))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


def well(handler: _Handler) -> None:
    handler.reply(json.dumps(handler.server.jwks()).encode())


def failing(handler: _Handler) -> None:
    handler.reply(b"{}", 500)


def not_json(handler: _Handler) -> None:
    handler.reply(b"<html>Welcome to the hotel's network</html>")


def nested(handler: _Handler) -> None:
    handler.reply(b'{"keys":' + b"[" * 100_000)


def no_jwks(handler: _Handler) -> None:
    handler.reply(b'{"first": "-----BEGIN CERTIFICATE-----"}')


def redirecting(handler: _Handler) -> None:
    handler.reply(b"", 302, Location=f"{handler.server.name}/elsewhere")
    handler.server.answer = well


def giant(handler: _Handler) -> None:
    handler.reply(json.dumps(handler.server.jwks() | {"more": "x" * 2**18}).encode())


def numerous(handler: _Handler) -> None:
    handler.reply(json.dumps({"keys": handler.server.jwks()["keys"] * 101}).encode())


def cut(handler: _Handler) -> None:
    handler.reply(json.dumps(handler.server.jwks()).encode()[:-9], Content_Length="100000")


def silent(handler: _Handler) -> None:
    handler.server.ended.wait(30)


def dripping(handler: _Handler) -> None:
    """A byte at a time, of a header that does not end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not handler.server.ended.wait(0.1):
        handler.wfile.write(b"x")


def dripping_body(handler: _Handler) -> None:
    handler.reply(b"{", Content_Length="100000")
    while not handler.server.ended.wait(0.1):
        handler.wfile.write(b" ")
