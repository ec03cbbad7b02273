"""The routes of tasks: the list of a project's tasks, the list of all, and one task."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response

from projectapp.bulk import exports
from projectapp.bulk import views as bulk_views
from projectapp.bulk.export_command import export_command
from projectapp.bulk.import_command import import_command
from projectapp.bulk.items import Item
from projectapp.resources import feed_views, history_views, views
from projectapp.resources.cli import forget_command
from projectapp.tasks.models import TASKS
from projectapp.tasks.schemas import TaskQuery, TaskSchema

PATH, OF_PROJECT = "/api/v1/tasks", "/api/v1/projects/<uuid:project_id>/tasks"
READ, WRITE = "tasks:read", "tasks:write"

bp = Blueprint("tasks", __name__)
bp.cli.add_command(forget_command(TASKS))
bp.cli.add_command(export_command(TASKS, TaskQuery))
bp.cli.add_command(import_command(TASKS, TaskSchema))
bp.cli.help = "Manage tasks."


@bp.get(PATH)
@views.listing(READ, TaskSchema, TaskQuery)
def list_tasks(query: dict[str, Any]) -> Response:
    """List the tasks of all projects."""
    return views.list_response(TASKS, query)


@bp.get(OF_PROJECT)
@views.listing(READ, TaskSchema, TaskQuery)
def list_project_tasks(project_id: UUID, query: dict[str, Any]) -> Response:
    """List the tasks of a project."""
    return views.list_response(TASKS, query, project_id)


@bp.post(OF_PROJECT)
@bulk_views.creation(WRITE, TaskSchema)
def create_task(project_id: UUID, body: dict[str, Any] | list[Item]) -> Response:
    """Create a task in a project, or a task for each item of an array, NDJSON or CSV.

    Repeating a request with the same Idempotency-Key within 24 hours returns the first response.
    """
    return bulk_views.create_response(TASKS, body, PATH, project_id)


@bp.patch(PATH)
@bulk_views.update(WRITE, TaskSchema)
def patch_tasks(body: list[Item]) -> Response:
    """Merge changes into up to 1000 tasks, which the items name by their ids, or change none."""
    return bulk_views.update_response(TASKS, body)


@bp.get(f"{PATH}/<uuid:task_id>")
@views.reading(READ, TaskSchema)
def get_task(task_id: UUID, query: dict[str, Any]) -> Response:
    """Read a task, as it is now or as it was at a time."""
    return views.read_response(TASKS, task_id, query)


@bp.put(f"{PATH}/<uuid:task_id>")
@views.update(WRITE, TaskSchema)
def put_task(task_id: UUID, body: dict[str, Any]) -> Response:
    """Replace fields of a task."""
    return views.update_response(TASKS, task_id, body)


@bp.patch(f"{PATH}/<uuid:task_id>")
@views.update(WRITE, TaskSchema, merge=True)
def patch_task(task_id: UUID, body: dict[str, Any]) -> Response:
    """Merge changes into a task (RFC 7396)."""
    return views.update_response(TASKS, task_id, body, merge=True)


@bp.delete(f"{PATH}/<uuid:task_id>")
@views.deletion(WRITE)
def delete_task(task_id: UUID) -> Response:
    """Delete a task."""
    return views.delete_response(TASKS, task_id)


@bp.get(f"{PATH}/<uuid:task_id>/history")
@history_views.history(READ, TASKS, TaskSchema)
def get_task_history(task_id: UUID, query: dict[str, Any]) -> Response:
    """List the changes of a task, the newest first. A deleted task keeps its history."""
    return history_views.history_response(TASKS, task_id, query)


@bp.post(f"{PATH}/<uuid:task_id>/restore")
@history_views.restore(WRITE, TaskSchema)
def restore_task(task_id: UUID, body: dict[str, Any]) -> Response:
    """Restore an older version, or a deleted task. It gets a new version if a value changes."""
    return history_views.restore_response(TASKS, TaskSchema, task_id, body)


@bp.get(f"{PATH}/export")
@exports.export(READ, TaskQuery)
def export_tasks(query: dict[str, Any]) -> Response:
    """Export the tasks of all projects."""
    return exports.export_response(TASKS, query)


@bp.get(f"{PATH}/changes")
@feed_views.changes(READ, TASKS, TaskSchema)
def list_task_changes(query: dict[str, Any]) -> Response:
    """Follow the changes of tasks: each comes once, and those of a task come in order.

    If the Accept header prefers text/event-stream to application/json, the response is a stream of
    server-sent events. The data of each event is an item, its type the operation, its id a cursor.
    """
    return feed_views.changes_response(TASKS, query)
