"""The rules of the house, as tests."""

import ast
import re
import subprocess
import sys

import pytest

import config
from projectapp import database

PACKAGE = config.ROOT / "projectapp"
JWT = {"JWT_ISSUER": "https://issuer", "JWT_AUDIENCE": "us", "JWT_SECRET": "s" * 32}
SETTING_ROW = re.compile(r"^\| `([A-Z_]+)`", re.M)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_only_the_factory_imports_the_feature():
    users = [
        path
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "projects"
        and any(name.startswith("projectapp.projects") for name in imports(path))
    ]
    assert users == [PACKAGE / "__init__.py"]


def test_statements_know_nothing_of_http():
    for module in ("lists.py", "owners.py", "resource.py", "writes.py"):
        assert not [n for n in imports(PACKAGE / "resources" / module) if n.startswith("flask")]


def test_columns_have_no_defaults_that_only_sqlalchemy_would_give(app):
    """What compiles once never asks for them: they would be null, and nobody would be told."""
    for table in database.db.metadata.tables.values():
        assert not [column for column in table.c if (column.default or column.onupdate) is not None]


def test_only_config_reads_the_environment():
    readers = [
        path.name
        for path in [
            *PACKAGE.rglob("*.py"),
            config.ROOT / "wsgi.py",
            config.ROOT / "gunicorn.conf.py",
        ]
        if re.search(r"os\.environ|getenv|import environ", path.read_text())
    ]
    assert readers == []


def test_the_settings_page_and_env_example_name_every_setting():
    names = {"APP_ENV", *config.Config.declared_settings()}
    listed = SETTING_ROW.findall((config.ROOT / "docs" / "settings.md").read_text())
    assert sorted(listed) == sorted(names)
    for readme in ("README.md", "README.ko.md"):
        assert {*SETTING_ROW.findall((config.ROOT / readme).read_text())} < names
    example = (config.ROOT / ".env.example").read_text()
    assert set(re.findall(r"^#? ?([A-Z_]+)=", example, re.M)) == names


def test_the_security_page_names_tests_that_there_are():
    page = (config.ROOT / "docs" / "security.md").read_text()
    there = "".join(path.read_text() for path in (config.ROOT / "tests").glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    assert not [name for name in named if f"def {name}(" not in there]


def test_no_project_outside_the_loopback_is_named_on_the_docs_page():
    for name in ("templates/docs.html", "static/docs/page.css", "static/docs/show.js"):
        assert "//" not in (PACKAGE / name).read_text(), name


@pytest.mark.parametrize(
    ("auth", "kept"),
    [("tokens", {"sqlalchemy"}), ("jwt", {"sqlalchemy", "cryptography", "joserfc"})],
)
def test_a_server_imports_nothing_that_only_a_command_or_another_setting_needs(auth, kept):
    done = subprocess.run(
        [sys.executable, "-c", "import sys, wsgi; print(*sys.modules)"],
        cwd=config.ROOT,
        env={
            **{"APP_ENV": "production", "DATABASE_URL": "postgresql://localhost/none"},
            **{"AUTH": auth, **({} if auth == "tokens" else JWT)},
        },
        capture_output=True,
        text=True,
        check=True,
    )
    watched = {"sqlalchemy", "cryptography", "joserfc", "alembic", "flask_migrate", "redis"}
    assert watched & {*done.stdout.split()} == kept
