"""JSON Web Tokens (RFC 7519) of an identity provider, read as RFC 8725 advises.

joserfc verifies the signature; which key and which algorithm is decided here, by what the key is
and never by what the token says of it. A token that was verified is remembered until it expires or
the issuer's keys change, as verifying it again costs more than all else of the request but SQL.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

from projectapp.auth import jwks_client, verification_keys
from projectapp.problems import InvalidToken
from projectapp.request_state import OWNER_LENGTH, Caller
from projectapp.strict_json import parse_json

LEEWAY = 30  # seconds that two clocks may differ

_LONGEST = 8192  # characters
_REMEMBERED = 10_000  # tokens, some 700 bytes each
_LATEST = 2**53  # of a date, in seconds: what any JSON parser reads exactly
_TYPES = ("jwt", "at+jwt")  # RFC 7519, 5.1; RFC 9068, 2.1
# What only extensions can mean (RFC 7515, 4.1.11; RFC 7797), and keys that the token brings itself.
_REFUSED = {"crit", "b64", "jku", "jwk", "x5u", "x5c"}
_SCOPES = ("scope", "scp", "permissions")  # RFC 8693, 4.2; Okta and Entra; Auth0


class _Registry(JWSRegistry):
    """joserfc's, but for its allow-list and its warning at the name EdDSA: the key has decided.

    Its limit would refuse the signatures of an RSA key of 8192 bits, which are 1366 characters.
    """

    max_signature_length = 1366

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


_registry = _Registry(strict_check_header=False)  # RFC 7515, 4: what is not known is ignored


class _Grant(NamedTuple):
    caller: Caller
    not_before: float
    expires: float


class Verifier:
    """Verifies tokens as `config` says: JWT_ISSUER, JWT_AUDIENCE and where the keys are.

    Raises ConfigError if there are no keys that can be used in a JWT_KEY_FILE.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._issuer: str = config["JWT_ISSUER"]
        self._audience = frozenset(config["JWT_AUDIENCE"])
        self._scopes = frozenset(config["JWT_SCOPES"])
        self._algorithms = verification_keys.PUBLIC_KEY_ALGORITHMS
        self._keys: verification_keys.Given | jwks_client.RemoteKeys
        if config["JWT_JWKS_URL"]:
            # At most half of the threads wait, so that the others answer whose keys are known.
            self._keys = jwks_client.RemoteKeys(
                config["JWT_JWKS_URL"], max_waiters=config["DATABASE_POOL_SIZE"]
            )
        elif config["JWT_KEY_FILE"]:
            self._keys = verification_keys.Given(
                verification_keys.read_file(config["JWT_KEY_FILE"])
            )
        else:
            self._algorithms = verification_keys.SECRET_ALGORITHMS
            self._keys = verification_keys.Given(
                verification_keys.read_secret(config["JWT_SECRET"])
            )
        self._cache: tuple[verification_keys.Keys, dict[bytes, _Grant]] = ((), {})

    def verify(self, token: str) -> Caller:
        """Return the caller that a token names. Raises InvalidToken, ServiceUnavailable."""
        if len(token) > _LONGEST:
            raise InvalidToken("The token is too long.", "too long")
        digest = hashlib.sha256(token.encode()).digest()
        keys = self._keys.get()
        grant = self._remembered(keys).get(digest) or self._read(token, digest, keys)
        now = time.time()
        if now >= grant.expires + LEEWAY:
            raise InvalidToken("The token has expired.", "expired")
        if now < grant.not_before - LEEWAY:
            raise InvalidToken("The token is not valid yet.", "not valid yet")
        return grant.caller

    def _read(self, token: str, digest: bytes, keys: verification_keys.Keys) -> _Grant:
        header = _read_header(token)
        if header["alg"] not in self._algorithms:
            raise InvalidToken("The token is signed in a way that is not taken.", "wrong alg")
        found = _find(keys, header)
        if not found:
            keys = self._keys.refresh()
            found = _find(keys, header)
        if not found:
            raise InvalidToken("The token is signed with an unknown key.", "unknown key")
        grant = self._grant(_verify(token, found[: verification_keys.MOST_TRIED]))
        remembered = self._remembered(keys)
        if len(remembered) >= _REMEMBERED:
            remembered.clear()
        remembered[digest] = grant
        return grant

    def _remembered(self, keys: verification_keys.Keys) -> dict[bytes, _Grant]:
        """The tokens that were verified with these keys."""
        memory = self._cache
        if memory[0] is not keys:
            self._cache = memory = (keys, {})
        return memory[1]

    def _grant(self, claims: dict[str, Any]) -> _Grant:
        if claims.get("iss") != self._issuer:
            raise InvalidToken("The token is of another issuer.", "wrong issuer")
        audience = claims.get("aud", claims.get("azp"))  # Clerk's have no aud
        audience = [audience] if isinstance(audience, str) else audience or []
        if not self._audience.intersection(_strings(audience)):
            raise InvalidToken("The token is for another audience.", "wrong audience")
        subject = claims.get("sub")
        if (
            not isinstance(subject, str)
            or not 0 < len(subject) <= OWNER_LENGTH
            or not subject.isprintable()
        ):
            raise InvalidToken("The token has no sub that can be used.", "malformed sub")
        named = [claims[name] for name in _SCOPES if name in claims]
        scopes = frozenset[str]().union(*map(_words, named)) if named else self._scopes
        not_before = max(_date(claims.get("nbf", 0)), _date(claims.get("iat", 0)))
        return _Grant(Caller(subject, scopes, "jwt"), not_before, _date(claims.get("exp")))


def _read_header(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3:  # five are encrypted
        raise InvalidToken("The token is not a signed JWT.", "not a signed JWT")
    try:
        header = _read_object(urlsafe_b64decode(parts[0].encode()))
    except ValueError:
        raise InvalidToken("The token is not a signed JWT.", "malformed header") from None
    named = {"alg": "", "typ": "JWT", "kid": ""} | header
    if not all(isinstance(named[name], str) for name in ("alg", "typ", "kid")):
        raise InvalidToken("The token is not a signed JWT.", "malformed header")
    if named["typ"].lower().removeprefix("application/") not in _TYPES:
        raise InvalidToken("The token is not of the type JWT or at+jwt.", "wrong typ")
    if _REFUSED & header.keys():
        raise InvalidToken("The token has a header that is not taken.", "refused header")
    return header | {"alg": named["alg"]}


def _find(keys: verification_keys.Keys, header: dict[str, Any]) -> list[verification_keys.Key]:
    """The keys that can have signed it: that of its kid, else any that verify its alg."""
    kid = header.get("kid")
    named = [key for key in keys if kid is None or key.kid == kid]
    named = named or [key for key in keys if key.kid is None]
    return [key for key in named if header["alg"] in key.algorithms]


def _verify(token: str, keys: list[verification_keys.Key]) -> dict[str, Any]:
    """The claims of a token that one of the keys has signed."""
    reason = ""
    for key in keys:
        try:
            found = jws.deserialize_compact(token, key.jwk, registry=_registry)
            return _read_object(found.payload or b"")
        except BadSignatureError as error:
            reason = error.error
        except (JoseError, ValueError) as error:
            reason = error.error if isinstance(error, JoseError) else "malformed claims"
            break
    raise InvalidToken("The token is damaged or forged.", reason)


def _read_object(raw: bytes) -> dict[str, Any]:
    found = parse_json(raw)
    if not isinstance(found, dict):
        raise ValueError
    return found


def _strings(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidToken("The token has a malformed claim.", "malformed claim")
    return value


def _words(value: Any) -> list[str]:
    return value.split(" ") if isinstance(value, str) else _strings(value)


def _date(value: Any) -> float:
    """A NumericDate; bool is a number to Python alone."""
    if type(value) not in (int, float) or not 0 <= value < _LATEST:
        raise InvalidToken("The token has a malformed date.", "malformed date")
    return value
