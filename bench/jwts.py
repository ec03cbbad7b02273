"""Measure how many microseconds `Verifier.verify` takes for a JWT; see README.md."""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from joserfc import jwk  # noqa: E402 - the path comes first

import config  # noqa: E402
from projectapp.auth import jwt  # noqa: E402
from tests.issuer import AUDIENCE, EC, RSA, Issuer, make_key, sign  # noqa: E402

ROUNDS, TOKENS = 15, 200
SECRET = "a secret for this measurement only"  # noqa: S105
KEYS = {
    "RS256": RSA,
    "PS256": RSA,
    "ES256": EC,
    "EdDSA": make_key("OKP", "Ed25519"),
    "HS256": jwk.OctKey.import_key(SECRET),
}


def median_microseconds(verify: Callable[[str], object], tokens: list[str]) -> float:
    """Return the microseconds for a token, as the median of the rounds; a round verifies all."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for token in tokens:
            verify(token)
        rounds.append((time.perf_counter() - start) / len(tokens) * 1e6)
    return statistics.median(rounds)


def main() -> None:
    with Issuer() as issuer:
        issuer.published_keys = {name: key for name, key in KEYS.items() if name != "HS256"}
        issuer.published_keys.pop("PS256")
        print("alg    first time  again   (us)")
        for alg, key in KEYS.items():
            keys = {"JWT_SECRET": SECRET, "JWT_JWKS_URL": ""} if alg == "HS256" else {}
            settings = config.Testing({**issuer.settings, **keys})
            verifier = jwt.Verifier(
                {name: getattr(settings, name) for name in settings.declared_settings()},
                frozenset(),
            )
            kid = "RS256" if key is RSA else alg
            claims = [
                {"iss": issuer.url, "aud": AUDIENCE, "sub": f"{n}", "exp": time.time() + 3600}
                for n in range(TOKENS)
            ]
            tokens = [sign({"alg": alg, "typ": "JWT", "kid": kid}, c, key) for c in claims]

            def verify_first(token: str, verifier: jwt.Verifier = verifier) -> None:
                verifier.verify(token)
                verifier._cache[1].clear()

            verify_first(tokens[0])
            first = median_microseconds(verify_first, tokens)
            again = median_microseconds(verifier.verify, tokens)
            print(f"{alg}  {first:9.0f}  {again:7.1f}")


if __name__ == "__main__":
    main()
