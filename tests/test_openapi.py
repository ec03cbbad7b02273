"""The OpenAPI document is valid, complete and true; the docs page needs no outside host."""

import json
import os
import re
import subprocess
import sys

import openapi_spec_validator
import pytest

import config
from projectapp.http.security_headers import HEADERS
from projectapp.projects.schemas import ProjectSchema
from tests.conftest import PROJECTS

HOOKS = "tests.schemathesis_hooks"


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json


def operations(document):
    """All operations, each with the parameters of its path, and nothing by reference."""
    for item in document["paths"].values():
        for method in item.keys() - {"parameters"}:
            parameters = [*item.get("parameters", []), *item[method]["parameters"]]
            yield {
                **item[method],
                "parameters": [
                    document["components"]["parameters"][p["$ref"].rpartition("/")[2]]
                    if "$ref" in p
                    else p
                    for p in parameters
                ],
            }


def test_the_document_is_valid_openapi_3_1(document):
    assert document["openapi"] == "3.1.0"
    openapi_spec_validator.validate(document)


JWT = {"JWT_ISSUER": "https://issuer.example", "JWT_AUDIENCE": "api", "JWT_SECRET": "s" * 32}


@pytest.mark.parametrize(
    ("kinds", "credentials"),
    [("tokens", "API token"), ("jwt", "JWT"), ("tokens,jwt", "API token or JWT")],
)
def test_the_document_says_what_a_caller_needs(make_app, kinds, credentials):
    app = make_app(AUTH=kinds, **(JWT if "jwt" in kinds else {}))
    document = app.test_client().get("/openapi.json").json
    openapi_spec_validator.validate(document)
    [(name, scheme)] = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert scheme["bearerFormat"] == credentials
    for rule in app.url_map.iter_rules():
        if rule.endpoint == "static":
            continue
        path = re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule)
        scope = app.view_functions[rule.endpoint].endpoint.scope
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            described = document["paths"][path][method.lower()]
            assert described["security"] == ([{name: [scope]}] if scope else [])
            challenged = {
                status
                for status, answer in described["responses"].items()
                if "WWW-Authenticate" in answer["headers"]
            }
            assert challenged == ({"400", "401", "403"} if scope else set())


def test_without_callers_the_document_asks_for_nothing(document):
    assert "securitySchemes" not in document["components"]
    assert not re.search('"(401|403|WWW-Authenticate)"', json.dumps(document))
    assert {json.dumps(operation["security"]) for operation in operations(document)} == {"[]"}


def test_every_route_is_in_the_document(app, document):
    routes = {
        (re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    described = {
        (path, method)
        for path, item in document["paths"].items()
        for method in item.keys() - {"parameters"}
    }
    assert described == routes


def test_the_document_says_first_what_the_api_is_and_has_projects_before_the_rest(document):
    assert document["info"]["description"].startswith("An API for the projects of a team: ")
    tags = document["tags"]
    assert [tag["name"] for tag in tags] == ["projects", "health", "openapi"]
    assert all(tag["description"] for tag in tags)
    used = {
        tag
        for item in document["paths"].values()
        for method in item.keys() - {"parameters"}
        for tag in item[method]["tags"]
    }
    assert used == {tag["name"] for tag in tags}


def test_the_root_is_described_as_json_and_as_a_page(document):
    content = document["paths"]["/"]["get"]["responses"]["200"]["content"]
    assert content == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Root"}},
        "text/html": {},
    }


def test_writes_are_described_with_both_preconditions(document):
    for method in ("put", "patch", "delete"):
        described = document["paths"][f"{PROJECTS}/{{project_id}}"][method]
        named = [one["$ref"].rpartition("/")[2] for one in described["parameters"]]
        assert {"If-Match", "If-None-Match"} <= {*named}
        assert "412" in described["responses"]


SIMPLE = {"string", "integer", "boolean"}


def test_every_parameter_has_one_simple_type_as_client_generators_need_it(document):
    """With a union or `content` they leave out the operation or send something else."""
    found = [parameter for one in operations(document) for parameter in one["parameters"]]
    assert {p["in"] for p in found} == {"query", "header", "path"}
    for parameter in found:
        schema = parameter["schema"]
        assert "content" not in parameter
        if schema["type"] == "array":
            assert (parameter["in"], parameter["style"]) == ("query", "form")
            assert parameter["explode"] is True
            schema = schema["items"]
        assert schema["type"] in SIMPLE, parameter
        assert not {"anyOf", "oneOf", "allOf", "not", "const", "$ref"} & schema.keys()


def test_no_default_of_a_parameter_excludes_another_parameter(client, make_project, document):
    """Some generated clients send every default."""
    for _ in range(11):
        make_project()
    cursor = client.get(PROJECTS).json["next_cursor"]
    parameters = document["paths"][PROJECTS]["get"]["parameters"]
    defaults = {
        p["name"]: p["schema"]["default"] for p in parameters if "default" in p.get("schema", {})
    }
    assert defaults
    answer = client.get(PROJECTS, query_string={**defaults, "cursor": cursor})
    assert len(answer.json["items"]) == 1


def test_an_array_is_sent_as_repeated_parameters(client, make_project, document):
    project = make_project()
    parameters = document["paths"][PROJECTS]["get"]["parameters"]
    arrays = {p["name"]: p for p in parameters if p.get("schema", {}).get("type") == "array"}
    assert arrays.keys() == {"sort", "fields"}
    fields = arrays["fields"]["schema"]["items"]["enum"]
    answer = client.get(PROJECTS, query_string={"sort": ["-name", "created_at"], "fields": fields})
    assert answer.json["items"] == [project]


def test_every_operation_says_how_it_is_refused(document):
    for operation in operations(document):
        assert [status for status in operation["responses"] if status.startswith("4")]


@pytest.mark.parametrize("limit", ["", "9/minute"])
def test_every_component_is_used(make_app, limit):
    app = make_app(AUTH="tokens", RATE_LIMIT=limit)
    document = app.test_client().get("/openapi.json").json
    used = set(re.findall(r'"#/components/(\w+/[\w-]+)"', json.dumps(document)))
    there = {
        f"{kind}/{name}"
        for kind, components in document["components"].items()
        if kind != "securitySchemes"
        for name in components
    }
    assert there == used


def test_every_operation_says_what_it_is_for(document):
    for item in document["paths"].values():
        for method in item.keys() - {"parameters"}:
            assert item[method]["summary"]
            assert {"200", "201", "204"} & item[method]["responses"].keys()


def test_postgresql_renders_what_the_schema_describes(document, make_project):
    described = document["components"]["schemas"]["Project"]
    project = make_project(description="x")
    assert list(project) == list(ProjectSchema().fields)
    assert project.keys() == described["properties"].keys() == set(described["required"])
    names = {bool: "boolean", str: "string", int: "integer", dict: "object", type(None): "null"}
    for name, value in project.items():
        assert names[type(value)] in described["properties"][name]["type"]


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("POST", "", {"data": b"x"}, 415),
        ("POST", "", {"json": {}, "headers": {"Content-Encoding": "br"}}, 415),
        ("PATCH", "/{project_id}", {"data": b"x"}, 415),
        ("POST", "", {"json": {"name": "x"}}, 201),
        ("GET", "", {}, 200),
        ("GET", "/{project_id}", {"headers": {"If-None-Match": '"1"'}}, 304),
        ("DELETE", "/{project_id}", {"headers": {"If-Match": '"9"'}}, 412),
    ],
)
def test_every_header_of_ours_is_documented(
    client, make_project, document, method, path, more, status
):
    url = PROJECTS + path.format(project_id=make_project()["id"])
    answer = client.open(url, method=method, **more)
    assert answer.status_code == status
    described = document["paths"][PROJECTS + path][method.lower()]["responses"][str(status)]
    of_http = {"Content-Type", "Content-Length", "Cache-Control", "Vary", "Server", *HEADERS}
    assert set(answer.headers.keys()) - of_http <= described["headers"].keys()


def test_a_change_has_no_defaults_in_the_document(document):
    properties = document["components"]["schemas"]["PartialProject"]["properties"]
    assert not [name for name, described in properties.items() if "default" in described]


def test_the_docs_page_and_its_assets_are_served_by_us(server, client):
    with client.get("/docs") as page:
        assert page.content_type.startswith("text/html")
        text = page.text
    assert not re.search(r"https?:|src=\"//", text)
    assets = re.findall(r'(?:src|href)="(/[^"]+)"', text)
    assert len(assets) == 4
    for path in assets:
        with client.get(path) as asset:
            assert asset.status_code == 200, path


def test_schemathesis_finds_nothing(server, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", config.ROOT / "tests" / "schemathesis.toml"),
            *("run", f"http://127.0.0.1:{server.port}/openapi.json"),
            *("--max-examples", "25", "--checks", "all", "--seed", "1"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(config.ROOT), "SCHEMATHESIS_HOOKS": HOOKS},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    assert "10/10" in done.stdout


def test_unknown_members_never_reach_an_answer(client, make_project):
    make_project()
    allowed = {"items", "total", "page", "page_size", "next_cursor"}
    assert json.loads(client.get(PROJECTS).text).keys() == allowed
