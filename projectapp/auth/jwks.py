"""The keys of an identity provider: JSON Web Keys (RFC 7517), given or fetched.

A worker fetches them when a token first needs them, never before the fork, in a thread beside those
that serve. Fetched keys serve on while newer ones are on their way, and while there are none.
"""

import logging
import math
import re
import socket
import threading
import time
import warnings
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jwk
from joserfc.errors import JoseError, SecurityWarning
from joserfc.util import base64_to_int

from config import ConfigError
from projectapp.errors import Unavailable
from projectapp.inputs import parse_json

FRESH = 300.0  # seconds after which keys are fetched anew, and a withdrawn one ends
STALE = 24 * 3600.0  # keys older than that serve no more: a stolen one shall not live for ever
COOL_DOWN = 10.0  # seconds between two fetches, however many tokens name unknown keys
TIMEOUT = 2.0  # seconds to connect, and for each read
DEADLINE = 3.0  # seconds for the answer in all, and for a thread that waits for it
MOST_BYTES = 2**18
MOST_KEYS = 100

_ALGORITHMS = {
    "RSA": {f"{kind}{bits}" for kind in ("RS", "PS") for bits in (256, 384, 512)},
    "P-256": {"ES256"},
    "P-384": {"ES384"},
    "P-521": {"ES512"},
    "Ed25519": {"EdDSA", "Ed25519"},
}
SECRET_ALGORITHMS = frozenset({"HS256"})
PUBLIC_KEY_ALGORITHMS = frozenset[str]().union(*_ALGORITHMS.values())
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_SECRET = re.compile(rb'PRIVATE KEY-----|"[dk]"\s*:')
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """A key, and the algorithms (RFC 7518) that it verifies; one without a kid fits any."""

    kid: str | None
    algorithms: frozenset[str]
    jwk: jwk.Key


Keys = tuple[Key, ...]


def read_secret(secret: str) -> Keys:
    """A secret that is shared with the issuer."""
    return (Key(None, SECRET_ALGORITHMS, jwk.OctKey.import_key(secret)),)


def read_file(path: Path) -> Keys:
    """The keys of a file: public keys or certificates in PEM, or a JWKS. Raises ConfigError."""
    try:
        raw = path.read_bytes()
        if _SECRET.search(raw):
            raise ConfigError("JWT_KEY_FILE has a private key in it: give it public ones alone.")
        found = _read_pem(raw) if b"-----BEGIN " in raw else read_jwks(raw)
    except OSError as error:
        raise ConfigError(f"JWT_KEY_FILE cannot be read: {error.strerror}.") from None
    except ValueError:
        found = ()
    if not found:
        raise ConfigError(
            "JWT_KEY_FILE must have a public key in PEM or a JWKS:"
            " RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519."
        )
    return found


def read_jwks(raw: bytes) -> Keys:
    """The public keys of a JWKS that can be used here; ValueError if it is none."""
    found = parse_json(raw)
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise ValueError(f"is no JWKS of at most {MOST_KEYS} keys")
    return tuple(key for value in listed if (key := _read_jwk(value)))


def _read_pem(raw: bytes) -> Keys:
    found = []
    for block in _PEM.finditer(raw):
        for kind in (jwk.RSAKey, jwk.ECKey, jwk.OKPKey):
            with suppress(JoseError, ValueError, UnsupportedAlgorithm), warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # what is weak is left out below
                found.append(_read_jwk(kind.import_key(block[0]).as_dict()))
    return tuple(key for key in found if key)


def _read_jwk(value: Any) -> Key | None:
    """The key, if it is public, to verify with, and neither too weak nor too large.

    Of its members only those are read that make it: an x5u is nothing to follow.
    """
    try:
        kind, kid = value["kty"], value.get("kid")
        public = {name: value[name] for name in ("kty", *_PUBLIC[kind])}
        algorithms = frozenset(_ALGORITHMS[public.get("crv", kind)])
        if "alg" in value:
            algorithms &= {value["alg"]}
        if (
            not algorithms
            or not isinstance(kid, str | None)
            or "d" in value
            or value.get("use", "sig") != "sig"
            or "verify" not in value.get("key_ops", ("verify",))
            or (kind == "RSA" and not 2048 <= base64_to_int(public["n"]).bit_length() <= 8192)
        ):
            return None
        return Key(kid, algorithms, jwk.import_key(public))
    except (AttributeError, LookupError, TypeError, ValueError, JoseError, UnsupportedAlgorithm):
        return None


class Given:
    """Keys that stay as they are."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def current(self) -> Keys:
        return self._keys

    renewed = current


class Fetched:
    """The keys at a JWKS URL; as long as they do not change, `current` is the same object.

    At most `waiting` threads wait for a fetch.
    """

    def __init__(self, url: str, waiting: int) -> None:
        self._url = url
        self._places = waiting
        self._keys: Keys = ()
        self._fetched = -math.inf  # when, on the monotonic clock
        self._next = -math.inf  # when they may be fetched again
        self._pause = 0.0  # since the last fetch that failed; none while they succeed
        self._is_fetching = False
        self._fetches = 0  # that have ended
        self._ended = threading.Condition()

    def current(self) -> Keys:
        """The keys as they are known; none at first, and after a day without the issuer."""
        with self._ended:
            age = time.monotonic() - self._fetched
            if age > STALE:
                self._keys = ()
            elif age > FRESH:
                self._start()
            return self._keys

    def renewed(self) -> Keys:
        """The keys after a fetch, unless the last one was just now. Raises Unavailable."""
        with self._ended:
            self._start()
            if self._is_fetching:
                self._wait()
            if self._pause:
                raise self._away(math.ceil(self._next - time.monotonic()))
            return self._keys

    def _start(self) -> None:
        if not self._is_fetching and time.monotonic() >= self._next:
            threading.Thread(target=self._fetch, name="jwks", daemon=True).start()
            self._is_fetching = True

    def _wait(self) -> None:
        if not self._places:
            raise self._away()
        self._places -= 1
        before = self._fetches
        has_ended = self._ended.wait_for(lambda: self._fetches > before, DEADLINE)
        self._places += 1
        if not has_ended:
            raise self._away()

    def _away(self, seconds: int = 1) -> Unavailable:
        return Unavailable("The identity provider's keys cannot be had now.", max(1, seconds))

    def _fetch(self) -> None:
        keys, reason = None, ""
        try:
            keys = read_jwks(_get(self._url))
        except Exception as error:  # whatever an issuer or a network can do
            reason = repr(error)[:200]
        with self._ended:
            now = time.monotonic()
            if keys is None:
                if not self._pause:
                    log.warning("The identity provider's keys cannot be fetched: %s", reason)
                self._pause = min(max(1.0, 2 * self._pause), COOL_DOWN)
            else:
                if self._pause:
                    log.info("The identity provider's keys can be fetched again.")
                if keys != self._keys or not self._fetches:
                    level = logging.INFO if keys else logging.WARNING
                    log.log(level, "The identity provider has %s keys for this use.", len(keys))
                    self._keys = keys
                self._pause, self._fetched = 0.0, now
            self._next = now + (self._pause or COOL_DOWN)
            self._is_fetching = False
            self._fetches += 1
            self._ended.notify_all()


def _get(url: str) -> bytes:
    """The body at `url`, within the limits above; no redirect is followed."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    path = f"{parts.path or '/'}?{parts.query}".removesuffix("?")
    with closing(kind(parts.netloc, timeout=TIMEOUT)) as connection:
        connection.connect()
        # A timeout is for each read, and a byte may come with each. It is the socket's own shutdown
        # that ends them: that of TLS would take from the reader what it reads with.
        cut = threading.Timer(DEADLINE, _shut_down, args=(connection.sock,))
        cut.daemon = True
        cut.start()
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise HTTPException(f"the answer is {answer.status}")
            body = answer.read(MOST_BYTES + 1)
        finally:
            cut.cancel()
    if len(body) > MOST_BYTES:
        raise HTTPException(f"the answer is longer than {MOST_BYTES} bytes")
    return body


def _shut_down(link: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(link, socket.SHUT_RDWR)
