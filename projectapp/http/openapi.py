"""The OpenAPI document, and a page that shows it.

The OpenAPI 3.1 document is generated from the routes: from the Endpoint and the docstring of each
view, and from the first line of the docstring of each blueprint's module.
"""

import functools
import inspect
import re
import sys
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, Response, current_app, jsonify, render_template, request
from werkzeug.routing import Rule

from projectapp.http.endpoint import HTML, Endpoint, is_static
from projectapp.http.headers import REQUEST_HEADERS, RESPONSE_HEADERS
from projectapp.http.openapi_bodies import (
    ProblemSchema,
    problem_response,
    problem_responses,
    register_response_schema,
    request_content,
    success_responses,
)
from projectapp.http.security_headers import content_security_policy

bp = Blueprint("openapi", __name__)

_DESCRIPTION = (
    "A JSON API for {resources}.\n\n"
    "Every error is a problem document (RFC 9457). HEAD works on every path that has GET. OPTIONS"
    " returns the allowed methods. Every path may end with a slash. Texts must not contain U+0000."
)
_CREDENTIAL_NAMES = {"tokens": "API token", "jwt": "JWT"}


@bp.get("/openapi.json")
@Endpoint(scope=None, responses={200: None})
def openapi() -> Response:
    """Get the OpenAPI document."""
    # A path, because behind a proxy we do not know the host in the client's URL.
    servers = [{"url": request.script_root or "/"}]
    return jsonify({**build_document(current_app), "servers": servers})


@bp.get("/docs")
@Endpoint(scope=None, responses={200: None}, content_types=(HTML,))
def docs() -> Response:
    """Show the documentation page."""
    policy = content_security_policy(script="'self'", style="'self'", connect="'self'")
    return Response(render_template("docs.html"), headers=policy, mimetype=HTML)


@functools.cache
def build_document(app: Flask) -> dict[str, Any]:
    """Return the OpenAPI document of all routes of `app` except its static files."""
    views: dict[str, Any] = {k: v for k, v in app.view_functions.items() if not is_static(k)}
    resources = dict.fromkeys(v.endpoint.resource for v in views.values() if v.endpoint.resource)
    info = {
        "description": _DESCRIPTION.format(resources=" and ".join(map(str, resources))),
        "license": {"name": "MIT License", "identifier": "MIT"},
    }
    plugin: Any = MarshmallowPlugin(schema_name_resolver=_request_schema_name)
    spec = APISpec(app.name, app.config["VERSION"], "3.1.0", [plugin], info=info)
    for name, blueprint in app.blueprints.items():
        docstring = inspect.getdoc(sys.modules[blueprint.import_name]) or ""
        spec.tag({"name": name, "description": docstring.partition("\n")[0]})
    register_response_schema(ProblemSchema(), spec, plugin)
    for name, header in REQUEST_HEADERS.items():  # lazy: the document has only those that are used
        spec.components.parameter(name, "header", header, lazy=True)
    for name, header in RESPONSE_HEADERS.items():
        spec.components.header(name, header, lazy=True)
    credentials = " or ".join(_CREDENTIAL_NAMES[kind] for kind in app.config["AUTH"])
    if credentials:
        _register_security_scheme(credentials, spec)
    for rule in app.url_map.iter_rules():
        if view := views.get(rule.endpoint):
            operation = _operation_object(view, rule, spec, plugin)
            if view.endpoint.scope and credentials:
                _require_scope(operation, view.endpoint.scope)
            if view.endpoint.scope and app.config["RATE_LIMIT"]:
                _add_rate_limit(operation["responses"])
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            spec.path(
                path_template(rule),
                operations={method.lower(): operation for method in methods},
                parameters=_path_parameters(rule),
            )
    document = spec.to_dict()
    for name, schema in document["components"]["schemas"].items():
        if name.startswith("Partial"):  # a field that is omitted keeps its value
            for properties in schema["properties"].values():
                properties.pop("default", None)
    return document


def path_template(rule: Rule) -> str:
    """Return the path of a route in the notation of OpenAPI."""
    return re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule)


def _operation_object(view: Any, rule: Rule, spec: APISpec, plugin: Any) -> dict[str, Any]:
    endpoint: Endpoint = view.endpoint
    summary, _, description = inspect.cleandoc(view.__doc__).partition("\n")
    parameters: list[Any] = ["X-Request-ID", *endpoint.request_headers]
    if endpoint.query:
        query = plugin.converter.schema2parameters(endpoint.query, location="query")
        parameters += map(_simplify_parameter, query)
    operation = {
        "operationId": view.__name__,
        "summary": summary.rstrip("."),
        "description": description.strip(),
        "tags": [rule.endpoint.partition(".")[0]],
        "parameters": parameters,
        "responses": {
            **success_responses(endpoint, spec, plugin),
            **problem_responses(endpoint, rule),
        },
        "security": [],
    }
    if content := request_content(endpoint):
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    """Describe the UUIDs in a path, in its order: client generators make arguments of them."""
    return [
        {
            "in": "path",
            "name": name,
            "required": True,
            "description": f"The id of the {name.removesuffix('_id').replace('_', ' ')}.",
            "schema": {"type": "string", "format": "uuid"},
        }
        for name in re.findall(r"<uuid:(\w+)>", rule.rule)
    ]


def _simplify_parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """Describe a query parameter so that client generators understand it: an object is a string.

    If a parameter has `content` or a choice of schemas, some generators omit the operation or
    send wrong requests.
    """
    schema = parameter["schema"]
    if schema.get("type") == "object":
        schema = {"type": "string", "examples": schema["examples"]}
    style = {"style": "form", "explode": True} if schema.get("type") == "array" else {}
    return {**parameter, "schema": schema, **style}


def _register_security_scheme(credentials: str, spec: APISpec) -> None:
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": credentials,
        "description": f"{credentials} with the scope that the operation lists, or RESOURCE:all.",
    }
    spec.components.security_scheme("bearer", scheme)


def _require_scope(operation: dict[str, Any], scope: str) -> None:
    """Add the scope, and the responses to a request without it."""
    operation["security"] = [{"bearer": [scope]}]
    for status in (400, 401, 403):
        response = operation["responses"].setdefault(str(status), problem_response(status))
        response["headers"]["WWW-Authenticate"] = "WWW-Authenticate"


def _add_rate_limit(responses: dict[str, Any]) -> None:
    responses["429"] = problem_response(429)
    for response in responses.values():
        response["headers"] |= {name: name for name in ("RateLimit", "RateLimit-Policy")}


def _request_schema_name(schema: Any) -> str:
    name = type(schema).__name__.removesuffix("Schema")
    return f"Partial{name}" if schema.partial else f"{name}Input"
