"""RATE_LIMIT: how many requests a caller may make, and an address without good credentials.

A refusal is a 429 that says when to come back (RFC 6585, RFC 9110); what is left stands on every
answer to a request that was counted, in the fields of draft-ietf-httpapi-ratelimit-headers-10.
"""

import functools
import hashlib
import ipaddress
import logging
from dataclasses import dataclass

from flask import Flask, Response, current_app, request

from config import ConfigError
from projectapp.problems import TooManyRequests
from projectapp.rate_limit.stores import RedisStore, SharedMemoryStore, Store
from projectapp.rate_limit.window import Count, Rate
from projectapp.request_state import caller_fields, request_state

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """The rate, and the stores that count: the first that is there."""

    rate: Rate
    stores: list[Store]

    def count(self, caller: str) -> Count | None:
        digest = hashlib.blake2b(caller.encode(), digest_size=16).digest()
        for store in self.stores:
            if count := store.count(digest):
                return count
        return None


def init_app(app: Flask) -> None:
    """Raises ConfigError where there is nothing to count in."""
    if not app.config["RATE_LIMIT"]:
        return
    rate = Rate(*app.config["RATE_LIMIT"])
    stores: list[Store] = []
    if app.config["RATE_LIMIT_REDIS_URL"]:
        try:
            stores.append(RedisStore(rate, app.config["RATE_LIMIT_REDIS_URL"]))
        except (TypeError, ValueError):  # which may tell the password
            raise ConfigError(
                "RATE_LIMIT_REDIS_URL must be a URL such as redis://:PASSWORD@HOST:6379/0."
            ) from None
    try:
        stores.append(SharedMemoryStore(rate, app.root_path, app.config["PORT"]))
    except OSError as error:
        raise ConfigError(f"RATE_LIMIT needs /dev/shm or TMPDIR to write to: {error}.") from None
    app.extensions["rate_limiter"] = Limits(rate, stores)
    policy = f'"default";q={rate.quota};w={rate.seconds}'

    @app.after_request
    def add_headers(response: Response) -> Response:
        if rate_limit := request_state().rate_limit:
            response.headers.add("RateLimit-Policy", policy)
            response.headers.add("RateLimit", rate_limit)
        return response


def count_request(subject: str | None) -> None:
    """Count the current request of a caller, who without a subject is an address.

    Raises TooManyRequests.
    """
    if limits := current_app.extensions.get("rate_limiter"):
        caller = f"caller {subject}" if subject else f"address {_network()}"
        _count(limits, caller, "requests")


def count_failure() -> None:
    """Count credentials that were no good, to the address: no caller is refused for them.

    Raises TooManyRequests.
    """
    if limits := current_app.extensions.get("rate_limiter"):
        _count(limits, f"failures {_network()}", "requests without good credentials")


def _count(limits: Limits, caller: str, what: str) -> None:
    count, rate = limits.count(caller), limits.rate
    if not count:
        return
    left, wait = rate.left(count)
    request_state().rate_limit = f'"default";r={left};t={wait}'
    if count.passed:
        return
    told = f"{rate.quota} {what} in {rate.seconds} seconds"
    if count.refused == 1:  # a flood shall not flood the log
        event = "excess_rate_limit_exceeded"
        log.warning(
            "%s: %s", event, told, extra={"event": event, "reason": told, **caller_fields()}
        )
    raise TooManyRequests(
        f"More than {told}: come back in {wait} seconds.", headers={"Retry-After": str(wait)}
    )


def _network() -> str:
    return _network_of(request.remote_addr or "")


@functools.lru_cache(1024)
def _network_of(address: str) -> str:
    """An address, or of IPv6 the /64, in which a single client has them all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address  # of a Unix socket there is none
    if found.version == 6 and not found.ipv4_mapped:
        return str(ipaddress.IPv6Network((int(found), 64), strict=False))
    return str((found.version == 6 and found.ipv4_mapped) or found)
