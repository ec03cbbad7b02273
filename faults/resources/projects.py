"""The resource `projects`."""

from faults.resource import Resource

RESOURCE = Resource(
    name="projects",
    title_field="name",
    text_field="description",
    text_length=1000,
    flag_field="is_active",
    json_field="attributes",
)
