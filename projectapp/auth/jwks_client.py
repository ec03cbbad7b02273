"""The keys of an identity provider, fetched from its JWKS URL (RFC 7517, 5).

A worker fetches them when a token first needs them, never before the fork, in a thread beside those
that serve. Fetched keys serve on while newer ones are on their way, and while there are none; where
nobody came for a while, the first wait for newer ones, as a key may have been withdrawn meanwhile.
"""

import logging
import math
import socket
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from projectapp.auth.verification_keys import Keys, read_jwks
from projectapp.problems import ServiceUnavailable

FRESH = 300.0  # seconds after which keys are fetched anew, and a withdrawn one ends
STALE = 24 * 3600.0  # keys older than that serve no more: a stolen one shall not live for ever
COOL_DOWN = 10.0  # seconds between two fetches, however many tokens name unknown keys
TIMEOUT = 2.0  # seconds to connect, and for each read
DEADLINE = 3.0  # seconds for the answer in all, and for a thread that waits for it
MOST_BYTES = 2**18

log = logging.getLogger(__name__)


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
                if age > FRESH + DEADLINE and self._is_fetching and not self._pause:
                    with suppress(ServiceUnavailable):
                        self._wait()
            return self._keys

    def renewed(self) -> Keys:
        """The keys after a fetch, unless the last one was just now. Raises ServiceUnavailable."""
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

    def _away(self, seconds: int = 1) -> ServiceUnavailable:
        return ServiceUnavailable(
            "The identity provider's keys cannot be had now.", max(1, seconds)
        )

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
        end = time.monotonic() + DEADLINE
        cut = threading.Timer(DEADLINE, _shut_down, args=(connection.sock,))
        cut.daemon = True
        cut.start()
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise HTTPException(f"the answer is {answer.status}")
            body = answer.read(MOST_BYTES + 1)
        except (OSError, HTTPException):
            if time.monotonic() < end:
                raise
        finally:
            cut.cancel()
    if time.monotonic() >= end:
        raise TimeoutError(f"the answer took {DEADLINE} s or more")
    if len(body) > MOST_BYTES:
        raise HTTPException(f"the answer is longer than {MOST_BYTES} bytes")
    return body


def _shut_down(link: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(link, socket.SHUT_RDWR)
