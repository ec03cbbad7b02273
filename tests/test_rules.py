"""The rules of the house, as tests."""

import ast
import re
import subprocess
import sys

import pytest

import config
from projectapp import database
from tests import settings_page

PACKAGE = config.ROOT / "projectapp"
JWT = {"JWT_ISSUER": "https://issuer", "JWT_AUDIENCE": "us", "JWT_SECRET": "s" * 32}
SETTING_ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) \|", re.M)


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


# The session commits each flush by itself in AUTOCOMMIT mode, so that rollback() undoes nothing. It
# also needs several round trips and knows no lost answers. Use database.execute() with SQLAlchemy
# Core on the models instead: projectapp/database/__init__.py shows how.
ORM_SHORTCUTS = {"get_or_404", "first_or_404", "one_or_404", "paginate"}


def orm_uses(source):
    """Yield each use of db.session, Model.query or another way to an ORM session."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2]
            is_query = node.attr == "query" and owner[:1].isupper()
            if is_query or (owner == "db" and node.attr in {"session", *ORM_SHORTCUTS}):
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module == "sqlalchemy.orm":
            yield from (a.name for a in node.names if a.name.lower().endswith("session"))


def test_no_module_uses_an_orm_session():
    example = "from sqlalchemy.orm import Session; database.db.session.add(1); Project.query.all()"
    assert sorted(orm_uses(example)) == ["Project.query", "Session", "database.db.session"]
    for path in PACKAGE.rglob("*.py"):
        assert list(orm_uses(path.read_text())) == [], path


def test_only_the_settings_package_reads_the_environment():
    readers = [
        path.name
        for path in [
            *PACKAGE.rglob("*.py"),
            config.ROOT / "config.py",
            config.ROOT / "wsgi.py",
            config.ROOT / "gunicorn.conf.py",
        ]
        if re.search(r"os\.environ|getenv|import environ", path.read_text())
    ]
    assert readers == []


def test_settings_page_and_env_example_agree_with_config():
    """`python -m tests.settings_page` updates both files."""
    page, example = settings_page.PAGE.read_text(), settings_page.EXAMPLE.read_text()
    assert page == settings_page.render_page(page)
    assert example == settings_page.render_example(example)
    names = {"APP_ENV", *config.Config.declared_settings()}
    assert sorted(name for name, _ in SETTING_ROW.findall(page)) == sorted(names)
    assert set(re.findall(r"^#? ?([A-Z_]+)=", example, re.M)) == names


@pytest.mark.parametrize("readme", ["README.md", "README.ko.md"])
def test_settings_in_a_readme_have_the_defaults_of_the_settings_page(readme):
    defaults = dict(SETTING_ROW.findall(settings_page.PAGE.read_text()))
    rows = SETTING_ROW.findall((config.ROOT / readme).read_text())
    assert rows
    for name, default in rows:
        assert defaults[name].startswith(default) or not default.startswith("`")


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
def test_production_server_imports_no_module_of_commands_devdb_doctor_or_other_settings(auth, kept):
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
    modules = {*done.stdout.split()}
    assert watched & modules == kept
    assert not [name for name in modules if re.match(r"projectapp\.(devdb|doctor)", name)]
