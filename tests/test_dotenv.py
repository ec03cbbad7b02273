"""`.env`: which commands read it, and the messages for an invalid file."""

import os
import re
import subprocess
import sys

import pytest

import config

pytestmark = pytest.mark.slow

LOAD_SCRIPT = "import config; print('PORT', config.load_config().PORT)"
PRINT_PORT = "print('PORT', app.config['PORT'])\n"
COMMANDS = {
    "python": [sys.executable, "-c", LOAD_SCRIPT],
    "gunicorn": [sys.executable, "-m", "gunicorn", "wsgi:app", "--print-config"],
    "flask": [sys.executable, "-m", "flask", "shell"],
}
NOT_UTF8 = (
    ".env is not UTF-8 text: save it with the encoding UTF-8"
    " (in PowerShell: Out-File -Encoding utf8)."
)


@pytest.fixture
def start(app_copy):
    """Run a command in the copy of the application; PRINT_PORT is its standard input."""

    def run(*command, **environ):
        own_names = (*config.Config.declared_settings(), "APP_ENV", "FLASK_SKIP_DOTENV")
        clean = {name: text for name, text in os.environ.items() if name not in own_names}
        return subprocess.run(
            command,
            cwd=app_copy,
            env=clean | environ,
            input=PRINT_PORT,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def has_port(done, port):
    assert done.returncode == 0, done.stderr
    return re.search(rf"PORT {port}\b|\bbind += \['127\.0\.0\.1:{port}'\]", done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_dotenv_in_utf8_is_read_with_and_without_bom(app_copy, start, command):
    for port, encoding in ((9000, "utf-8"), (9001, "utf-8-sig")):
        (app_copy / ".env").write_text(f"PORT={port}\n# 포트\n", encoding)
        assert has_port(start(*COMMANDS[command]), port)


@pytest.mark.parametrize("command", COMMANDS)
def test_testing_takes_only_app_env_from_dotenv(app_copy, start, command):
    production = "DATABASE_URL=postgresql://u:p@db.example.com/production\nPORT=9000\n"
    (app_copy / ".env").write_text(production)
    assert has_port(start(*COMMANDS[command], APP_ENV="testing"), 8000)
    assert has_port(start(*COMMANDS[command], APP_ENV="testing", PORT="9001"), 9001)
    (app_copy / ".env").write_text(f"APP_ENV=testing\nFLASK_SKIP_DOTENV=1\n{production}")
    assert has_port(start(*COMMANDS[command]), 8000)
    assert has_port(start(*COMMANDS[command], APP_ENV="testing"), 8000)


@pytest.mark.parametrize("place", [".env", "../.env"])
def test_command_in_testing_does_not_connect_to_the_database_of_dotenv(
    app_copy, start, proxy, place
):
    (app_copy / place).write_text(f"DATABASE_URL={proxy.url}\n")
    command = [sys.executable, "-m", "flask", "db", "downgrade", "base"]
    done = start(*command, APP_ENV="testing")
    assert done.returncode == 0, done.stderr
    assert proxy.queries == []
    other_url = f"{proxy.url}&connect_timeout=9"
    start(*command[:3], "db", "current", APP_ENV="testing", DATABASE_URL=other_url)
    assert proxy.queries


def test_app_env_in_flaskenv_and_dotenv_raises_error(app_copy, start, proxy):
    (app_copy / ".env").write_text(f"APP_ENV=production\nAUTH=none\nDATABASE_URL={proxy.url}\n")
    (app_copy / ".flaskenv").write_text("APP_ENV=testing\n")
    done = start(sys.executable, "-m", "flask", "db", "downgrade", "base")
    assert (done.returncode, proxy.queries) == (1, [])
    assert ".flaskenv sets APP_ENV" in done.stderr


@pytest.mark.parametrize(
    ("place", "setting"), [(".flaskenv", "PORT=9000"), ("../.env", "APP_ENV=production")]
)
def test_setting_in_a_file_that_only_flask_reads_raises_error(app_copy, start, place, setting):
    (app_copy / place).write_text(f"{setting}\nUNKNOWN=1\n")
    done = start(*COMMANDS["flask"])
    path = (app_copy / place).resolve()
    assert (done.returncode, done.stderr) == (
        1,
        f"{path} sets {setting.partition('=')[0]}. The flask command reads this file, and the"
        " service does not: move the setting to .env, or set FLASK_SKIP_DOTENV=1.\n",
    )
    assert has_port(start(*COMMANDS["flask"], FLASK_SKIP_DOTENV="1"), 8000)
    assert has_port(start(*COMMANDS["gunicorn"]), 8000)
    (app_copy / place).write_text("UNKNOWN=1\n")
    assert has_port(start(*COMMANDS["flask"]), 8000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("PORT=9000\n".encode("utf-16"), NOT_UTF8),
        ("PORT=9000\n".encode("utf-16-le"), NOT_UTF8),
        ("# 포트\nPORT=9000\n".encode("cp949"), NOT_UTF8),
        (
            b"PORT=9000\n\n\nDATABASE_URL='postgresql://u:secret@h/d\nPORT=2\n",
            ".env, line 4: write NAME=VALUE, and close every quote.",
        ),
        (b"PORT: 9000\n", ".env, line 1: write NAME=VALUE, and close every quote."),
    ],
    ids=["UTF-16", "UTF-16 without BOM", "CP949", "an open quote", "YAML"],
)
def test_invalid_dotenv_exits_with_one_line_message(app_copy, start, content, message):
    (app_copy / ".env").write_bytes(content)
    done = start(*COMMANDS["python"])
    assert (done.returncode, done.stderr) == (1, f"{message}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_dotenv_in_utf16_exits_with_one_line_message_in_every_command(app_copy, start, command):
    (app_copy / ".env").write_bytes("PORT=9000\n".encode("utf-16"))
    # Without FLASK_SKIP_DOTENV, Flask fails before it runs the application.
    done = start(*COMMANDS[command], FLASK_SKIP_DOTENV="1")
    assert (done.returncode, done.stderr) == (1, f"{NOT_UTF8}\n")


@pytest.mark.parametrize(
    ("create", "reason"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["a directory", "a link to itself"],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_unreadable_dotenv_exits_with_one_line_message(app_copy, start, command, create, reason):
    create(app_copy / ".env")
    done = start(*COMMANDS[command])
    assert done.returncode == 1
    assert done.stderr == (
        f".env cannot be read ({reason}): it must be a file that this user may read.\n"
    )


def test_doctor_reports_an_invalid_dotenv(app_copy, start):
    (app_copy / ".env").write_bytes("PORT=9000\n".encode("utf-16"))
    done = start(sys.executable, "-m", "flask", "doctor", FLASK_SKIP_DOTENV="1")
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  settings    .env is not UTF-8 text" in done.stdout
