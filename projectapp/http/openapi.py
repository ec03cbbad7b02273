"""This document, and the page that shows it.

The OpenAPI 3.1 document is made from the routes themselves, and its tags from their modules.

Beyond its Operation a view says of itself what its docstring has; its first line is the summary.
"""

import functools
import inspect
import re
import sys
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Flask, Response, current_app, jsonify, render_template, request
from marshmallow import Schema, fields

from projectapp import problems
from projectapp.http.endpoint import HTML, Endpoint
from projectapp.http.request_data import JSON_TYPE
from projectapp.http.security_headers import content_security_policy
from projectapp.resources.idempotency import KEY_LENGTH

bp = Blueprint("openapi", __name__)

_ABOUT = (
    "An API for the projects of a team: create, find, change and archive them. Bodies are JSON.\n\n"
    "HEAD works wherever GET does, OPTIONS answers with Allow, a trailing slash is accepted. Every"
    " error is a problem document (RFC 9457). Texts must not contain U+0000."
)
_REQUEST_HEADERS = {
    "If-Match": "Act only on one of these versions: entity tags, or * for any.",
    "If-None-Match": "At one of these versions (entity tags, or * for any) a GET is answered with"
    " 304 and a write is refused with 412.",
    "Idempotency-Key": "1 to 255 printable characters, bare or quoted.",
    "X-Request-ID": "Returned and logged.",
}
_RESPONSE_HEADERS = {
    "X-Request-ID": "The id under which this request is logged.",
    "ETag": "The version, as a strong entity tag.",
    "Location": "The path of what was created.",
    "Idempotency-Replayed": "true if this is the answer to an earlier request.",
    "Link": "RFC 8288 links: first, prev, next.",
    "Retry-After": "Whole seconds after which to try again.",
    "RateLimit": "What is left: r requests, more of them in t seconds.",
    "RateLimit-Policy": "The limit: q requests in w seconds.",
    "Accept": "The content types that are taken.",
    "Accept-Patch": "The content types that PATCH takes.",
    "Accept-Encoding": "The content encodings that are taken.",
}
_PROBLEM_HEADERS = {
    409: ["Retry-After"],
    412: ["ETag"],
    415: ["Accept", "Accept-Patch", "Accept-Encoding"],
    429: ["Retry-After"],
    503: ["Retry-After"],
}
_CREDENTIALS = {"tokens": "API token", "jwt": "JWT"}
_ID = {"required": True, "schema": {"type": "string", "format": "uuid"}}
_TAGS = {"pattern": r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'}
_HEADER_FORMS: dict[str, dict[str, Any]] = {
    "If-Match": _TAGS,
    "If-None-Match": _TAGS,
    "Idempotency-Key": {
        "pattern": r'^("[ !#-\[\]-~]+"|[!#-~]([ -~]*[!-~])?)$',
        "maxLength": KEY_LENGTH,
    },
}


class ProblemSchema(Schema):
    """RFC 9457's problem, with the members of the tutorial's errors beside them."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    error = fields.String(metadata={"description": "A stable code."})
    message = fields.String()
    details = fields.Dict(
        metadata={"description": "Messages by field or parameter.", "optional": True}
    )
    request_id = fields.String()


@bp.get("/openapi.json")
@Endpoint(scope=None, responses={200: None})
def openapi() -> Response:
    """Read this document."""
    # Relative to where this document is: what stands before may have another host.
    servers = [{"url": request.script_root or "/"}]
    return jsonify({**build_document(current_app), "servers": servers})


@bp.get("/docs")
@Endpoint(scope=None, responses={200: None}, content_types=(HTML,))
def docs() -> Response:
    """See this document as a page."""
    policy = content_security_policy(script="'self'", style="'self'", connect="'self'")
    return Response(render_template("docs.html"), headers=policy, mimetype=HTML)


@functools.cache
def build_document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of every route of `app` but its static files."""
    plugin: Any = MarshmallowPlugin(schema_name_resolver=_component)
    info = {"description": _ABOUT, "license": {"name": "MIT License", "identifier": "MIT"}}
    spec = APISpec(app.name, app.config["VERSION"], "3.1.0", [plugin], info=info)
    for name, blueprint in app.blueprints.items():
        about = inspect.getdoc(sys.modules[blueprint.import_name]) or ""
        spec.tag({"name": name, "description": about.partition("\n")[0]})
    _add_answer(spec, plugin, ProblemSchema())
    for name, description in _REQUEST_HEADERS.items():
        schema = {"type": "string", **_HEADER_FORMS.get(name, {})}
        spec.components.parameter(name, "header", {"description": description, "schema": schema})
    for name, description in _RESPONSE_HEADERS.items():
        if name.startswith("RateLimit") and not app.config["RATE_LIMIT"]:
            continue
        spec.components.header(name, {"description": description, "schema": {"type": "string"}})
    kinds = [_CREDENTIALS[kind] for kind in app.config["AUTH"]]
    if kinds:
        _add_security(spec, " or ".join(kinds))
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            view: Any = app.view_functions[rule.endpoint]
            described = _describe(view, spec, plugin)
            if kinds and view.endpoint.scope:
                _require(described, view.endpoint.scope)
            else:
                described["security"] = []
            if app.config["RATE_LIMIT"] and view.endpoint.scope:
                _add_limit(described["responses"])
            described["tags"] = [rule.endpoint.partition(".")[0]]
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            spec.path(
                re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule),
                operations={method.lower(): described for method in methods},
                parameters=[{"in": "path", "name": name, **_ID} for name in sorted(rule.arguments)],
            )
    found = spec.to_dict()
    for name, described in found["components"]["schemas"].items():
        if name.startswith("Partial"):  # what is left out stays as it is
            for field in described["properties"].values():
                field.pop("default", None)
    return found


def _describe(view: Any, spec: APISpec, plugin: Any) -> dict[str, Any]:
    endpoint: Endpoint = view.endpoint
    summary, _, description = inspect.cleandoc(view.__doc__).partition("\n")
    parameters: list[Any] = ["X-Request-ID", *endpoint.request_headers]
    if endpoint.query:
        queried = plugin.converter.schema2parameters(endpoint.query, location="query")
        parameters += map(_parameter, queried)
    described = {
        "operationId": view.__name__,
        "summary": summary.rstrip("."),
        "description": description.strip(),
        "parameters": parameters,
        "responses": _responses(endpoint, spec, plugin),
    }
    if endpoint.body:
        content = {kind: {"schema": endpoint.body} for kind in endpoint.content_types}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _add_security(spec: APISpec, credentials: str) -> None:
    about = f"{credentials}. It needs the scope that the operation names, or RESOURCE:all."
    scheme = {"scheme": "bearer", "bearerFormat": credentials, "description": about}
    spec.components.security_scheme("bearer", {"type": "http", **scheme})
    challenge = {"description": "RFC 6750's challenge.", "schema": {"type": "string"}}
    spec.components.header("WWW-Authenticate", challenge)


def _require(described: dict[str, Any], scope: str) -> None:
    """Add what the credentials need, and the answers to those that do not do."""
    described["security"] = [{"bearer": [scope]}]
    for status in (400, 401, 403):
        answer = described["responses"].setdefault(str(status), _problem(status))
        answer["headers"]["WWW-Authenticate"] = "WWW-Authenticate"


def _parameter(described: dict[str, Any]) -> dict[str, Any]:
    """Describe a query parameter in a form that client generators know: an object is text.

    Where a parameter has `content` or a choice of schemas, some of them leave out the operation or
    send wrong requests.
    """
    schema = described["schema"]
    if schema.get("type") == "object":
        schema = {"type": "string", "examples": schema["examples"]}
    style = {"style": "form", "explode": True} if schema.get("type") == "array" else {}
    return {**described, "schema": schema, **style}


def _responses(endpoint: Endpoint, spec: APISpec, plugin: Any) -> dict[str, Any]:
    headers = {name: name for name in ("X-Request-ID", *endpoint.response_headers)}
    kinds = (JSON_TYPE,) if endpoint.body else endpoint.content_types
    found: dict[str, Any] = {}
    for status, schema in endpoint.responses.items():
        found[str(status)] = {"description": HTTPStatus(status).phrase, "headers": headers}
        if schema or status == 200:
            content: dict[str, Any] = {kind: {} for kind in kinds}
            if schema:
                content[JSON_TYPE] = {"schema": _add_answer(spec, plugin, schema)}
            found[str(status)]["content"] = content
    # Any request may be malformed.
    return found | {str(status): _problem(status) for status in {400, *endpoint.error_statuses}}


def _problem(status: int) -> dict[str, Any]:
    more = _PROBLEM_HEADERS.get(status, [])
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {name: name for name in ("X-Request-ID", *more)},
        "content": {problems.CONTENT_TYPE: {"schema": "Problem"}},
    }


def _add_limit(responses: dict[str, Any]) -> None:
    responses["429"] = _problem(429)
    for answer in responses.values():
        answer["headers"] |= {name: name for name in ("RateLimit", "RateLimit-Policy")}


def _add_answer(spec: APISpec, plugin: Any, schema: Schema) -> str:
    """Register a schema as what we answer: every field is there that is not called optional."""
    name = type(schema).__name__.removesuffix("Schema")
    if name not in spec.components.schemas:
        described = plugin.converter.schema2jsonschema(schema)
        described["required"] = sorted(
            field.data_key or key
            for key, field in schema.fields.items()
            if not field.metadata.get("optional")
        )
        spec.components.schema(name, described)
    return name


def _component(schema: Any) -> str:
    name = type(schema).__name__.removesuffix("Schema")
    return f"Partial{name}" if schema.partial else f"{name}Input"
