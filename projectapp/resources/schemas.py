"""What the schemas of all resources have in common: read-only fields, a page, a list's query."""

from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, pre_load, validates_schema
from marshmallow.validate import Length, OneOf, Range

from projectapp.http.fields import QueryInteger, QueryList, QueryTimestamp
from projectapp.request_state import OWNER_LENGTH
from projectapp.resources.lists import RANGES
from projectapp.resources.models import READ_ONLY
from projectapp.resources.page_statement import COUNT_MODES, EXACT_COUNT_LIMIT
from projectapp.resources.resource import Resource
from projectapp.resources.search import validate_search

DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 100
MAX_PAGE = 2**31 - 1  # the maximum of OpenAPI's int32; times MAX_PAGE_SIZE it fits into an OFFSET
MAX_Q_LENGTH = 200


def doc(description: str, **more: Any) -> dict[str, Any]:
    """Return the metadata of a field for the OpenAPI document."""
    return {"description": description, **more}


# marshmallow's own types convert what they get: "7" and 7.5 to 7, a time without an offset to UTC.
_LOSSY = (fields.Integer, fields.Boolean, fields.DateTime, fields.AwareDateTime, fields.Dict)


class ResourceSchema(Schema):
    """A row of a resource. Read-only fields in a body are ignored."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "Unknown field."}

    id = fields.UUID(dump_only=True)
    version = fields.Integer(dump_only=True, metadata=doc("Every change adds 1."))
    created_at = fields.DateTime(dump_only=True)
    updated_at = fields.DateTime(dump_only=True)
    owner = fields.String(
        dump_only=True,
        allow_none=True,
        metadata=doc("The caller who created it; null if it was created with AUTH=none."),
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # In the order of the JSON objects: inherited fields would come first.
        self.fields |= {name: self.fields.pop(name) for name in READ_ONLY[1:]}
        self._read_only = self.fields.keys() - self.load_fields.keys()
        for name, field in self.load_fields.items():
            if type(field) in _LOSSY:
                raise TypeError(f"{name} needs a strict type of projectapp/http/fields.py.")

    @pre_load
    def drop_read_only(self, data: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        return {name: value for name, value in data.items() if name not in self._read_only}


class PageSchema(Schema):
    """One page of a list."""

    items = fields.List(fields.Dict())
    total = fields.Integer(
        allow_none=True, metadata=doc("The number of all matches; null if it was not counted.")
    )
    total_is_estimate = fields.Boolean(
        metadata=doc("Present and true if total is an estimate.", optional=True)
    )
    page = fields.Integer(allow_none=True, metadata=doc("Null if a cursor was used."))
    page_size = fields.Integer()
    next_cursor = fields.String(allow_none=True)


def page_schema(schema: type[ResourceSchema]) -> Schema:
    """Return the schema of one page of these rows."""
    items = fields.List(fields.Nested(schema(partial=True)))
    name = f"{schema.__name__.removesuffix('Schema')}ListSchema"
    return PageSchema.from_dict({"items": items}, name=name)()


class _ListQuery(Schema):
    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "Unknown parameter."}

    page = QueryInteger(validate=Range(1, MAX_PAGE), metadata=doc("From 1, the default."))
    page_size = QueryInteger(load_default=DEFAULT_PAGE_SIZE, validate=Range(1, MAX_PAGE_SIZE))
    cursor = fields.String(
        validate=Length(1),
        metadata=doc(
            "A next_cursor of this list, instead of a page. The sort, filters and q must be the"
            " same."
        ),
    )
    count = fields.String(
        validate=OneOf(COUNT_MODES),
        metadata=doc(
            f"How total is computed: auto counts up to {EXACT_COUNT_LIMIT} and estimates above,"
            " exact counts all, none does not count. The default is auto; with a cursor none."
        ),
    )
    of_owner = fields.String(
        data_key="owner",
        validate=Length(1, OWNER_LENGTH),
        metadata=doc("Only rows of this owner, for callers who see all rows."),
    )

    @validates_schema
    def check_page_or_cursor(self, data: Mapping[str, Any], **_: Any) -> None:
        if "page" in data and "cursor" in data:
            raise ValidationError("Use either page or cursor, not both.", "cursor")


def list_query(resource: Resource, **filters: fields.Field[Any]) -> Schema:
    """Return the schema of the query of a list: what every list has, and these `filters`.

    A filter has the name of its column; `resources.lists.find_page` explains what it does.
    """
    parameters: dict[str, Any] = {}
    if resource.is_searchable:
        parameters["q"] = fields.String(
            validate=[Length(1, MAX_Q_LENGTH), validate_search],
            metadata=doc(
                "Words that must all occur, as substrings; at least one of two or more characters."
                " Case and Unicode normal form are ignored.",
                pattern=r"\S{2}",
            ),
        )
    parameters["sort"] = QueryList(
        tuple(prefix + key for key in resource.sort_keys for prefix in ("", "-")),
        metadata=doc(
            "Sort keys, separated by commas or in repeated parameters; - means descending; id is"
            " the implicit last key. The default is relevance with q, else the newest first."
        ),
    )
    parameters["selected_fields"] = QueryList(
        resource.fields,
        data_key="fields",
        load_default=lambda: list(resource.fields),  # a function, so that OpenAPI does not show it
        metadata=doc(
            "Only these fields, and id; the default is all. Separated by commas or in repeated"
            " parameters."
        ),
    )
    for column in ("created_at", "updated_at"):
        for suffix in RANGES:
            range_field = QueryTimestamp(data_key=f"{column}[{suffix}]")
            parameters[f"{column}_{suffix}"] = range_field
    name = f"{resource.model.__name__}Query"
    return _ListQuery.from_dict({**parameters, **filters}, name=name)()
