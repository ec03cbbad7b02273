"""Parsers of settings: each returns the value of a text, or raises ValueError.

The text of the error completes the sentence "NAME must be ...". It never quotes a value that may
contain a password.
"""

import ipaddress
import re
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_OWN_PATHS = (
    *("/api", "/console", "/docs", "/health", "/ready", "/metrics", "/static", "/openapi.json"),
)


def integer_between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def choice(*names: str) -> Callable[[str], str]:
    """Return a parser for one of these names, in upper or lower case."""

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError("one of " + ", ".join(names))
        return text.lower()

    return parse


def choices(*names: str) -> Callable[[str], tuple[str, ...]]:
    """Return a parser for `none` or a comma-separated list of these names."""

    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip().lower() for item in text.split(","))
        if items == ("none",):
            return ()
        if not set(items) <= set(names):
            raise ValueError(f"none, or a comma-separated list of these: {', '.join(names)}")
        return tuple(dict.fromkeys(items))

    return parse


def parse_on_off(text: str) -> bool:
    return choice("on", "off")(text) == "on"


def comma_list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def parse_rate_limit(text: str) -> tuple[int, int]:
    """Parse a rate such as 100/minute into (requests, seconds)."""
    parts = re.fullmatch(rf"([1-9][0-9]{{0,8}}) ?/ ?({'|'.join(_SECONDS)})", text)
    if not parts:
        raise ValueError("a number of requests per second, minute, hour or day, such as 100/minute")
    return int(parts[1]), _SECONDS[parts[2]]


def parse_retention(text: str) -> timedelta:
    """Parse a duration such as 90d or 12h: at least one hour."""
    parts = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", text)
    if not parts:
        raise ValueError("a number of hours or days, such as 12h or 90d")
    return timedelta(**{{"h": "hours", "d": "days"}[parts[2]]: int(parts[1])})


def parse_redis_url(text: str) -> str:
    """Check the scheme of a URL. The Redis client parses the rest."""
    if not re.match(r"(rediss?|unix)://.", text):
        raise ValueError("a URL such as redis://:PASSWORD@HOST:6379/0, or rediss://... for TLS")
    return text


def parse_networks(text: str) -> tuple[IPNetwork, ...]:
    """Parse a comma-separated list. A network /0 is refused: it contains every address."""
    try:
        networks = tuple(ipaddress.ip_network(item) for item in comma_list(text))
    except ValueError:
        networks = ()
    if not networks or not all(network.prefixlen for network in networks):
        raise ValueError(
            "a comma-separated list of IP addresses and networks, such as 10.0.0.0/8,::1"
        )
    return networks


def parse_scopes(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of RESOURCE:read, RESOURCE:write and RESOURCE:all."""
    scopes = comma_list(text)
    if not scopes or not all(re.fullmatch(r"\w+:(read|write|all)", scope) for scope in scopes):
        raise ValueError("a comma-separated list of scopes, such as projects:read,projects:write")
    return scopes


def parse_https_url(text: str) -> str:
    """Check a URL: https, or http for this machine only."""
    expected_form = ValueError(
        "a URL such as https://HOST/PATH, without a user name and a password;"
        f" http:// is allowed only for {', '.join(LOOPBACK)}"
    )
    try:
        parts = urlsplit(text)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        is_complete = parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # an invalid port or IPv6 address
        raise expected_form from None
    if not (is_safe and is_complete and re.fullmatch(r"[!-~]+", text)) or "#" in text:
        raise expected_form
    return text


def parse_shared_secret(text: str) -> str:
    """Check a secret for HS256, which needs at least 32 bytes (RFC 7518, 3.2)."""
    if re.match(r"-----BEGIN |ssh-|ecdsa-", text):
        raise ValueError("a shared secret, not a public key (JWT_KEY_FILE is for those)")
    if not re.fullmatch(r"[ -~]{32,}", text):
        raise ValueError("a shared secret of at least 32 ASCII characters")
    return text


def parse_path_prefix(text: str) -> str:
    """Parse the path at which the service is mounted; "/" means none.

    It must not be one of the service's own paths or below one. Otherwise the service could not know
    whether a proxy has removed the prefix from a path.
    """
    own_paths = "|".join(map(re.escape, _OWN_PATHS))
    is_path = re.fullmatch(r"(/(?!\.\.?(/|$))[\w.~-]+)*/?", text, re.ASCII)
    if not is_path or re.match(rf"({own_paths})(/|$)", text):
        raise ValueError(f"a path such as /backend that is not below {', '.join(_OWN_PATHS)}")
    return text.rstrip("/")
