"""What the console shows of each resource: its paths, fields and filters.

Everything comes from the OpenAPI document and the declarations of the endpoints. So a new field, or
a new resource, appears in the console by itself.
"""

import functools
import re
from typing import Any

from flask import Flask

from projectapp.http.endpoint import Endpoint
from projectapp.http.openapi import build_document, path_template

# Parameters of a list that are not filters.
_LIST_PARAMETERS = {"page", "page_size", "cursor", "count", "q", "sort", "fields"}
_TYPES_BY_FORMAT = {"date-time": "timestamp", "uuid": "uuid"}
_JSON_TYPE = "application/json"


@functools.cache
def describe_resources(app: Flask) -> list[dict[str, Any]]:
    """Return an object for each resource that has a list, in the order of the API.

    Paths are without the prefix SCRIPT_NAME. `create_path` contains `{parent_id}` if rows are
    created in a row of the resource `parent`; then `parent_field` is the field with its id. It is
    None if no rows can be created, and `path`/ID is the path of a row.
    """
    paths = build_document(app)["paths"]
    collections = {
        path: _endpoint(app, path, "get").resource
        for path, item in paths.items()
        if "{" not in path and {"page_size", "sort"} <= _query_parameters(item).keys()
    }
    return [_describe(app, path, collections) for path in collections]


def _describe(app: Flask, path: str, collections: dict[str, str | None]) -> dict[str, Any]:
    document = build_document(app)
    paths = document["paths"]
    name = collections[path]
    row_path = next(p for p in paths if re.fullmatch(re.escape(path) + r"/\{\w+\}", p))
    create_path = next(
        (
            p
            for p, item in paths.items()
            if "201" in item.get("post", {}).get("responses", ())
            and _endpoint(app, p, "post").resource == name
        ),
        None,
    )
    parent_path, parent_field = _parent_in(create_path or "")
    write_scopes = [
        _endpoint(app, p, method).scope
        for p, method in ((create_path, "post"), (row_path, "patch"), (row_path, "delete"))
        if p and method in paths[p]
    ]
    parameters = _query_parameters(paths[path])
    return {
        "name": name,
        "singular": row_path.rpartition("{")[2].removesuffix("_id}"),
        "path": path,
        "create_path": create_path and re.sub(r"\{\w+\}", "{parent_id}", create_path),
        "parent": collections.get(parent_path),
        "parent_field": parent_field,
        "scope_read": _endpoint(app, path, "get").scope,
        "scope_write": next(iter(write_scopes), None),
        "search": "q" in parameters,
        "sorts": [s for s in parameters["sort"]["items"]["enum"] if not s.startswith("-")],
        "fields": _describe_fields(document, row_path, create_path),
        "filters": [
            {"name": parameter, "type": _type(schema), "choices": schema.get("enum")}
            for parameter, schema in parameters.items()
            if parameter not in _LIST_PARAMETERS
        ],
        "has": {
            "update": "patch" in paths[row_path],
            "delete": "delete" in paths[row_path],
            "history": f"{row_path}/history" in paths,
            "restore": f"{row_path}/restore" in paths,
            "changes": f"{path}/changes" in paths,
            "bulk": "patch" in paths[path],
            "export": f"{path}/export" in paths,
        },
    }


def _describe_fields(
    document: dict[str, Any], row_path: str, create_path: str | None
) -> list[dict[str, Any]]:
    paths = document["paths"]
    row = _resolve(document, paths[row_path]["get"]["responses"]["200"])
    create = paths[create_path]["post"]["requestBody"] if create_path else None
    required = _resolve(document, create).get("required", ()) if create else ()
    return [
        {
            "name": name,
            "type": _type(schema),
            "nullable": "null" in schema["type"],
            "read_only": schema.get("readOnly", False),
            "required": name in required,
            "default": schema.get("default"),
            "min_length": schema.get("minLength"),
            "max_length": schema.get("maxLength"),
            "max_bytes": schema.get("x-max-bytes"),
            "max_depth": schema.get("x-max-depth"),
            "minimum": schema.get("minimum"),
            "maximum": schema.get("maximum"),
            "choices": schema.get("enum"),
            "description": schema.get("description"),
        }
        for name, schema in row["properties"].items()
    ]


def _resolve(document: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one row in a request or a response."""
    schema = body["content"][_JSON_TYPE]["schema"]
    reference = schema["oneOf"][0] if "oneOf" in schema else schema  # the others are many rows
    resolved: dict[str, Any] = document["components"]["schemas"][
        reference["$ref"].rpartition("/")[2]
    ]
    return resolved


def _query_parameters(item: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of the query parameters of a path's GET, by name."""
    parameters = item.get("get", {}).get("parameters", ())
    return {p["name"]: p["schema"] for p in parameters if p.get("in") == "query"}


def _parent_in(create_path: str) -> tuple[str, str | None]:
    """Return the path of the parent's collection, and the field with the parent's id."""
    parts = re.fullmatch(r"(.*)/\{(\w+)\}/\w+", create_path)
    return (parts[1], parts[2]) if parts else ("", None)


def _type(schema: dict[str, Any]) -> str:
    """Return the type of a value in the words of the page."""
    if "enum" in schema:
        return "enum"
    types = schema["type"]
    json_type: str = types if isinstance(types, str) else next(t for t in types if t != "null")
    return _TYPES_BY_FORMAT.get(schema.get("format", ""), json_type)


def _endpoint(app: Flask, path: str, method: str) -> Endpoint:
    """Return the declaration of a view. It has a scope with AUTH=none, too, unlike the document."""
    for rule in app.url_map.iter_rules():
        if path_template(rule) == path and method.upper() in (rule.methods or ()):
            view: Any = app.view_functions[rule.endpoint]
            endpoint: Endpoint = view.endpoint
            return endpoint
    raise LookupError(path)
