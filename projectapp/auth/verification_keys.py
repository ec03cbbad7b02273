"""Keys that verify JWTs: JSON Web Keys (RFC 7517), public keys in PEM, or a shared secret."""

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

from projectapp.strict_json import parse_json
from settings.config_error import ConfigError

MAX_KEYS = 100
MAX_KEYS_TRIED = 8  # for each token: a forged one costs 0.1 ms per RSA key, 0.3 ms per P-256 key

_ALGORITHMS_BY_TYPE = {
    "RSA": {f"{kind}{bits}" for kind in ("RS", "PS") for bits in (256, 384, 512)},
    "P-256": {"ES256"},
    "P-384": {"ES384"},
    "P-521": {"ES512"},
    "Ed25519": {"EdDSA", "Ed25519"},
}
SECRET_ALGORITHMS = frozenset({"HS256"})
PUBLIC_KEY_ALGORITHMS = frozenset[str]().union(*_ALGORITHMS_BY_TYPE.values())
_PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
# A private key in PEM, or the private member of a JWK: d of a key pair, k of a secret.
_PRIVATE_KEY = re.compile(rb'PRIVATE KEY-----|"[dk]"\s*:')
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


class Key(NamedTuple):
    """A key with its permitted algorithms (RFC 7518). `kid` is its name at the provider, if any."""

    kid: str | None
    algorithms: frozenset[str]
    jwk: jwk.Key


Keys = tuple[Key, ...]


class StaticKeys:
    """Keys that never change, with the methods of `RemoteKeys`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def get(self) -> Keys:
        return self._keys

    refresh = get


def read_secret(secret: str) -> Keys:
    """Return the key of a secret that the provider and this service share."""
    return (Key(None, SECRET_ALGORITHMS, jwk.OctKey.import_key(secret)),)


def read_file(path: Path) -> Keys:
    """Return the keys of a file: a JWKS, or public keys and certificates in PEM.

    Raises ConfigError if the file cannot be read, contains a private key or no usable key.
    """
    try:
        raw = path.read_bytes()
        if _PRIVATE_KEY.search(raw):
            raise ConfigError("JWT_KEY_FILE contains a private key. Write only public keys to it.")
        keys = _read_pem(raw) if b"-----BEGIN " in raw else read_jwks(raw)
    except OSError as error:
        raise ConfigError(f"JWT_KEY_FILE cannot be read: {error.strerror}.") from None
    except ValueError:
        keys = ()
    if not keys:
        raise ConfigError(
            "JWT_KEY_FILE must contain a public key in PEM or a JWKS:"
            " RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519."
        )
    without_kid = Counter(algorithm for key in keys if not key.kid for algorithm in key.algorithms)
    if max(without_kid.values(), default=0) > MAX_KEYS_TRIED:
        raise ConfigError(
            f"JWT_KEY_FILE contains more than {MAX_KEYS_TRIED} keys of one type without a kid."
            " Remove the keys that are no longer in use, or write a JWKS with a kid for each key."
        )
    return keys


def read_jwks(raw: bytes) -> Keys:
    """Return the usable public keys of a JWKS. Raises ValueError if `raw` is not a JWKS."""
    jwks = parse_json(raw)
    values = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(values, list) or len(values) > MAX_KEYS:
        raise ValueError(f"is not a JWKS with at most {MAX_KEYS} keys")
    return tuple(key for value in values if (key := _read_jwk(value)))


def _read_pem(raw: bytes) -> Keys:
    keys = []
    for block in _PEM_BLOCK.finditer(raw):
        for key_class in (jwk.RSAKey, jwk.ECKey, jwk.OKPKey):
            with suppress(JoseError, ValueError, UnsupportedAlgorithm), warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # _read_jwk refuses weak keys
                keys.append(_read_jwk(key_class.import_key(block[0]).as_dict()))
    return tuple(key for key in keys if key)


def _read_jwk(value: Any) -> Key | None:
    """Return the key, or None if it is private, not for signatures, too weak or too large.

    Only the members that define the key are read: a URL in x5u is never fetched.
    """
    try:
        key_type, kid = value["kty"], value.get("kid")
        public = {name: value[name] for name in ("kty", *_PUBLIC_MEMBERS[key_type])}
        algorithms = frozenset(_ALGORITHMS_BY_TYPE[public.get("crv", key_type)])
        if "alg" in value:
            algorithms &= {value["alg"]}
        if (
            not algorithms
            or not isinstance(kid, str | None)
            or "d" in value
            or value.get("use", "sig") != "sig"
            or "verify" not in value.get("key_ops", ("verify",))
            or (key_type == "RSA" and not 2048 <= base64_to_int(public["n"]).bit_length() <= 8192)
        ):
            return None
        return Key(kid, algorithms, jwk.import_key(public))
    except (AttributeError, LookupError, TypeError, ValueError, JoseError, UnsupportedAlgorithm):
        return None
