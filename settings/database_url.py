"""Parses a PostgreSQL URL into libpq's parameters, and adds this service's defaults."""

import ipaddress
import os
import re
import ssl

import psycopg2
from psycopg2.extensions import parse_dsn

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_EXPECTED_FORM = "a PostgreSQL URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE"
_ENCODING_HINT = "with special characters percent-encoded (@ is %40, / is %2F, ? is %3F)"

# Endings of host names in private networks.
_PRIVATE = (".local", ".localhost", ".internal", ".svc", ".flycast", ".lan", ".test", ".home.arpa")

# psycopg2-binary's OpenSSL looks for CA certificates in the path of its build machine, so
# sslrootcert=system finds none.
_CA_BUNDLE_PATHS = (
    *(ssl.get_default_verify_paths().cafile, "/etc/ssl/certs/ca-certificates.crt"),
    *("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"),
)


def parse_database_url(text: str) -> dict[str, str]:
    """Return libpq's parameters of a URL, with our defaults.

    libpq itself parses the URL. So hosts, sockets, IPv6 addresses and percent-encoding have the
    same meaning as for psql. Query keys that libpq does not know, such as pgbouncer=true, are
    dropped. An unknown key that begins with ssl is an error: without a misspelt `sslmode`, TLS
    might not be verified. Raises ValueError. Its text never quotes the URL, because the URL
    contains the password.
    """
    scheme, _, rest = text.partition("://")
    if not re.fullmatch(r"postgres(ql(\+\w+)?)?", scheme):
        is_scheme = rest and re.fullmatch(r"(jdbc:)?[a-z0-9+]{1,20}", scheme)
        raise ValueError(_EXPECTED_FORM + (f", not {scheme}://..." if is_scheme else ""))
    address, _, query = rest.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    unknown_pairs = {pair for pair in pairs if not _is_libpq_option(pair)}
    # For libpq an unescaped @ / or ? ends the password. Then another @, the one in front of the
    # host, is behind it.
    behind_password = *unknown_pairs, *(address.partition(end)[2] for end in "@/")
    if any("@" in part for part in behind_password) or not all("=" in pair for pair in pairs):
        raise ValueError(f"{_EXPECTED_FORM}, {_ENCODING_HINT}")
    if any(pair.lower().startswith("ssl") for pair in unknown_pairs):
        raise ValueError(f"{_EXPECTED_FORM}; an option ssl... in its query is unknown to libpq")
    known_query = "&".join(pair for pair in pairs if pair not in unknown_pairs)
    parameters = _parse_with_libpq(f"postgresql://{address}?{known_query}")
    port = parameters.get("port", "")
    if (rest and not parameters) or not re.fullmatch(r"[\d,]*", port):
        raise ValueError(f"{_EXPECTED_FORM}, {_ENCODING_HINT}")
    if parameters.get("sslmode", SSL_MODES[0]) not in SSL_MODES:
        raise ValueError(f"{_EXPECTED_FORM}; its sslmode must be one of {', '.join(SSL_MODES)}")
    return _add_defaults(parameters)


def is_public_host(host: str) -> bool:
    """Whether a host name or an IP address can be one on the Internet."""
    host = host.lower().removesuffix(".")
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        is_socket = host.startswith(("/", "@"))
        return "." in host and not is_socket and not host.endswith(_PRIVATE)


def _add_defaults(parameters: dict[str, str]) -> dict[str, str]:
    """Add: verify TLS for public hosts; with several hosts, connect to the primary."""
    defaults = {}
    hosts = parameters.get("host", "").split(",")
    if len(hosts) > 1:
        defaults["target_session_attrs"] = "primary"
    addresses = parameters.get("hostaddr", "").split(",")
    if "sslrootcert" in parameters or any(map(is_public_host, hosts + addresses)):
        defaults["sslmode"] = "verify-full"
    parameters = defaults | parameters
    root_cert = parameters.get("sslrootcert", "system")
    if root_cert == "system" and parameters.get("sslmode") == "verify-full":
        files = (path for path in _CA_BUNDLE_PATHS if path and os.path.isfile(path))
        parameters["sslrootcert"] = next(files, root_cert)
    return parameters


def _is_libpq_option(pair: str) -> bool:
    key = pair.partition("=")[0]
    # libpq accepts ssl=true, and no other value of ssl.
    return any(_parse_with_libpq(f"postgresql:///?{query}") for query in (f"{key}=1", pair))


def _parse_with_libpq(uri: str) -> dict[str, str]:
    """Return libpq's parameters, or an empty dict if libpq does not accept the URI."""
    try:
        return dict(parse_dsn(uri))
    except (psycopg2.ProgrammingError, UnicodeError):
        return {}
