"""The projects table, and the one expression that renders a project as JSON."""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from projectapp import auth
from projectapp.database import db, rfc3339
from projectapp.request_state import OWNER_LENGTH

NAME_LENGTH = 200
DESCRIPTION_LENGTH = 1000
ATTRIBUTES_BYTES = 16 * 1024
ATTRIBUTES_LEVELS = 32


class Project(db.Model):  # type: ignore[name-defined,misc]
    __tablename__ = "projects"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(NAME_LENGTH))
    description: Mapped[str | None] = mapped_column(sa.String(DESCRIPTION_LENGTH))
    is_active: Mapped[bool] = mapped_column(server_default=sa.true())
    attributes: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=sa.text("'{}'"))
    version: Mapped[int] = mapped_column(server_default=sa.text("1"))
    created_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    updated_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    owner: Mapped[str | None] = mapped_column(sa.String(OWNER_LENGTH))  # None: of before AUTH
    search: Mapped[str] = mapped_column(
        sa.Text(collation="C"), sa.Computed("project_text(name, description)", persisted=True)
    )
    bigrams: Mapped[list[int]] = mapped_column(
        ARRAY(sa.Integer),
        sa.Computed("project_bigrams(project_text(name, description))", persisted=True),
    )

    __table_args__ = (
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
            f"octet_length(attributes::text) <= {ATTRIBUTES_BYTES}",
            name="attributes_size",
            info={
                "field": "attributes",
                "message": f"Longer than {ATTRIBUTES_BYTES} bytes as JSON.",
            },
        ),
        sa.CheckConstraint("version >= 1", name="version_positive"),
        *(
            sa.Index(f"projects_{'_'.join(keys)}_idx", *keys)
            for key in ("name", "created_at", "updated_at")
            for keys in ((key, "id"), ("is_active", key, "id"))
        ),
        sa.Index("projects_is_active_id_idx", "is_active", "id"),
        sa.Index(
            "projects_owner_created_at_idx",
            *("owner", "created_at", "id"),
            postgresql_where=sa.text("owner IS NOT NULL"),
        ),
        sa.Index(
            "projects_attributes_idx",
            "attributes",
            postgresql_using="gin",
            postgresql_ops={"attributes": "jsonb_path_ops"},
        ),
        sa.Index("projects_bigrams_idx", "bigrams", postgresql_using="gin"),
    )


FIELDS = tuple(column.key for column in Project.__table__.columns if not column.computed)
READ_ONLY = ("id", "version", "created_at", "updated_at", "owner")
WRITABLE = tuple(name for name in FIELDS if name not in READ_ONLY)


def as_json(row: Any = Project) -> sa.ColumnElement[str]:
    """Render a project as JSON text; `row` is the model or a subquery's columns."""
    pairs: list[Any] = []
    for name in FIELDS:
        pairs += [sa.literal_column(f"'{name}'"), _shown(getattr(row, name))]
    return sa.cast(sa.func.json_build_object(*pairs), sa.Text)


def selected_as_json(row: Any) -> sa.ColumnElement[str]:
    """Render a project as JSON text with only the fields that the parameter `fields` names.

    The text is what `as_json` would make of them. One statement serves every choice of fields.
    """
    chosen = sa.bindparam("fields", type_=ARRAY(sa.Text))
    members = []
    for name in FIELDS:
        value = sa.cast(sa.func.to_json(_shown(getattr(row, name))), sa.Text)
        member = sa.literal_column(f"""'"{name}" : '""").concat(
            sa.func.coalesce(value, sa.literal_column("'null'"))
        )
        members.append(sa.case((sa.literal_column(f"'{name}'") == sa.any_(chosen), member)))
    inside = sa.func.concat_ws(sa.literal_column("', '"), *members)  # leaves out what is NULL
    return sa.literal_column("'{'").concat(inside).concat(sa.literal_column("'}'"))


def _shown(value: Any) -> Any:
    return rfc3339(value) if isinstance(value.type, sa.DateTime) else value


def visible_to_caller(row: Any) -> sa.ColumnElement[bool]:
    """Whether the caller sees a project: all that a statement finds or changes passes this.

    `row` is the table's columns, or a subquery's.
    """
    return auth.is_visible(row.owner, Project.__tablename__)
