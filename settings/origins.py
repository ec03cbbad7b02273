"""Parses ALLOWED_ORIGINS into the form in which browsers send origins."""

import ipaddress
import json
import re
import unicodedata

from settings.listen_address import HOST_NAME

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\*\.)?(\[.+\]|[^]:/?#@[]+)(?::([0-9]{1,5}))?/?", re.I)
_JOINERS = dict.fromkeys((0x200C, 0x200D))
_VARIATION_SELECTORS = dict.fromkeys(range(0xFE00, 0xFE10))
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_origins(text: str) -> tuple[str, ...]:
    """Parse a comma-separated or JSON list.

    `https://*.example.com` means every subdomain, and `*` alone means every origin.
    """
    try:
        items = json.loads(text) if text.startswith("[") else text.split(",")
        return tuple(dict.fromkeys(_parse_origin(item.strip()) for item in items if item.strip()))
    except (ValueError, AttributeError):
        raise ValueError(
            "a list of origins, such as https://app.example.com,https://*.example.com"
        ) from None


def _parse_origin(text: str) -> str:
    """Return one item of the list, with the spelling of browsers. Raises ValueError."""
    if text == "*":
        return text
    parts = _ORIGIN.fullmatch(text)
    if not parts:
        raise ValueError
    scheme, wildcard, host, port = parts[1].lower(), parts[2] or "", parts[3], parts[4]
    if host.startswith("[") and not wildcard:
        host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
    elif not re.fullmatch(HOST_NAME, host := _host_to_ascii(host)):
        raise ValueError
    number = int(port) if port else None
    if number and number > 65535:
        raise ValueError
    suffix = "" if number in (None, _DEFAULT_PORTS.get(scheme)) else f":{number}"
    return f"{scheme}://{wildcard}{host}{suffix}"


def _host_to_ascii(host: str) -> str:
    """Return a host name as browsers send it (UTS 46, nontransitional), such as xn--3e0b707e.kr.

    Python's idna codec follows IDNA 2003: it turns faß.de into fass.de, which is another site.
    """

    def fold(text: str) -> str:
        exceptions = {"ß": "ß", "ẞ": "ß", "ς": "ς"}
        return "".join(exceptions.get(letter, letter.casefold()) for letter in text)

    if not host.translate(_JOINERS).isprintable():  # invisible characters are a mistake
        raise ValueError
    host = host.translate(_VARIATION_SELECTORS)  # invisible, too, but common after an emoji
    mapped = unicodedata.normalize("NFKC", fold(unicodedata.normalize("NFKC", fold(host))))
    labels = mapped.replace("。", ".").split(".")
    return ".".join(
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels
    )
