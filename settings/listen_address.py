"""Parses HOST, and checks that a server can listen on HOST and PORT."""

import errno
import ipaddress
import re
import socket

from settings.config_error import ConfigError

HOST_NAME = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?"


def parse_listen_host(text: str) -> str:
    """Parse an IP address or a host name. An IPv6 address may have brackets, as in a URL."""
    try:
        if "%" in text:  # gunicorn cannot listen on an address with a zone
            raise ValueError
        if text.startswith("[") and text.endswith("]"):
            return str(ipaddress.IPv6Address(text[1:-1]))
        if re.fullmatch(r"[0-9.]+", text) or ":" in text:
            return str(ipaddress.ip_address(text))
        if not re.fullmatch(HOST_NAME, text, re.IGNORECASE):
            raise ValueError
    except ValueError:
        raise ValueError(
            "an IP address or a name of this machine, such as 127.0.0.1, 0.0.0.0, :: or localhost,"
            " without http:// and without a port (set PORT)"
        ) from None
    return text.lower()


def check_address(host: str, port: int) -> None:
    """Raise ConfigError if no server can listen on this address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(_explain_bind_error(error, host, port)) from None


def _explain_bind_error(error: OSError, host: str, port: int) -> str:
    other = port + 1 if 1023 < port < 65535 else 8000
    advice = f"another port: PORT={other} (make run PORT={other})."
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use. Stop the other program, or choose {advice}"
    if error.errno == errno.EACCES:
        return f"Only root may listen on port {port}. Choose {advice}"
    return (
        f"This machine has no address {host} ({error.strerror}). Set HOST to 127.0.0.1 to serve"
        " only this machine, or to 0.0.0.0 to serve its networks too."
    )
