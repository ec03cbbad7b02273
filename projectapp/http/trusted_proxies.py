"""The client's address and scheme if the request came through a proxy of TRUSTED_PROXIES.

werkzeug's ProxyFix counts hops and believes every peer. This middleware believes only the addresses
in TRUSTED_PROXIES. It ignores `Forwarded` (RFC 7239): a proxy that does not know this header passes
on what the client sent.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flask import Flask

from settings.parsers import IPNetwork

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# An address; some proxies add a port.
_FORWARDED_ENTRY = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?|([0-9A-Fa-f:.]+)"
)


def init_app(app: Flask) -> None:
    if networks := app.config["TRUSTED_PROXIES"]:
        app.wsgi_app = TrustedProxies(app.wsgi_app, networks)  # type: ignore[method-assign]


class TrustedProxies:
    """WSGI middleware that sets REMOTE_ADDR and wsgi.url_scheme to what trusted proxies report.

    Each proxy appends the address of its own client to X-Forwarded-For. So the client is the last
    address that is not a trusted proxy: the client itself may have sent all entries to its left. If
    an entry is not an address, the client is the address to its right. The last value of
    X-Forwarded-Proto counts. A peer on a Unix socket has no address, and is not trusted.
    """

    def __init__(self, application: "WSGIApplication", trusted: Sequence[IPNetwork]) -> None:
        self._application = application
        self._trusted = trusted

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        peer = _parse_address(environ.get("REMOTE_ADDR", ""))
        if peer and self._is_trusted(peer):
            forwarded = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            environ["REMOTE_ADDR"] = str(self._find_client(peer, forwarded))
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        return self._application(environ, start_response)

    def _find_client(self, peer: IPAddress, forwarded: list[str]) -> IPAddress:
        client = peer
        while forwarded and self._is_trusted(client):
            previous_hop = _parse_address(forwarded.pop())
            if not previous_hop:
                break
            client = previous_hop
        return client

    def _is_trusted(self, address: IPAddress) -> bool:
        return any(address in network for network in self._trusted)


def _parse_address(text: str) -> IPAddress | None:
    match = _FORWARDED_ENTRY.fullmatch(text.strip())
    try:
        address = ipaddress.ip_address(match[match.lastindex or 0] if match else "")
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
