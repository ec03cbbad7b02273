"""Who the client is and whether it came over TLS, where a proxy stands between: TRUSTED_PROXIES.

werkzeug's ProxyFix counts hops and believes whoever connects; this believes only addresses that are
named. `Forwarded` (RFC 7239) is not read: proxies that know nothing of it pass a client's own on.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flask import Flask

from config import IPNetwork

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Some proxies write a port, too.
_ENTRY = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?|([0-9A-Fa-f:.]+)")


def init_app(app: Flask) -> None:
    if trusted := app.config["TRUSTED_PROXIES"]:
        app.wsgi_app = TrustedProxies(app.wsgi_app, trusted)  # type: ignore[method-assign]


class TrustedProxies:
    """WSGI middleware: REMOTE_ADDR and wsgi.url_scheme as the `trusted` say, else as they are.

    A proxy appends its own client to X-Forwarded-For, so of the list only the end that trusted ones
    wrote is true: the client is the right-most entry that is none of them. What is no address ends
    the walk before it. Of X-Forwarded-Proto it is the last value. A peer on a Unix socket has no
    address, and is not believed.
    """

    def __init__(self, application: "WSGIApplication", trusted: Sequence[IPNetwork]) -> None:
        self._application = application
        self._trusted = trusted

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        peer = _address(environ.get("REMOTE_ADDR", ""))
        if peer and self._trusts(peer):
            entries = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            environ["REMOTE_ADDR"] = str(self._client(peer, entries))
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        return self._application(environ, start_response)

    def _client(self, peer: IPAddress, entries: list[str]) -> IPAddress:
        while entries and self._trusts(peer) and (before := _address(entries.pop())):
            peer = before
        return peer

    def _trusts(self, address: IPAddress) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> IPAddress | None:
    entry = _ENTRY.fullmatch(text.strip())
    try:
        found = ipaddress.ip_address(entry[entry.lastindex or 0] if entry else "")
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
