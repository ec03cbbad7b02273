"""`.env`: who reads it, and what is said of one that cannot be used."""

import os
import re
import subprocess
import sys

import pytest

import config

pytestmark = pytest.mark.slow

LOADED = "import config; print('PORT', config.load_config().PORT)"
SHELL = "print('PORT', app.config['PORT'])\n"
STARTS = {
    "python": [sys.executable, "-c", LOADED],
    "gunicorn": [sys.executable, "-m", "gunicorn", "wsgi:app", "--print-config"],
    "flask": [sys.executable, "-m", "flask", "shell"],
}
ENCODING = (
    ".env is not UTF-8 text: save it with the encoding UTF-8"
    " (in PowerShell: Out-File -Encoding utf8)."
)


@pytest.fixture
def start(app_copy):
    """Start in the copy as its user would, and print PORT."""

    def run(*command, **environ):
        mine = (*config.Config.declared_settings(), "APP_ENV", "FLASK_SKIP_DOTENV")
        clean = {name: text for name, text in os.environ.items() if name not in mine}
        return subprocess.run(
            command,
            cwd=app_copy,
            env=clean | environ,
            input=SHELL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def has_port(done, port):
    assert done.returncode == 0, done.stderr
    return re.search(rf"PORT {port}\b|\bbind += \['127\.0\.0\.1:{port}'\]", done.stdout)


@pytest.mark.parametrize("how", STARTS)
def test_dotenv_in_utf_8_with_a_bom_or_without_is_read(app_copy, start, how):
    for port, encoding in ((9000, "utf-8"), (9001, "utf-8-sig")):
        (app_copy / ".env").write_text(f"PORT={port}\n# 포트\n", encoding)
        assert has_port(start(*STARTS[how]), port)


@pytest.mark.parametrize("how", STARTS)
def test_testing_takes_nothing_from_dotenv_however_it_is_started(app_copy, start, how):
    production = "DATABASE_URL=postgresql://u:p@db.example.com/production\nPORT=9000\n"
    (app_copy / ".env").write_text(production)
    assert has_port(start(*STARTS[how], APP_ENV="testing"), 8000)
    assert has_port(start(*STARTS[how], APP_ENV="testing", PORT="9001"), 9001)
    (app_copy / ".env").write_text(f"APP_ENV=testing\nFLASK_SKIP_DOTENV=1\n{production}")
    assert has_port(start(*STARTS[how]), 8000)
    assert has_port(start(*STARTS[how], APP_ENV="testing"), 8000)


@pytest.mark.parametrize("place", [".env", "../.env"])
def test_a_test_run_of_a_command_leaves_the_database_of_dotenv_alone(app_copy, start, proxy, place):
    (app_copy / place).write_text(f"DATABASE_URL={proxy.url}\n")
    command = [sys.executable, "-m", "flask", "db", "downgrade", "base"]
    done = start(*command, APP_ENV="testing")
    assert done.returncode == 0, done.stderr
    assert proxy.queries == []
    other = f"{proxy.url}&connect_timeout=9"
    start(*command[:3], "db", "current", APP_ENV="testing", DATABASE_URL=other)
    assert proxy.queries


def test_an_environment_in_flaskenv_that_dotenv_overrides_is_refused(app_copy, start, proxy):
    (app_copy / ".env").write_text(f"APP_ENV=production\nAUTH=none\nDATABASE_URL={proxy.url}\n")
    (app_copy / ".flaskenv").write_text("APP_ENV=testing\n")
    done = start(sys.executable, "-m", "flask", "db", "downgrade", "base")
    assert (done.returncode, proxy.queries) == (1, [])
    assert ".flaskenv sets APP_ENV" in done.stderr


@pytest.mark.parametrize(
    ("place", "setting"), [(".flaskenv", "PORT=9000"), ("../.env", "APP_ENV=production")]
)
def test_a_file_that_only_flask_reads_is_refused(app_copy, start, place, setting):
    (app_copy / place).write_text(f"{setting}\nUNKNOWN=1\n")
    done = start(*STARTS["flask"])
    path = (app_copy / place).resolve()
    assert (done.returncode, done.stderr) == (
        1,
        f"{path} sets {setting.partition('=')[0]}, which the flask command reads and the service"
        " does not: set FLASK_SKIP_DOTENV=1, or move the setting to .env.\n",
    )
    assert has_port(start(*STARTS["flask"], FLASK_SKIP_DOTENV="1"), 8000)
    assert has_port(start(*STARTS["gunicorn"]), 8000)
    (app_copy / place).write_text("UNKNOWN=1\n")
    assert has_port(start(*STARTS["flask"]), 8000)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("PORT=9000\n".encode("utf-16"), ENCODING),
        ("PORT=9000\n".encode("utf-16-le"), ENCODING),
        ("# 포트\nPORT=9000\n".encode("cp949"), ENCODING),
        (
            b"PORT=9000\n\n\nDATABASE_URL='postgresql://u:secret@h/d\nTHREADS=2\n",
            ".env, line 4: write NAME=VALUE, and close a quote that is opened.",
        ),
        (b"PORT: 9000\n", ".env, line 1: write NAME=VALUE, and close a quote that is opened."),
    ],
    ids=["UTF-16", "UTF-16 without BOM", "CP949", "an open quote", "YAML"],
)
def test_a_dotenv_that_cannot_be_understood_is_one_sentence(app_copy, start, content, sentence):
    (app_copy / ".env").write_bytes(content)
    done = start(*STARTS["python"])
    assert (done.returncode, done.stderr) == (1, f"{sentence}\n")


@pytest.mark.parametrize("how", STARTS)
def test_a_dotenv_in_another_encoding_is_one_sentence_however_it_is_read(app_copy, start, how):
    (app_copy / ".env").write_bytes("PORT=9000\n".encode("utf-16"))
    # Without this it is Flask that fails, before it runs anything of the project.
    done = start(*STARTS[how], FLASK_SKIP_DOTENV="1")
    assert (done.returncode, done.stderr) == (1, f"{ENCODING}\n")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["a directory", "a link to itself"],
)
@pytest.mark.parametrize("how", STARTS)
def test_a_dotenv_that_cannot_be_read_is_one_sentence(app_copy, start, how, make, reason):
    make(app_copy / ".env")
    done = start(*STARTS[how])
    assert done.returncode == 1
    assert done.stderr == (
        f".env cannot be read ({reason}): it must be a file that this user may read.\n"
    )


def test_the_doctor_explains_a_dotenv_that_cannot_be_understood(app_copy, start):
    (app_copy / ".env").write_bytes("PORT=9000\n".encode("utf-16"))
    done = start(sys.executable, "-m", "flask", "doctor", FLASK_SKIP_DOTENV="1")
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  settings    .env is not UTF-8 text" in done.stdout
