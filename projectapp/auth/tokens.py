"""API tokens: random, shown once, stored as their SHA-256.

A token consists of `pja_`, 43 base62 digits that encode 256 random bits, and their CRC-32 in 6
base62 digits. As with GitHub's tokens, secret scanners recognize the format, and the checksum
detects a typing error without a query. A token's owner and scopes never change, so each worker
caches them. Every statement checks that the token is still active, in the same message (access.py).
"""

import hashlib
import logging
import math
import secrets
import string
import threading
import time
import zlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from queue import SimpleQueue
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from projectapp import database
from projectapp.database import db
from projectapp.problems import InvalidToken, Problem
from projectapp.request_state import OWNER_LENGTH, Caller

PREFIX = "pja_"
NAME_LENGTH = 100  # characters
LAST_USED_INTERVAL_SECONDS = 600  # the minimum between two updates of last_used_at

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH, _CHECKSUM_LENGTH = 43, 6  # base62 digits for 256 and for 32 bits
_MAX_CACHED_TOKENS = 10_000  # about 500 bytes each
_TIMESTAMP = sa.DateTime(timezone=True)

log = logging.getLogger(__name__)


class ApiToken(db.Model):  # type: ignore[name-defined,misc]
    """An API token. The row of a revoked token stays, as a record."""

    __tablename__ = "api_tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(NAME_LENGTH))
    owner: Mapped[str] = mapped_column(sa.String(OWNER_LENGTH))
    scopes: Mapped[list[str]] = mapped_column(ARRAY(sa.Text))
    digest: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(_TIMESTAMP, server_default=sa.func.now())
    expires_at: Mapped[datetime | None] = mapped_column(_TIMESTAMP)
    revoked_at: Mapped[datetime | None] = mapped_column(_TIMESTAMP)
    last_used_at: Mapped[datetime | None] = mapped_column(_TIMESTAMP)


_table = ApiToken.__table__
# The parameter cannot be named digest: an UPDATE would set the column of this name.
_has_digest = ApiToken.digest == sa.bindparam("token_digest")
is_active = sa.and_(
    ApiToken.revoked_at.is_(None),
    sa.or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > sa.func.now()),
)
_SELECT = database.plan_once(
    sa.select(ApiToken.id, ApiToken.owner, ApiToken.scopes).where(_has_digest, is_active)
)
_SELECT_EXPIRY = sa.select(ApiToken.expires_at).where(_has_digest)
_last_use, _interval = ApiToken.last_used_at, timedelta(seconds=LAST_USED_INTERVAL_SECONDS)
_is_due = sa.or_(_last_use.is_(None), _last_use < sa.func.now() - _interval)
_UPDATE_LAST_USED = (
    sa.update(_table)
    .where(_has_digest, is_active, _is_due)
    .values(last_used_at=sa.func.now())
    .returning(ApiToken.id)
)


_digests = sa.bindparam("token_digests", type_=ARRAY(sa.LargeBinary))
_SELECT_ACTIVE = sa.select(
    sa.func.array_agg(ApiToken.digest, type_=ARRAY(sa.LargeBinary)).label("digests")
).where(ApiToken.digest == sa.any_(_digests), is_active)


class TokenCache:
    """A worker's cache of the callers with API tokens, and its queue of last_used_at updates.

    A thread writes the updates, so that no request waits for them. All keys are tokens' digests.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._callers: dict[bytes, Caller] = {}
        self._last_recorded: dict[bytes, float] = {}  # seconds on the monotonic clock
        self._pending_uses: SimpleQueue[bytes] = SimpleQueue()
        self._writer: threading.Thread | None = None

    def find_caller(self, token: str) -> Caller:
        """Return the caller with this token. Raises InvalidToken if there is no such active token.

        There is no query for a cached token, so it may have been revoked since.
        """
        digest = hash_token(token)
        caller = self._callers.get(digest)
        if not caller:
            if not has_valid_checksum(token):
                raise InvalidToken("The token is mistyped or incomplete.", "wrong checksum")
            caller = self._load(digest)
        self._record_use(digest)
        return caller

    def forget(self, caller: Caller) -> None:
        self._callers.pop(caller.digest, None)
        self._last_recorded.pop(caller.digest, None)

    def _load(self, digest: bytes) -> Caller:
        row = database.execute(_SELECT, {"token_digest": digest})
        if not row:
            raise InvalidToken()
        if len(self._callers) >= _MAX_CACHED_TOKENS:
            self._callers.clear()
            self._last_recorded.clear()
        caller = Caller(row.owner, frozenset(row.scopes), f"token {row.id}", digest)
        self._callers[digest] = caller
        return caller

    def _record_use(self, digest: bytes) -> None:
        """Queue an update of last_used_at, at most one per LAST_USED_INTERVAL_SECONDS."""
        now = time.monotonic()
        if now >= self._last_recorded.get(digest, -math.inf) + LAST_USED_INTERVAL_SECONDS:
            self._last_recorded[digest] = now
            self._pending_uses.put(digest)
            if not (self._writer and self._writer.is_alive()):
                self._writer = threading.Thread(target=self._write, name="token-uses", daemon=True)
                self._writer.start()

    def _write(self) -> None:
        while True:
            digest = self._pending_uses.get()
            try:
                with self._app.app_context():
                    database.execute(_UPDATE_LAST_USED, {"token_digest": digest})
            except Problem as problem:
                log.info("The last use of a token was not recorded: %s", problem)


def find_active_digests(digests: Iterable[bytes]) -> set[bytes]:
    """Return the digests of active tokens."""
    row = database.execute(_SELECT_ACTIVE, {"token_digests": [*digests]})
    return {bytes(digest) for digest in row.digests or ()}


def find_expiry(caller: Caller) -> datetime | None:
    """Return when the caller's API token expires; None if it does not expire."""
    row = database.execute(_SELECT_EXPIRY, {"token_digest": caller.digest})
    expires_at: datetime | None = row.expires_at
    return expires_at


def token_check_sql(caller: Caller) -> str:
    """Return SQL to send in front of a statement. It raises an error if the token is not active."""
    return f"SELECT api_token_check('\\x{caller.digest.hex()}'); "


def new_token() -> str:
    secret = _to_base62(secrets.randbits(256), _SECRET_LENGTH)
    return PREFIX + secret + _checksum(secret)


def hash_token(token: str) -> bytes:
    """Return the token's SHA-256. 256 random bits cannot be guessed, so a fast hash is enough."""
    return hashlib.sha256(token.encode()).digest()


def has_valid_checksum(token: str) -> bool:
    """Whether the token has the right format and checksum."""
    secret = token.removeprefix(PREFIX)[:-_CHECKSUM_LENGTH]
    return len(secret) == _SECRET_LENGTH and token == PREFIX + secret + _checksum(secret)


def _checksum(secret: str) -> str:
    return _to_base62(zlib.crc32(secret.encode()), _CHECKSUM_LENGTH)


def _to_base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, len(_BASE62))
        digits = _BASE62[digit] + digits
    return digits
