"""Follow the documents that add a field and a resource, in a copy of the repository."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import config
from projectapp.database.schema import newest_revision
from projectapp.devdb.supervisor import is_unlocked, wait_until

GUIDE = (config.ROOT / "docs" / "add-a-resource.md").read_text()


@pytest.fixture
def repository():
    """A copy of all files that belong to the repository, with this virtual environment."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - PostgreSQL runs as another user if this one is root
        yield copy_repository(Path(folder, "copy"))
        for lock in Path(folder, "copy", "instance").rglob("*.lock"):
            # PostgreSQL stops after its last user.
            wait_until(lambda lock=lock: is_unlocked(lock), 60)


def copy_repository(copy: Path) -> Path:
    list_files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(list_files, cwd=config.ROOT, text=True).split("\n")
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
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=repository,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    return shell


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace a text that the file contains once."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old, text.count(old))
    path.write_text(text.replace(old, new))


def apply_diff(path: Path, diff: str) -> None:
    """Apply a diff without a header, such as those of the guide."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] != "+")
    replace_text(path, old, "".join(line[1:] for line in lines if line[0] != "-"))


COLUMNS = """\
    new_colour: Mapped[str | None] = mapped_column(sa.String(20))
    new_status: Mapped[str] = mapped_column(sa.String(20), server_default="new")
    new_rank: Mapped[int] = mapped_column(server_default=sa.text("3"))
    new_is_public: Mapped[bool] = mapped_column(server_default=sa.false())
    new_extra: Mapped[Any] = mapped_column(JSONB, nullable=True)
    new_due_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
"""
FIELDS = """\
    new_colour = fields.String(allow_none=True)
    new_status = fields.String()
    new_rank = Integer()
    new_is_public = StrictBoolean()
    new_extra = JSONObject(max_depth=3, allow_none=True)
    new_due_at = Timestamp(allow_none=True)
"""
USE = """
import json
from projectapp import create_app

client = create_app().test_client()
PATH = "/api/v1/projects"
DEFAULTS = {"new_colour": None, "new_status": "new", "new_rank": 3, "new_is_public": False}
DEFAULTS["new_extra"] = None
DEFAULTS["new_due_at"] = None
VALUES = {"new_colour": "blue", "new_status": "old", "new_rank": 7, "new_is_public": True}
VALUES["new_extra"] = {"a": 1}
SENT = {**VALUES, "new_due_at": "2026-01-31T09:00:00+09:00"}
VALUES["new_due_at"] = "2026-01-31T00:00:00.000000Z"


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
ids = {item.pop("id") for item in page["items"]}
assert len(ids) == 3  # two without a key and one with it
assert page["items"] == [VALUES] * 3
properties = client.get("/openapi.json").json["components"]["schemas"]["Project"]["properties"]
TYPES = {"new_colour": ["string", "null"], "new_status": "string", "new_rank": "integer"}
TYPES |= {"new_is_public": "boolean", "new_extra": ["object", "null"]}
TYPES["new_due_at"] = ["string", "null"]
assert {name: properties[name]["type"] for name in VALUES} == TYPES
WRONG = {"new_colour": 1, "new_status": None, "new_rank": "7", "new_is_public": 1, "new_extra": []}
for name, value in WRONG.items():
    response = client.post(PATH, json={"name": "E", name: value})
    assert (response.status_code, [*response.json["details"]]) == (400, [name])
print("used")
"""


def test_a_field_of_each_type_works_after_the_steps_of_the_readme(repository, run):
    readme = (config.ROOT / "README.md").read_text()
    (migrate,) = re.findall(r"`(\.venv/bin/flask db migrate -m \"add colour\")`", readme)
    run(".venv/bin/flask db upgrade")
    models = repository / "projectapp" / "projects" / "models.py"
    replace_text(models, "    search: Mapped[str]", f"{COLUMNS}\n    search: Mapped[str]")
    replace_text(
        models,
        "from typing import Any\n",
        "from datetime import datetime\nfrom typing import Any\n",
    )
    run(".venv/bin/flask db upgrade")  # as `make run` does, before there is a migration
    run(migrate)
    schemas = repository / "projectapp" / "projects" / "schemas.py"
    replace_text(schemas, "\n\nProjectQuery = ", f"{FIELDS}\n\nProjectQuery = ")
    replace_text(
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
def test_a_resource_works_after_the_steps_of_the_guide(repository, run):
    if (config.ROOT / "projectapp" / "tasks").exists():
        return  # somebody has followed the guide in this repository
    blocks = re.findall(r"^```(sh|diff)\n(.*?)^```", GUIDE, re.M | re.S)
    files = iter(["projectapp/__init__.py", "projectapp/__init__.py"])
    for kind, text in blocks:
        if kind == "diff":
            apply_diff(repository / next(files), text)
        elif "make run" not in text:
            output = run(text)
    assert not [*files], "the guide has a diff for each file"
    assert re.search(r"= \d+ passed in", output)
    assert "3 scenarios with tasks, 0 failed" in output
    run(".venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy")
    run(f".venv/bin/flask db downgrade {newest_revision()} && .venv/bin/flask db upgrade")
    assert "nothing to migrate" in run(".venv/bin/flask db migrate")
    paths = (repository / "projectapp" / "tasks").glob("*.py")
    assert 100 < sum(len(path.read_text().splitlines()) for path in paths) < 200
