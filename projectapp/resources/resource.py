"""The declaration of a resource: a table whose rows the API serves."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from projectapp import auth
from projectapp.database import rfc3339
from projectapp.resources.models import READ_ONLY


@dataclass(frozen=True, eq=False)
class Resource:
    """A table with the ResourceColumns.

    Lists can be sorted by the columns `sort_keys`, which are never null. If the rows belong to rows
    of another resource, their `parent`, the table has a foreign key to the parent's table. A child
    has the owner of its parent, and only a caller who sees the parent can create it.
    """

    model: Any
    sort_keys: tuple[str, ...]
    parent: Resource | None = None
    children: list[Resource] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        nullable = [key for key in self.sort_keys if self.table.c[key].nullable]
        if nullable:
            raise TypeError(f"A list cannot be sorted by {nullable[0]}, which may be null.")
        if self.parent:
            self.parent.children.append(self)

    @cached_property
    def table(self) -> sa.Table:
        return self.model.__table__

    @property
    def name(self) -> str:
        return self.table.name

    @cached_property
    def singular_name(self) -> str:
        """The name of one row, such as project: the class of the model in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.model.__name__).lower()

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The columns that clients see, in the order of the JSON objects."""
        return tuple(column.key for column in self.table.c if not column.computed)

    @cached_property
    def parent_key(self) -> str | None:
        """The column with the parent's id."""
        if not self.parent:
            return None
        return next(c.key for c in self.table.c if c.references(self.parent.table.c.id))

    @cached_property
    def writable(self) -> tuple[str, ...]:
        read_only = {*READ_ONLY, self.parent_key}
        return tuple(name for name in self.fields if name not in read_only)

    @cached_property
    def is_searchable(self) -> bool:
        return {"search", "bigrams"} <= {*self.table.c.keys()}

    def is_visible(self, row: Any) -> sa.ColumnElement[bool]:
        """Return the condition that the caller sees a row. Every statement includes it.

        `row` has the table's columns as attributes, as the table or a subquery does.
        """
        return auth.is_visible(row.owner, self.name)

    def is_row(self, parameter: str) -> sa.ColumnElement[bool]:
        """Return the condition for the row, visible to the caller, whose id is the parameter."""
        c = self.table.c
        return sa.and_(c.id == sa.bindparam(parameter, type_=c.id.type), self.is_visible(c))

    def as_json(self, row: Any) -> sa.ColumnElement[str]:
        """Render a row as JSON text."""
        members: list[Any] = []
        for name in self.fields:
            members += [sa.literal_column(f"'{name}'"), _json_value(getattr(row, name))]
        return sa.cast(sa.func.json_build_object(*members), sa.Text)

    def selected_as_json(self, row: Any) -> sa.ColumnElement[str]:
        """Render a row as `as_json` does, but only the fields that the parameter `fields` names.

        One statement serves every selection of fields.
        """
        selected = sa.bindparam("fields", type_=ARRAY(sa.Text))
        members = []
        for name in self.fields:
            value = sa.cast(sa.func.to_json(_json_value(getattr(row, name))), sa.Text)
            member = sa.literal_column(f"""'"{name}" : '""").concat(
                sa.func.coalesce(value, sa.literal_column("'null'"))
            )
            members.append(sa.case((sa.literal_column(f"'{name}'") == sa.any_(selected), member)))
        text = sa.func.concat_ws(sa.literal_column("', '"), *members)  # which skips null
        return sa.literal_column("'{'").concat(text).concat(sa.literal_column("'}'"))


def _json_value(value: Any) -> Any:
    return rfc3339(value) if isinstance(value.type, sa.DateTime) else value
