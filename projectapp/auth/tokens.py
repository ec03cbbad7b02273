"""API tokens: random, shown once, kept as their digests.

A token is `pja_`, 43 base62 digits of 256 random bits and 6 of their CRC-32, much as GitHub's are:
secret scanners know it by its form, and a typing error is told without a look into the database.
Who has a token and what it may do never changes, so each worker remembers that; whether it is still
good is asked with every statement, in the same message.
"""

import hashlib
import logging
import secrets
import string
import threading
import time
import zlib
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import cast
from uuid import UUID

import sqlalchemy as sa
from flask import Flask, current_app
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from projectapp import database
from projectapp.database import db
from projectapp.problems import InvalidToken, Problem
from projectapp.request_state import OWNER_LENGTH, Caller

PREFIX = "pja_"
NAME_LENGTH = 100
USE_SECONDS = 600  # a use is recorded only if none was for so long

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET, _CHECKSUM = 43, 6  # base62 digits of 256 and of 32 bits
_REMEMBERED = 10_000  # tokens, some 500 bytes each

log = logging.getLogger(__name__)


class ApiToken(db.Model):  # type: ignore[name-defined,misc]
    """A token; the row stays when it is revoked, as a record."""

    __tablename__ = "api_tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(NAME_LENGTH))
    owner: Mapped[str] = mapped_column(sa.String(OWNER_LENGTH))
    scopes: Mapped[list[str]] = mapped_column(ARRAY(sa.Text))
    digest: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    expires_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


_table = ApiToken.__table__
_this = ApiToken.digest == sa.bindparam("hashed")
is_active = sa.and_(
    ApiToken.revoked_at.is_(None),
    sa.or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > sa.func.now()),
)
_FIND = sa.select(ApiToken.id, ApiToken.owner, ApiToken.scopes).where(_this, is_active)
_USE = (
    sa.update(_table)
    .where(_this, is_active)
    .where(
        sa.or_(
            ApiToken.last_used_at.is_(None),
            ApiToken.last_used_at < sa.func.now() - timedelta(seconds=USE_SECONDS),
        )
    )
    .values(last_used_at=sa.func.now())
    .returning(ApiToken.id)
)


class Known:
    """What a worker remembers of the tokens it has seen, and their uses that are to be recorded."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._callers: dict[bytes, Caller] = {}
        self._used: dict[bytes, float] = {}
        self._uses: SimpleQueue[bytes] = SimpleQueue()
        self._writer: threading.Thread | None = None

    def get(self, digest: bytes) -> Caller | None:
        """The caller of a token that this worker has seen."""
        return self._callers.get(digest)

    def look_up(self, digest: bytes) -> Caller:
        """The caller of a token that is good now. Raises InvalidToken."""
        row = database.execute(_FIND, {"hashed": digest})
        if not row:
            raise InvalidToken()
        if len(self._callers) >= _REMEMBERED:
            self._callers.clear()
            self._used.clear()
        caller = Caller(row.owner, frozenset(row.scopes), f"token {row.id}", digest)
        self._callers[digest] = caller
        return caller

    def note_use(self, digest: bytes) -> None:
        now = time.monotonic()
        if now - self._used.get(digest, -USE_SECONDS) >= USE_SECONDS:
            self._used[digest] = now
            self._record(digest)

    def forget(self, digest: bytes) -> None:
        self._callers.pop(digest, None)
        self._used.pop(digest, None)

    def _record(self, digest: bytes) -> None:
        self._uses.put(digest)
        if not (self._writer and self._writer.is_alive()):
            self._writer = threading.Thread(target=self._write, name="token-uses", daemon=True)
            self._writer.start()

    def _write(self) -> None:
        while True:
            digest = self._uses.get()
            try:
                with self._app.app_context():
                    database.execute(_USE, {"hashed": digest})
            except Problem as problem:
                log.info("the use of a token was not recorded: %s", problem)


def init_app(app: Flask) -> None:
    app.extensions["tokens"] = Known(app)


def find_caller(token: str) -> Caller:
    """The caller whose token this is; InvalidToken if it is not, or no longer, one of ours."""
    known, digest = _known(), hash_token(token)
    caller = known.get(digest)
    if not caller:
        if not is_whole(token):
            raise InvalidToken("The token is mistyped or cut.", "wrong checksum")
        caller = known.look_up(digest)
    known.note_use(digest)
    return caller


def forget(caller: Caller) -> None:
    """Have the next request with this caller's token look it up."""
    _known().forget(caller.digest)


def token_check_sql(caller: Caller) -> str:
    """The SQL that goes before a statement's own, and raises where the token is not good now."""
    return f"SELECT api_token_check('\\x{caller.digest.hex()}'); "


def new_token() -> str:
    """A new random token, which nobody else has."""
    secret = _base62(secrets.randbits(256), _SECRET)
    return PREFIX + secret + _checksum(secret)


def hash_token(token: str) -> bytes:
    """The SHA-256 of a token, which is all that is kept: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).digest()


def is_whole(token: str) -> bool:
    """Whether a token has the form and the checksum of ours."""
    secret = token.removeprefix(PREFIX)[:-_CHECKSUM]
    return len(secret) == _SECRET and token == PREFIX + secret + _checksum(secret)


def _known() -> Known:
    return cast(Known, current_app.extensions["tokens"])


def _checksum(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode()), _CHECKSUM)


def _base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
