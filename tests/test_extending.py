"""A field and a resource are added as the documents say, in a copy of the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import config

GUIDE = (config.ROOT / "docs" / "add-a-resource.md").read_text()


@pytest.fixture
def repository(tmp_path):
    """A copy of all files that belong to the repository, with this virtual environment."""
    copy = tmp_path / "copy"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listed, cwd=config.ROOT, text=True).split("\n")
    for name in filter(None, names):
        source, target = config.ROOT / name, copy / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


@pytest.fixture
def run(repository):
    """Run a command in the copy, which has a PostgreSQL of its own; return its output."""
    settings = {*config.Config.declared_settings()} - {"EMBEDDED_POSTGRES_BIN"}
    environ = {name: value for name, value in os.environ.items() if name not in settings}
    environ |= {"APP_ENV": "development", "FLASK_SKIP_DOTENV": "1"}

    def shell(command):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=repository,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return shell


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old, text.count(old))
    path.write_text(text.replace(old, new))


def apply(path: Path, diff: str) -> None:
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] != "+")
    edit(path, old, "".join(line[1:] for line in lines if line[0] != "-"))


COLUMNS = """\
    colour: Mapped[str | None] = mapped_column(sa.String(20))
    status: Mapped[str] = mapped_column(sa.String(20), server_default="new")
    rank: Mapped[int] = mapped_column(server_default=sa.text("3"))
    is_public: Mapped[bool] = mapped_column(server_default=sa.false())
    extra: Mapped[Any] = mapped_column(JSONB, nullable=True)
    due_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
"""
FIELDS = """\
    colour = fields.String(allow_none=True)
    status = fields.String()
    rank = Integer()
    is_public = StrictBoolean()
    extra = JSONObject(max_depth=3, allow_none=True)
    due_at = Timestamp(allow_none=True)
"""
USE = """
import json
from projectapp import create_app

client = create_app().test_client()
PATH = "/api/v1/projects"
DEFAULTS = {"colour": None, "status": "new", "rank": 3, "is_public": False, "extra": None}
DEFAULTS["due_at"] = None
VALUES = {"colour": "blue", "status": "old", "rank": 7, "is_public": True, "extra": {"a": 1}}
SENT = {**VALUES, "due_at": "2026-01-31T09:00:00+09:00"}
VALUES["due_at"] = "2026-01-31T00:00:00.000000Z"


def new_fields(response, status=200):
    assert response.status_code == status, response.text
    return {name: response.json[name] for name in DEFAULTS}


def create(body, key):
    return client.post(PATH, json=body, headers={"Idempotency-Key": key} if key else {})


for key in ("", "key"):
    for repetition in range(2):  # with a key it is the first response again
        assert new_fields(create({"name": "A"}, key and "a"), 201) == DEFAULTS
        assert new_fields(create({"name": "Blue", **SENT}, key and "b"), 201) == VALUES
    for name, value in SENT.items():
        created = create({"name": "C", name: value}, key and name)
        assert new_fields(created, 201) == {**DEFAULTS, name: VALUES[name]}
for method in ("PUT", "PATCH"):
    for name, value in SENT.items():
        path = f"{PATH}/{create({'name': 'D'}, '').json['id']}"
        changed = client.open(path, method=method, json={name: value})
        assert new_fields(changed) == {**DEFAULTS, name: VALUES[name]}
        assert changed.json["version"] == 2
        if DEFAULTS[name] is None:
            assert new_fields(client.open(path, method=method, json={name: None})) == DEFAULTS
page = client.get(f"{PATH}?fields={','.join(VALUES)}&q=blue").json
assert page["items"] == [{"id": item["id"], **VALUES} for item in page["items"]]
properties = client.get("/openapi.json").json["components"]["schemas"]["Project"]["properties"]
assert VALUES.keys() <= properties.keys()
assert client.post(PATH, json={"name": "E", "rank": "7"}).status_code == 400
print("used")
"""


def test_a_field_of_each_type_is_added_as_the_readme_says(repository, run):
    readme = (config.ROOT / "README.md").read_text()
    (migrate,) = re.findall(r"`(\.venv/bin/flask db migrate -m \"add colour\")`", readme)
    run(".venv/bin/flask db upgrade")
    models = repository / "projectapp" / "projects" / "models.py"
    edit(models, "    search: Mapped[str]", f"{COLUMNS}\n    search: Mapped[str]")
    edit(
        models,
        "from typing import Any\n",
        "from datetime import datetime\nfrom typing import Any\n",
    )
    run(".venv/bin/flask db upgrade")  # as `make run` does, before there is a migration
    run(migrate)
    schemas = repository / "projectapp" / "projects" / "schemas.py"
    edit(schemas, "\n\nProjectQuery = ", f"{FIELDS}\n\nProjectQuery = ")
    edit(
        schemas,
        "import JSONObject, QueryBoolean, QueryJSONObject, StrictBoolean",
        "import Integer, JSONObject, QueryBoolean, QueryJSONObject, StrictBoolean, Timestamp",
    )
    run("make format && .venv/bin/ruff format --check . && .venv/bin/ruff check .")
    assert "add colour" in run(".venv/bin/flask db upgrade")
    (repository / "use.py").write_text(USE)
    assert run(f"{sys.executable} use.py").endswith("used\n")
    assert "nothing to migrate" in run(".venv/bin/flask db migrate")


@pytest.mark.slow
def test_a_resource_is_added_as_the_guide_says(repository, run):
    blocks = re.findall(r"^```(sh|diff)\n(.*?)^```", GUIDE, re.M | re.S)
    files = iter(["projectapp/__init__.py", "projectapp/__init__.py", "tests/resources.py"])
    for kind, text in blocks:
        if kind == "diff":
            apply(repository / next(files), text)
        elif "make run" not in text:
            output = run(text)
    assert re.search(r"\d+ passed", output)
    run(".venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy")
    run(".venv/bin/flask db downgrade 0007 && .venv/bin/flask db upgrade")
    assert "nothing to migrate" in run(".venv/bin/flask db migrate")
    lines = (repository / "projectapp" / "tasks").glob("*.py")
    assert sum(len(path.read_text().splitlines()) for path in lines) < 200
