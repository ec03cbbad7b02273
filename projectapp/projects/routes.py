"""Create, find, change and delete projects.

A view parses, calls and responds; its docstring is its documentation.
"""

import json
from typing import Any
from urllib.parse import quote
from uuid import UUID

from flask import Blueprint, Response, request, url_for

from projectapp import auth
from projectapp.database import Row
from projectapp.http import etags
from projectapp.http.endpoint import Endpoint
from projectapp.http.request_data import JSON_TYPE
from projectapp.problems import NotFound, PreconditionFailed
from projectapp.projects import listing, queries
from projectapp.projects.schemas import ProjectListSchema, ProjectQuery, ProjectSchema
from projectapp.resources import idempotency
from projectapp.resources.cursors import decode, encode, link_header

bp = Blueprint("projects", __name__, url_prefix="/api/v1/projects")

READ, WRITE = "projects:read", "projects:write"

_PATCH_TYPES = ("application/merge-patch+json", JSON_TYPE)


@bp.get("")
@Endpoint(
    scope=READ,
    responses={200: ProjectListSchema()},
    query=ProjectQuery(),
    response_headers=["Link"],
    error_statuses=[400, 503],
)
def list_projects(query: dict[str, Any]) -> Response:
    """List projects.

    All filters given must hold. A page past the end is empty.
    """
    size, sort, chosen = query.pop("page_size"), query.pop("sort", []), {"id", *query.pop("chosen")}
    cursor = query.pop("cursor", None)
    page = query.pop("page", None if cursor else 1)
    count = query.pop("count", "none" if cursor else "auto")
    scope = {**query, "sort": sort}
    if seen := auth.visible_owner("projects"):
        scope["owner"] = seen  # not the filter of that name: that is of_owner
    start = decode(cursor, scope) if cursor else (page - 1) * size
    found = listing.find_page(query, sort, chosen, count, size, start)
    before, after = (place and encode(place, scope) for place in (found.before, found.after))
    rest = {
        "total": found.total,
        **({"total_is_estimate": True} if found.is_estimate else {}),
        "page": page,
        "page_size": size,
        "next_cursor": after,
    }
    path = quote(request.script_root + request.path)
    links = link_header(path, request.args.items(multi=True), page, before, after)
    headers = {"Link": links} if links else None
    return _answer(f'{{"items":[{found.items}],{json.dumps(rest)[1:]}', headers=headers)


@bp.post("")
@Endpoint(
    scope=WRITE,
    responses={201: ProjectSchema()},
    body=ProjectSchema(),
    request_headers=["Idempotency-Key"],
    response_headers=["ETag", "Location", "Idempotency-Replayed"],
    error_statuses=[400, 409, 413, 415, 422, 503],
)
def create_project(body: dict[str, Any]) -> Response:
    """Create a project.

    With an Idempotency-Key the same request again, within 24 hours, gets the first answer again.
    """
    row, is_replayed = queries.add(body, idempotency.read_claim())
    headers = {
        "ETag": etags.format_etag(row.version),
        "Location": url_for("projects.get_project", project_id=row.id),
        **({"Idempotency-Replayed": "true"} if is_replayed else {}),
    }
    return _answer(row.body, 201, headers)


@bp.get("/<uuid:project_id>")
@Endpoint(
    scope=READ,
    responses={200: ProjectSchema(), 304: None},
    request_headers=["If-None-Match"],
    response_headers=["ETag"],
    error_statuses=[400, 404, 503],
)
def get_project(project_id: UUID) -> Response:
    """Read a project."""
    row = queries.find(project_id)
    if not row:
        raise NotFound
    return etags.not_modified_response(row.version) or _project(row)


@bp.put("/<uuid:project_id>")
@Endpoint(
    scope=WRITE,
    responses={200: ProjectSchema()},
    body=ProjectSchema(partial=True),
    request_headers=etags.WRITE_CONDITION_HEADERS,
    response_headers=["ETag"],
    error_statuses=[400, 404, 412, 413, 415, 503],
)
def put_project(project_id: UUID, body: dict[str, Any]) -> Response:
    """Replace fields of a project.

    The fields sent replace, the fields omitted stay. What changes nothing leaves the version.
    """
    return _change(project_id, body)


@bp.patch("/<uuid:project_id>")
@Endpoint(
    scope=WRITE,
    responses={200: ProjectSchema()},
    body=ProjectSchema(partial=True),
    content_types=_PATCH_TYPES,
    request_headers=etags.WRITE_CONDITION_HEADERS,
    response_headers=["ETag"],
    error_statuses=[400, 404, 412, 413, 415, 503],
)
def patch_project(project_id: UUID, body: dict[str, Any]) -> Response:
    """Merge changes into a project.

    The body is an RFC 7396 merge patch: attributes merge deeply, null removes one of them.
    """
    return _change(project_id, body, merge=True)


@bp.delete("/<uuid:project_id>")
@Endpoint(
    scope=WRITE,
    responses={204: None},
    request_headers=etags.WRITE_CONDITION_HEADERS,
    error_statuses=[400, 404, 412, 503],
)
def delete_project(project_id: UUID) -> Response:
    """Delete a project."""
    versions = etags.allowed_versions()
    if not queries.remove(project_id, versions):
        raise _unmatched(project_id, versions)
    return Response(status=204)


@bp.after_request
def finish(response: Response) -> Response:
    if request.method == "OPTIONS" and "PATCH" in response.allow:
        response.headers["Accept-Patch"] = ", ".join(_PATCH_TYPES)
    return response


def _change(project_id: UUID, values: dict[str, Any], merge: bool = False) -> Response:
    versions = etags.allowed_versions()
    row = queries.change(project_id, values, versions, merge)
    if not row:
        raise _unmatched(project_id, versions)
    return _project(row)


def _unmatched(project_id: UUID, versions: etags.Versions | None) -> NotFound | PreconditionFailed:
    """Why a statement found no row: a precondition leaves two reasons, and costs a second look."""
    row = queries.find(project_id) if versions is not None else None
    if not row:
        return NotFound()
    return PreconditionFailed(
        f"The project is at version {row.version} now.",
        headers={"ETag": etags.format_etag(row.version)},
    )


def _project(row: Row) -> Response:
    return _answer(row.body, headers={"ETag": etags.format_etag(row.version)})


def _answer(body: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, content_type=JSON_TYPE)
