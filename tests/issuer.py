"""A small identity provider for tests: signs tokens and publishes its keys, well or badly."""

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
    """A key pair, generated once per test run; another `number` is another key."""
    return jwk.generate_key(kind, size)


RSA, EC = make_key("RSA", 2048), make_key("EC", "P-256")


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def sign(header: Any, payload: Any, key: jwk.Key, alg: str | None = None) -> str:
    """A token of a header and a payload; each is a JSON value, or bytes that are not changed.

    It is signed with `alg`, or else with the alg of the header.
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
    """The server of the keys. `published_keys` are by kid; `respond` answers a request for them."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.host = "localhost" if tls else "127.0.0.1"
        super().__init__(("127.0.0.1", free_port()), _Handler)
        if tls:
            self.socket = tls.wrap_socket(self.socket, True, do_handshake_on_connect=False)
        self.url = f"http{'s' if tls else ''}://{self.host}:{self.server_port}"
        self.published_keys: dict[str, jwk.Key] = {"first": RSA}
        self.respond: Callable[[_Handler], None] = healthy
        self.fetches = 0
        self.is_stopped = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def settings(self) -> dict[str, str]:
        return {
            "AUTH": "jwt",
            "JWT_ISSUER": self.url,
            "JWT_AUDIENCE": AUDIENCE,
            "JWT_JWKS_URL": f"{self.url}/jwks.json",
        }

    def claims(self, **overrides: Any) -> dict[str, Any]:
        """The claims of a user's token. A claim whose override is None is left out."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 60}
        return {name: value for name, value in (claims | overrides).items() if value is not None}

    def token(self, kid: str | None = "first", alg: str = "RS256", **overrides: Any) -> str:
        """A token of the issuer. A `kid` that is not published is signed with RSA."""
        key = self.published_keys.get(kid or "first", RSA)
        return sign({"alg": alg, "typ": "JWT", "kid": kid}, self.claims(**overrides), key)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.as_dict(False, kid=kid) for kid, key in self.published_keys.items()]}

    def server_close(self) -> None:
        self.is_stopped.set()
        self.shutdown()
        super().server_close()

    def handle_error(self, *_: Any) -> None: ...  # a client may disconnect


class _Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        self.server.fetches += 1
        with suppress(OSError):
            self.server.respond(self)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Length": str(len(body))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


# What an issuer may answer: values of `Issuer.respond`.


def healthy(handler: _Handler) -> None:
    handler.reply(json.dumps(handler.server.jwks()).encode())


def status_500(handler: _Handler) -> None:
    handler.reply(b"{}", 500)


def html(handler: _Handler) -> None:
    handler.reply(b"<html>Welcome to the hotel's network</html>")


def deeply_nested(handler: _Handler) -> None:
    handler.reply(b'{"keys":' + b"[" * 100_000)


def not_a_jwks(handler: _Handler) -> None:
    handler.reply(b'{"first": "-----BEGIN CERTIFICATE-----"}')


def redirect(handler: _Handler) -> None:
    handler.reply(b"", 302, Location=f"{handler.server.url}/elsewhere")
    handler.server.respond = healthy


def too_long(handler: _Handler) -> None:
    handler.reply(json.dumps(handler.server.jwks() | {"more": "x" * 2**18}).encode())


def too_many_keys(handler: _Handler) -> None:
    handler.reply(json.dumps({"keys": handler.server.jwks()["keys"] * 101}).encode())


def truncated(handler: _Handler) -> None:
    handler.reply(json.dumps(handler.server.jwks()).encode()[:-9], Content_Length="100000")


def silent(handler: _Handler) -> None:
    handler.server.is_stopped.wait(30)


def slow_headers(handler: _Handler) -> None:
    """Send one byte at a time of a header that does not end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not handler.server.is_stopped.wait(0.1):
        handler.wfile.write(b"x")


def slow_body(handler: _Handler) -> None:
    handler.reply(b"{", Content_Length="100000")
    while not handler.server.is_stopped.wait(0.1):
        handler.wfile.write(b" ")
