"""Every environment variable the service reads: named, typed and checked once, at start.

`load` picks the class by APP_ENV; the name does nothing else. An annotated class attribute is a
setting: its name is the variable's, its value the default; an empty variable counts as not set.
`.env` beside this file is read first and never overrides the environment.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_origin, get_type_hints

import psycopg2
from dotenv import dotenv_values
from psycopg2.extensions import parse_dsn

ROOT = Path(__file__).absolute().parent


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


def origins(text: str) -> tuple[str, ...]:
    """A comma or JSON list; `https://*.example.com` is any subdomain, `*` alone any origin."""
    form = ValueError("a list of origins such as https://app.example.com,https://*.example.com")
    try:
        listed = json.loads(text) if text.startswith("[") else text.split(",")
        found = tuple(item.strip().rstrip("/") for item in listed if item.strip())
    except (ValueError, AttributeError):
        raise form from None
    if not all(re.fullmatch(r"\*|https?://(\*\.)?[\w.-]+(:\d+)?", item) for item in found):
        raise form
    return found


def database_url(text: str) -> dict[str, str]:
    """Any common PostgreSQL URL, as libpq's parameters.

    libpq itself reads it, so multi-host URLs, sockets, IPv6 and percent-encoding are what they are
    to psql. Query keys of other tools are dropped, but not a misspelt one for TLS, with which TLS
    would go. What is wrong is never quoted: it may be the password.
    """
    form = "a PostgreSQL URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE"
    scheme, _, rest = text.partition("://")
    if scheme not in ("postgres", "postgresql", "postgresql+psycopg2"):
        named = f", not {scheme}://..." if re.fullmatch(r"[a-z0-9+]{1,20}", scheme) and rest else ""
        raise ValueError(form + named)
    address, _, query = rest.partition("?")
    keys = [pair.partition("=")[0] for pair in query.split("&") if pair]
    strange = {key for key in keys if not _libpq(f"postgresql://?{key}=1")}
    if any(key.startswith("ssl") for key in strange):
        raise ValueError(f"{form}, and no query key ssl... that libpq does not know")
    known = [pair for pair in query.split("&") if pair.partition("=")[0] not in strange]
    found = _libpq(f"postgresql://{address}?{'&'.join(known)}")
    port = found.get("port", "")
    if (rest and not found) or "@" in found.get("host", "") or not re.fullmatch(r"[\d,]*", port):
        raise ValueError(form + ", with special characters percent-encoded (@ is %40, / is %2F)")
    return found


def _libpq(uri: str) -> dict[str, str]:
    try:
        return dict(parse_dsn(uri))
    except psycopg2.ProgrammingError:
        return {}


# What is inside shall be over before what is around it.
LADDER = (
    ("DATABASE_LOCK_TIMEOUT", "DATABASE_STATEMENT_TIMEOUT"),
    ("DATABASE_STATEMENT_TIMEOUT", "DATABASE_IDLE_TIMEOUT"),
    ("DATABASE_IDLE_TIMEOUT", "REQUEST_TIMEOUT"),
    ("DATABASE_CONNECT_TIMEOUT", "REQUEST_TIMEOUT"),
    ("DATABASE_POOL_TIMEOUT", "REQUEST_TIMEOUT"),
    ("REQUEST_TIMEOUT", "GRACEFUL_TIMEOUT"),
    ("DRAIN_SECONDS", "GRACEFUL_TIMEOUT"),
)

Count = Annotated[int, integer(1, 1000)]
Seconds = Annotated[int, integer(1, 3600)]


class Config:
    """What all environments share."""

    APP_ENV: ClassVar[str]
    DATABASE_HOME: ClassVar[Path] = ROOT / "instance" / "postgres"  # without a DATABASE_URL
    TESTING = False
    PROPAGATE_EXCEPTIONS = False  # also under tests and the debugger an error is a problem document

    DATABASE_URL: Annotated[dict[str, str] | None, database_url] = None
    PG_BIN: Annotated[Path | None, Path] = None
    HOST: Annotated[str, str] = "127.0.0.1"
    PORT: Annotated[int, integer(1, 65535)] = 8000
    WEB_CONCURRENCY: Count = 2
    THREADS: Count = 4
    ALLOWED_ORIGINS: Annotated[tuple[str, ...], origins] = ()
    MAX_CONTENT_LENGTH: Annotated[int, integer(1, 2**29)] = 2**20
    READ_TIMEOUT: Seconds = 10
    LOG_LEVEL: Annotated[str, one_of("debug", "info", "warning", "error")] = "info"
    LOG_FORMAT: Annotated[str, one_of("text", "json")] = "text"
    DATABASE_CONNECT_TIMEOUT: Seconds = 3
    DATABASE_POOL_TIMEOUT: Seconds = 2
    DATABASE_PING_AFTER: Seconds = 5
    DATABASE_LOCK_TIMEOUT: Seconds = 1
    DATABASE_STATEMENT_TIMEOUT: Seconds = 3
    DATABASE_IDLE_TIMEOUT: Seconds = 5
    REQUEST_TIMEOUT: Seconds = 8
    GRACEFUL_TIMEOUT: Seconds = 20
    DRAIN_SECONDS: Annotated[int, integer(0, 3600)] = 0  # of GRACEFUL_TIMEOUT

    def __init__(self, environ: Mapping[str, str]) -> None:
        for name, kind in self.settings().items():
            text = environ.get(name, "").strip()
            if text:
                (parse,) = kind.__metadata__
                try:
                    setattr(self, name, parse(text))
                except ValueError as error:
                    raise ConfigError(f"{name} must be {error}.") from None
        for inner, outer in LADDER:
            if getattr(self, inner) >= getattr(self, outer):
                raise ConfigError(f"{inner} must be less than {outer}.")

    @classmethod
    def settings(cls) -> dict[str, Any]:
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


class Testing(Config):
    """The tests: a throw-away database, nothing from `.env`."""

    APP_ENV = "testing"
    DATABASE_HOME = ROOT / "instance" / "testing"
    TESTING = True


class Production(Config):
    """Everything else: DATABASE_URL must be said, logs are JSON, all interfaces are served."""

    APP_ENV = "production"
    HOST = "0.0.0.0"  # noqa: S104 - a proxy or a container has to reach it
    LOG_FORMAT = "json"
    DRAIN_SECONDS = 5  # a load balancer has seen it by then

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        if self.DATABASE_URL is None:
            raise ConfigError(
                "APP_ENV=production needs DATABASE_URL,"
                " such as postgresql://USER:PASSWORD@HOST:5432/DATABASE."
            )


ENVIRONMENTS = {kind.APP_ENV: kind for kind in (Development, Testing, Production)}


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Return the settings of the environment that APP_ENV names, by default development.

    `environ` replaces the process's environment and `.env`. Raises ConfigError for a value that is
    missing or out of its range.
    """
    if environ is None:
        environ = os.environ
        if environ.get("APP_ENV") != Testing.APP_ENV:
            environ = {**{k: v or "" for k, v in dotenv_values(ROOT / ".env").items()}, **environ}
    name = environ.get("APP_ENV", "").strip() or Development.APP_ENV
    if name not in ENVIRONMENTS:
        raise ConfigError(f"APP_ENV must be one of {', '.join(ENVIRONMENTS)}.")
    return ENVIRONMENTS[name](environ)
