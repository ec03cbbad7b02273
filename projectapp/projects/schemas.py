"""The fields of a project and the filters of its list, as clients see them."""

from marshmallow import fields
from marshmallow.validate import Length

from projectapp.http.fields import JSONObject, QueryBoolean, QueryJSONObject, StrictBoolean
from projectapp.projects.models import (
    MAX_ATTRIBUTES_BYTES,
    MAX_ATTRIBUTES_DEPTH,
    MAX_DESCRIPTION_LENGTH,
    MAX_NAME_LENGTH,
    PROJECTS,
)
from projectapp.resources.schemas import ResourceSchema, doc, list_query


class ProjectSchema(ResourceSchema):
    """A project. Read-only fields in a body are ignored."""

    error_messages = {"unknown": "Unknown field; free-form data belongs in attributes."}

    name = fields.String(
        required=True,
        validate=Length(1, MAX_NAME_LENGTH),
        metadata=doc("Stored exactly as sent.", examples=["번역 Translation"]),
    )
    description = fields.String(
        load_default=None,
        allow_none=True,
        validate=Length(max=MAX_DESCRIPTION_LENGTH),
        metadata={"examples": ["Every page in Korean and English"]},
    )
    is_active = StrictBoolean(load_default=True, metadata=doc("false means archived."))
    attributes = JSONObject(
        max_depth=MAX_ATTRIBUTES_DEPTH,
        load_default=dict,
        metadata=doc(
            f"Free-form JSON: at most {MAX_ATTRIBUTES_BYTES} bytes and {MAX_ATTRIBUTES_DEPTH}"
            " levels.",
            examples=[{"team": "core", "tags": ["web"]}],
            **{"x-max-bytes": MAX_ATTRIBUTES_BYTES},
        ),
    )


ProjectQuery = list_query(
    PROJECTS,
    is_active=QueryBoolean(),
    name=fields.String(validate=Length(1, MAX_NAME_LENGTH), metadata=doc("Exactly this name.")),
    attributes=QueryJSONObject(
        max_depth=MAX_ATTRIBUTES_DEPTH,
        metadata=doc(
            "Only projects whose attributes contain this JSON object (PostgreSQL's @>).",
            examples=['{"team":"core"}'],
        ),
    ),
)
