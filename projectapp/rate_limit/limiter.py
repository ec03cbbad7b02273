"""Count the requests of each caller, and refuse those above RATE_LIMIT with a 429 (RFC 6585).

The 429 has a Retry-After header (RFC 9110). Every response to a counted request has the headers
RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-10.
"""

import functools
import hashlib
import ipaddress
import logging
from dataclasses import dataclass

from flask import Flask, Response, current_app

from projectapp.metrics.definitions import RATE_LIMITED
from projectapp.problems import TooManyRequests
from projectapp.rate_limit.stores import RedisStore, SharedMemoryStore, Store
from projectapp.rate_limit.window import Rate, WindowCount
from projectapp.request_state import request_state
from settings.config_error import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RateLimiter:
    """The rate, and the stores. The first store that is available counts."""

    rate: Rate
    stores: list[Store]

    def count(self, counter: str) -> WindowCount | None:
        """Count a request with the counter of this name; None if no store is available."""
        digest = hashlib.blake2b(counter.encode(), digest_size=16).digest()
        for store in self.stores:
            if count := store.count(digest):
                return count
        return None


def init_app(app: Flask) -> None:
    """Prepare the stores. Raises ConfigError if RATE_LIMIT is set and they cannot be used."""
    if not app.config["RATE_LIMIT"]:
        return
    rate = Rate(*app.config["RATE_LIMIT"])
    stores: list[Store] = []
    if app.config["RATE_LIMIT_REDIS_URL"]:
        try:
            stores.append(RedisStore(rate, app.config["RATE_LIMIT_REDIS_URL"]))
        except (TypeError, ValueError):  # the error's text may contain the password
            message = "RATE_LIMIT_REDIS_URL must be a URL such as redis://:PASSWORD@HOST:6379/0."
            raise ConfigError(message) from None
    try:
        stores.append(SharedMemoryStore(rate, app.root_path, app.config["PORT"]))
    except OSError as error:
        message = f"RATE_LIMIT needs write access to /dev/shm or TMPDIR: {error}."
        raise ConfigError(message) from None
    app.extensions["rate_limiter"] = RateLimiter(rate, stores)
    policy = f'"default";q={rate.quota};w={rate.window_seconds}'

    @app.after_request
    def add_headers(response: Response) -> Response:
        if rate_limit := request_state().rate_limit:
            response.headers.add("RateLimit-Policy", policy)
            response.headers.add("RateLimit", rate_limit)
        return response


def count_request(subject: str | None) -> None:
    """Count the current request for its caller; with AUTH=none, for the client's address.

    Raises TooManyRequests.
    """
    if limiter := current_app.extensions.get("rate_limiter"):
        state = request_state()
        counter = f"caller {subject}" if subject else f"address {_network_of(state.address)}"
        _count_or_refuse(limiter, counter, "requests")


def count_failure() -> None:
    """Count a failed authentication for the client's address.

    Requests with a valid token have other counters, so failures at the same address do not affect
    them. Raises TooManyRequests.
    """
    if limiter := current_app.extensions.get("rate_limiter"):
        counter = f"failures {_network_of(request_state().address)}"
        _count_or_refuse(limiter, counter, "failed authentications")


def _count_or_refuse(limiter: RateLimiter, counter: str, noun: str) -> None:
    count, rate = limiter.count(counter), limiter.rate
    if not count:
        return
    remaining, reset_seconds = rate.remaining_and_reset(count)
    state = request_state()
    state.rate_limit = f'"default";r={remaining};t={reset_seconds}'
    if count.is_allowed:
        return
    reason = f"more than {rate.quota} {noun} in {rate.window_seconds} seconds"
    if count.refused == 1:  # log only the first refusal in a window
        event = "excess_rate_limit_exceeded"
        extra = {"event": event, "reason": reason, **state.caller_fields()}
        log.warning("%s: %s", event, reason, extra=extra)
    RATE_LIMITED.increase(noun.replace(" ", "_"))
    message = f"There were {reason}. Try again in {reset_seconds} seconds."
    raise TooManyRequests(message, headers={"Retry-After": str(reset_seconds)})


@functools.lru_cache(1024)
def _network_of(address: str | None) -> str:
    """Return an IPv4 address as it is, and the /64 network of an IPv6 address.

    A single IPv6 client usually has all addresses of a /64.
    """
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return address or ""  # a client on a Unix socket has no address
    if ip.version == 4:
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip), 64), strict=False))
