"""Every environment variable the service reads: named, typed and checked once, at start.

APP_ENV selects the class; nothing else reads it. An annotated class attribute is a setting: its
name is the variable's, its value the default; an empty variable counts as not set.
`.env` beside this file is read first and never overrides the environment. Testing takes only
APP_ENV from it.
"""

import errno
import io
import ipaddress
import json
import os
import re
import socket
import ssl
import unicodedata
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_origin, get_type_hints
from urllib.parse import urlsplit

import psycopg2
from dotenv import dotenv_values, find_dotenv
from dotenv.parser import parse_stream
from psycopg2.extensions import parse_dsn

ROOT = Path(__file__).absolute().parent

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class ConfigError(SystemExit):
    """A setting is missing or wrong; uncaught, it ends the process with its one sentence."""


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError("one of " + ", ".join(names))
        return text.lower()

    return parse


def some_of(*names: str) -> Callable[[str], tuple[str, ...]]:
    """A comma list of some of the names, or `none` of them."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(item.strip().lower() for item in text.split(","))
        if found == ("none",):
            return ()
        if not set(found) <= set(names):
            raise ValueError(f"none, or a comma list of some of {', '.join(names)}")
        return tuple(dict.fromkeys(found))

    return parse


def words(text: str) -> tuple[str, ...]:
    """A comma list."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def rate(text: str) -> tuple[int, int]:
    """So many requests in so many seconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,8}) ?/ ?(second|minute|hour|day)", text)
    if not found:
        raise ValueError("a number of requests per second, minute, hour or day, such as 100/minute")
    return int(found[1]), {"second": 1, "minute": 60, "hour": 3600, "day": 86400}[found[2]]


def redis_url(text: str) -> str:
    """What the client of Redis reads further; it is never quoted, as it may have a password."""
    if not re.match(r"(rediss?|unix)://.", text):
        raise ValueError("a URL such as redis://:PASSWORD@HOST:6379/0, rediss:// for TLS")
    if find_spec("redis") is None:
        raise ValueError("left out, or its client installed: pip install 'redis~=8.1'")
    return text


def networks(text: str) -> tuple[IPNetwork, ...]:
    """A comma list of addresses and networks, none of which is everybody."""
    try:
        found = tuple(ipaddress.ip_network(item) for item in words(text))
    except ValueError:
        found = ()
    if not all(network.prefixlen for network in found) or not found:
        raise ValueError("a comma list of addresses and networks, such as 10.0.0.0/8,::1")
    return found


def scopes(text: str) -> tuple[str, ...]:
    """A comma list of RESOURCE:read, RESOURCE:write, RESOURCE:all."""
    found = words(text)
    if not found or not all(re.fullmatch(r"\w+:(read|write|all)", item) for item in found):
        raise ValueError("a comma list of scopes, such as projects:read,projects:write")
    return found


LOOPBACK = ("localhost", "127.0.0.1", "::1")


def https_url(text: str) -> str:
    """An address that is read over verified TLS; without it only on this machine."""
    form = ValueError(
        f"a URL such as https://HOST/PATH, without a login; http:// only with {', '.join(LOOPBACK)}"
    )
    try:
        parts = urlsplit(text)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        whole = parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # a port or an IPv6 address
        raise form from None
    if not (safe and whole and re.fullmatch(r"[!-~]+", text)) or "#" in text:
        raise form
    return text


def secret(text: str) -> str:
    """A secret for HS256 of no fewer bytes than its hash has: RFC 7518, 3.2."""
    if not re.fullmatch(r"(?!-----BEGIN |ssh-|ecdsa-)[ -~]{32,}", text):
        raise ValueError("a shared secret of 32 ASCII characters or more, and no public key")
    return text


def path_prefix(text: str) -> str:
    """The path that the application is mounted at; "/" is none.

    A proxy may remove it, so it must not look like the beginning of one of the service's own paths.
    """
    own = r"/(api|docs|health|ready|static|openapi\.json)(/|$)"
    if not re.fullmatch(r"(/(?!\.\.?(/|$))[\w.~-]+)*/?", text, re.ASCII) or re.match(own, text):
        raise ValueError("a path such as /backend that begins with none of the service's own paths")
    return text.rstrip("/")


def switch(text: str) -> bool:
    return one_of("on", "off")(text) == "on"


def listen_host(text: str) -> str:
    """An address or a name to listen at; an IPv6 address may stand in brackets, as in a URL."""
    try:
        if "%" in text:  # gunicorn cannot listen at an address with a zone
            raise ValueError
        if text.startswith("[") and text.endswith("]"):
            return str(ipaddress.IPv6Address(text[1:-1]))
        if re.fullmatch(r"[0-9.]+", text) or ":" in text:
            return str(ipaddress.ip_address(text))
        if not re.fullmatch(_HOST_NAME, text, re.IGNORECASE):
            raise ValueError
    except ValueError:
        raise ValueError(
            "an address or a name of this machine, such as 127.0.0.1, 0.0.0.0, :: or localhost,"
            " without a scheme or a port (that is PORT)"
        ) from None
    return text.lower()


def origins(text: str) -> tuple[str, ...]:
    """A comma or JSON list; `https://*.example.com` is any subdomain, `*` alone any origin."""
    try:
        listed = json.loads(text) if text.startswith("[") else text.split(",")
        return tuple(dict.fromkeys(_origin(item.strip()) for item in listed if item.strip()))
    except (ValueError, AttributeError):
        raise ValueError(
            "a list of origins such as https://app.example.com,https://*.example.com"
        ) from None


_HOST_NAME = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?"
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\*\.)?(\[.+\]|[^]:/?#@[]+)(?::([0-9]{1,5}))?/?", re.I)
_JOINERS = dict.fromkeys((0x200C, 0x200D))
_VARIATION_SELECTORS = dict.fromkeys(range(0xFE00, 0xFE10))
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _origin(text: str) -> str:
    """An origin, or the pattern of one, as browsers send it. Raises ValueError."""
    if text == "*":
        return text
    parts = _ORIGIN.fullmatch(text)
    if not parts:
        raise ValueError
    scheme, star, host, port = parts[1].lower(), parts[2] or "", parts[3], parts[4]
    if host.startswith("[") and not star:
        host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
    elif not re.fullmatch(_HOST_NAME, host := _host_to_ascii(host)):
        raise ValueError
    number = int(port) if port else None
    if number and number > 65535:
        raise ValueError
    end = "" if number in (None, _DEFAULT_PORTS.get(scheme)) else f":{number}"
    return f"{scheme}://{star}{host}{end}"


def _host_to_ascii(host: str) -> str:
    """A host's name as browsers send it (UTS 46, nontransitional), for instance xn--3e0b707e.kr.

    Python's idna codec follows IDNA 2003: it makes fass.de of faß.de, which is another site.
    """

    def fold(text: str) -> str:
        return "".join({"ß": "ß", "ẞ": "ß", "ς": "ς"}.get(one, one.casefold()) for one in text)

    if not host.translate(_JOINERS).isprintable():  # what cannot be seen was not meant
        raise ValueError
    host = host.translate(_VARIATION_SELECTORS)  # of emoji
    mapped = unicodedata.normalize("NFKC", fold(unicodedata.normalize("NFKC", fold(host))))
    labels = mapped.replace("。", ".").split(".")
    return ".".join(
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels
    )


def database_url(text: str) -> dict[str, str]:
    """Any common PostgreSQL URL, as libpq's parameters, with the defaults that it leaves to us.

    libpq itself reads it, so multi-host URLs, sockets, IPv6 and percent-encoding are what they are
    to psql. Query keys of other tools are dropped, but not a misspelt one for TLS, with which TLS
    would go. What is wrong is never quoted: it may be the password.
    """
    form = "a PostgreSQL URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE"
    scheme, _, rest = text.partition("://")
    if not re.fullmatch(r"postgres(ql(\+\w+)?)?", scheme):
        named = (
            f", not {scheme}://..."
            if re.fullmatch(r"(jdbc:)?[a-z0-9+]{1,20}", scheme) and rest
            else ""
        )
        raise ValueError(form + named)
    encoded = form + ", with special characters percent-encoded (@ is %40, / is %2F, ? is %3F)"
    address, _, query = rest.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    strange = {pair for pair in pairs if not _is_known(pair)}
    # Of a password with a sign that ends it, the rest stands where none of these can be.
    elsewhere = *strange, *(address.partition(end)[2] for end in "@/")
    if any("@" in part for part in elsewhere) or not all("=" in pair for pair in pairs):
        raise ValueError(encoded)
    if any(pair.lower().startswith("ssl") for pair in strange):
        raise ValueError(f"{form}, and no query key ssl... that libpq does not know")
    known = "&".join(pair for pair in pairs if pair not in strange)
    found = _libpq(f"postgresql://{address}?{known}")
    port = found.get("port", "")
    if (rest and not found) or not re.fullmatch(r"[\d,]*", port):
        raise ValueError(encoded)
    if found.get("sslmode", SSL_MODES[0]) not in SSL_MODES:
        raise ValueError(f"{form}, with an sslmode of {', '.join(SSL_MODES)}")
    return _with_defaults(found)


SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# Names that no public server has: of one machine, a container's network, a company's.
_PRIVATE = (".local", ".localhost", ".internal", ".svc", ".flycast", ".lan", ".test", ".home.arpa")

# psycopg2-binary's OpenSSL looks for the system's roots where it was built, so "system" finds none.
_ROOTS = (
    *(ssl.get_default_verify_paths().cafile, "/etc/ssl/certs/ca-certificates.crt"),
    *("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"),
)


def is_public(host: str) -> bool:
    """Whether a host's name or address can be one on the Internet."""
    host = host.lower().removesuffix(".")
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.startswith(("/", "@")) and not host.endswith(_PRIVATE)


def _with_defaults(found: dict[str, str]) -> dict[str, str]:
    """Verified TLS to a public host, and of several hosts the one that takes writes."""
    defaults = {}
    hosts = found.get("host", "").split(",")
    if len(hosts) > 1:
        defaults["target_session_attrs"] = "primary"
    roots = found.get("sslrootcert", "system")
    places = hosts + found.get("hostaddr", "").split(",")
    if "sslmode" not in found and ("sslrootcert" in found or any(map(is_public, places))):
        defaults["sslmode"] = "verify-full"
    if roots == "system" and {**found, **defaults}.get("sslmode") == "verify-full":
        files = (path for path in _ROOTS if path and os.path.isfile(path))
        found = {**found, "sslrootcert": next(files, roots)}
    return defaults | found


def _is_known(pair: str) -> bool:
    key = pair.partition("=")[0]
    return any(_libpq(f"postgresql:///?{one}") for one in (f"{key}=1", pair))  # it knows ssl=true


def _libpq(uri: str) -> dict[str, str]:
    try:
        return dict(parse_dsn(uri))
    except (psycopg2.ProgrammingError, UnicodeError):
        return {}


# What is inside shall be over before what is around it.
LADDER = (
    ("DATABASE_LOCK_TIMEOUT", "DATABASE_STATEMENT_TIMEOUT"),
    ("DATABASE_STATEMENT_TIMEOUT", "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT"),
    ("DATABASE_IDLE_IN_TRANSACTION_TIMEOUT", "REQUEST_TIMEOUT"),
    ("DATABASE_CONNECT_TIMEOUT", "REQUEST_TIMEOUT"),
    ("DATABASE_POOL_TIMEOUT", "REQUEST_TIMEOUT"),
    ("QUEUE_TIMEOUT", "REQUEST_TIMEOUT"),
    ("REQUEST_TIMEOUT", "GRACEFUL_TIMEOUT"),
    ("DRAIN_TIMEOUT", "GRACEFUL_TIMEOUT"),
)

JWT_CLAIMS = ("JWT_ISSUER", "JWT_AUDIENCE")
JWT_KEYS = ("JWT_JWKS_URL", "JWT_KEY_FILE", "JWT_SECRET")

Count = Annotated[int, integer(1, 1000)]
Seconds = Annotated[int, integer(1, 3600)]


class Config:
    """What all environments share."""

    APP_ENV: ClassVar[str]
    EMBEDDED_POSTGRES_DIR: ClassVar[Path] = ROOT / "instance" / "postgres"  # without a DATABASE_URL
    TESTING = False
    WARN_WITHOUT_AUTH = False
    PROPAGATE_EXCEPTIONS = False  # also under tests and the debugger an error is a problem document

    DATABASE_URL: Annotated[dict[str, str] | None, database_url] = None
    MIGRATIONS_DATABASE_URL: Annotated[dict[str, str] | None, database_url] = None
    EMBEDDED_POSTGRES_BIN: Annotated[Path | None, Path] = None
    HOST: Annotated[str, listen_host] = "127.0.0.1"
    PORT: Annotated[int, integer(1, 65535)] = 8000
    WEB_CONCURRENCY: Count = 2
    DATABASE_POOL_SIZE: Count = 4
    ALLOWED_ORIGINS: Annotated[tuple[str, ...], origins] = ()
    AUTH: Annotated[tuple[str, ...] | None, some_of("tokens", "jwt")] = ()
    JWT_ISSUER: Annotated[str, str] = ""
    JWT_AUDIENCE: Annotated[tuple[str, ...], words] = ()
    JWT_JWKS_URL: Annotated[str, https_url] = ""
    JWT_KEY_FILE: Annotated[Path | None, Path] = None
    JWT_SECRET: Annotated[str, secret] = ""
    JWT_SCOPES: Annotated[tuple[str, ...], scopes] = ()  # read and write of every resource
    RATE_LIMIT: Annotated[tuple[int, int] | None, rate] = None
    RATE_LIMIT_REDIS_URL: Annotated[str, redis_url] = ""
    SCRIPT_NAME: Annotated[str, path_prefix] = ""
    TRUSTED_PROXIES: Annotated[tuple[IPNetwork, ...], networks] = ()
    DOCS: Annotated[bool, switch] = True
    READY_DETAILS: Annotated[bool, switch] = True
    MAX_CONTENT_LENGTH: Annotated[int, integer(1, 2**29)] = 2**20
    READ_TIMEOUT: Seconds = 10
    QUEUE_TIMEOUT: Seconds = 2
    LOG_LEVEL: Annotated[str, one_of("debug", "info", "warning", "error")] = "info"
    LOG_FORMAT: Annotated[str, one_of("text", "json")] = "text"
    DATABASE_CONNECT_TIMEOUT: Seconds = 3
    DATABASE_POOL_TIMEOUT: Seconds = 2
    DATABASE_PING_AFTER_IDLE: Seconds = 5
    DATABASE_LOCK_TIMEOUT: Seconds = 1
    DATABASE_STATEMENT_TIMEOUT: Seconds = 3
    DATABASE_IDLE_IN_TRANSACTION_TIMEOUT: Seconds = 5
    REQUEST_TIMEOUT: Seconds = 8
    GRACEFUL_TIMEOUT: Seconds = 20
    DRAIN_TIMEOUT: Annotated[int, integer(0, 3600)] = 0  # of GRACEFUL_TIMEOUT

    def __init__(self, environ: Mapping[str, str]) -> None:
        for name, kind in self.declared_settings().items():
            text = environ.get(name, "").strip()
            if text:
                (parse,) = kind.__metadata__
                try:
                    setattr(self, name, parse(text))
                except ValueError as error:
                    raise ConfigError(f"{name} must be {error}.") from None
        if self.DATABASE_URL is None and self.MIGRATIONS_DATABASE_URL is not None:
            raise ConfigError("MIGRATIONS_DATABASE_URL is of no use without DATABASE_URL.")
        if self.RATE_LIMIT_REDIS_URL and not self.RATE_LIMIT:
            raise ConfigError("RATE_LIMIT_REDIS_URL is of no use without RATE_LIMIT.")
        self._check_jwt()
        for inner, outer in LADDER:
            if getattr(self, inner) >= getattr(self, outer):
                raise ConfigError(f"{inner} must be less than {outer}.")

    def _check_jwt(self) -> None:
        keys = [name for name in JWT_KEYS if getattr(self, name)]
        missing = [name for name in JWT_CLAIMS if not getattr(self, name)]
        given = [name for name in JWT_CLAIMS if name not in missing] + keys
        if "jwt" not in (self.AUTH or ()):
            if given:
                raise ConfigError(f"{given[0]} is of no use without jwt in AUTH.")
            return
        if not keys:
            missing.append(f"one of {', '.join(JWT_KEYS)}")
        if missing:
            raise ConfigError(f"AUTH=jwt needs {' and '.join(missing)}.")
        if len(keys) > 1:
            raise ConfigError(f"{' and '.join(keys)} exclude each other.")

    @classmethod
    def declared_settings(cls) -> dict[str, Any]:
        """The settings' names with their annotated types."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: kind for name, kind in hints.items() if get_origin(kind) is Annotated}


class Development(Config):
    """A learner's machine: the tutorial's front ends are let in, the database comes from pip."""

    APP_ENV = "development"
    ALLOWED_ORIGINS = tuple(
        f"http://{host}:{port}"
        for host in ("localhost", "127.0.0.1")
        for port in (3000, 5173, 5174)
    )


_TEST_NAME = re.compile(r"(^|[^a-z])test(s|ing)?([^a-z]|$)", re.IGNORECASE)


class Testing(Config):
    """The tests: a throw-away database, nothing from `.env`."""

    APP_ENV = "testing"
    EMBEDDED_POSTGRES_DIR = ROOT / "instance" / "testing"
    TESTING = True

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        for name, kind in self.declared_settings().items():
            url = getattr(self, name) if database_url in kind.__metadata__ else None
            if url is not None and not _TEST_NAME.search(url.get("dbname", "")):
                raise ConfigError(
                    f"APP_ENV=testing needs a test database: the name of the database in {name}"
                    " must contain the word test, as in my_test."
                )


class Production(Config):
    """Everything else: DATABASE_URL and AUTH must be said, logs are JSON, all interfaces served."""

    APP_ENV = "production"
    HOST = "0.0.0.0"  # noqa: S104 - a proxy or a container has to reach it
    LOG_FORMAT = "json"
    DRAIN_TIMEOUT = 5  # a load balancer has seen it by then
    AUTH = None
    WARN_WITHOUT_AUTH = True

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        if self.DATABASE_URL is None:
            raise ConfigError(
                "APP_ENV=production needs DATABASE_URL,"
                " such as postgresql://USER:PASSWORD@HOST:5432/DATABASE."
            )
        if self.AUTH is None:
            raise ConfigError(
                "APP_ENV=production needs AUTH: tokens, jwt or tokens,jwt;"
                " with none, whoever reaches the port may do everything."
            )


ENVIRONMENTS = {kind.APP_ENV: kind for kind in (Development, Testing, Production)}


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Return the settings of the environment that APP_ENV names, by default development.

    `environ` replaces the process's environment and `.env`. Raises ConfigError for a value that is
    missing or out of its range.
    """
    environ = _environ() if environ is None else environ
    name = environ.get("APP_ENV", "").strip() or Development.APP_ENV
    if name not in ENVIRONMENTS:
        raise ConfigError(f"APP_ENV must be one of {', '.join(ENVIRONMENTS)}.")
    return ENVIRONMENTS[name](environ)


def setting_source(name: str) -> tuple[str, str]:
    """A setting's text as it was given, and where; two empty strings if it was not."""
    text = _environ().get(name, "").strip()
    in_file = _read_dotenv(ROOT / ".env").get(name, "").strip() == text
    return text, text and (".env" if in_file else "the environment")


def check_address(host: str, port: int) -> None:
    """Raise ConfigError if nothing can listen at this address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
            probe.bind((host, port))
    except OSError as error:
        other = port + 1 if 1023 < port < 65535 else 8000
        choose = f"hoose another one: PORT={other} (make run PORT={other})."
        if error.errno == errno.EADDRINUSE:
            reason = f"Port {port} is in use. Stop the other program, or c{choose}"
        elif error.errno == errno.EACCES:
            reason = f"Only root may listen at port {port}. C{choose}"
        else:
            reason = (
                f"This machine has no address {host} ({error.strerror}). Set HOST to 127.0.0.1"
                " to serve this machine alone, or to 0.0.0.0 to serve its networks."
            )
        raise ConfigError(reason) from None


def _environ() -> Mapping[str, str]:
    """The process's environment, and below it `.env`, of which Testing takes APP_ENV alone."""
    given = dict(os.environ)
    if given.get("APP_ENV", "").strip() != Testing.APP_ENV:
        own = _read_dotenv(ROOT / ".env")
        values = own | given
        if values.get("APP_ENV", "").strip() != Testing.APP_ENV:
            _refuse_other_files(own)
            return values
        given["APP_ENV"] = Testing.APP_ENV
    # A variable with the same value in both may be one that Flask has put there.
    taken = {
        name for file in _flask_files().values() for name in file if given.get(name) == file[name]
    }
    return {name: text for name, text in given.items() if name == "APP_ENV" or name not in taken}


def _refuse_other_files(own: Mapping[str, str]) -> None:
    """Have the flask command and the service agree: `.env` beside this file is the only one."""
    for path, file in _flask_files().items():
        for name in {"APP_ENV", *Config.declared_settings()} & file.keys():
            # A person who names an environment there expects it, even where another place wins.
            is_expected = name == "APP_ENV" or file[name] == os.environ.get(name)
            if own.get(name) != file[name] and is_expected:
                raise ConfigError(
                    f"{path} sets {name}, which the flask command reads and the service does not:"
                    " set FLASK_SKIP_DOTENV=1, or move the setting to .env."
                )


def _flask_files() -> dict[Path, dict[str, str]]:
    """The files that the flask command has put into the environment before it runs this.

    They are those of the working directory or, where it has none, of the nearest one above it.
    """
    if os.environ.get("FLASK_RUN_FROM_CLI") != "true":
        return {}
    paths = [Path(find_dotenv(name, usecwd=True)) for name in (".flaskenv", ".env")]
    files = {path: _read_dotenv(path) for path in paths if path.name}
    # Where it stands in a file itself, it comes too late for Flask.
    is_skipped = not any("FLASK_SKIP_DOTENV" in file for file in files.values()) and (
        os.environ.get("FLASK_SKIP_DOTENV", "").lower() not in ("", "0", "false", "no")
    )
    return {} if is_skipped else files


def _read_dotenv(path: Path) -> dict[str, str]:
    """The variables of a `.env` file, none if there is none. Raises ConfigError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be read ({error.strerror}): it must be a file that this user"
            " may read."
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as of UTF-16
        raise ConfigError(
            f"{path.name} is not UTF-8 text: save it with the encoding UTF-8"
            " (in PowerShell: Out-File -Encoding utf8)."
        )
    for line in parse_stream(io.StringIO(text)):
        if line.error:
            blank = len(line.original.string) - len(line.original.string.lstrip())
            number = line.original.line + line.original.string[:blank].count("\n")
            raise ConfigError(
                f"{path.name}, line {number}: write NAME=VALUE, and close a quote that is opened."
            )
    return {name: text or "" for name, text in dotenv_values(stream=io.StringIO(text)).items()}


if __name__ == "__main__":  # before anything is done for a server that could not listen
    settings = load_config()
    check_address(settings.HOST, settings.PORT)
