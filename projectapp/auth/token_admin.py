"""The statements of `flask tokens`: create, list, rotate and revoke API tokens.

A write whose answer was lost is repeated. The result is then the same.
"""

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
_has_id = ApiToken.id == sa.bindparam("token_id")


def _insert_once(insertion: Any) -> Any:
    """Make an INSERT repeatable: the second time, it returns the same row and changes nothing."""
    return insertion.on_conflict_do_update(
        index_elements=[_table.c.id], set_={"id": insertion.excluded.id}
    ).returning(_table.c.id)


_lifetime = sa.bindparam("lifetime", type_=sa.Interval)
_INSERT = _insert_once(insert(_table).values(expires_at=_now + _lifetime))

# When the rotation is repeated, the new token exists already, and the old one may have expired.
_new_token, _new_id = _table.alias("new_token"), sa.bindparam("new_id", type_=sa.Uuid)
_is_repeated = sa.exists().where(_new_token.c.id == _new_id)
_old_token = (
    sa.select(_table)
    .where(_has_id, sa.or_(is_active, _is_repeated))
    .with_for_update()
    .cte("old_token")
)
_grace_ends_at = _now + sa.bindparam("grace", type_=sa.Interval)
_expire_old = (
    sa.update(_table)
    .where(_table.c.id == _old_token.c.id)
    .values(expires_at=sa.func.least(_table.c.expires_at, _grace_ends_at))
    .cte("expire_old")
)
_ROTATE = _insert_once(
    insert(_table)
    .from_select(
        ["id", "name", "owner", "scopes", "digest", "expires_at"],
        sa.select(
            _new_id,
            *(_old_token.c.name, _old_token.c.owner, _old_token.c.scopes),
            sa.bindparam("token_digest", type_=sa.LargeBinary),
            _now + (_old_token.c.expires_at - _old_token.c.created_at),
        ),
    )
    .add_cte(_expire_old)
)

_REVOKE = (
    sa.update(_table)
    .where(sa.or_(_has_id, ApiToken.digest == sa.bindparam("token_digest")))
    .values(revoked_at=sa.func.coalesce(_table.c.revoked_at, _now))
    .returning(_table.c.name)
)

_is_revoked = ApiToken.revoked_at.is_not(None)
LIST_COLUMNS = {
    "id": ApiToken.id,
    "name": ApiToken.name,
    "owner": ApiToken.owner,
    "scopes": sa.func.array_to_string(ApiToken.scopes, ","),
    "state": sa.case((_is_revoked, "revoked"), (is_active, "active"), else_="expired"),
    **{
        name: sa.func.substr(rfc3339(_table.c[f"{name}_at"]), 1, 16).concat("Z")
        for name in ("created", "expires", "last_used")
    },
}
_as_json = sa.func.json_build_object(*(part for pair in LIST_COLUMNS.items() for part in pair))
_LIST = sa.select(sa.func.json_agg(aggregate_order_by(_as_json, ApiToken.created_at.desc())))


def create_token(name: str, owner: str, scopes: list[str], lifetime: timedelta | None) -> str:
    """Create a token and return it. It never expires if `lifetime` is None.

    Raises OutcomeUnknown if the answer was lost.
    """
    token, token_id = new_token(), uuid7()
    values = {"id": token_id, "name": name, "owner": owner, "scopes": scopes, "lifetime": lifetime}
    _insert_token(_INSERT, {**values, "digest": hash_token(token)}, token_id)
    return token


def rotate_token(token_id: UUID, grace: timedelta) -> str | None:
    """Create a token with the name, owner, scopes and lifetime of another, and return it.

    The old token expires after `grace` or at its own time, whichever is earlier. Returns None if
    the old token is not active. Raises OutcomeUnknown if the answer was lost.
    """
    token, new_id = new_token(), uuid7()
    new_values = {"new_id": new_id, "token_digest": hash_token(token)}
    values = {"token_id": token_id, "grace": grace, **new_values}
    # Behind a pooler, a statement whose answer was lost may still run while it is repeated. The
    # repetition then waits for its lock, and finds that the old token has expired, but does not see
    # the new token yet. A second repetition sees it.
    row = _insert_token(_ROTATE, values, new_id) or _insert_token(_ROTATE, values, new_id)
    return token if row else None


def revoke_token(token_id: UUID | None = None, token: str = "") -> str | None:
    """Revoke the token with this id, or this token. Return its name; None if it does not exist.

    The result is the same if the token is revoked already.
    """
    values = {"token_id": token_id, "token_digest": hash_token(token)}
    row = database.write_repeatably(_REVOKE, values)
    return row.name if row else None


def list_tokens() -> list[dict[str, Any]]:
    """Return the LIST_COLUMNS of all tokens, newest first. Times are in UTC, to the minute."""
    return database.execute(_LIST)[0] or []


def _insert_token(statement: Any, values: dict[str, Any], new_id: UUID) -> Any:
    """Execute a statement that inserts the token `new_id`. Raises OutcomeUnknown."""
    try:
        return database.write_repeatably(statement, values)
    except OutcomeUnknown as error:
        raise OutcomeUnknown(
            f"Run: flask tokens rotate {new_id} --grace 0m. It replaces the token that was not"
            " printed, and prints the new one. If there is no such token, repeat your command."
        ) from error
