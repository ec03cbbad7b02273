"""What comes in, and what the OpenAPI document says of it."""

from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, pre_load, validates_schema
from marshmallow.validate import Length, OneOf, Range

from projectapp.http.fields import (
    JSONObject,
    QueryBoolean,
    QueryInteger,
    QueryJSONObject,
    QueryList,
    QueryTimestamp,
    StrictBoolean,
    validate_search,
)
from projectapp.projects.listing import SORT_KEYS
from projectapp.projects.models import (
    ATTRIBUTES_BYTES,
    ATTRIBUTES_LEVELS,
    DESCRIPTION_LENGTH,
    FIELDS,
    NAME_LENGTH,
)
from projectapp.request_state import OWNER_LENGTH
from projectapp.resources.listing import COUNT_MODES, EXACT_COUNT_LIMIT

PAGE_SIZE = 10
Q_LENGTH = 200
MAX_PAGE_SIZE = 100
MAX_PAGE = 2**31 - 1  # what an OpenAPI int32 holds; times MAX_PAGE_SIZE it fits PostgreSQL's OFFSET


def _says(description: str, **more: Any) -> dict[str, Any]:
    return {"description": description, **more}


class ProjectSchema(Schema):
    """A project; what is read-only is ignored in a body."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "Unknown field; free-form data belongs in attributes."}

    id = fields.UUID(dump_only=True)
    name = fields.String(
        required=True,
        validate=Length(1, NAME_LENGTH),
        metadata=_says("Kept exactly as sent.", examples=["번역 Translation"]),
    )
    description = fields.String(
        load_default=None,
        allow_none=True,
        validate=Length(max=DESCRIPTION_LENGTH),
        metadata={"examples": ["Every page in Korean and English"]},
    )
    is_active = StrictBoolean(load_default=True, metadata=_says("False is archived."))
    attributes = JSONObject(
        max_depth=ATTRIBUTES_LEVELS,
        load_default=dict,
        metadata=_says(
            f"Free-form JSON: at most {ATTRIBUTES_BYTES} bytes and {ATTRIBUTES_LEVELS} levels.",
            examples=[{"team": "core", "tags": ["web"]}],
        ),
    )
    version = fields.Integer(dump_only=True, metadata=_says("Grows by one with every change."))
    created_at = fields.DateTime(dump_only=True)
    updated_at = fields.DateTime(dump_only=True)
    owner = fields.String(
        dump_only=True,
        allow_none=True,
        metadata=_says("Whose it is; null if it was made while nobody had to say who they are."),
    )

    @pre_load
    def drop_read_only(self, data: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        read_only = self.fields.keys() - self.load_fields.keys()
        return {name: value for name, value in data.items() if name not in read_only}


class ProjectListSchema(Schema):
    """One page of projects."""

    items = fields.List(fields.Nested(ProjectSchema(partial=True)))
    total = fields.Integer(
        allow_none=True, metadata=_says("The number of all matches; null if it was not counted.")
    )
    total_is_estimate = fields.Boolean(
        metadata=_says("True if total is the planner's estimate; else not there.", optional=True)
    )
    page = fields.Integer(allow_none=True, metadata=_says("Null after a cursor."))
    page_size = fields.Integer()
    next_cursor = fields.String(allow_none=True)


def _timestamp(name: str, comparison: str) -> QueryTimestamp:
    return QueryTimestamp(data_key=f"{name}[{comparison}]")


class ProjectQuery(Schema):
    """The parameters of the list."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "Unknown parameter."}

    q = fields.String(
        validate=[Length(1, Q_LENGTH), validate_search],
        metadata=_says(
            "Words, each anywhere in the name or the description, at least one of two characters or"
            " more. Case and Unicode normal form do not matter.",
            pattern=r"\S{2}",
        ),
    )
    page = QueryInteger(validate=Range(1, MAX_PAGE), metadata=_says("From 1, the default."))
    page_size = QueryInteger(load_default=PAGE_SIZE, validate=Range(1, MAX_PAGE_SIZE))
    cursor = fields.String(
        validate=Length(1),
        metadata=_says(
            "A next_cursor of this list, instead of a page; sort, filters and q must be the same."
        ),
    )
    count = fields.String(
        validate=OneOf(COUNT_MODES),
        metadata=_says(
            f"How total is found: auto counts up to {EXACT_COUNT_LIMIT} matches and estimates"
            " beyond, exact counts all, none counts nothing. By default auto, with a cursor none."
        ),
    )
    sort = QueryList(
        tuple(prefix + key for key in SORT_KEYS for prefix in ("", "-")),
        metadata=_says(
            "Keys in order, - for descending; id is always the last one. Without it the best"
            " matches of q come first, else the newest. One parameter may hold several, apart by"
            " commas."
        ),
    )
    chosen = QueryList(
        FIELDS,
        data_key="fields",
        load_default=lambda: list(FIELDS),  # not for the document: generators would send it
        metadata=_says(
            "Only these fields, and id; all of them by default. One parameter may hold several,"
            " separated by commas."
        ),
    )
    is_active = QueryBoolean()
    name = fields.String(validate=Length(1, NAME_LENGTH), metadata=_says("Exactly this name."))
    of_owner = fields.String(
        data_key="owner",
        validate=Length(1, OWNER_LENGTH),
        metadata=_says(
            "Only this owner's projects. It is for callers who see everybody's: others see no more"
            " than their own projects, whatever they give here."
        ),
    )
    attributes = QueryJSONObject(
        max_depth=ATTRIBUTES_LEVELS,
        metadata=_says(
            "A JSON object that the attributes contain, in the sense of PostgreSQL's @>.",
            examples=['{"team":"core"}'],
        ),
    )
    created_at_gte = _timestamp("created_at", "gte")
    created_at_gt = _timestamp("created_at", "gt")
    created_at_lte = _timestamp("created_at", "lte")
    created_at_lt = _timestamp("created_at", "lt")
    updated_at_gte = _timestamp("updated_at", "gte")
    updated_at_gt = _timestamp("updated_at", "gt")
    updated_at_lte = _timestamp("updated_at", "lte")
    updated_at_lt = _timestamp("updated_at", "lt")

    @validates_schema
    def begins_once(self, data: Mapping[str, Any], **_: Any) -> None:
        if "page" in data and "cursor" in data:
            raise ValidationError("Give a page or a cursor.", "cursor")
