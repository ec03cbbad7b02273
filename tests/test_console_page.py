"""The page of the console: its headers, its files, and what it knows of the resources."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import config
from config import Development, Production
from projectapp.auth import tokens
from projectapp.console import views
from tests.test_extending import GUIDE, apply_diff, replace_text

PAGE = "/console"
TOKEN = tokens.new_token()


def page_config(text):
    block = re.search(r'<script type="application/json" id="config">(.*?)</script>', text)
    return json.loads(block[1])


def file_urls(text):
    return re.findall(r'(?:src|href)="([^"]*/console/[^"]*)"', text)


# The page


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}/", f"{PAGE}?id=1&q=x"])
def test_the_page_may_load_only_its_own_files_and_make_no_html_of_texts(client, path):
    response = client.get(path)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    policy = dict(
        directive.partition(" ")[::2]
        for directive in response.headers["Content-Security-Policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "//" not in re.sub("<script type=.application/json.*?</script>", "", response.text)


def test_the_page_needs_no_token_and_shows_no_row(auth_client, auth_headers):
    body = {"name": "Secret plan"}
    auth_client.post("/api/v1/projects", json=body, headers=auth_headers())
    response = auth_client.get(PAGE)
    assert response.status_code == 200
    assert "Secret plan" not in response.text


def test_head_of_the_page_has_its_headers_and_no_body(client):
    response = client.head(PAGE)
    assert (response.status_code, response.data) == (200, b"")
    assert "trusted-types" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize("prefix", ["", "/backend"])
@pytest.mark.parametrize(
    ("auth", "kinds"), [("none", []), ("tokens", ["tokens"]), ("tokens,jwt", ["tokens", "jwt"])]
)
def test_the_page_knows_the_version_the_prefix_and_the_kinds_of_tokens(
    make_app, prefix, auth, kinds
):
    jwt = {"JWT_ISSUER": "https://issuer", "JWT_AUDIENCE": "us", "JWT_SECRET": "s" * 32}
    app = make_app(
        AUTH=auth, MAX_CONTENT_LENGTH="5000", DOCS="off", **(jwt if "jwt" in auth else {})
    )
    response = app.test_client().get(PAGE, environ_overrides={"SCRIPT_NAME": prefix})
    values = page_config(response.text)
    assert "projects" in [resource["name"] for resource in values.pop("resources")]
    has_metrics = any(rule.rule == "/metrics" for rule in app.url_map.iter_rules())
    assert values == {
        "version": app.config["VERSION"],
        "prefix": prefix,
        "auth": kinds,
        "max_content_length": 5000,
        "docs": False,
        "metrics": has_metrics,
    }


def test_the_page_knows_that_there_are_docs(client):
    assert page_config(client.get(PAGE).text)["docs"] is True


def test_a_text_cannot_end_the_element_with_the_config(make_app):
    app = make_app()
    app.config["VERSION"] = "</script><script>alert(1)</script><!--"
    text = app.test_client().get(PAGE).text
    assert "alert(1)</script>" not in text
    assert "<!--" not in text
    assert page_config(text)["version"] == app.config["VERSION"]


def test_the_console_is_off_in_production_and_on_in_development():
    assert (Production.CONSOLE, Development.CONSOLE, config.Testing.CONSOLE) == (False, True, True)


def test_with_console_off_the_page_and_its_files_get_a_404_and_have_no_link(
    client, make_app, problem
):
    [*urls] = file_urls(client.get(PAGE).text)
    assert client.get("/").json["links"]["console"] == PAGE
    off = make_app(CONSOLE="off").test_client()
    for path in (PAGE, f"{PAGE}/", *urls):
        problem(off.get(path), 404, "not_found")
    assert "console" not in off.get("/").json["links"]
    assert not [path for path in off.get("/openapi.json").json["paths"] if "console" in path]


def test_the_page_and_its_files_need_no_documentation_page(make_app):
    client = make_app(DOCS="off").test_client()
    urls = file_urls(client.get(PAGE).text)
    assert urls
    for url in urls:
        with client.get(url) as response:
            assert response.status_code == 200


# The files


@pytest.mark.parametrize("prefix", ["", "/backend"])
def test_each_file_is_served_under_the_prefix_with_a_version_and_a_long_cache(client, prefix):
    environ = {"SCRIPT_NAME": prefix}
    urls = file_urls(client.get(PAGE, environ_overrides=environ).text)
    [folder] = {url.rpartition("/")[0] for url in urls}
    assert re.fullmatch(rf"{prefix}/console/files/[0-9a-f]{{16}}", folder)
    assert {url.rpartition("/")[2] for url in urls} == {"console.js", "console.css"}
    types = {"console.js": "javascript", "console.css": "css", "LICENSES": "plain"}
    for name, subtype in types.items():
        url = f"{folder}/{name}".removeprefix(prefix)
        response = client.get(url, environ_overrides=environ)
        assert response.status_code == 200
        assert response.mimetype == f"text/{subtype}"
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        if name != "console.js":
            assert response.data == (views.FOLDER / name).read_bytes()
        again = client.get(url, headers={"If-None-Match": response.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["Cache-Control"] == response.headers["Cache-Control"]


def test_a_file_of_another_version_is_not_cached_for_long(client):
    response = client.get("/console/files/0123456789abcdef/console.js")
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "name",
    ["missing.js", "main.js", "..", "../docs/show.js", "..%2fdocs%2fshow.js", "%2e%2e%2fdocs", ""],
)
def test_another_path_beside_the_files_gets_a_404(client, problem, name):
    problem(client.get(f"/console/files/1/{name}"), 404, "not_found")


def test_a_changed_file_has_another_url_without_a_restart(client, tmp_path, monkeypatch):
    folder = tmp_path / "console"
    shutil.copytree(views.FOLDER, folder)
    monkeypatch.setattr(views, "FOLDER", folder)
    before = file_urls(client.get(PAGE).text)
    os.utime(folder / "main.js", (1, 1))
    assert file_urls(client.get(PAGE).text) == before  # as on another host
    with (folder / "main.js").open("a") as file:
        file.write("changed();\n")
    after = file_urls(client.get(PAGE).text)
    assert not {*before} & {*after}
    assert [url.rpartition("/")[2] for url in after] == [url.rpartition("/")[2] for url in before]


# The resources


def field(name, kind, **values):
    """The description of a field; what is not in `values` is its default."""
    unset = ("default", "min_length", "max_length", "max_bytes", "max_depth", "minimum", "maximum")
    others = {"nullable": False, "read_only": False, "required": False, "description": None}
    others["choices"] = None
    return {"name": name, "type": kind, **dict.fromkeys(unset), **others, **values}


COMMON_FIELDS = [
    field("version", "integer", read_only=True, description="Every change adds 1."),
    field("created_at", "timestamp", read_only=True),
    field("updated_at", "timestamp", read_only=True),
    field(
        "owner",
        "string",
        nullable=True,
        read_only=True,
        description="The caller who created it; null if it was created with AUTH=none.",
    ),
]
TIME_FILTERS = [
    {"name": f"{column}[{suffix}]", "type": "timestamp", "choices": None}
    for column in ("created_at", "updated_at")
    for suffix in ("gte", "gt", "lte", "lt")
]
OWNER_FILTER = {"name": "owner", "type": "string", "choices": None}


@pytest.mark.parametrize("auth", ["none", "tokens"])
def test_the_page_knows_everything_about_projects(make_app, auth):
    text = make_app(AUTH=auth).test_client().get(PAGE).text
    [projects] = resources_named(page_config(text)["resources"], "projects")
    kinds = ("update", "delete", "history", "restore", "changes", "bulk", "export")
    assert projects == {
        "name": "projects",
        "singular": "project",
        "path": "/api/v1/projects",
        "create_path": "/api/v1/projects",
        "parent": None,
        "parent_field": None,
        "scope_read": "projects:read",
        "scope_write": "projects:write",
        "search": True,
        "sorts": ["name", "created_at", "updated_at", "is_active"],
        "fields": [
            field("id", "uuid", read_only=True),
            field(
                "name",
                "string",
                required=True,
                min_length=1,
                max_length=200,
                description="Stored exactly as sent.",
            ),
            field("description", "string", nullable=True, max_length=1000),
            field("is_active", "boolean", default=True, description="false means archived."),
            field(
                "attributes",
                "object",
                max_bytes=16384,
                max_depth=32,
                description="Free-form JSON: at most 16384 bytes and 32 levels.",
            ),
            *COMMON_FIELDS,
        ],
        "filters": [
            OWNER_FILTER,
            *TIME_FILTERS,
            {"name": "is_active", "type": "boolean", "choices": None},
            {"name": "name", "type": "string", "choices": None},
            {"name": "attributes", "type": "string", "choices": None},
        ],
        "has": dict.fromkeys(kinds, True),
    }


def resources_named(resources, *names):
    """Return the resources with these names."""
    by_name = {resource["name"]: resource for resource in resources}
    return [by_name[name] for name in names]


def read_resources(app_copy):
    """Return the resources that the page of a changed copy of the application knows."""
    program = (
        "import json, projectapp\n"
        "from projectapp.console.resources import describe_resources\n"
        "print(json.dumps(describe_resources(projectapp.create_app())))\n"
    )
    environ = {"APP_ENV": "development", "DATABASE_URL": "postgresql://localhost/none"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=app_copy,
        env={**environ, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_second_resource_appears_by_itself(app_copy):
    tasks_folder = app_copy / "projectapp" / "tasks"
    if not tasks_folder.exists():
        shutil.copytree(config.ROOT / "examples" / "tasks", tasks_folder)
        for diff in re.findall(r"^```diff\n(.*?)^```", GUIDE, re.M | re.S):
            apply_diff(app_copy / "projectapp" / "__init__.py", diff)
    projects, tasks = resources_named(read_resources(app_copy), "projects", "tasks")
    fields = [
        field("id", "uuid", read_only=True),
        field("project_id", "uuid", read_only=True),
        field("title", "string", required=True, min_length=1, max_length=200),
        field("notes", "string", nullable=True, max_length=2000),
        field("is_done", "boolean", default=False),
        field("priority", "integer", default=0, minimum=-(2**31), maximum=2**31 - 1),
        field("due_at", "timestamp", nullable=True, description="With an offset."),
        *COMMON_FIELDS,
    ]
    assert tasks == {
        "name": "tasks",
        "singular": "task",
        "path": "/api/v1/tasks",
        "create_path": "/api/v1/projects/{parent_id}/tasks",
        "parent": "projects",
        "parent_field": "project_id",
        "scope_read": "tasks:read",
        "scope_write": "tasks:write",
        "search": True,
        "sorts": ["title", "created_at", "updated_at", "is_done"],
        "fields": fields,
        "filters": [
            OWNER_FILTER,
            *TIME_FILTERS,
            {"name": "is_done", "type": "boolean", "choices": None},
        ],
        "has": projects["has"],
    }


def test_a_new_field_and_a_new_filter_appear_by_themselves(app_copy):
    models = app_copy / "projectapp" / "projects" / "models.py"
    column = '    colour: Mapped[str] = mapped_column(sa.String(20), server_default="red")\n'
    replace_text(models, "\n    search: Mapped[str]", f"{column}\n    search: Mapped[str]")
    schemas = app_copy / "projectapp" / "projects" / "schemas.py"
    declaration = (
        '    colour = fields.String(load_default="red", validate=OneOf(["red", "blue"]))\n'
    )
    replace_text(schemas, "\n\nProjectQuery = ", f"{declaration}\n\nProjectQuery = ")
    replace_text(schemas, "validate import Length", "validate import Length, OneOf")
    colour_filter = '    colour=fields.String(validate=OneOf(["red", "blue"])),\n'
    replace_text(schemas, "    is_active=Query", f"{colour_filter}    is_active=Query")
    [projects] = resources_named(read_resources(app_copy), "projects")
    [colour] = [f for f in projects["fields"] if f["name"] == "colour"]
    assert colour == field("colour", "enum", default="red", choices=["red", "blue"])
    expected = {"name": "colour", "type": "enum", "choices": ["red", "blue"]}
    assert expected in projects["filters"]


# The command


@pytest.fixture
def run_console(app, make_app):
    """Run `flask console` with these settings, and a token in the standard input."""

    def run(token="", *arguments, **settings):
        runner = make_app(**settings).test_cli_runner()
        return runner.invoke(args=["console", *arguments], input=token)

    return run


@pytest.mark.parametrize(
    ("settings", "arguments", "url"),
    [
        ({}, [], "http://127.0.0.1:8000/console"),
        ({"HOST": "0.0.0.0", "PORT": "81"}, [], "http://localhost:81/console"),  # noqa: S104
        ({"HOST": "::1", "SCRIPT_NAME": "/a"}, [], "http://[::1]:8000/a/console"),
        ({}, ["--url", "https://api.example.com/a/"], "https://api.example.com/a/console"),
    ],
)
def test_the_command_prints_a_url_that_signs_in_with_the_token(
    run_console, settings, arguments, url
):
    result = run_console(f"{TOKEN}\n", *arguments, AUTH="tokens", **settings)
    assert (result.exit_code, result.stdout) == (0, f"{url}#token={TOKEN}\n")


def test_without_a_token_the_command_prints_the_url_and_how_to_sign_in(run_console):
    result = run_console(AUTH="tokens")
    assert (result.exit_code, result.stdout) == (0, "http://127.0.0.1:8000/console\n")
    assert "flask console <" in result.stderr


def test_with_auth_none_the_command_prints_only_the_url(run_console):
    result = run_console(TOKEN)
    assert (result.exit_code, result.output) == (0, "http://127.0.0.1:8000/console\n")


@pytest.mark.parametrize("text", ["two tokens", "<script>", f"{TOKEN}\n{TOKEN}", "토큰"])
def test_the_command_refuses_what_is_not_a_token(run_console, text):
    result = run_console(text, AUTH="tokens")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "must be one token" in result.stderr


def test_the_command_refuses_a_console_that_is_off(run_console):
    result = run_console(TOKEN, AUTH="tokens", CONSOLE="off")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Set CONSOLE=on" in result.stderr
