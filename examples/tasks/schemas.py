"""The fields of a task and the filters of its lists, as clients see them."""

from marshmallow import fields
from marshmallow.validate import Length

from projectapp.http.fields import Integer, QueryBoolean, StrictBoolean, Timestamp
from projectapp.resources.schemas import ResourceSchema, doc, list_query
from projectapp.tasks.models import MAX_NOTES_LENGTH, MAX_TITLE_LENGTH, TASKS


class TaskSchema(ResourceSchema):
    """A task. Read-only fields in a body are ignored."""

    project_id = fields.UUID(dump_only=True)
    title = fields.String(
        required=True, validate=Length(1, MAX_TITLE_LENGTH), metadata={"examples": ["Translate"]}
    )
    notes = fields.String(load_default=None, allow_none=True, validate=Length(max=MAX_NOTES_LENGTH))
    is_done = StrictBoolean(load_default=False)
    priority = Integer(load_default=0)
    due_at = Timestamp(load_default=None, allow_none=True, metadata=doc("With an offset."))


TaskQuery = list_query(TASKS, is_done=QueryBoolean())
