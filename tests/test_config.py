"""config.py and settings/: valid values are parsed, invalid ones end with a one-line message."""

import subprocess
import sys
import unicodedata
from datetime import timedelta

import pytest

import config
from config import ConfigError, Development, Production, load_config
from settings import database_url

URL = "postgresql://u:p@h/d"
TEST_URL = "postgresql://u:p@h/my_Test_1"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PRIMARY, REQUIRE = {"target_session_attrs": "primary"}, {"sslmode": "require"}
VERIFIED = {"sslmode": "verify-full", "sslrootcert": CA_BUNDLE}


BAD_HOSTS = (
    *("0.0.0.0:8000", "http://localhost", "localhost:8000", "[::1]:8000", "[127.0.0.1]", "[", "[]"),
    *("unix:/run/s", "/run/s", "a b", "256.1.1.1", "127.1", "8000", "*", "::1%lo", "a..b", "한국"),
)
HOST_MESSAGE = (
    "HOST must be an IP address or a name of this machine, such as 127.0.0.1, 0.0.0.0, :: or"
    " localhost, without http:// and without a port (set PORT)."
)


def test_app_env_selects_the_class():
    assert type(load_config({})) is Development
    assert type(load_config({"APP_ENV": " "})) is Development
    assert type(load_config({"APP_ENV": " testing ", "DATABASE_URL": TEST_URL})) is config.Testing
    production = {"APP_ENV": "production", "DATABASE_URL": URL, "AUTH": "none"}
    assert type(load_config(production)) is Production


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"APP_ENV": "prod"}, "APP_ENV must be one of development, testing, production."),
        (
            {"APP_ENV": "production"},
            "APP_ENV=production needs DATABASE_URL,"
            " such as postgresql://USER:PASSWORD@HOST:5432/DATABASE.",
        ),
        (
            {"APP_ENV": "production", "DATABASE_URL": URL},
            "APP_ENV=production needs AUTH: tokens, jwt or tokens,jwt. (With none, anyone who can"
            " reach the port can read and change everything.)",
        ),
        *(
            ({"AUTH": bad}, "AUTH must be none, or a comma-separated list of these: tokens, jwt.")
            for bad in ("off", "tokens;jwt", "none,jwt", "basic", ",")
        ),
        *(
            ({"PORT": bad}, "PORT must be a whole number from 1 to 65535.")
            for bad in ("0", "x", "1e3")
        ),
        *(
            ({"PORT": bad}, "PORT must be a whole number from 1 to 65535.")
            for bad in ("65536", "-1", "٣")
        ),
        ({"DATABASE_POOL_SIZE": "0"}, "DATABASE_POOL_SIZE must be a whole number from 1 to 1000."),
        (
            {"DATABASE_STATEMENT_TIMEOUT": "5"},
            "DATABASE_STATEMENT_TIMEOUT must be less than DATABASE_IDLE_IN_TRANSACTION_TIMEOUT.",
        ),
        (
            {"MIGRATIONS_DATABASE_URL": URL},
            "MIGRATIONS_DATABASE_URL has no effect without DATABASE_URL.",
        ),
        ({"QUEUE_TIMEOUT": "8"}, "QUEUE_TIMEOUT must be less than REQUEST_TIMEOUT."),
        ({"DRAIN_TIMEOUT": "20"}, "DRAIN_TIMEOUT must be less than GRACEFUL_TIMEOUT."),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT must be one of text, json."),
        *(
            (
                {"ALLOWED_ORIGINS": bad},
                "ALLOWED_ORIGINS must be a list of origins, such as"
                " https://app.example.com,https://*.example.com.",
            )
            for bad in (
                *("localhost:3000", "[1]", '["a', "https://a.example/path", "https://*", "**"),
                *("null", "https://a..b", "https://u@a.example", "https://a.example?x"),
                *("https://a.example:65536", "https://a.example:x", "https://[1]", "https://["),
                *("https://*.[::1]", "http://::1", "//a.example", "https://a b.example"),
                *(
                    "https://",
                    "https://a.\u200bexample",
                    "https://a.ex\u00adample",
                    "https://a%2eb",
                ),
            )
        ),
        *(({"HOST": bad}, HOST_MESSAGE) for bad in BAD_HOSTS),
        *(
            (
                {"APP_ENV": "testing", **urls},
                f"APP_ENV=testing needs a test database: the database name in {name} must contain"
                " the word test, as in my_test.",
            )
            for name, urls in (
                ("DATABASE_URL", {"DATABASE_URL": URL}),
                ("DATABASE_URL", {"DATABASE_URL": "postgresql://h/latest"}),
                ("DATABASE_URL", {"DATABASE_URL": "postgresql://h/attestations_production"}),
                ("DATABASE_URL", {"DATABASE_URL": "postgresql://test@test/"}),
                ("DATABASE_URL", {"DATABASE_URL": "postgresql://h/test?dbname=production"}),
                (
                    "MIGRATIONS_DATABASE_URL",
                    {"DATABASE_URL": TEST_URL, "MIGRATIONS_DATABASE_URL": URL},
                ),
            )
        ),
        *(
            ({"PORT": bad}, "PORT must be a whole number from 1 to 65535.")
            for bad in ("8000/tcp", "80 00", "tcp://10.0.0.1:80", "８０００", "8000.0", "+80")
        ),
    ],
)
def test_invalid_value_raises_one_line_message(environ, message):
    with pytest.raises(ConfigError) as raised:
        load_config(environ)
    assert str(raised.value) == message


def test_history_retention_is_at_least_an_hour():
    assert config.Development({}).HISTORY_RETENTION is None
    for text, expected in (("90d", timedelta(90)), ("12h", timedelta(hours=12))):
        assert expected == config.Development({"HISTORY_RETENTION": text}).HISTORY_RETENTION
    for text in ("0h", "59m", "90", "-1d", "1.5d", "d", "123456d"):
        with pytest.raises(config.ConfigError, match="HISTORY_RETENTION must be a number of"):
            config.Development({"HISTORY_RETENTION": text})


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        (URL, {"host": "h", "user": "u", "password": "p", "dbname": "d"}),
        ("postgres://u:p@h/d", {"host": "h", "user": "u", "password": "p", "dbname": "d"}),
        (
            "postgresql+psycopg2://u:p@h/d",
            {"host": "h", "user": "u", "password": "p", "dbname": "d"},
        ),
        (
            "postgresql://u:a%40b%2Fc%23d%25@h:6543/d?sslmode=require&pgbouncer=true&schema=public",
            {"host": "h", "port": "6543", "user": "u", "dbname": "d"}
            | {"password": "a@b/c#d%", "sslmode": "require"},
        ),
        (
            "postgresql://u@h1:5432,h2:5433/d?target_session_attrs=read-write",
            {"host": "h1,h2", "port": "5432,5433", "user": "u", "dbname": "d"}
            | {"target_session_attrs": "read-write"},
        ),
        ("postgresql://u@[::1]:5/d", {"host": "::1", "port": "5", "user": "u", "dbname": "d"}),
        ("postgresql:///d?host=/a%20b", {"host": "/a b", "dbname": "d"}),
        ("postgresql+asyncpg://u@h/d", {"host": "h", "user": "u", "dbname": "d"}),
        (
            "postgresql://u@h1,h2/d",
            {"host": "h1,h2", "port": ",", "user": "u", "dbname": "d", **PRIMARY},
        ),
        ("postgresql://u:a#b@h/d", {"host": "h", "user": "u", "password": "a#b", "dbname": "d"}),
        ("postgresql://u@h/d?ssl=true", {"host": "h", "user": "u", "dbname": "d", **REQUIRE}),
    ],
)
def test_database_url_in_each_common_form_is_parsed(url, parameters):
    assert parameters == load_config({"DATABASE_URL": url}).DATABASE_URL


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        # Supabase: direct, session pooler, transaction pooler
        ("postgresql://postgres:p@db.abcdefgh.supabase.co:5432/postgres", VERIFIED),
        ("postgres://postgres.abcd:p@aws-0-eu-west-1.pooler.supabase.com:5432/postgres", VERIFIED),
        (
            "postgres://postgres.abcd:p@aws-0-eu-west-1.pooler.supabase.com:6543/postgres"
            "?pgbouncer=true&connection_limit=1&sslmode=require",
            REQUIRE,
        ),
        (
            "postgresql://u:p@db.abcdefgh.supabase.co/postgres?sslrootcert=prod-ca-2021.crt",
            {"sslmode": "verify-full", "sslrootcert": "prod-ca-2021.crt"},
        ),
        # Neon: direct, pooled
        (
            "postgresql://u:p@ep-a-b-1.eu-central-1.aws.neon.tech/d"
            "?sslmode=require&channel_binding=require",
            REQUIRE | {"channel_binding": "require"},
        ),
        ("postgresql://u:p@ep-a-b-1-pooler.eu-central-1.aws.neon.tech/d", VERIFIED),
        (
            "postgresql://u:p@a.eu-west-1.rds.amazonaws.com:5432/d"
            "?sslmode=verify-full&sslrootcert=/etc/rds.pem",
            {"sslmode": "verify-full", "sslrootcert": "/etc/rds.pem"},
        ),
        ("postgresql://u:p@a.example.com/d?sslmode=verify-full", VERIFIED),
        ("postgresql://u:p@a.example.com/d?sslrootcert=system", VERIFIED),
        ("postgresql://u:p@a.example.com/d?sslmode=disable", {"sslmode": "disable"}),
        ("postgresql://u:p@a.example.com,b.example.com/d", VERIFIED | PRIMARY),
        ("postgresql://u:p@8.8.8.8/d", VERIFIED),
        ("postgresql://u:p@[2606:4700::1111]/d", VERIFIED),
        *(
            (f"postgresql://u:p@{host}/d", {})
            for host in ("localhost", "db", "127.0.0.1", "[::1]", "10.0.0.5", "192.168.1.2")
        ),
        *(
            (f"postgresql://u:p@{host}/d", {})
            for host in (
                "db.railway.internal",
                "pg.prod.svc",
                "pg.flycast",
                "nas.local",
                "[fd00::1]",
            )
        ),
        ("postgresql:///d?host=/tmp/a.b", {}),
        *(
            (f"postgresql://u:p@{host}/d", {})
            for host in ("LOCALHOST", "localhost.", "db.", "DB.Internal", "[fe80::1%25eth0]")
        ),
        ("postgresql://u:p@/d?hostaddr=8.8.8.8", VERIFIED | {"hostaddr": "8.8.8.8"}),
        ("postgresql://u:p@db/d?hostaddr=10.0.0.5", {"hostaddr": "10.0.0.5"}),
    ],
)
def test_database_url_of_public_host_gets_verified_tls_unless_it_has_an_sslmode(
    monkeypatch, url, expected
):
    monkeypatch.setattr(database_url, "_CA_BUNDLE_PATHS", (None, "/nowhere", CA_BUNDLE))
    monkeypatch.setattr("os.path.isfile", lambda path: path == CA_BUNDLE)
    parameters = load_config({"DATABASE_URL": url}).DATABASE_URL
    address = {"host", "port", "user", "password", "dbname"}
    assert expected == {key: value for key, value in parameters.items() if key not in address}


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root:hunter2@h/d",
        "sqlite:///hunter2",
        "hunter2",
        "host=h password=hunter2",
        "postgresql://u:hunter2%zz@h/d",
        "postgresql://u:hunter2/x@h/d",
        "postgresql://u:hunter2@x@h/d",
        "postgresql://u@h:hunter2/d",
        "postgresql://u:hunter2@h/d?sslmod=require",
        "postgresql://u:hunter2@h/d?options=-c%20a=b",
        "postgresql://u:hunter2@h/d?sslmode=no-verify",
        "postgresql://u:hunter2@h/d?ssl=false",
        "postgresql://u:12?hunter2@h/d",
        "postgresql://u:a@b/hunter2@h/d",
        "postgresql://u:12/hunter2@h/d",
        "jdbc:postgresql://h/d?password=hunter2",
        "app:hunter2://x@h/d",
        "postgresql://u:12?x=hunter2@h/d",
        "postgresql://u:12?x=1&hunter2=3@h/d",
        "postgresql://u@h/d?password=12&hunter2",
        "postgresql://u:hunter2%ff@h/d",
        "postgresql://u:hunter2\udcff@h/d",
        "postgresql://u:hunter2@h/d?SSLMODE=require",
    ],
)
def test_invalid_database_url_raises_message_without_the_password(url):
    with pytest.raises(ConfigError) as raised:
        load_config({"DATABASE_URL": url})
    message = str(raised.value)
    assert message.startswith("DATABASE_URL must be a PostgreSQL URL such as postgresql://USER:")
    assert "hunter2" not in message
    assert ("not mysql://..." in message) == url.startswith("mysql")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example", ("https://a.example",)),
        (
            " https://a.example/ , ,http://localhost:5173,",
            ("https://a.example", "http://localhost:5173"),
        ),
        (
            '["https://a.example", "https://*.b.example"]',
            ("https://a.example", "https://*.b.example"),
        ),
        ("[]", ()),
        ("*", ("*",)),
        # As browsers send them: the value of `new URL(text).origin`.
        ("HTTPS://App.Example.COM/", ("https://app.example.com",)),
        ("https://한국.kr", ("https://xn--3e0b707e.kr",)),
        ("https://xn--3e0b707e.kr", ("https://xn--3e0b707e.kr",)),
        (unicodedata.normalize("NFD", "https://한국.kr"), ("https://xn--3e0b707e.kr",)),
        ("https://*.한국.kr", ("https://*.xn--3e0b707e.kr",)),
        ("https://faß.de,https://FAẞ.de", ("https://xn--fa-hia.de",)),
        ("https://İ.com", ("https://xn--i-9bb.com",)),
        ("https://ΣΑΣ.gr", ("https://xn--mxa9ab.gr",)),
        ("https://BÜCHER.example", ("https://xn--bcher-kva.example",)),
        ("https://日本語。ＪＰ", ("https://xn--wgv71a119e.jp",)),
        ("https://نامه\u200cای.com", ("https://xn--mgba3gch31f060k.com",)),
        ("https://\u2764\ufe0f.example", ("https://xn--qei.example",)),
        (
            "https://a.com:443,http://a.com:80,https://a.com:80",
            ("https://a.com", "http://a.com", "https://a.com:80"),
        ),
        ("http://[::1]:5173", ("http://[::1]:5173",)),
        ("http://[0:0:0:0:0:0:0:1]:05173", ("http://[::1]:5173",)),
        ("http://[2001:DB8::1]:80", ("http://[2001:db8::1]",)),
        ("capacitor://localhost,tauri://localhost", ("capacitor://localhost", "tauri://localhost")),
    ],
)
def test_allowed_origins_are_parsed_from_a_comma_separated_or_json_list(text, expected):
    assert expected == load_config({"ALLOWED_ORIGINS": text}).ALLOWED_ORIGINS


def test_empty_variable_selects_the_default():
    assert load_config({"PORT": "", "DATABASE_POOL_SIZE": "  "}).PORT == 8000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "127.0.0.1"),
        ("::", "::"),
        ("[::]", "::"),
        ("[::1]", "::1"),
        ("FD00:0::1", "fd00::1"),
        ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - containers need it
        (" LocalHost ", "localhost"),
        ("web-1.internal.", "web-1.internal."),
    ],
)
def test_host_accepts_an_address_or_a_name(text, expected):
    assert expected == load_config({"HOST": text}).HOST


def test_environment_overrides_dotenv_and_testing_ignores_dotenv(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    (tmp_path / ".env").write_text("PORT=9999\nDATABASE_POOL_SIZE=7\nDATABASE_URL=\n")
    monkeypatch.delenv("APP_ENV", raising=False)
    monkeypatch.setenv("DATABASE_POOL_SIZE", "3")
    loaded = load_config()
    assert (loaded.PORT, loaded.DATABASE_POOL_SIZE, loaded.DATABASE_URL) == (9999, 3, None)
    monkeypatch.setenv("APP_ENV", "testing")
    assert load_config().PORT == 8000


@pytest.mark.parametrize("command", [["gunicorn", "wsgi:app"], ["flask", "routes"]])
def test_command_with_missing_setting_exits_with_one_line_message(command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=config.ROOT,
        env={"APP_ENV": "production", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "APP_ENV=production needs DATABASE_URL,"
        " such as postgresql://USER:PASSWORD@HOST:5432/DATABASE."
    )
