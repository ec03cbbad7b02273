"""Every setting of the service, with its type, default and meaning.

A setting is a class attribute with an annotation: `Annotated[TYPE, PARSER]` names the type of its
value and the function that makes the value from text. Its name is the environment variable, its
value is the default, and the comment above it is its meaning. An empty variable counts as not set.
All settings are checked once, at the start.

APP_ENV selects one of the three classes at the end, which change some defaults. A file `.env`
beside this one may also set the variables, and the environment wins. With APP_ENV=testing, only
APP_ENV is read from that file.

After a change here, run `python -m tests.settings_page`: it updates docs/settings.md and
.env.example.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_origin, get_type_hints

from settings.config_error import ConfigError
from settings.database_url import parse_database_url
from settings.dotenv_files import read_dotenv, read_environment
from settings.listen_address import check_address, parse_listen_host
from settings.origins import parse_origins
from settings.parsers import (
    IPNetwork,
    choice,
    choices,
    comma_list,
    integer_between,
    parse_https_url,
    parse_networks,
    parse_on_off,
    parse_path_prefix,
    parse_rate_limit,
    parse_redis_url,
    parse_retention,
    parse_scopes,
    parse_shared_secret,
)

ROOT = Path(__file__).absolute().parent

PositiveCount = Annotated[int, integer_between(1, 1000)]
Seconds = Annotated[int, integer_between(1, 3600)]


class Config:
    """The settings, and the defaults of all environments."""

    # == Environment and server ==

    # `development`, `testing` or `production`: selects the defaults (a class in `config.py`)
    APP_ENV: ClassVar[str]
    # the address at which gunicorn listens; `0.0.0.0` is all network interfaces
    HOST: Annotated[str, parse_listen_host] = "127.0.0.1"
    # the port at which gunicorn listens
    PORT: Annotated[int, integer_between(1, 65535)] = 8000
    # the path under which the service is reached, such as `/backend`; a proxy may keep or remove
    # this path
    SCRIPT_NAME: Annotated[str, parse_path_prefix] = ""
    # gunicorn's worker processes
    WEB_CONCURRENCY: PositiveCount = 2
    # origins of the web pages that may call the API (CORS): a comma-separated or JSON list;
    # `https://*.example.com` for subdomains, `*` for all
    # Default: in development localhost and 127.0.0.1 on ports 3000, 5173, 5174
    ALLOWED_ORIGINS: Annotated[tuple[str, ...], parse_origins] = ()
    # addresses and networks of the proxies in front of the service, such as `10.0.0.0/8,::1`; only
    # from them `X-Forwarded-For` and `X-Forwarded-Proto` are used (`docs/deploy.md` says how to
    # find them)
    TRUSTED_PROXIES: Annotated[tuple[IPNetwork, ...], parse_networks] = ()
    # `off`: `/docs` and `/openapi.json` answer 404
    DOCS: Annotated[bool, parse_on_off] = True
    # `on`: `/console` shows a web page to search, edit and restore rows (`docs/console.md`)
    CONSOLE: Annotated[bool, parse_on_off] = True
    # `off`: `/ready` answers only whether the service is ready. It hides the reason of a 503,
    # `schema` and `durable`
    READY_DETAILS: Annotated[bool, parse_on_off] = True
    # who may read `/metrics`: `on` is a caller with the scope `metrics:read` (with `AUTH=none`
    # anyone), `open` is anyone who can reach the port, `off` is nobody (`docs/monitoring.md`)
    METRICS: Annotated[str, choice("on", "open", "off")] = "on"
    # `on`: requests and their statements are sent to an OpenTelemetry collector as spans
    # (`docs/operations.md`); needs `pip install 'opentelemetry-exporter-otlp-proto-http~=1.45.2'`
    TRACES: Annotated[bool, parse_on_off] = False
    # the largest request body, in bytes; a larger one gets a 413
    MAX_CONTENT_LENGTH: Annotated[int, integer_between(1, 2**29)] = 2**20
    # how many event streams, long polls and exports a worker holds; further ones get a 503
    STREAMS: Annotated[int, integer_between(1, 10_000)] = 500
    # `debug`, `info`, `warning` or `error`
    LOG_LEVEL: Annotated[str, choice("debug", "info", "warning", "error")] = "info"
    # the format of the service's log
    LOG_FORMAT: Annotated[str, choice("text", "json")] = "text"

    # == Database ==

    # any PostgreSQL URL, also one with several hosts (`docs/database.md`)
    # Default: the PostgreSQL from pip; required in production
    DATABASE_URL: Annotated[dict[str, str] | None, parse_database_url] = None
    # the URL for `flask db`. Set it if `DATABASE_URL` is a pooler in transaction mode, or if
    # another role owns the tables (`docs/roles.md`)
    # Default: `DATABASE_URL`
    MIGRATIONS_DATABASE_URL: Annotated[dict[str, str] | None, parse_database_url] = None
    # database connections of each worker; a worker has twice as many threads
    DATABASE_POOL_SIZE: PositiveCount = 4
    # the age from which `flask history purge` deletes a change, such as `90d` or `12h`
    # Default: for ever
    HISTORY_RETENTION: Annotated[timedelta | None, parse_retention] = None
    # the folder with the program `postgres` that development and tests run
    # Default: found automatically
    EMBEDDED_POSTGRES_BIN: Annotated[Path | None, Path] = None

    # == Authentication and rate limits ==

    # the accepted credentials: `tokens`, `jwt` or `tokens,jwt`; with `none` anyone who can reach
    # the port can read and change everything
    # Default: `none`; required in production
    AUTH: Annotated[tuple[str, ...] | None, choices("tokens", "jwt")] = ()
    # the `iss` claim of the identity provider's tokens (`docs/identity-providers.md`)
    JWT_ISSUER: Annotated[str, str] = ""
    # comma-separated list; the `aud` claim (or `azp`, if there is no `aud`) must contain one of
    # these values
    JWT_AUDIENCE: Annotated[tuple[str, ...], comma_list] = ()
    # the URL of the provider's public keys. With `jwt`, set exactly one of `JWT_JWKS_URL`,
    # `JWT_KEY_FILE` and `JWT_SECRET`
    JWT_JWKS_URL: Annotated[str, parse_https_url] = ""
    # a file with public keys, PEM or JWKS
    JWT_KEY_FILE: Annotated[Path | None, Path] = None
    # a shared secret of at least 32 characters, such as that of an old Supabase project
    JWT_SECRET: Annotated[str, parse_shared_secret] = ""
    # scopes of a JWT without a scope claim, such as `projects:read`
    # Default: `read` and `write` of every resource
    JWT_SCOPES: Annotated[tuple[str, ...], parse_scopes] = ()
    # how many requests each caller (with `AUTH=none` each address) may send, such as `100/minute`;
    # each address may have as many failed sign-ins
    RATE_LIMIT: Annotated[tuple[int, int] | None, parse_rate_limit] = None
    # `redis://...`, to count the requests of several hosts together; needs `pip install
    # 'redis~=8.1'`
    # Default: shared memory of the host
    RATE_LIMIT_REDIS_URL: Annotated[str, parse_redis_url] = ""

    # == Time limits, in seconds ==

    # how long a client may take to send a request; also how long it may pause while it reads the
    # response
    READ_TIMEOUT: Seconds = 10
    # how long a request waits for a thread (under sustained overload one eighth of this time)
    # before it gets a 503
    QUEUE_TIMEOUT: Seconds = 2
    # how long connecting to one database host may take
    DATABASE_CONNECT_TIMEOUT: Seconds = 3
    # how long a request waits for a free connection before it gets a 503
    DATABASE_POOL_TIMEOUT: Seconds = 2
    # a connection that was idle for this long is tested before use
    DATABASE_PING_AFTER_IDLE: Seconds = 5
    # how long a statement waits for a lock
    DATABASE_LOCK_TIMEOUT: Seconds = 1
    # how long a statement may run; without an answer one second later, the connection is closed
    DATABASE_STATEMENT_TIMEOUT: Seconds = 3
    # how long a transaction may be idle between two statements
    DATABASE_IDLE_IN_TRANSACTION_TIMEOUT: Seconds = 5
    # how long a request may use the database, in total
    REQUEST_TIMEOUT: Seconds = 8
    # how long a stop may take, in total: first `DRAIN_TIMEOUT`, then the running requests finish
    GRACEFUL_TIMEOUT: Seconds = 20
    # the first part of `GRACEFUL_TIMEOUT`: `/ready` answers 503, so that load balancers turn away,
    # and requests are still served
    DRAIN_TIMEOUT: Annotated[int, integer_between(0, 3600)] = 0

    # == Not settings: only the three classes below can change these ==

    # folder with the data of the PostgreSQL that runs if there is no DATABASE_URL
    EMBEDDED_POSTGRES_DIR = ROOT / "instance" / "postgres"
    # True while the tests run
    TESTING = False
    # True: AUTH=none is logged as a warning even if only this machine can reach HOST
    WARN_WITHOUT_AUTH = False
    # False: an error becomes a problem document in tests and under the debugger, too
    PROPAGATE_EXCEPTIONS = False

    def __init__(self, environ: Mapping[str, str]) -> None:
        for name, annotation in self.declared_settings().items():
            if text := environ.get(name, "").strip():
                (parse,) = annotation.__metadata__
                try:
                    setattr(self, name, parse(text))
                except ValueError as error:
                    raise ConfigError(f"{name} must be {error}.") from None
        if self.DATABASE_URL is None and self.MIGRATIONS_DATABASE_URL is not None:
            raise ConfigError("MIGRATIONS_DATABASE_URL has no effect without DATABASE_URL.")
        if self.RATE_LIMIT_REDIS_URL and not self.RATE_LIMIT:
            raise ConfigError("RATE_LIMIT_REDIS_URL has no effect without RATE_LIMIT.")
        if self.RATE_LIMIT_REDIS_URL and find_spec("redis") is None:
            raise ConfigError(
                "RATE_LIMIT_REDIS_URL needs the redis package: pip install 'redis~=8.1'"
            )
        if self.TRACES and not _has_package("opentelemetry.exporter.otlp.proto.http"):
            raise ConfigError(
                "TRACES needs the OpenTelemetry packages:"
                " pip install 'opentelemetry-exporter-otlp-proto-http~=1.45.2'"
            )
        self._check_jwt()
        for inner, outer in TIMEOUT_ORDER:
            if getattr(self, inner) >= getattr(self, outer):
                raise ConfigError(f"{inner} must be less than {outer}.")

    def _check_jwt(self) -> None:
        keys = [name for name in JWT_KEY_SETTINGS if getattr(self, name)]
        claims = [name for name in JWT_CLAIM_SETTINGS if getattr(self, name)]
        if "jwt" not in (self.AUTH or ()):
            if claims or keys:
                raise ConfigError(f"{(claims + keys)[0]} has no effect without jwt in AUTH.")
            return
        missing = [name for name in JWT_CLAIM_SETTINGS if name not in claims]
        if not keys:
            missing.append(f"one of {', '.join(JWT_KEY_SETTINGS)}")
        if missing:
            raise ConfigError(f"AUTH=jwt needs {' and '.join(missing)}.")
        if len(keys) > 1:
            raise ConfigError(f"{' and '.join(keys)} cannot be set together.")

    @classmethod
    def declared_settings(cls) -> dict[str, Any]:
        """Return the annotation of each setting by its name, without APP_ENV."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: hint for name, hint in hints.items() if get_origin(hint) is Annotated}


# Each timeout must be shorter than the one that contains it.
TIMEOUT_ORDER = (
    ("DATABASE_LOCK_TIMEOUT", "DATABASE_STATEMENT_TIMEOUT"),
    ("DATABASE_STATEMENT_TIMEOUT", "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT"),
    ("DATABASE_IDLE_IN_TRANSACTION_TIMEOUT", "REQUEST_TIMEOUT"),
    ("DATABASE_CONNECT_TIMEOUT", "REQUEST_TIMEOUT"),
    ("DATABASE_POOL_TIMEOUT", "REQUEST_TIMEOUT"),
    ("QUEUE_TIMEOUT", "REQUEST_TIMEOUT"),
    ("REQUEST_TIMEOUT", "GRACEFUL_TIMEOUT"),
    ("DRAIN_TIMEOUT", "GRACEFUL_TIMEOUT"),
)

JWT_CLAIM_SETTINGS = ("JWT_ISSUER", "JWT_AUDIENCE")
JWT_KEY_SETTINGS = ("JWT_JWKS_URL", "JWT_KEY_FILE", "JWT_SECRET")


class Development(Config):
    """A developer's machine: CORS allows the tutorial's front ends."""

    APP_ENV = "development"
    ALLOWED_ORIGINS = tuple(
        f"http://{host}:{port}"
        for host in ("localhost", "127.0.0.1")
        for port in (3000, 5173, 5174)
    )


class Testing(Config):
    """The tests, which delete all rows: only a test database is accepted."""

    APP_ENV = "testing"
    EMBEDDED_POSTGRES_DIR = ROOT / "instance" / "testing"
    TESTING = True

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        word = re.compile(r"(^|[^a-z])test(s|ing)?([^a-z]|$)", re.IGNORECASE)
        for name in ("DATABASE_URL", "MIGRATIONS_DATABASE_URL"):
            parameters = getattr(self, name)
            if parameters is not None and not word.search(parameters.get("dbname", "")):
                raise ConfigError(
                    f"APP_ENV=testing needs a test database: the database name in {name}"
                    " must contain the word test, as in my_test."
                )


class Production(Config):
    """Production: DATABASE_URL and AUTH are required."""

    APP_ENV = "production"
    HOST = "0.0.0.0"  # noqa: S104 - a proxy or a container must reach it
    LOG_FORMAT = "json"
    DRAIN_TIMEOUT = 5  # by then a load balancer has probed /ready
    AUTH = None  # no default
    CONSOLE = False
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
                "APP_ENV=production needs AUTH: tokens, jwt or tokens,jwt. (With none, anyone who"
                " can reach the port can read and change everything.)"
            )


ENVIRONMENTS = {cls.APP_ENV: cls for cls in (Development, Testing, Production)}


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Return the settings of the environment that APP_ENV selects, by default development.

    `environ` replaces the process's environment and `.env`. Raises ConfigError if a setting is
    missing or invalid.
    """
    environ = _read_environment() if environ is None else environ
    name = environ.get("APP_ENV", "").strip() or Development.APP_ENV
    if name not in ENVIRONMENTS:
        raise ConfigError(f"APP_ENV must be one of {', '.join(ENVIRONMENTS)}.")
    return ENVIRONMENTS[name](environ)


def setting_source(name: str) -> tuple[str, str]:
    """Return the text of a setting and its source, or two empty strings if it is not set."""
    text = _read_environment().get(name, "").strip()
    if not text:
        return "", ""
    is_in_file = read_dotenv(ROOT / ".env").get(name, "").strip() == text
    return text, ".env" if is_in_file else "the environment"


def _has_package(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a package that contains it
        return False


def _read_environment() -> Mapping[str, str]:
    return read_environment(ROOT / ".env", Config.declared_settings().keys())


if __name__ == "__main__":  # `make run` first checks the settings and the port
    config = load_config()
    check_address(config.HOST, config.PORT)
