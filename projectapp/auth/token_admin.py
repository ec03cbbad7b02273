"""Making, listing, rotating and revoking API tokens: what `flask tokens` does."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from projectapp import database
from projectapp.auth.tokens import ApiToken, hash_token, is_active, new_token
from projectapp.database import rfc3339, uuid7
from projectapp.problems import OutcomeUnknown

_table = ApiToken.__table__
_now = sa.func.now()
_one = ApiToken.id == sa.bindparam("this")
_GIVEN = ("id", "name", "owner", "scopes", "digest")


def _insert_once(new: Any) -> Any:
    """An INSERT of a token that can be run again, and then returns the same row."""
    return new.on_conflict_do_update(
        index_elements=[_table.c.id], set_={"id": new.excluded.id}
    ).returning(_table.c.id)


_MAKE = _insert_once(
    insert(_table).values(expires_at=_now + sa.bindparam("lifetime", type_=sa.Interval))
)

# A statement that is run again finds the old token ended, and the new one already there.
_is_rotated = sa.exists(
    sa.select(sa.literal_column("1"))
    .select_from(_made := _table.alias("made"))
    .where(_made.c.id == sa.bindparam("new_id", type_=sa.Uuid))
)
_old = sa.select(_table).where(_one, sa.or_(is_active, _is_rotated)).with_for_update().cte("old")
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
_ROTATE = _insert_once(
    insert(_table)
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

_REVOKE = (
    sa.update(_table)
    .where(sa.or_(_one, ApiToken.digest == sa.bindparam("hashed")))
    .values(revoked_at=sa.func.coalesce(_table.c.revoked_at, _now))
    .returning(_table.c.name)
)

_STATES = sa.case(
    (ApiToken.revoked_at.is_not(None), "revoked"), (sa.not_(is_active), "expired"), else_="good"
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


def create_token(name: str, owner: str, scopes: list[str], lifetime: timedelta | None) -> str:
    """Make a token that ends after `lifetime`, None for never; return it, which is kept nowhere."""
    token, token_id = new_token(), uuid7()
    given = {"id": token_id, "name": name, "owner": owner, "scopes": scopes, "lifetime": lifetime}
    _write(_MAKE, {**given, "digest": hash_token(token)}, token_id)
    return token


def rotate_token(token_id: UUID, grace: timedelta) -> str | None:
    """Make another token like this one, which ends after `grace`; None if it is not good any more.

    The new one has the lifetime that the old one had.
    """
    token, new_id = new_token(), uuid7()
    new = {"new_id": new_id, "hashed": hash_token(token)}
    values = {"this": token_id, "grace": grace, **new}
    # Behind a pooler a lost statement may still run when it is repeated. The repeat then waits for
    # it and finds the old token ended, but does not see the new one yet: the next one does.
    row = _write(_ROTATE, values, new_id) or _write(_ROTATE, values, new_id)
    return token if row else None


def _write(statement: Any, values: dict[str, Any], new_id: UUID) -> Any:
    """Run a statement that inserts the token `new_id`."""
    try:
        return database.write_repeatably(statement, values)
    except OutcomeUnknown as error:
        raise OutcomeUnknown(
            f"Run: flask tokens rotate {new_id} --grace 0m. It replaces the token that you have not"
            " seen, and prints the new one. If there is no such token, repeat your command."
        ) from error


def revoke_token(token_id: UUID | None = None, token: str = "") -> str | None:
    """End a token at once; return its name, or None if there is no such token.

    A token that is revoked stays so: the answer is then the same.
    """
    values = {"this": token_id, "hashed": hash_token(token)}
    row = database.write_repeatably(_REVOKE, values)
    return row.name if row else None


def list_tokens() -> list[dict[str, Any]]:
    """All tokens, the newest first: what SHOWN names, as text or None; UTC, to the minute."""
    return database.execute(_LIST)[0] or []
