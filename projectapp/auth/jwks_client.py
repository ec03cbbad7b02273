"""The keys of an identity provider, fetched from its JWKS URL (RFC 7517, section 5).

A worker fetches the keys in a background thread when a token first needs them: after the fork,
because a thread does not survive it. While new keys are fetched, or cannot be fetched, the old keys
stay in use. After an idle period, however, the first requests wait for the new keys, because the
provider may have revoked a key in that period.
"""

import logging
import math
import threading
import time
from contextlib import suppress
from http.client import HTTPException

from projectapp import http_client
from projectapp.auth.verification_keys import Keys, read_jwks
from projectapp.problems import ServiceUnavailable

REFRESH_AFTER_SECONDS = 300.0  # a revoked key may be accepted for this time
# How long the old keys are used if the provider is down. One of them may have been stolen.
EXPIRE_AFTER_SECONDS = 24 * 3600.0
MIN_FETCH_INTERVAL_SECONDS = 10.0  # even if many tokens name unknown keys
READ_TIMEOUT_SECONDS = 2.0  # to connect, and for each read
FETCH_DEADLINE_SECONDS = 3.0  # for a whole fetch, and for a request that waits for it
MAX_JWKS_BYTES = 2**18

log = logging.getLogger(__name__)


class RemoteKeys:
    """The keys at a JWKS URL. At most `max_waiters` threads wait for a fetch at the same time."""

    def __init__(self, url: str, max_waiters: int) -> None:
        self._url = url
        self._free_waiters = max_waiters
        self._keys: Keys = ()
        # Times are seconds on the monotonic clock.
        self._fetched_at = -math.inf
        self._next_fetch_at = -math.inf
        self._retry_delay_seconds = 0.0  # 0 if the last fetch succeeded
        self._is_fetching = False
        self._completed_fetches = 0
        self._fetch_done = threading.Condition()

    def get(self) -> Keys:
        """Return the keys of the last fetch: the same object until the keys change.

        There are none before the first fetch, and after EXPIRE_AFTER_SECONDS without a fetch.
        """
        with self._fetch_done:
            age_seconds = time.monotonic() - self._fetched_at
            if age_seconds > EXPIRE_AFTER_SECONDS:
                self._keys = ()
            elif age_seconds > REFRESH_AFTER_SECONDS:
                self._start_fetch()
                was_idle = age_seconds > REFRESH_AFTER_SECONDS + FETCH_DEADLINE_SECONDS
                if was_idle and self._is_fetching and not self._retry_delay_seconds:
                    with suppress(ServiceUnavailable):
                        self._wait_for_fetch()
            return self._keys

    def refresh(self) -> Keys:
        """Fetch the keys again, unless the last fetch was a moment ago, and return them.

        Raises ServiceUnavailable if the last fetch has failed, or takes too long.
        """
        with self._fetch_done:
            self._start_fetch()
            if self._is_fetching:
                self._wait_for_fetch()
            if self._retry_delay_seconds:
                raise self._unavailable(math.ceil(self._next_fetch_at - time.monotonic()))
            return self._keys

    def _start_fetch(self) -> None:
        if not self._is_fetching and time.monotonic() >= self._next_fetch_at:
            threading.Thread(target=self._fetch, name="jwks", daemon=True).start()
            self._is_fetching = True

    def _wait_for_fetch(self) -> None:
        if not self._free_waiters:
            raise self._unavailable()
        self._free_waiters -= 1
        before = self._completed_fetches
        is_done = self._fetch_done.wait_for(
            lambda: self._completed_fetches > before, FETCH_DEADLINE_SECONDS
        )
        self._free_waiters += 1
        if not is_done:
            raise self._unavailable()

    def _unavailable(self, seconds: int = 1) -> ServiceUnavailable:
        message = "The keys of the identity provider cannot be fetched now. Try again shortly."
        return ServiceUnavailable(message, max(1, seconds), "keys_unreachable")

    def _fetch(self) -> None:
        keys, reason = None, ""
        try:
            keys = read_jwks(_get(self._url))
        except Exception as error:  # any failure of the provider or of the network
            reason = repr(error)[:200]
        with self._fetch_done:
            now = time.monotonic()
            if keys is None:
                if not self._retry_delay_seconds:
                    log.warning("The identity provider's keys cannot be fetched: %s", reason)
                delay = max(1.0, 2 * self._retry_delay_seconds)
                self._retry_delay_seconds = min(delay, MIN_FETCH_INTERVAL_SECONDS)
            else:
                if self._retry_delay_seconds:
                    log.info("The identity provider's keys can be fetched again.")
                if keys != self._keys or not self._completed_fetches:
                    level = logging.INFO if keys else logging.WARNING
                    log.log(level, "The identity provider has %s usable keys.", len(keys))
                    self._keys = keys
                self._retry_delay_seconds, self._fetched_at = 0.0, now
            self._next_fetch_at = now + (self._retry_delay_seconds or MIN_FETCH_INTERVAL_SECONDS)
            self._is_fetching = False
            self._completed_fetches += 1
            self._fetch_done.notify_all()


def _get(url: str) -> bytes:
    """Return the body of the response to a GET of `url`, within the limits above.

    Raises OSError or HTTPException.
    """
    status, _, body = http_client.get(
        url,
        {"Accept": "application/json"},
        read_timeout_seconds=READ_TIMEOUT_SECONDS,
        deadline_seconds=FETCH_DEADLINE_SECONDS,
        max_bytes=MAX_JWKS_BYTES,
    )
    if status != 200:
        raise HTTPException(f"the status is {status}")
    return body
