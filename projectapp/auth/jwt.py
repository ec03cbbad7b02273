"""JSON Web Tokens (RFC 7519) of an identity provider, verified as RFC 8725 recommends.

The library joserfc verifies the signature. This module chooses the key, and the key determines the
permitted algorithms; the token's header does not. Verified tokens are cached until the provider's
keys change, because apart from SQL, verification is the slowest part of a request.
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
from projectapp.auth.verification_keys import Key, Keys
from projectapp.problems import InvalidToken
from projectapp.request_state import OWNER_LENGTH, Caller
from projectapp.strict_json import parse_json

LEEWAY_SECONDS = 30  # the clocks of the provider and of this host may differ by this much

_MAX_TOKEN_LENGTH = 8192  # characters
_MAX_CACHED_TOKENS = 10_000  # about 700 bytes each
_MAX_NUMERIC_DATE = 2**53  # smaller integers are exact in every JSON parser
_TOKEN_TYPES = ("jwt", "at+jwt")  # RFC 7519, section 5.1; RFC 9068, section 2.1
# crit and b64 demand extensions that this service does not have (RFC 7515, section 4.1.11, and
# RFC 7797). The others contain a key or its URL, and an attacker can choose them.
_REFUSED_HEADERS = {"crit", "b64", "jku", "jwk", "x5u", "x5c"}
# scope: RFC 8693, section 4.2. scp: Okta and Entra. permissions: Auth0.
_SCOPE_CLAIMS = ("scope", "scp", "permissions")


class _Registry(JWSRegistry):
    """joserfc's registry without its list of permitted algorithms, and its warning about EdDSA.

    `_candidate_keys` has already chosen keys that permit the token's algorithm.
    """

    max_signature_length = 1366  # of an 8192-bit RSA key, in base64; joserfc's default is lower

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


_registry = _Registry(strict_check_header=False)  # RFC 7515, section 4: ignore unknown headers


class _VerifiedToken(NamedTuple):
    """A token's caller, and when it becomes valid, in Unix time."""

    caller: Caller
    not_before: float


class Verifier:
    """Verifies tokens as the settings JWT_... demand.

    A token without a scope claim gets `default_scopes`. Raises ConfigError if JWT_KEY_FILE cannot
    be used.
    """

    def __init__(self, config: Mapping[str, Any], default_scopes: frozenset[str]) -> None:
        self._issuer: str = config["JWT_ISSUER"]
        self._audience = frozenset(config["JWT_AUDIENCE"])
        self._default_scopes = default_scopes
        self._algorithms = verification_keys.PUBLIC_KEY_ALGORITHMS
        self._keys: verification_keys.StaticKeys | jwks_client.RemoteKeys
        if config["JWT_JWKS_URL"]:
            # Half of the worker's threads. The others continue to serve tokens with known keys.
            max_waiters = config["DATABASE_POOL_SIZE"]
            self._keys = jwks_client.RemoteKeys(config["JWT_JWKS_URL"], max_waiters)
        elif config["JWT_KEY_FILE"]:
            keys = verification_keys.read_file(config["JWT_KEY_FILE"])
            self._keys = verification_keys.StaticKeys(keys)
        else:
            self._algorithms = verification_keys.SECRET_ALGORITHMS
            keys = verification_keys.read_secret(config["JWT_SECRET"])
            self._keys = verification_keys.StaticKeys(keys)
        # The keys, and the tokens that were verified with them, each under its SHA-256.
        self._cache: tuple[Keys, dict[bytes, _VerifiedToken]] = ((), {})

    def verify(self, token: str) -> Caller:
        """Return the caller that the token names. Raises InvalidToken or ServiceUnavailable."""
        if len(token) > _MAX_TOKEN_LENGTH:
            raise InvalidToken("The token is too long.", "too long")
        digest = hashlib.sha256(token.encode()).digest()
        keys = self._keys.get()
        verified = self._cache_for(keys).get(digest) or self._verify_and_cache(token, digest, keys)
        now = time.time()
        if now >= verified.caller.expires_at:
            raise InvalidToken("The token has expired.", "expired")
        if now < verified.not_before - LEEWAY_SECONDS:
            raise InvalidToken("The token is not valid yet.", "not valid yet")
        return verified.caller

    def _verify_and_cache(self, token: str, digest: bytes, keys: Keys) -> _VerifiedToken:
        header = _read_header(token)
        if header["alg"] not in self._algorithms:
            raise InvalidToken("The token's alg is not accepted.", "wrong alg")
        candidates = _candidate_keys(keys, header)
        if not candidates:
            keys = self._keys.refresh()
            candidates = _candidate_keys(keys, header)
        if not candidates:
            raise InvalidToken("The token is signed with an unknown key.", "unknown key")
        claims = _verify_signature(token, candidates[: verification_keys.MAX_KEYS_TRIED])
        verified = self._check_claims(claims)
        cache = self._cache_for(keys)
        if len(cache) >= _MAX_CACHED_TOKENS:
            cache.clear()
        cache[digest] = verified
        return verified

    def _cache_for(self, keys: Keys) -> dict[bytes, _VerifiedToken]:
        """Return the tokens that were verified with these keys."""
        cache = self._cache
        if cache[0] is not keys:
            self._cache = cache = (keys, {})
        return cache[1]

    def _check_claims(self, claims: dict[str, Any]) -> _VerifiedToken:
        if claims.get("iss") != self._issuer:
            raise InvalidToken("The token is from another issuer.", "wrong issuer")
        audience = claims.get("aud", claims.get("azp"))  # Clerk's tokens have azp instead of aud
        audience = [audience] if isinstance(audience, str) else audience or []
        if not self._audience.intersection(_string_list(audience)):
            raise InvalidToken("The token is for another audience.", "wrong audience")
        subject = claims.get("sub")
        if (
            not isinstance(subject, str)
            or not 0 < len(subject) <= OWNER_LENGTH
            or not subject.isprintable()
        ):
            raise InvalidToken("The token has no usable sub.", "malformed sub")
        scope_lists = [_scope_list(claims[name]) for name in _SCOPE_CLAIMS if name in claims]
        scopes = frozenset[str]().union(*scope_lists) if scope_lists else self._default_scopes
        not_before = max(_numeric_date(claims.get("nbf", 0)), _numeric_date(claims.get("iat", 0)))
        expires = _numeric_date(claims.get("exp"))
        caller = Caller(subject, scopes, "jwt", expires_at=expires + LEEWAY_SECONDS)
        return _VerifiedToken(caller, not_before)


def _read_header(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3:  # an encrypted token has five
        raise InvalidToken("The token is not a signed JWT.", "not a signed JWT")
    try:
        header = _parse_object(urlsafe_b64decode(parts[0].encode()))
    except ValueError:
        raise InvalidToken("The token is not a signed JWT.", "malformed header") from None
    with_defaults = {"alg": "", "typ": "JWT", "kid": ""} | header
    if not all(isinstance(with_defaults[name], str) for name in ("alg", "typ", "kid")):
        raise InvalidToken("The token is not a signed JWT.", "malformed header")
    if with_defaults["typ"].lower().removeprefix("application/") not in _TOKEN_TYPES:
        raise InvalidToken("The token's typ is neither JWT nor at+jwt.", "wrong typ")
    if _REFUSED_HEADERS & header.keys():
        raise InvalidToken("The token has a header that is not accepted.", "refused header")
    return header | {"alg": with_defaults["alg"]}


def _candidate_keys(keys: Keys, header: dict[str, Any]) -> list[Key]:
    """Return the keys that permit the token's alg and may have signed it.

    If the token has a kid, these are the keys with this kid, or else those without a kid.
    """
    kid = header.get("kid")
    candidates = [key for key in keys if kid is None or key.kid == kid]
    candidates = candidates or [key for key in keys if key.kid is None]
    return [key for key in candidates if header["alg"] in key.algorithms]


def _verify_signature(token: str, keys: list[Key]) -> dict[str, Any]:
    """Return the token's claims if one of the keys has signed it. Raises InvalidToken."""
    reason = ""
    for key in keys:
        try:
            signed = jws.deserialize_compact(token, key.jwk, registry=_registry)
            return _parse_object(signed.payload or b"")
        except BadSignatureError as error:
            reason = error.error
        except (JoseError, ValueError) as error:
            reason = error.error if isinstance(error, JoseError) else "malformed claims"
            break
    raise InvalidToken("The token is damaged or forged.", reason)


def _parse_object(raw: bytes) -> dict[str, Any]:
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _string_list(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidToken("The token has a malformed claim.", "malformed claim")
    return value


def _scope_list(value: Any) -> list[str]:
    return value.split(" ") if isinstance(value, str) else _string_list(value)


def _numeric_date(value: Any) -> float:
    """Check a NumericDate. A bool is refused, although it is an int in Python."""
    if type(value) not in (int, float) or not 0 <= value < _MAX_NUMERIC_DATE:
        raise InvalidToken("The token has a malformed date.", "malformed date")
    return value
