"""What it costs to know a caller by a JWT: microseconds of `Verifier.verify`; see README.md."""

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
SECRET = "a secret for this measurement alone"  # noqa: S105
KEYS = {
    "RS256": RSA,
    "PS256": RSA,
    "ES256": EC,
    "EdDSA": make_key("OKP", "Ed25519"),
    "HS256": jwk.OctKey.import_key(SECRET),
}


def median(verify: Callable[[str], object], tokens: list[str]) -> float:
    """Microseconds a token, the median of the rounds; each sees all tokens once."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for token in tokens:
            verify(token)
        rounds.append((time.perf_counter() - started) / len(tokens) * 1e6)
    return statistics.median(rounds)


def main() -> None:
    with Issuer() as issuer:
        issuer.published_keys = {name: key for name, key in KEYS.items() if name != "HS256"}
        issuer.published_keys.pop("PS256")
        print("alg    first time  again   (us)")
        for alg, key in KEYS.items():
            keys = {"JWT_SECRET": SECRET, "JWT_JWKS_URL": ""} if alg == "HS256" else {}
            loaded = config.Testing({**issuer.settings, **keys})
            verifier = jwt.Verifier(
                {name: getattr(loaded, name) for name in loaded.declared_settings()}, frozenset()
            )
            kid = "RS256" if key is RSA else alg
            claims = [
                {"iss": issuer.url, "aud": AUDIENCE, "sub": f"{n}", "exp": time.time() + 3600}
                for n in range(TOKENS)
            ]
            tokens = [sign({"alg": alg, "typ": "JWT", "kid": kid}, one, key) for one in claims]

            def anew(token: str, verifier: jwt.Verifier = verifier) -> None:
                verifier.verify(token)
                verifier._cache[1].clear()

            anew(tokens[0])
            print(f"{alg}  {median(anew, tokens):9.0f}  {median(verifier.verify, tokens):7.1f}")


if __name__ == "__main__":
    main()
