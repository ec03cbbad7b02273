"""JSON Web Tokens (RFC 7519) of an identity provider."""

from collections.abc import Mapping
from typing import Any

from projectapp.auth.caller import Caller
from projectapp.errors import InvalidToken


class Verifier:
    """Verifies tokens as `config` says: JWT_ISSUER, JWT_AUDIENCE and where the keys are."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def verify(self, token: str) -> Caller:
        """Return the caller that a token names. Raises InvalidToken, Unavailable."""
        raise InvalidToken()
