"""Reads the history of one row of any resource: a page of its changes, or its state at a time.

Each function runs one statement in one round trip. The statements are built once for each resource
and cached.
"""

from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from projectapp import database
from projectapp.database import Row, rfc3339
from projectapp.problems import HistoryGone, ValidationFailed
from projectapp.resources.changes import CHANGES, HISTORIES
from projectapp.resources.resource import Resource
from projectapp.resources.states import (
    has_history,
    render_items,
    row_now,
    select_changes,
    state_before,
)

MAX_SEQ = 2**63 - 1  # of the type bigint

_page_size = sa.bindparam("page_size", type_=sa.Integer)
_time = sa.bindparam("time", type_=sa.DateTime(timezone=True))


class HistoryPage(NamedTuple):
    """`items` is JSON text, the newest change first. `last_seq` is None on the last page."""

    items: str
    last_seq: int | None


def find_history_page(
    resource: Resource, row_id: UUID, page_size: int, before_seq: int = MAX_SEQ
) -> HistoryPage | None:
    """Return a page of the changes of a row that were made before the change `before_seq`.

    Returns None if the caller may not see them. If the row is deleted, its last owner may.
    """
    parameters = {"row_id": row_id, "page_size": page_size, "before_seq": before_seq}
    row = database.execute(_page_statement(resource), parameters)
    return HistoryPage(row.items or "", row.last_seq) if row else None


@lru_cache
def _page_statement(resource: Resource) -> sa.Select[Any]:
    now = row_now(resource)
    changes = select_changes(resource, sa.bindparam("row_id", type_=sa.Uuid))
    number = sa.func.row_number().over(order_by=CHANGES.c.seq.desc()).label("number")
    page = (
        changes.where(CHANGES.c.seq < sa.bindparam("before_seq", type_=sa.BigInteger))
        .order_by(CHANGES.c.seq.desc())
        .limit(_page_size + sa.literal_column("1"))
        .add_columns(number)
        .subquery("page")
    )
    items = render_items(resource, page)
    item = sa.func.concat(
        sa.literal_column("""'{"operation":"'"""),
        page.c.operation,
        sa.literal_column("""'",'"""),
        # The members of the head, without its first brace and with a comma instead of the last.
        sa.func.substr(items.head, 2, sa.func.length(items.head) - 2),
        sa.literal_column(f"""',"{resource.singular_name}":'"""),
        sa.func.coalesce(items.row, sa.literal_column("'null'")),
        sa.literal_column("'}'"),
    )
    in_order: Any = aggregate_order_by(sa.literal_column("','"), page.c.number)
    rendered = (
        sa.select(
            sa.func.string_agg(item, in_order).filter(page.c.number <= _page_size).label("items"),
            sa.func.min(page.c.seq).filter(page.c.number == _page_size).label("last_seq"),
            sa.func.count().label("row_count"),
        )
        .select_from(items.source)
        .subquery("rendered")
    )
    last_seq = sa.case((rendered.c.row_count > _page_size, rendered.c.last_seq)).label("last_seq")
    statement = (
        sa.select(rendered.c["items"], last_seq)
        .select_from(now.source.join(rendered, sa.true()))
        .where(has_history(resource), now.is_visible(resource))
    )
    return database.plan_once(statement)


def find_row_at(resource: Resource, row_id: UUID, time: datetime) -> Row | None:
    """Return `version` and `body` of a row at a time, also of a deleted row.

    Returns None if there was no row, or if the caller may not see it. If the row is deleted, its
    last owner may. Raises HistoryGone, and ValidationFailed for a time in the future.
    """
    row = database.execute(_state_statement(resource), {"row_id": row_id, "time": time})
    if row and row.is_future:
        raise ValidationFailed({"as_of": ["Must not be in the future."]})
    if row and row.is_gone:
        raise HistoryGone(
            f"The history of {resource.name} begins at {row.starts_at}. Use a later time."
        )
    return row if row and row.body else None


@lru_cache
def _state_statement(resource: Resource) -> sa.Select[Any]:
    now = row_now(resource)
    later = CHANGES.alias("later_changes")
    changes = select_changes(resource, sa.bindparam("row_id", type_=sa.Uuid), later)
    next_change = (
        changes.where(later.c.at > _time).order_by(later.c.seq).limit(1).lateral("next_change")
    )
    source = now.source.outerjoin(next_change, sa.true())
    state = state_before(resource, next_change, now.row, source)
    is_shown = sa.and_(now.is_visible(resource), state.is_present)
    statement = (
        sa.select(
            (_time > sa.func.clock_timestamp()).label("is_future"),
            (_time < HISTORIES.c.starts_at).label("is_gone"),
            rfc3339(HISTORIES.c.starts_at).label("starts_at"),
            state.columns.version.label("version"),
            sa.case((is_shown, resource.as_json(state.columns))).label("body"),
        )
        .select_from(state.source)
        .where(has_history(resource))
    )
    return database.plan_once(statement)
