"""The table of tasks."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from projectapp.database import db
from projectapp.projects.models import PROJECTS
from projectapp.resources.models import (
    ResourceColumns,
    bigrams_column,
    resource_constraints,
    search_column,
    search_index,
)
from projectapp.resources.resource import Resource

MAX_TITLE_LENGTH = 200
MAX_NOTES_LENGTH = 2000


class Task(ResourceColumns, db.Model):  # type: ignore[name-defined,misc]
    __tablename__ = "tasks"

    project_id: Mapped[UUID] = mapped_column(sa.ForeignKey("projects.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(sa.String(MAX_TITLE_LENGTH))
    notes: Mapped[str | None] = mapped_column(sa.String(MAX_NOTES_LENGTH))
    is_done: Mapped[bool] = mapped_column(server_default=sa.false())
    priority: Mapped[int] = mapped_column(server_default=sa.text("0"))
    due_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))

    search: Mapped[str] = search_column("title", "notes")
    bigrams: Mapped[list[int]] = bigrams_column("title", "notes")

    __table_args__ = (
        *resource_constraints("tasks", ("title", "created_at", "updated_at"), "is_done"),
        search_index("tasks"),
        sa.Index("tasks_project_id_created_at_idx", "project_id", "created_at", "id"),
        sa.CheckConstraint(
            "char_length(title) >= 1",
            name="title_not_empty",
            info={"field": "title", "message": "Must not be empty."},
        ),
    )


TASKS = Resource(Task, sort_keys=("title", "created_at", "updated_at", "is_done"), parent=PROJECTS)
