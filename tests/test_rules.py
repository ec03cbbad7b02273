"""The rules of the code, as tests."""

import ast
import dataclasses
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

import config
from projectapp import database
from projectapp.request_state import RequestState
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


# A module imports only modules of its own package and of layers further down. A package that is not
# in this list is a resource, which may also import other resources.
LAYERS = [
    *("__init__", "server", "doctor", "RESOURCE", "console", "bulk", "resources", "http", "auth"),
    *("rate_limit", "database", "devdb", "cli", "http_client", "strict_json", "request_state"),
    *("problems", "metrics", "tracing"),
]


def modules():
    """Yield the dotted name and the path of each module of the application."""
    for path in PACKAGE.rglob("*.py"):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def dependencies():
    """Yield each module with the modules that it imports, also within functions."""
    paths = dict(modules())
    for name, path in paths.items():
        imported = {i.removeprefix("projectapp.") for i in imports(path) if "projectapp." in i}
        packages = {f"{i}.__init__" for i in imported} & paths.keys()
        yield name, (imported & paths.keys()) | {p for p in packages if not name.startswith(p[:-9])}


def package_and_layer(module):
    """Return the package of a module, and the place of that package in LAYERS."""
    package = module.partition(".")[0]
    return package, LAYERS.index(package if package in LAYERS else "RESOURCE")


def test_modules_import_only_lower_layers():
    for module, imported in dependencies():
        package, layer = package_and_layer(module)
        for other in imported:
            other_package, other_layer = package_and_layer(other)
            are_resources = layer == other_layer == LAYERS.index("RESOURCE")
            assert other_package == package or other_layer > layer or are_resources, (module, other)


def test_no_two_modules_import_each_other():
    sorter = TopologicalSorter(dict(dependencies()))
    sorter.prepare()  # raises CycleError


def test_no_module_has_more_than_250_lines():
    scripts = [(path.name, path) for path in (PACKAGE / "static" / "console").glob("*.js")]
    assert len(scripts) > 30
    for name, path in [*modules(), *scripts]:
        assert len(path.read_text().splitlines()) <= 250, name


def test_modules_with_statements_do_not_import_flask():
    names = (
        *("changes", "history", "inserts", "lists", "owners", "page_statement", "resource"),
        *("restore", "search", "segments", "states", "subqueries", "values", "writes"),
    )
    paths = [PACKAGE / "resources" / f"{name}.py" for name in names]
    assert not [(p, n) for p in paths for n in imports(p) if n.startswith("flask")]


def test_only_request_state_uses_the_g_of_flask():
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "flask.g" in imports(path) or re.search(r"\bflask\.g\b", path.read_text())
    ]
    assert users == ["request_state.py"]


def test_each_field_of_the_request_state_is_written_by_the_module_that_its_comment_names():
    source = (PACKAGE / "request_state.py").read_text()
    named = dict(re.findall(r"^    (\w+): .* = .*  # (\w+/\w+\.py)", source, re.M))
    fields = {field.name for field in dataclasses.fields(RequestState)}
    assert fields - named.keys() == {
        *("request_id", "trace_id", "address", "started_at", "deadline")
    }
    written, at_creation = set(), set()
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).as_posix()
        if "projectapp.request_state" not in imports(path):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "RequestState":
                at_creation |= {keyword.arg for keyword in node.keywords}
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) in ("state", "request_state()")
            ):
                written.add((node.attr, module))
    assert written == {*named.items()}
    assert at_creation == fields - named.keys()


def test_columns_have_no_defaults_of_sqlalchemy(app):
    """Statements that are compiled once do not call them: the column would silently be null."""
    for table in database.db.metadata.tables.values():
        assert not [column for column in table.c if (column.default or column.onupdate) is not None]


# The session commits each flush by itself in AUTOCOMMIT mode, so that rollback() undoes nothing. It
# also needs several round trips and cannot resolve lost answers. Use database.execute() with
# SQLAlchemy Core on the models instead: projectapp/database/__init__.py shows how.
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


def test_every_test_named_in_the_security_page_exists():
    page = (config.ROOT / "docs" / "security.md").read_text()
    test_sources = "".join(path.read_text() for path in (config.ROOT / "tests").glob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", page))
    assert len(names) > 30
    assert not [name for name in names if f"def {name}(" not in test_sources]


def test_the_docs_page_names_no_other_host():
    for name in ("templates/docs.html", "static/docs/page.css", "static/docs/show.js"):
        assert "//" not in (PACKAGE / name).read_text(), name


@pytest.mark.parametrize(
    ("auth", "expected"),
    [("tokens", {"sqlalchemy"}), ("jwt", {"sqlalchemy", "cryptography", "joserfc"})],
)
def test_a_production_server_imports_only_what_its_auth_method_needs(auth, expected):
    result = subprocess.run(
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
    optional = {"sqlalchemy", "cryptography", "joserfc", "alembic", "flask_migrate", "redis"}
    optional |= {"opentelemetry"}
    modules = {*result.stdout.split()}
    assert optional & modules == expected
    assert "projectapp.bulk.views" in modules
    for_commands = (
        r"projectapp\.(devdb|doctor|bulk\.(import_file|imports|pull_run|pulled_rows))|zoneinfo"
    )
    assert not [name for name in modules if re.match(for_commands, name)]
