"""The table of projects."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from projectapp.database import db
from projectapp.resources.models import (
    ResourceColumns,
    bigrams_column,
    resource_constraints,
    search_column,
    search_index,
)
from projectapp.resources.resource import Resource

SORT_KEYS = ("name", "created_at", "updated_at", "is_active")
MAX_NAME_LENGTH = 200
MAX_DESCRIPTION_LENGTH = 1000
MAX_ATTRIBUTES_BYTES = 16 * 1024
MAX_ATTRIBUTES_DEPTH = 32


class Project(ResourceColumns, db.Model):  # type: ignore[name-defined,misc]
    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(sa.String(MAX_NAME_LENGTH))
    description: Mapped[str | None] = mapped_column(sa.String(MAX_DESCRIPTION_LENGTH))
    is_active: Mapped[bool] = mapped_column(server_default=sa.true())
    attributes: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=sa.text("'{}'"))

    search: Mapped[str] = search_column("name", "description")
    bigrams: Mapped[list[int]] = bigrams_column("name", "description")

    __table_args__ = (
        *resource_constraints("projects", SORT_KEYS, state="is_active"),
        search_index("projects"),
        sa.Index(
            "projects_attributes_idx",
            "attributes",
            postgresql_using="gin",
            postgresql_ops={"attributes": "jsonb_path_ops"},
        ),
        # The previous release reads the newest rows of an owner from it. The next one may drop it.
        sa.Index(
            "projects_owner_created_at_idx",
            *("owner", "created_at", "id"),
            postgresql_where=sa.text("owner IS NOT NULL"),
        ),
        # `info` is the error of a client whose value violates the constraint.
        sa.CheckConstraint(
            "char_length(name) >= 1",
            name="name_not_empty",
            info={"field": "name", "message": "Must not be empty."},
        ),
        sa.CheckConstraint(
            "jsonb_typeof(attributes) = 'object'",
            name="attributes_object",
            info={"field": "attributes", "message": "Must be an object."},
        ),
        sa.CheckConstraint(
            f"octet_length(attributes::text) <= {MAX_ATTRIBUTES_BYTES}",
            name="attributes_size",
            info={
                "field": "attributes",
                "message": f"Longer than {MAX_ATTRIBUTES_BYTES} bytes as JSON.",
            },
        ),
    )


PROJECTS = Resource(Project, SORT_KEYS)
