"""The resource `tasks`."""

from faults.resource import Resource
from faults.resources.projects import RESOURCE as PROJECTS

RESOURCE = Resource(
    name="tasks",
    title_field="title",
    text_field="notes",
    text_length=2000,
    flag_field="is_done",
    parent=PROJECTS,
    parent_field="project_id",
)
