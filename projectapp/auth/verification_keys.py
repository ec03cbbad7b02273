"""The keys that verify: public ones, given as JSON Web Keys (RFC 7517) or in PEM, or a secret."""

import re
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jwk
from joserfc.errors import JoseError, SecurityWarning
from joserfc.util import base64_to_int

from config import ConfigError
from projectapp.strict_json import parse_json

MOST_KEYS = 100
MOST_TRIED = 8  # keys for one token: a forged one costs 0.1 ms for each of RSA, 0.3 ms of P-256

_ALGORITHMS = {
    "RSA": {f"{kind}{bits}" for kind in ("RS", "PS") for bits in (256, 384, 512)},
    "P-256": {"ES256"},
    "P-384": {"ES384"},
    "P-521": {"ES512"},
    "Ed25519": {"EdDSA", "Ed25519"},
}
SECRET_ALGORITHMS = frozenset({"HS256"})
PUBLIC_KEY_ALGORITHMS = frozenset[str]().union(*_ALGORITHMS.values())
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_SECRET = re.compile(rb'PRIVATE KEY-----|"[dk]"\s*:')
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


class Key(NamedTuple):
    """A key, and the algorithms (RFC 7518) that it verifies; one without a kid fits any."""

    kid: str | None
    algorithms: frozenset[str]
    jwk: jwk.Key


Keys = tuple[Key, ...]


def read_secret(secret: str) -> Keys:
    """A secret that is shared with the issuer."""
    return (Key(None, SECRET_ALGORITHMS, jwk.OctKey.import_key(secret)),)


def read_file(path: Path) -> Keys:
    """The keys of a file: public keys or certificates in PEM, or a JWKS. Raises ConfigError."""
    try:
        raw = path.read_bytes()
        if _SECRET.search(raw):
            raise ConfigError("JWT_KEY_FILE has a private key in it: give it public ones alone.")
        found = _read_pem(raw) if b"-----BEGIN " in raw else read_jwks(raw)
    except OSError as error:
        raise ConfigError(f"JWT_KEY_FILE cannot be read: {error.strerror}.") from None
    except ValueError:
        found = ()
    if not found:
        raise ConfigError(
            "JWT_KEY_FILE must have a public key in PEM or a JWKS:"
            " RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519."
        )
    nameless = Counter(algorithm for key in found if not key.kid for algorithm in key.algorithms)
    if max(nameless.values(), default=0) > MOST_TRIED:
        raise ConfigError(
            f"JWT_KEY_FILE has more than {MOST_TRIED} keys of one type without a kid: remove those"
            " that no longer sign, or write a JWKS with a kid for each."
        )
    return found


def read_jwks(raw: bytes) -> Keys:
    """The public keys of a JWKS that can be used here; ValueError if it is none."""
    found = parse_json(raw)
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise ValueError(f"is no JWKS of at most {MOST_KEYS} keys")
    return tuple(key for value in listed if (key := _read_jwk(value)))


def _read_pem(raw: bytes) -> Keys:
    found = []
    for block in _PEM.finditer(raw):
        for kind in (jwk.RSAKey, jwk.ECKey, jwk.OKPKey):
            with suppress(JoseError, ValueError, UnsupportedAlgorithm), warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # what is weak is left out below
                found.append(_read_jwk(kind.import_key(block[0]).as_dict()))
    return tuple(key for key in found if key)


def _read_jwk(value: Any) -> Key | None:
    """The key, if it is public, to verify with, and neither too weak nor too large.

    Of its members only those are read that make it: an x5u is nothing to follow.
    """
    try:
        kind, kid = value["kty"], value.get("kid")
        public = {name: value[name] for name in ("kty", *_PUBLIC[kind])}
        algorithms = frozenset(_ALGORITHMS[public.get("crv", kind)])
        if "alg" in value:
            algorithms &= {value["alg"]}
        if (
            not algorithms
            or not isinstance(kid, str | None)
            or "d" in value
            or value.get("use", "sig") != "sig"
            or "verify" not in value.get("key_ops", ("verify",))
            or (kind == "RSA" and not 2048 <= base64_to_int(public["n"]).bit_length() <= 8192)
        ):
            return None
        return Key(kid, algorithms, jwk.import_key(public))
    except (AttributeError, LookupError, TypeError, ValueError, JoseError, UnsupportedAlgorithm):
        return None


class Given:
    """Keys that stay as they are."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def get(self) -> Keys:
        return self._keys

    refresh = get
