"""The commands and the settings of docs/moving-in.md."""

import json
import os
import re
import subprocess
import sys

import config
from tests.conftest import PROJECTS, all_items, with_long_timeouts
from tests.settings_page import PAGE as SETTINGS_PAGE
from tests.tutorial_backends import GoBackend, serving

PAGE = (config.ROOT / "docs" / "moving-in.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.S)


def test_commands_of_the_guide_move_the_projects(server, client, database_url):
    start, dry_run, cut_over, look, again = BLOCKS
    assert start == "PORT=8001 make run\n"
    settings = config.Config.declared_settings()
    environ = {name: value for name, value in os.environ.items() if name not in settings}
    environ |= {"APP_ENV": "testing", "DATABASE_URL": database_url}

    def run(block):
        for old, new in (
            ("http://localhost:8000", backend.url),
            ("http://localhost:8001", f"http://127.0.0.1:{server.port}"),
            (".venv/bin/flask", f"{sys.executable} -m flask"),
        ):
            block = block.replace(old, new)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=config.ROOT,
            env=with_long_timeouts(environ),
            input="\n",  # the Enter after the switch
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    with serving(GoBackend()) as backend:
        assert "would be created: 3" in run(dry_run)[0]
        assert not all_items(client, "?page_size=100")
        output, errors = run(cut_over)
        assert "Now switch the front end" in errors
        assert "Nothing was left behind" in output
        assert json.loads(run(look)[0])["total"] == 3
        backend.create("From an old tab")
        assert "  created: 1\n" in run(again)[0]
        assert client.get(PROJECTS).json["total"] == 4
        assert backend.requests.keys() == {"GET"}


def test_settings_of_the_guide_exist():
    rows = re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", PAGE, re.M)
    theirs = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row[0])}
    ours = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row[1])}
    assert theirs >= {
        *("VITE_API_URL", "PORT", "ENVIRONMENT", "ENV", "APP_ENV", "ALLOWED_ORIGINS"),
        *("CORS_ORIGINS", "DATABASE_URL", "JWT_SECRET", "SECRET_KEY"),
    }
    assert ours <= {"APP_ENV", *config.Config.declared_settings()}
    assert len(ours) == 6
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE)) - theirs
    assert named <= {*re.findall(r"`([A-Z_]+)`", SETTINGS_PAGE.read_text())}


def test_database_urls_of_the_guide_are_accepted():
    for scheme in ("postgres", "postgresql", "postgresql+asyncpg"):
        assert f"`{scheme}://`" in PAGE
        assert config.parse_database_url(f"{scheme}://me:x@localhost:5432/db")["dbname"] == "db"
