"""A caller, whatever told who that is."""

from typing import NamedTuple

OWNER_LENGTH = 255  # OpenID Connect Core 1.0, 2: that of a sub


class Caller(NamedTuple):
    """Who makes a request, and what they may.

    `subject` owns what they make; it is None for anybody, while AUTH is none. A scope is
    "RESOURCE:read", "RESOURCE:write" or "RESOURCE:all": everything, on everybody's rows.
    `credential` names what they showed, for the log. `digest` is that of an API token, which may
    have been revoked since it was first seen.
    """

    subject: str | None
    scopes: frozenset[str]
    credential: str
    digest: bytes = b""

    def may(self, scope: str) -> bool:
        return scope in self.scopes or self.sees_all(scope.partition(":")[0])

    def sees_all(self, resource: str) -> bool:
        return self.subject is None or f"{resource}:all" in self.scopes
