"""Making, listing, rotating and revoking API tokens: what `flask tokens` does."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by

from projectapp import database
from projectapp.auth.tokens import ApiToken, hash_token, is_good, new_token
from projectapp.database import rfc3339, uuid7

_table = ApiToken.__table__
_now = sa.func.now()
_one = ApiToken.id == sa.bindparam("this")
_GIVEN = ("id", "name", "owner", "scopes", "digest")

_MAKE = sa.insert(_table).values(expires_at=_now + sa.bindparam("lifetime", type_=sa.Interval))

_old = sa.select(_table).where(_one, is_good).with_for_update().cte("old")
_ended = (
    sa.update(_table)
    .where(_table.c.id == _old.c.id)
    .values(
        expires_at=sa.func.least(
            _table.c.expires_at, _now + sa.bindparam("grace", type_=sa.Interval)
        )
    )
    .cte("ended")
)
_ROTATE = (
    sa.insert(_table)
    .from_select(
        [*_GIVEN, "expires_at"],
        sa.select(
            sa.bindparam("new_id", type_=sa.Uuid),
            *(_old.c.name, _old.c.owner, _old.c.scopes),
            sa.bindparam("hashed", type_=sa.LargeBinary),
            _now + (_old.c.expires_at - _old.c.created_at),
        ),
    )
    .add_cte(_ended)
)

_revoke = sa.update(_table).where(ApiToken.revoked_at.is_(None)).values(revoked_at=_now)
_REVOKE = _revoke.where(sa.or_(_one, ApiToken.digest == sa.bindparam("hashed")))

_STATES = sa.case(
    (ApiToken.revoked_at.is_not(None), "revoked"), (sa.not_(is_good), "expired"), else_="good"
)
SHOWN = {
    "id": ApiToken.id,
    "name": ApiToken.name,
    "owner": ApiToken.owner,
    "scopes": sa.func.array_to_string(ApiToken.scopes, ","),
    "state": _STATES,
    **{
        name: sa.func.substr(rfc3339(_table.c[f"{name}_at"]), 1, 16).concat("Z")
        for name in ("created", "expires", "last_used")
    },
}
_LIST = sa.select(
    sa.func.json_agg(
        aggregate_order_by(
            sa.func.json_build_object(*(part for pair in SHOWN.items() for part in pair)),
            ApiToken.created_at.desc(),
        )
    )
)


def create(name: str, owner: str, scopes: list[str], lifetime: timedelta | None) -> str:
    """Make a token that ends after `lifetime`, None for never; return it, which is kept nowhere."""
    token = new_token()
    given = {"id": uuid7(), "name": name, "owner": owner, "scopes": scopes, "lifetime": lifetime}
    database.one(_MAKE.returning(_table.c.id), {**given, "digest": hash_token(token)})
    return token


def rotate(token_id: UUID, grace: timedelta) -> str | None:
    """Make another token like this one, which ends after `grace`; None if it is not good any more.

    The new one has the lifetime that the old one had.
    """
    token = new_token()
    new = {"new_id": uuid7(), "hashed": hash_token(token)}
    row = database.one(_ROTATE.returning(_table.c.id), {"this": token_id, "grace": grace, **new})
    return token if row else None


def revoke(token_id: UUID | None = None, token: str = "") -> str | None:
    """End a token at once; return its name, or None if there is none that is not revoked."""
    values = {"this": token_id, "hashed": hash_token(token)}
    row = database.one(_REVOKE.returning(_table.c.name), values)
    return row.name if row else None


def every() -> list[dict[str, Any]]:
    """All tokens, the newest first: what SHOWN names, as text or None; UTC, to the minute."""
    return database.one(_LIST)[0] or []
