"""The OpenAPI document is valid and complete, and responses match it."""

import json
import os
import re
import subprocess
import sys

import openapi_spec_validator
import pytest
from flask import Blueprint, Response

import config
from projectapp.http.endpoint import Endpoint, is_static
from projectapp.http.security_headers import HEADERS
from projectapp.projects.schemas import ProjectSchema
from tests.conftest import PROJECTS

HOOKS = "tests.schemathesis_hooks"


@pytest.fixture
def document(client):
    return client.get("/openapi.json").json


def operations(document):
    """Yield each operation with the parameters of its path. References are resolved."""
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
    ("auth", "credentials"),
    [("tokens", "API token"), ("jwt", "JWT"), ("tokens,jwt", "API token or JWT")],
)
def test_each_operation_documents_its_scope_and_its_401_and_403(make_app, auth, credentials):
    app = make_app(AUTH=auth, **(JWT if "jwt" in auth else {}))
    document = app.test_client().get("/openapi.json").json
    openapi_spec_validator.validate(document)
    [(name, scheme)] = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert scheme["bearerFormat"] == credentials
    for rule in app.url_map.iter_rules():
        if is_static(rule.endpoint):
            continue
        path = re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule)
        scope = app.view_functions[rule.endpoint].endpoint.scope
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            operation = document["paths"][path][method.lower()]
            assert operation["security"] == ([{name: [scope]}] if scope else [])
            statuses_with_challenge = {
                status
                for status, response in operation["responses"].items()
                if "WWW-Authenticate" in response["headers"]
            }
            statuses = {"400", "401", "403"} if scope else {"401"} & operation["responses"].keys()
            assert statuses_with_challenge == statuses


def test_without_auth_the_document_requires_no_credentials(document):
    assert "securitySchemes" not in document["components"]
    others = {path: item for path, item in document["paths"].items() if path != "/console/session"}
    assert not re.search('"(401|403|WWW-Authenticate)"', json.dumps(others))
    assert {json.dumps(operation["security"]) for operation in operations(document)} == {"[]"}


def test_every_route_is_in_the_document(app, document):
    routes = {
        (re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not is_static(rule.endpoint)
    }
    documented = {
        (path, method)
        for path, item in document["paths"].items()
        for method in item.keys() - {"parameters"}
    }
    assert documented == routes


def test_the_description_names_the_resources_and_their_tags_come_first(document):
    assert document["info"]["description"].startswith("A JSON API for projects")
    tags = document["tags"]
    names = [tag["name"] for tag in tags]
    assert (names[0], names[-3:]) == ("projects", ["health", "metrics", "openapi"])
    assert all(tag["description"] for tag in tags)
    used_tags = {tag for operation in operations(document) for tag in operation["tags"]}
    assert used_tags == {tag["name"] for tag in tags}


def test_a_second_resource_with_two_ids_in_its_path_is_documented(make_app):
    app = make_app()
    chores = Blueprint("chores", __name__, url_prefix="/api/v1")

    @chores.get("/stages/<uuid:stage_id>/chores/<uuid:sub_chore_id>")
    @Endpoint(scope="chores:read", responses={204: None})
    def get_chore(stage_id, sub_chore_id):
        """Get a chore."""
        return Response(f"{stage_id} {sub_chore_id}")

    @chores.get("/chores")
    @Endpoint(scope="chores:read", responses={204: None})
    def list_chores():
        """List chores."""
        return Response(status=204)

    app.register_blueprint(chores)
    client = app.test_client()
    document = client.get("/openapi.json").json
    openapi_spec_validator.validate(document)
    assert "chores" in document["info"]["description"].partition("\n")[0]
    item = document["paths"]["/api/v1/stages/{stage_id}/chores/{sub_chore_id}"]
    uuid = {"type": "string", "format": "uuid"}
    assert [
        (p["name"], p["in"], p["required"], p["description"], p["schema"])
        for p in item["parameters"]
    ] == [
        ("stage_id", "path", True, "The id of the stage.", uuid),
        ("sub_chore_id", "path", True, "The id of the sub chore.", uuid),
    ]
    assert client.get("/").json["links"]["chores"] == "/api/v1/chores"


def test_the_root_is_documented_as_json_and_html(document):
    content = document["paths"]["/"]["get"]["responses"]["200"]["content"]
    assert content == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Root"}},
        "text/html": {},
    }


def test_writes_document_if_match_if_none_match_and_412(document):
    for method in ("put", "patch", "delete"):
        operation = document["paths"][f"{PROJECTS}/{{project_id}}"][method]
        names = {parameter["$ref"].rpartition("/")[2] for parameter in operation["parameters"]}
        assert {"If-Match", "If-None-Match"} <= names
        assert "412" in operation["responses"]


SIMPLE_TYPES = {"string", "integer", "boolean"}


def test_every_parameter_has_one_simple_type_for_client_generators(document):
    """With a union or `content` some generators omit the operation or send wrong requests."""
    parameters = [p for operation in operations(document) for p in operation["parameters"]]
    assert {p["in"] for p in parameters} == {"query", "header", "path"}
    for parameter in parameters:
        schema = parameter["schema"]
        assert "content" not in parameter
        if schema["type"] == "array":
            assert (parameter["in"], parameter["style"]) == ("query", "form")
            assert parameter["explode"] is True
            schema = schema["items"]
        assert schema["type"] in SIMPLE_TYPES, parameter
        assert not {"anyOf", "oneOf", "allOf", "not", "const", "$ref"} & schema.keys()


def test_a_list_request_with_every_default_and_a_cursor_is_accepted(client, make_project, document):
    """Some generated clients send every default."""
    for _ in range(11):
        make_project()
    cursor = client.get(PROJECTS).json["next_cursor"]
    parameters = document["paths"][PROJECTS]["get"]["parameters"]
    defaults = {
        p["name"]: p["schema"]["default"] for p in parameters if "default" in p.get("schema", {})
    }
    assert defaults
    response = client.get(PROJECTS, query_string={**defaults, "cursor": cursor})
    assert len(response.json["items"]) == 1


def test_an_array_sent_as_repeated_parameters_is_accepted(client, make_project, document):
    project = make_project()
    parameters = document["paths"][PROJECTS]["get"]["parameters"]
    arrays = {p["name"]: p for p in parameters if p.get("schema", {}).get("type") == "array"}
    assert arrays.keys() == {"sort", "fields"}
    fields = arrays["fields"]["schema"]["items"]["enum"]
    response = client.get(
        PROJECTS, query_string={"sort": ["-name", "created_at"], "fields": fields}
    )
    assert response.json["items"] == [project]


def test_every_operation_documents_a_4xx_response(document):
    for operation in operations(document):
        assert [status for status in operation["responses"] if status.startswith("4")]


@pytest.mark.parametrize("limit", ["", "9/minute"])
def test_every_component_is_used(make_app, limit):
    app = make_app(AUTH="tokens", RATE_LIMIT=limit)
    document = app.test_client().get("/openapi.json").json
    references = set(re.findall(r'"#/components/(\w+/[\w-]+)"', json.dumps(document)))
    components = {
        f"{kind}/{name}"
        for kind, components_of_kind in document["components"].items()
        if kind != "securitySchemes"
        for name in components_of_kind
    }
    assert components == references
    assert ("headers/RateLimit" in components) == bool(limit)


def test_every_operation_documents_a_summary_and_a_2xx_response(document):
    for operation in operations(document):
        assert operation["summary"]
        assert {"200", "201", "204"} & operation["responses"].keys()


def test_a_project_has_exactly_the_documented_fields_and_types(document, make_project):
    schema = document["components"]["schemas"]["Project"]
    project = make_project(description="x")
    assert list(project) == list(ProjectSchema().fields)
    assert project.keys() == schema["properties"].keys() == set(schema["required"])
    names = {bool: "boolean", str: "string", int: "integer", dict: "object", type(None): "null"}
    for name, value in project.items():
        assert names[type(value)] in schema["properties"][name]["type"]


@pytest.mark.parametrize(
    ("method", "path", "request_options", "status"),
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
def test_every_response_header_is_documented(
    client, make_project, document, method, path, request_options, status
):
    url = PROJECTS + path.format(project_id=make_project()["id"])
    response = client.open(url, method=method, **request_options)
    assert response.status_code == status
    documented = document["paths"][PROJECTS + path][method.lower()]["responses"][str(status)]
    common = {"Content-Type", "Content-Length", "Cache-Control", "Vary", "Server", *HEADERS}
    assert set(response.headers.keys()) - common <= documented["headers"].keys()


def test_the_schema_of_a_partial_update_has_no_defaults(document):
    properties = document["components"]["schemas"]["PartialProject"]["properties"]
    assert not [name for name, schema in properties.items() if "default" in schema]


def test_the_docs_page_and_its_assets_come_from_this_server(server, client):
    with client.get("/docs") as page:
        assert page.content_type.startswith("text/html")
        text = page.text
    assert not re.search(r"https?:|src=\"//", text)
    assets = re.findall(r'(?:src|href)="(/[^"]+)"', text)
    assert len(assets) == 4
    for path in assets:
        with client.get(path) as asset:
            assert asset.status_code == 200, path


def test_schemathesis_finds_no_response_that_contradicts_the_document(server, tmp_path):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", config.ROOT / "tests" / "schemathesis.toml"),
            *("run", f"http://127.0.0.1:{server.port}/openapi.json"),
            *("--max-examples", "25", "--checks", "all", "--seed", "1"),
            # A deleted row has a history.
            *("--exclude-checks", "use_after_free"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(config.ROOT), "SCHEMATHESIS_HOOKS": HOOKS},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout
    assert re.search(r"(\d+) selected / \1 total", result.stdout)


def test_a_list_has_no_undocumented_members(client, make_project):
    make_project()
    allowed = {"items", "total", "page", "page_size", "next_cursor"}
    assert json.loads(client.get(PROJECTS).text).keys() == allowed


def test_the_bodies_and_responses_of_many_items_are_documented(document):
    def content(body):
        return {kind: part["schema"] for kind, part in body["content"].items()}

    def ref(name):
        return {"$ref": f"#/components/schemas/{name}"}

    def array(name):
        return {"type": "array", "items": ref(name), "minItems": 1, "maxItems": 1000}

    text = {"type": "string", "minLength": 1}
    post, patch = document["paths"][PROJECTS]["post"], document["paths"][PROJECTS]["patch"]
    assert content(post["requestBody"]) == {
        "application/json": {"oneOf": [ref("ProjectInput"), array("ProjectInput")]},
        "application/x-ndjson": text,
        "text/csv": text,
    }
    assert content(post["responses"]["201"]) == {
        "application/json": {"oneOf": [ref("Project"), ref("ProjectItems")]}
    }
    assert content(patch["requestBody"]) == {"application/json": array("PartialProjectWithId")}
    assert content(patch["responses"]["200"]) == {"application/json": ref("ProjectItems")}
    assert {"400", "404", "412", "413", "415", "503"} <= patch["responses"].keys()
    schemas = document["components"]["schemas"]
    assert schemas["ProjectItems"]["properties"] == {
        "items": {"type": "array", "items": ref("Project")}
    }
    item = schemas["PartialProjectWithId"]
    assert item["required"] == ["id"]
    assert item["properties"]["version"]["minimum"] == 1
    assert not [name for name, schema in item["properties"].items() if "default" in schema]
    assert {"id", "version", "name", "attributes"} <= item["properties"].keys()
    assert not item["properties"]["id"].get("readOnly")
