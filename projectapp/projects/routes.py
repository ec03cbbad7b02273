"""The routes of projects. The docstring of a view is its text in the OpenAPI document."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response

from projectapp.bulk import exports
from projectapp.bulk import views as bulk_views
from projectapp.bulk.export_command import export_command
from projectapp.bulk.import_command import import_command
from projectapp.bulk.items import Item
from projectapp.projects.models import PROJECTS
from projectapp.projects.schemas import ProjectQuery, ProjectSchema
from projectapp.resources import feed_views, history_views, views
from projectapp.resources.cli import assign_command, forget_command

PATH = "/api/v1/projects"
READ, WRITE = "projects:read", "projects:write"

bp = Blueprint("projects", __name__, url_prefix=PATH)
bp.cli.add_command(assign_command(PROJECTS))
bp.cli.add_command(forget_command(PROJECTS))
bp.cli.add_command(export_command(PROJECTS, ProjectQuery))
bp.cli.add_command(import_command(PROJECTS, ProjectSchema))
bp.cli.help = "Manage projects."


@bp.get("")
@views.listing(READ, ProjectSchema, ProjectQuery)
def list_projects(query: dict[str, Any]) -> Response:
    """List projects.

    All filters are combined with AND. A page past the end is empty.
    """
    return views.list_response(PROJECTS, query)


@bp.post("")
@bulk_views.creation(WRITE, ProjectSchema)
def create_project(body: dict[str, Any] | list[Item]) -> Response:
    """Create a project, or up to 1000 projects.

    A JSON object creates one project. A JSON array, NDJSON or CSV creates a project for each item,
    in the order sent, or none at all. Errors name the item: its index in the array, from 0, or its
    line, from 1.

    Repeating a request with the same Idempotency-Key within 24 hours returns the first response.
    """
    return bulk_views.create_response(PROJECTS, body, PATH)


@bp.patch("")
@bulk_views.update(WRITE, ProjectSchema)
def patch_projects(body: list[Item]) -> Response:
    """Merge changes into up to 1000 projects.

    Each item has the id of a project, and fields as in a PATCH of this project. Either all projects
    are changed or none is. If an item has a version, its project must have this version. Errors
    name the item by its index, from 0.
    """
    return bulk_views.update_response(PROJECTS, body)


@bp.get("/<uuid:project_id>")
@views.reading(READ, ProjectSchema)
def get_project(project_id: UUID, query: dict[str, Any]) -> Response:
    """Read a project, as it is now or as it was at a time."""
    return views.read_response(PROJECTS, project_id, query)


@bp.put("/<uuid:project_id>")
@views.update(WRITE, ProjectSchema)
def put_project(project_id: UUID, body: dict[str, Any]) -> Response:
    """Replace fields of a project.

    Fields that are omitted keep their values. The version changes only if a value changes.
    """
    return views.update_response(PROJECTS, project_id, body)


@bp.patch("/<uuid:project_id>")
@views.update(WRITE, ProjectSchema, merge=True)
def patch_project(project_id: UUID, body: dict[str, Any]) -> Response:
    """Merge changes into a project.

    The body is an RFC 7396 merge patch: attributes are merged recursively, null removes a key.
    """
    return views.update_response(PROJECTS, project_id, body, merge=True)


@bp.delete("/<uuid:project_id>")
@views.deletion(WRITE)
def delete_project(project_id: UUID) -> Response:
    """Delete a project."""
    return views.delete_response(PROJECTS, project_id)


@bp.get("/export")
@exports.export(READ, ProjectQuery)
def export_projects(query: dict[str, Any]) -> Response:
    """Export projects.

    The file has all projects that match the filters and q, in the order of their creation: as CSV
    or, by default, one JSON object a line. Each project that exists during the whole export comes
    exactly once. An export that fails midway ends without its last chunk.
    """
    return exports.export_response(PROJECTS, query)


@bp.get("/changes")
@feed_views.changes(READ, PROJECTS, ProjectSchema)
def list_project_changes(query: dict[str, Any]) -> Response:
    """Follow the changes of projects.

    Each change comes once, and the changes of each project come in order. If a project gets another
    owner, the old owner gets a delete, and the new owner a create.

    If the Accept header prefers text/event-stream to application/json, the response is a stream of
    server-sent events that does not end. The data of each event is an item, its type the operation,
    its id a cursor.
    """
    return feed_views.changes_response(PROJECTS, query)


@bp.get("/<uuid:project_id>/history")
@history_views.history(READ, PROJECTS, ProjectSchema)
def get_project_history(project_id: UUID, query: dict[str, Any]) -> Response:
    """List the changes of a project.

    The newest change comes first. A deleted project keeps its history.
    """
    return history_views.history_response(PROJECTS, project_id, query)


@bp.post("/<uuid:project_id>/restore")
@history_views.restore(WRITE, ProjectSchema)
def restore_project(project_id: UUID, body: dict[str, Any]) -> Response:
    """Restore an older version, or a deleted project.

    The project gets a new version, unless nothing changes. Without a version in the body, a deleted
    project exists again.
    """
    return history_views.restore_response(PROJECTS, ProjectSchema, project_id, body)
