"""The columns and indexes that every resource has, and those that make it searchable."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from projectapp.request_state import OWNER_LENGTH

_LAST = 1  # these columns come after those of the resource


class ResourceColumns:
    """A mixin with the columns that the service sets; clients only read them."""

    id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-1)
    version: Mapped[int] = mapped_column(server_default=sa.text("1"), sort_order=_LAST)
    created_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), sort_order=_LAST
    )
    updated_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), sort_order=_LAST
    )
    owner: Mapped[str | None] = mapped_column(  # None: created with AUTH=none
        sa.String(OWNER_LENGTH), sort_order=_LAST
    )


READ_ONLY = ("id", "version", "created_at", "updated_at", "owner")


def search_column(title: str, text: str) -> Any:
    """Return a column with both texts as a search compares them. `text` may be null.

    Searches rank a match in `title` higher. The SQL functions are those of migration 0002.
    """
    return mapped_column(
        sa.Text(collation="C"),
        sa.Computed(f"project_text({title}, {text})", persisted=True),
        sort_order=_LAST,
    )


def bigrams_column(title: str, text: str) -> Any:
    """Return a column with the pairs of neighbouring letters of both texts, for an index."""
    expression = f"project_bigrams(project_text({title}, {text}))"
    return mapped_column(
        ARRAY(sa.Integer), sa.Computed(expression, persisted=True), sort_order=_LAST
    )


def resource_constraints(
    table: str, sort_keys: tuple[str, ...], state: str | None = None
) -> Iterator[Any]:
    """Yield the indexes that lists of a resource need, and the check of its version.

    There is an index for each of the `sort_keys`. If one of them is `state`, a boolean column by
    which lists are often filtered, each other key has a second index, which begins with `state`.
    Each key also has an index for the lists of one owner. It begins with `owner` and `state`, and
    has only rows with an owner. Its keys have NULLS FIRST, although they are never null. The lists
    are sorted in the same way, so the planner cannot use a worse index (docs/decisions/0007).
    """
    yield sa.CheckConstraint("version >= 1", name="version_positive")
    leading = ["owner", state] if state else ["owner"]
    for key in sort_keys:
        yield sa.Index(f"{table}_{key}_id_idx", key, "id")
        if state and key != state:
            yield sa.Index(f"{table}_{state}_{key}_id_idx", state, key, "id")
        keys = ["id"] if key == state else [key, "id"]
        yield sa.Index(
            f"{table}_{'_'.join([*leading, *keys])}_idx",
            *leading,
            *(sa.column(name).nulls_first() for name in keys),
            postgresql_where=sa.text("owner IS NOT NULL"),
        )


def search_index(table: str) -> sa.Index:
    return sa.Index(f"{table}_bigrams_idx", "bigrams", postgresql_using="gin")
