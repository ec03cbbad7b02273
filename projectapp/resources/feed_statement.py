"""The statement that reads a page of a change feed. feed.py explains what a page has."""

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.types import UserDefinedType

from projectapp import auth, database
from projectapp.database.models import XID8
from projectapp.resources.changes import CHANGES, HISTORIES
from projectapp.resources.resource import Resource
from projectapp.resources.states import render_items

SCAN_ROWS = 5000  # a page walks at most so many changes, of all resources and owners


class _PgSnapshot(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "pg_snapshot"


def _parameter(name: str, type_: Any) -> Any:
    return sa.cast(sa.bindparam(name, type_=type_), type_)


_seen, _until = (sa.cast(_parameter(n, sa.Text), _PgSnapshot) for n in ("seen", "until"))
_is_in_window = _until.is_not(None)
_seen_seq, _until_seq, _last_seq = (
    _parameter(name, sa.BigInteger) for name in ("seen_seq", "until_seq", "last_seq")
)
_limit = _parameter("limit", sa.Integer)


@lru_cache
def page_statement(resource: Resource) -> sa.Select[Any]:
    state = _select_state(resource)
    walk = _walk(resource, state)
    in_page = sa.select(walk.c.seq).where(walk.c.is_item).order_by(walk.c.seq).limit(_limit)
    # With an array PostgreSQL finds the rows by their key, whatever it knows about the table.
    is_in_page = CHANGES.c.seq == sa.any_(sa.func.array(in_page.scalar_subquery()))
    page = sa.select(CHANGES).where(is_in_page).offset(0).subquery("page")
    items, c = render_items(resource, page), page.c
    xid = sa.cast(sa.cast(c.xid, sa.Text), sa.BigInteger)
    values = (c.seq, xid, c.owner, c.old_owner, c.operation, c.row_id, items.head, items.row)
    ordered = aggregate_order_by(sa.func.json_build_array(*values), c.seq)
    changes = sa.select(sa.func.json_agg(ordered)).select_from(items.source).scalar_subquery()
    walked_rows, walk_end = (
        sa.select(sa.func.count()).select_from(walk),
        sa.select(sa.func.max(walk.c.seq)).where(walk.c.is_end),
    )
    statement = sa.select(
        *state.c,
        walked_rows.scalar_subquery().label("walked_rows"),
        walk_end.scalar_subquery().label("walk_end"),
        sa.func.coalesce(sa.cast(changes, sa.Text), "[]").label("changes"),
    )
    return database.plan_once(statement)


_snapshot = sa.func.pg_current_snapshot(type_=_PgSnapshot)
_seen_xmax, _xmax = (sa.func.pg_snapshot_xmax(s, type_=XID8()) for s in (_seen, _snapshot))


def _select_state(resource: Resource) -> sa.CTE:
    """Select what the database has now, and `first_seq`: the page has only changes after it."""
    c, h = CHANGES.c, HISTORIES.c
    timeline = sa.func.left(sa.func.pg_walfile_name(sa.func.pg_current_wal_lsn()), 8)
    newest_seq = sa.select(sa.func.coalesce(sa.func.max(c.seq), 0)).scalar_subquery()
    newest_purged_seq = sa.select(sa.func.max(HISTORIES.alias().c.purged_seq)).scalar_subquery()
    late = _select_late(resource)
    first_seq = sa.func.least(_seen_seq, late.c.seq - 1)
    # The order makes PostgreSQL read the index, whatever it knows about the table.
    newer = sa.select(c.xid).where(c.xid >= _seen_xmax, c.xid < _xmax).order_by(c.xid).limit(1)
    # Without new changes, there is no walk over the changes of transactions that are running.
    has_new = sa.or_(
        _last_seq >= 0,
        _seen_xmax == sa.literal_column("'3'::xid8"),  # of START
        late.c.seq.is_not(None),
        newer.scalar_subquery().is_not(None),
        _xmax < _seen_xmax,  # an older copy of the database
    )
    return (
        sa.select(
            h.database_id,
            (h.database_id == sa.func.history_database_id()).label("is_same_database"),
            sa.case((sa.func.pg_is_in_recovery(), None), else_=timeline).label("timeline"),
            h.restored_seq,
            h.purged_seq,
            sa.cast(h.purged_xid, sa.Text).label("purged_xid"),
            newest_purged_seq.label("newest_purged_seq"),
            sa.cast(_snapshot, sa.Text).label("now"),
            # age() must not be in a condition: the planner would call it before the snapshot is
            # taken, and only the first call in a transaction reads the next id.
            (sa.cast(sa.func.age(sa.literal_column("'3'::xid")), sa.BigInteger) + 3).label(
                "next_xid"
            ),
            sa.case((has_new, newest_seq), else_=_seen_seq).label("newest_seq"),
            sa.case((_last_seq >= 0, _last_seq), else_=first_seq).label("first_seq"),
            has_new.label("has_new"),
        )
        .select_from(HISTORIES.join(late, sa.true()))
        .where(h.resource == sa.literal_column(f"'{resource.name}'"))
        .cte("state")
        .prefix_with("MATERIALIZED")
    )


def _select_late(resource: Resource) -> sa.CTE:
    """Select the smallest `seq` that transactions have drawn that ended after `seen`.

    These transactions were running when `seen` was taken. The `seq` is null if they made no change,
    and inside a window. The changes of transactions that are still running are not read, because
    they may be many.
    """
    c, h = CHANGES.c, HISTORIES.c
    running = sa.func.pg_snapshot_xip(_seen).column_valued("running")
    seen_next_xid = _parameter("seen_next_xid", XID8())

    def first_of(*conditions: Any) -> Any:
        # `+ 0`, so that PostgreSQL reads the index on `xid` and not the one on `seq`.
        seq = c.seq + sa.literal_column("0")
        matching = sa.select(sa.func.min(seq)).where(*conditions, seq > h.restored_seq)
        return matching.correlate_except(CHANGES).scalar_subquery()

    # A range of one id. With `=`, PostgreSQL reads all changes if its statistics have only one id,
    # as after a bulk load.
    first_of_listed = (
        sa.select(sa.func.min(first_of(c.xid >= running, c.xid <= running)))
        .where(sa.func.pg_visible_in_snapshot(running, _snapshot))
        .correlate(HISTORIES)
        .scalar_subquery()
    )
    first_of_others = first_of(c.xid >= _seen_xmax, c.xid < sa.func.least(seen_next_xid, _xmax))
    first = sa.func.least(first_of_listed, first_of_others, type_=sa.BigInteger())
    return (
        sa.select(sa.case((_last_seq < 0, first)).label("seq"))
        .where(h.resource == sa.literal_column(f"'{resource.name}'"))
        .cte("late")
        .prefix_with("MATERIALIZED")
    )


def _walk(resource: Resource, state: sa.CTE) -> sa.CTE:
    """Select the changes of the page, and one more if the page is full.

    If the walk stops because it is too long, the last row that it walked is also selected, with
    `is_end`. `is_item` says whether a row is a change of the page.
    """
    c = CHANGES.c
    first_seq, has_new, restored_seq = (
        sa.select(state.c[name]).scalar_subquery()
        for name in ("first_seq", "has_new", "restored_seq")
    )
    number = sa.func.row_number().over(order_by=c.seq).label("number")
    scan = (
        sa.select(c.seq, c.xid, c.resource, c.owner, c.old_owner, number)
        .where(c.seq > first_seq, has_new)
        .order_by(c.seq)
        .limit(sa.literal_column(str(SCAN_ROWS)))
        .subquery("scan")
        .c
    )
    # A `seq` above `seen_seq` is new, whatever `seen` says: after a crash PostgreSQL may use
    # transaction ids again.
    is_unseen = sa.or_(
        scan.seq > _seen_seq, sa.not_(sa.func.pg_visible_in_snapshot(scan.xid, _seen))
    )
    is_before_until = sa.or_(
        sa.not_(_is_in_window),
        scan.seq <= restored_seq,
        sa.and_(scan.seq <= _until_seq, sa.func.pg_visible_in_snapshot(scan.xid, _until)),
    )
    is_item = sa.and_(
        scan.resource == sa.literal_column(f"'{resource.name}'"),
        sa.or_(*(auth.is_visible(owner, resource.name) for owner in (scan.owner, scan.old_owner))),
        is_unseen,
        is_before_until,
    )
    is_end = scan.number == sa.literal_column(str(SCAN_ROWS))
    return (
        sa.select(scan.seq, is_item.label("is_item"), is_end.label("is_end"))
        .where(sa.or_(is_item, is_end))
        .order_by(scan.seq)
        .limit(_limit + 1)
        .cte("walk")
        .prefix_with("MATERIALIZED")
    )
