"""What the scenarios need to know about a resource."""

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from faults import resources

_MAX_JSON_TAGS = 900
_REFUSED_CHARACTERS = 20_000  # more than a JSON field may have
_TAG_LENGTH = 12  # of the longest tag and a space, in characters


@dataclass(frozen=True)
class Resource:
    """A resource: the name of its table, and one field of each type.

    Its collection is /api/v1/`name`, its scopes are `name`:read and `name`:write, and its table has
    the columns id, version and owner, and a history with a change feed. Scenarios write markers
    (the names of operations) into the fields. `tags` are the markers that clients append to a
    shared row: in the JSON field, or, without one, as words of the text field.
    """

    name: str
    title_field: str  # a required text; lists can sort, filter and select it
    text_field: str  # an optional text
    text_length: int  # the longest value of text_field, in characters
    flag_field: str  # a boolean with a default
    json_field: str | None = None  # a JSON object; lists can filter by it
    parent: "Resource | None" = None  # rows are created under a row of this resource
    parent_field: str = ""  # the parent's id, in a file to import

    @property
    def path(self) -> str:
        """The path of all rows; the path of one row is this, a slash and its id."""
        return f"/api/v1/{self.name}"

    @property
    def scopes(self) -> list[str]:
        """All scopes that a client needs."""
        own = [f"{self.name}:read", f"{self.name}:write"]
        return own + (self.parent.scopes if self.parent else [])

    @property
    def max_tags(self) -> int:
        return _MAX_JSON_TAGS if self.json_field else self.text_length // _TAG_LENGTH

    def create_path(self, parent_id: str | None) -> str:
        """Return the path to POST to."""
        return f"{self.parent.path}/{parent_id}/{self.name}" if self.parent else self.path

    def create_body(self, marker: str) -> dict[str, Any]:
        """Return a valid body. It is always the same for a marker, as idempotency keys demand."""
        body: dict[str, Any] = {self.title_field: marker, self.text_field: marker}
        return body | ({self.json_field: {"made": marker}} if self.json_field else {})

    def file_row(self, marker: str, parent_id: str | None) -> dict[str, Any]:
        """Return a valid row of a file to import."""
        body = self.create_body(marker)
        return body | ({self.parent_field: parent_id} if self.parent else {})

    def refused_fields(self) -> dict[str, Any]:
        """Return fields of a row that PostgreSQL refuses: the parent is missing, or JSON is large.

        The service does not check these itself.
        """
        if self.parent:
            return {self.parent_field: "00000000-0000-4000-8000-000000000000"}
        return {self.json_field or "": {"text": "x" * _REFUSED_CHARACTERS}}

    def large_body(self, marker: str, size: int) -> dict[str, Any]:
        """Return a valid body with a value of `size` characters, or as long as the fields allow."""
        body = self.create_body(marker)
        if self.json_field:
            return body | {self.json_field: {"text": "x" * size}}
        return body | {self.text_field: "x" * min(size, self.text_length)}

    def tags_body(self, tags: Sequence[str]) -> dict[str, Any]:
        """Return the fields of a row that holds these tags."""
        if self.json_field:
            return {self.json_field: {"tags": list(tags)}}
        return {self.text_field: " ".join(["tags:", *tags])}

    def read_tags(self, row: Mapping[str, Any]) -> list[str] | None:
        """Return the tags in the fields of a row; None if the row is not for tags."""
        if self.json_field:
            return row[self.json_field].get("tags")
        first, *tags = (row[self.text_field] or "").split(" ")
        return tags if first == "tags:" else None

    def fill_in(self, template: bytes) -> bytes | None:
        """Replace <title>, <text>, <flag> and <json> by field names; None if a field is missing."""
        fields = {b"<title>": self.title_field, b"<text>": self.text_field}
        for placeholder, name in {**fields, b"<flag>": self.flag_field}.items():
            template = template.replace(placeholder, name.encode())
        if self.json_field:
            return template.replace(b"<json>", self.json_field.encode())
        return None if b"<json>" in template else template


def resource_names() -> list[str]:
    """Return the names of all modules in faults/resources."""
    return sorted(module.name for module in pkgutil.iter_modules(resources.__path__))


def load_resource(name: str) -> Resource:
    """Return the resource that the module of this name in faults/resources declares."""
    return import_module(f"faults.resources.{name}").RESOURCE
