"""JWTs of an identity provider: which tokens are accepted, and which keys and settings."""

import datetime
import json
import logging
import time
from base64 import b64encode
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jwk

import config
from config import ConfigError
from projectapp.auth import jwks_client, jwt
from projectapp.auth.verification_keys import MAX_KEYS_TRIED
from projectapp.problems import InvalidToken
from tests import issuer as issuer_answers
from tests.conftest import PROJECTS
from tests.issuer import AUDIENCE, EC, RSA, Issuer, bearer, encode, make_key, sign

SECRET = "a secret of old Supabase projects, shared"  # noqa: S105
OCT = jwk.OctKey.import_key(SECRET)
ALGORITHMS = {
    **{f"{kind}{bits}": RSA for kind in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": EC,
    "ES384": make_key("EC", "P-384"),
    "ES512": make_key("EC", "P-521"),
    "EdDSA": make_key("OKP", "Ed25519"),
    "Ed25519": make_key("OKP", "Ed25519"),
}


@pytest.fixture(scope="module")
def healthy_issuer():
    """An issuer with a key for each algorithm, which no test changes."""
    with Issuer() as issuer:
        issuer.published_keys |= {f"{name}-key": key for name, key in ALGORITHMS.items()}
        yield issuer


@pytest.fixture(scope="module")
def client(healthy_issuer, app, make_app):
    return make_app(**healthy_issuer.settings).test_client()


def get(client, token):
    return client.get(PROJECTS, headers=bearer(token))


# Accepted tokens


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_each_public_key_algorithm_is_accepted(healthy_issuer, client, sql, alg):
    assert get(client, healthy_issuer.token(f"{alg}-key", alg)).status_code == 200


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", None])
def test_each_typ_of_an_access_token_is_accepted(healthy_issuer, client, sql, typ):
    header = {"alg": "RS256", "kid": "first", "typ": typ, "cat": "cl_B7d4"}
    header = {name: value for name, value in header.items() if value}
    assert get(client, sign(header, healthy_issuer.claims(), RSA)).status_code == 200


@pytest.mark.parametrize(
    "overrides",
    [
        lambda now: {"aud": ["other", AUDIENCE]},
        lambda now: {"aud": None, "azp": AUDIENCE},
        lambda now: {"exp": now + 600.5},
        lambda now: {"exp": now - 20},
        lambda now: {"nbf": now + 20, "iat": now + 20},
        lambda now: {"iat": None},
        lambda now: {"sub": "auth0|사용자"},
        lambda now: {"user_metadata": {"scope": {"deep": [1e9, None]}}},
    ],
    ids=["a list", "azp", "fraction", "just expired", "early", "no iat", "sub", "more"],
)
def test_valid_claims_are_accepted(healthy_issuer, client, sql, overrides):
    assert get(client, healthy_issuer.token(**overrides(int(time.time())))).status_code == 200


@pytest.mark.parametrize(
    ("claims", "permitted"),
    [
        ({}, "read write"),
        ({"scope": "openid projects:read"}, "read"),
        ({"scope": ""}, ""),
        ({"scp": ["projects:write"]}, "write"),
        ({"scp": "projects:read projects:write"}, "read write"),
        ({"permissions": []}, ""),
        ({"scope": "openid profile", "permissions": ["projects:read"]}, "read"),
        ({"scope": "projects:read", "permissions": ["projects:write"]}, "read write"),
        ({"permissions": ["projects:all"]}, "read write"),
        (
            {"scope": "projects:read\u00a0projects:write"},
            "",
        ),  # RFC 6749, section 3.3: only spaces separate
        ({"user_metadata": {"permissions": ["projects:all"]}, "scope": "x"}, ""),
    ],
    ids=str,
)
def test_scope_claims_permit_only_what_they_name(healthy_issuer, client, sql, claims, permitted):
    headers = bearer(healthy_issuer.token(**claims))
    read = client.get(PROJECTS, headers=headers)
    write = client.post(PROJECTS, headers=headers, json={"name": "x"})
    assert read.status_code == (200 if "read" in permitted else 403)
    assert write.status_code == (201 if "write" in permitted else 403)


def test_each_subject_sees_only_its_own_projects(healthy_issuer, client, sql, problem):
    ann, bob, root = (
        bearer(token)
        for token in (
            healthy_issuer.token(),
            healthy_issuer.token(sub="bob"),
            healthy_issuer.token(sub="root", permissions=["projects:all"]),
        )
    )
    created = client.post(PROJECTS, headers=ann, json={"name": "hers"})
    assert created.json["owner"] == "ann"
    path = f"{PROJECTS}/{created.json['id']}"
    for method in ("get", "put", "delete"):
        problem(getattr(client, method)(path, headers=bob, json={"name": "his"}), 404, "not_found")
    assert client.get(PROJECTS, headers=bob).json["total"] == 0
    assert client.get(PROJECTS, headers=root).json["total"] == 1
    assert client.get(path, headers=ann).json["name"] == "hers"


# Refused tokens. Each builder gets the issuer and returns a token.

PEM = RSA.as_pem(private=False)
HEADER = {"alg": "RS256", "kid": "first"}


def with_header(**header):
    return lambda issuer: sign(HEADER | header, issuer.claims(), RSA)


def with_alg(alg, key):
    """A token with this alg, signed with a key that the issuer does not publish for it."""
    return lambda issuer: sign(HEADER | {"alg": alg}, issuer.claims(), key)


def with_claims(**claims):
    return lambda issuer: issuer.token(**claims)


def with_payload(payload):
    return lambda issuer: sign(HEADER, payload, RSA)


def with_raw(**claims):
    """A token with claims in raw JSON, which json.dumps would not write."""

    def build(issuer):
        text = json.dumps(issuer.claims() | dict.fromkeys(claims, "@"))
        for value in claims.values():
            text = text.replace('"@"', value, 1)
        return sign(HEADER, text.encode(), RSA)

    return build


def with_raw_header(raw):
    return lambda issuer: sign(raw, issuer.claims(), RSA, "RS256")


def unsigned(alg):
    return lambda i: ".".join(
        (
            encode(json.dumps(HEADER | {"alg": alg}).encode()),
            encode(json.dumps(i.claims()).encode()),
            "",
        )
    )


def without_base64(issuer):
    header = encode(json.dumps(HEADER | {"b64": False, "crit": ["b64"]}).encode())
    return f"{header}.payload.c2lnbmF0dXJl"


def truncated_signature(issuer):
    return issuer.token()[:-12]


def other_payload(issuer):
    ours, theirs = issuer.token().split("."), issuer.token(sub="root").split(".")
    return ".".join((ours[0], theirs[1], ours[2]))


def embedded_key(issuer):
    attackers_key = make_key("RSA", 2048, 1)
    return sign(
        HEADER | {"jwk": attackers_key.as_dict(False), "kid": "own"}, issuer.claims(), attackers_key
    )


HOSTILE = {
    "an unknown kid": lambda issuer: issuer.token("unknown"),
    "another key with a published kid": lambda issuer: sign(
        HEADER, issuer.claims(), make_key("RSA", 2048, 1)
    ),
    "none": unsigned("none"),
    "nOnE": unsigned("nOnE"),
    "no signature": unsigned("RS256"),
    "a truncated signature": truncated_signature,
    "another payload": other_payload,
    "HS256 with the public key as PEM": with_alg("HS256", jwk.OctKey(PEM, PEM)),
    "HS256 with the public key as DER": with_alg(
        "HS256", jwk.OctKey(RSA.as_der(private=False), b"")
    ),
    "HS256": with_alg("HS256", OCT),
    "HS512": with_alg("HS512", OCT),
    "the alg of another key type": with_alg("ES256", EC),
    "ES256K": with_alg("ES256K", make_key("EC", "secp256k1")),
    "an unknown alg": lambda i: sign(HEADER | {"alg": "RS999"}, i.claims(), RSA, "RS256"),
    "alg is a list": lambda i: sign(HEADER | {"alg": ["RS256"]}, i.claims(), RSA, "RS256"),
    "no alg": lambda i: sign({"kid": "first"}, i.claims(), RSA, "RS256"),
    "kid is a number": with_header(kid=1),
    "kid is a path": with_header(kid="../../../../dev/null"),
    "kid is SQL": with_header(kid="' OR 1=1 --"),
    "no kid and an unpublished key": lambda i: sign(
        {"alg": "RS256"}, i.claims(), make_key("RSA", 2048, 1)
    ),
    "crit": with_header(crit=["exp"]),
    "crit with a known header": with_header(crit=["kid"]),
    "crit is empty": with_header(crit=[]),
    "b64 false": without_base64,
    "b64 true": with_header(b64=True),
    "a jku": with_header(jku="http://127.0.0.1:9/jwks.json"),
    "an x5u": with_header(x5u="http://127.0.0.1:9/cert.pem"),
    "an x5c": with_header(x5c=[b64encode(RSA.as_der(private=False)).decode()[:40]]),
    "its own jwk": embedded_key,
    "a long header": with_header(more="x" * 1000),
    "typ of a logout token": with_header(typ="logout+jwt"),
    "typ of a proof": with_header(typ="dpop+jwt"),
    "typ is a number": with_header(typ=1),
    "typ is null": with_header(typ=None),
    "a header that is a list": with_raw_header(b'["alg"]'),
    "a header that is a number": with_raw_header(b"7"),
    "a header that is no JSON": with_raw_header(b'{"alg": "RS256"'),
    "a header in UTF-16": with_raw_header(json.dumps(HEADER).encode("utf-16")),
    "a header with alg twice": with_raw_header(b'{"alg":"none","kid":"first","alg":"RS256"}'),
    "a header that is nested": with_raw_header(b'{"alg":' + b"[" * 3000),
    "one part": lambda _: "abcdefghijklmnop",
    "two parts": lambda issuer: issuer.token().rpartition(".")[0],
    "four parts": lambda issuer: issuer.token() + ".abcdefghijk",
    "encrypted": lambda _: "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..c2VjcmV0aXY.c2VjcmV0.dGFndGFn",
    "only dots": lambda _: "..",
    "padding": lambda issuer: issuer.token() + "==",
    "other base64": lambda issuer: issuer.token().replace(".", "+.", 1),
    "too long": with_claims(more="x" * 8192),
    "no exp": with_claims(exp=None),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 31),
    "exp is a string": with_claims(exp="9999999999"),
    "exp is true": with_claims(exp=True),
    "exp is a list": with_claims(exp=[9999999999]),
    "exp is null": with_raw(exp="null"),
    "exp is NaN": with_raw(exp="NaN"),
    "exp is Infinity": with_raw(exp="Infinity"),
    "exp is 1e999": with_raw(exp="1e999"),
    "exp is 1e300": with_raw(exp="1e300"),
    "exp has 400 digits": with_raw(exp="9" * 400),
    "exp has 5000 digits": with_raw(exp="9" * 5000),
    "exp is negative": with_raw(exp="-1"),
    "exp twice": with_raw(exp='9999999999, "exp": 9999999998'),
    "nbf in the future": lambda issuer: issuer.token(nbf=int(time.time()) + 600),
    "nbf is a string": with_claims(nbf="0"),
    "nbf is null": with_raw(nbf="null"),
    "iat in the future": lambda issuer: issuer.token(iat=int(time.time()) + 600),
    "iat is false": with_claims(iat=False),
    "another issuer": with_claims(iss="https://evil.example"),
    "an issuer with a slash": lambda issuer: issuer.token(iss=issuer.url + "/"),
    "no issuer": with_claims(iss=None),
    "issuer is a list": lambda issuer: issuer.token(iss=[issuer.url]),
    "another audience": with_claims(aud="another-api"),
    "a longer audience": with_claims(aud=AUDIENCE + "-2"),
    "no audience": with_claims(aud=None),
    "audience is empty": with_claims(aud=[]),
    "audience is an object": with_claims(aud={AUDIENCE: 1}),
    "audience is a list with a number": with_claims(aud=[AUDIENCE, 1]),
    "audience is null and azp is right": with_raw(aud="null", azp=f'"{AUDIENCE}"'),
    "another azp": with_claims(aud=None, azp="https://evil.example"),
    "another audience and azp is right": with_claims(aud="another-api", azp=AUDIENCE),
    "no sub": with_claims(sub=None),
    "sub is empty": with_claims(sub=""),
    "sub is a number": with_claims(sub=7),
    "sub is long": with_claims(sub="x" * 256),
    "sub has a line feed": with_claims(sub="ann\nadmin"),
    "sub has U+0000": with_claims(sub="ann\0"),
    "sub has a surrogate": with_claims(sub="ann\ud800"),
    "scope is an object": with_claims(scope={"projects:all": True}),
    "scope is null": with_raw(scope="null"),
    "permissions are numbers": with_claims(permissions=[1]),
    "claims are a list": with_payload([]),
    "claims are a string": with_payload("claims"),
    "claims are no JSON": with_payload(b"{claims}"),
    "claims are empty": with_payload(b""),
    "claims are not UTF-8": with_payload(b'{"iss": "\xff"}'),
    "claims are nested": with_raw(deep="[" * 2500 + "]" * 2500),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_token_gets_401_and_no_part_of_it_is_logged_or_returned(
    healthy_issuer, client, sql, problem, caplog, monkeypatch, name
):
    monkeypatch.setattr(jwks_client, "MIN_FETCH_INTERVAL_SECONDS", 0.0)
    token = HOSTILE[name](healthy_issuer)
    with caplog.at_level(logging.DEBUG):
        answer = get(client, token)
    problem(answer, 401, "invalid_token")
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer error="invalid_token", error_description="')
    assert challenge.count('"') == 4
    everything = answer.text + str(answer.headers) + caplog.text + str(caplog.records)
    everything += "".join(str(record.__dict__) for record in caplog.records)
    for part in token.split("."):
        assert len(part) < 8 or part[:24] not in everything
    assert [r.event for r in caplog.records if hasattr(r, "event")] == ["authn_fail"]


@pytest.mark.parametrize("name", ["HS256", "none", "a jku", "one part", "too long"])
def test_token_that_no_key_could_verify_gets_401_without_a_fetch(issuer, make_app, name):
    client = make_app(**issuer.settings).test_client()
    issuer.respond = issuer_answers.status_500
    assert get(client, HOSTILE[name](issuer)).status_code == 401
    assert issuer.fetches == 0


def test_weak_symmetric_private_and_malformed_keys_in_a_jwks_are_not_used(issuer, make_app, sql):
    weak = jwk.RSAKey(native := jwk.RSAKey.binding.generate_private_key(1024), native)
    issuer.published_keys |= {"weak": weak, "oct": OCT, "private": make_key("RSA", 2048, 1)}
    jwks_keys = issuer.jwks()["keys"]
    jwks_keys[3] |= {"d": "AQAB"}
    jwks_keys += [
        {"kty": "RSA", "kid": "enc", "use": "enc", "n": jwks_keys[0]["n"], "e": "AQAB"},
        {"kty": "RSA", "kid": "other", "alg": "RSA-OAEP", "n": jwks_keys[0]["n"], "e": "AQAB"},
        {"kty": "EC", "kid": "point", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        *({"kty": "AKP", "kid": "new"}, {"kid": "kind"}, {"kty": ["RSA"]}, 7, None, "key"),
        {"kty": "RSA", "kid": 7, "n": jwks_keys[0]["n"], "e": "AQAB"},
    ]
    issuer.respond = lambda handler: handler.reply(json.dumps({"keys": jwks_keys}).encode())
    client = make_app(**issuer.settings).test_client()
    assert get(client, issuer.token()).status_code == 200
    tokens = [
        issuer.token("weak"),
        sign(HEADER | {"kid": "oct", "alg": "HS256"}, issuer.claims(), OCT),
    ]
    tokens += [issuer.token(kid) for kid in ("private", "enc", "other")]
    assert [get(client, token).status_code for token in tokens] == [401] * 5


def test_token_without_kid_is_accepted_if_the_only_matching_key_signed_it(issuer, make_app, sql):
    issuer.published_keys["other"] = EC
    client = make_app(**issuer.settings).test_client()
    token = sign({"alg": "RS256"}, issuer.claims(), RSA)
    assert get(client, token).status_code == 200


@pytest.mark.parametrize("number", [0, 1, 2])
def test_token_without_kid_is_accepted_if_any_matching_key_signed_it(issuer, make_app, sql, number):
    keys = [make_key("RSA", 2048, number) for number in range(3)]
    issuer.published_keys = {"a": keys[0], "ec": EC, "b": keys[1], "c": keys[2]}
    client = make_app(**issuer.settings).test_client()
    assert get(client, sign({"alg": "RS256"}, issuer.claims(), keys[number])).status_code == 200
    foreign = sign({"alg": "RS256"}, issuer.claims(), make_key("RSA", 2048, 3))
    assert get(client, foreign).status_code == 401


def test_token_without_kid_is_tried_with_a_limited_number_of_keys(issuer, make_app, sql):
    keys = [make_key("EC", "P-256", number) for number in range(100)]
    issuer.published_keys = {str(number): key for number, key in enumerate(keys)}
    client = make_app(**issuer.settings).test_client()
    statuses = [
        get(client, sign({"alg": "ES256"}, issuer.claims(), key)).status_code for key in keys
    ]
    assert statuses == [200] * MAX_KEYS_TRIED + [401] * (100 - MAX_KEYS_TRIED)
    assert get(client, issuer.token("99", "ES256")).status_code == 200  # the kid selects its key


def test_claims_that_are_not_an_object_get_401_from_every_key(issuer, make_app, sql):
    issuer.published_keys = {"a": make_key("RSA", 2048, 1), "b": RSA}
    client = make_app(**issuer.settings).test_client()
    assert get(client, sign({"alg": "RS256"}, b"[]", RSA)).status_code == 401


def test_signature_as_long_as_an_8192_bit_key_makes_is_checked(healthy_issuer, client, sql, caplog):
    token = healthy_issuer.token().rpartition(".")[0] + "." + encode(b"x" * (8192 // 8))
    assert get(client, token).status_code == 401
    assert caplog.records[0].reason == "bad_signature"  # not "exceeded_size"


def test_cached_token_expires_at_its_exp(healthy_issuer, client, sql, problem, monkeypatch):
    exp = int(time.time()) + 3600
    token = healthy_issuer.token(exp=exp)
    assert get(client, token).status_code == 200
    monkeypatch.setattr(jwt, "time", SimpleNamespace(time=lambda: exp + jwt.LEEWAY_SECONDS))
    assert "expired" in problem(get(client, token), 401)["detail"]


def test_jwt_cache_has_a_maximum_size(healthy_issuer, monkeypatch):
    monkeypatch.setattr(jwt, "_MAX_CACHED_TOKENS", 3)
    verifier = jwt.Verifier(settings_of(healthy_issuer), frozenset())
    for number in range(10):
        assert verifier.verify(healthy_issuer.token(sub=str(number))).subject == str(number)
        assert len(verifier._cache[1]) <= 3


def settings_of(issuer, **environ):
    loaded = config.Testing({**issuer.settings, **environ})
    return {name: getattr(loaded, name) for name in config.Config.declared_settings()}


# Secrets and key files


def with_key(issuer, **environ):
    settings = {**issuer.settings, **environ}
    return {name: value for name, value in settings.items() if name != "JWT_JWKS_URL"}


def test_shared_secret_verifies_only_hs256(issuer, make_app, sql):
    client = make_app(**with_key(issuer, JWT_SECRET=SECRET)).test_client()
    tokens = {
        alg: sign({"alg": alg, "kid": "x"}, issuer.claims(), OCT) for alg in ("HS256", "HS512")
    }
    assert get(client, tokens["HS256"]).status_code == 200
    others = [
        tokens["HS512"],
        issuer.token(),
        unsigned("none")(issuer),
        tokens["HS256"][:-4] + "AAAA",
    ]
    assert [get(client, token).status_code for token in others] == [401] * 4
    assert issuer.fetches == 0


def certificate(key, **names):
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    return (
        x509.CertificateBuilder(name, name, key.public_key, 7, now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key.private_key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


@pytest.mark.parametrize(
    "content",
    [
        PEM,
        certificate(RSA),
        b"Bag Attributes\n" + EC.as_pem(private=False) + b"\n" + PEM,
        json.dumps({"keys": [RSA.as_dict(False, kid="first")]}).encode(),
        json.dumps({"keys": [{"kty": "AKP"}, RSA.as_dict(False)]}).encode(),
        make_key("RSA", 2048, 2).as_pem(private=False) + PEM,
        PEM + make_key("RSA", 2048, 2).as_pem(private=False),
        json.dumps(
            {"keys": [make_key("RSA", 2048, 2).as_dict(False), RSA.as_dict(False)]}
        ).encode(),
    ],
    ids=[
        *("PEM", "a certificate", "two types in PEM", "JWKS", "JWKS without kid"),
        *("two in PEM, the second signs", "two in PEM, the first signs", "two without kid"),
    ],
)
def test_key_file_verifies_tokens(issuer, make_app, sql, tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    client = make_app(**with_key(issuer, JWT_KEY_FILE=str(tmp_path / "key"))).test_client()
    assert get(client, issuer.token()).status_code == 200
    assert get(client, sign(HEADER, issuer.claims(), make_key("RSA", 2048, 1))).status_code == 401
    assert get(client, with_alg("HS256", jwk.OctKey(PEM, PEM))(issuer)).status_code == 401
    assert issuer.fetches == 0


NO_USABLE_KEY = (
    "JWT_KEY_FILE must contain a public key in PEM or a JWKS:"
    " RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519."
)
PRIVATE_KEY = "JWT_KEY_FILE contains a private key. Write only public keys to it."


def weak_pem():
    native = jwk.RSAKey.binding.generate_private_key(1024)
    return jwk.RSAKey(native, native).as_pem(private=False)


TOO_MANY_KEYS = (
    f"JWT_KEY_FILE contains more than {MAX_KEYS_TRIED} keys of one type without a kid."
    " Remove the keys that are no longer in use, or write a JWKS with a kid for each key."
)
KEYS_WITHOUT_KID = [make_key("EC", "P-256", number) for number in range(MAX_KEYS_TRIED + 1)]

INVALID_KEY_FILES = {
    "too many in PEM": (
        b"".join(key.as_pem(private=False) for key in KEYS_WITHOUT_KID),
        TOO_MANY_KEYS,
    ),
    "a private key": (RSA.as_pem(private=True), PRIVATE_KEY),
    "a private key in a JWKS": (json.dumps({"keys": [RSA.as_dict(True)]}).encode(), PRIVATE_KEY),
    "a secret in a JWKS": (json.dumps({"keys": [OCT.as_dict()]}).encode(), PRIVATE_KEY),
    "a weak key": (weak_pem(), NO_USABLE_KEY),
    "no signature key": (make_key("OKP", "X25519").as_pem(private=False), NO_USABLE_KEY),
    "no key": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", NO_USABLE_KEY),
    "a truncated key": (PEM[:99], NO_USABLE_KEY),
    "an empty JWKS": (b'{"keys": []}', NO_USABLE_KEY),
    "a JWK": (json.dumps(RSA.as_dict(False)).encode(), NO_USABLE_KEY),
    "an empty file": (b"", NO_USABLE_KEY),
    "no file": (None, "JWT_KEY_FILE cannot be read: No such file or directory."),
}


@pytest.mark.parametrize("name", INVALID_KEY_FILES)
def test_invalid_key_file_stops_the_start(issuer, make_app, tmp_path, name):
    content, message = INVALID_KEY_FILES[name]
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        make_app(**with_key(issuer, JWT_KEY_FILE=str(tmp_path / "key")))
    assert str(refused.value) == message


INVALID_URL = (
    "JWT_JWKS_URL must be a URL such as https://HOST/PATH, without a user name and a password;"
    " http:// is allowed only for localhost, 127.0.0.1, ::1."
)
VALID_SETTINGS = {
    "AUTH": "jwt",
    "JWT_ISSUER": "https://i.example",
    "JWT_AUDIENCE": "a, b",
    "JWT_JWKS_URL": "https://i.example/jwks.json",
}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        *(
            ({"JWT_JWKS_URL": bad}, INVALID_URL)
            for bad in (
                "http://i.example/jwks.json",
                "http://127.0.0.1.example/",
                "https://user:pass@i.example/",
                "https://",
                "https://i.example:port/",
                "https://[::1/",
                "https://i.example/#keys",
                "https://i.example/a b",
                "file:///etc/passwd",
                "i.example",
            )
        ),
        ({"JWT_ISSUER": ""}, "AUTH=jwt needs JWT_ISSUER."),
        ({"JWT_AUDIENCE": ","}, "AUTH=jwt needs JWT_AUDIENCE."),
        (
            {"JWT_AUDIENCE": "", "JWT_JWKS_URL": ""},
            "AUTH=jwt needs JWT_AUDIENCE and one of JWT_JWKS_URL, JWT_KEY_FILE, JWT_SECRET.",
        ),
        ({"JWT_SECRET": SECRET}, "JWT_JWKS_URL and JWT_SECRET cannot be set together."),
        ({"AUTH": "tokens"}, "JWT_ISSUER has no effect without jwt in AUTH."),
        (
            {"JWT_SECRET": "x" * 31},
            "JWT_SECRET must be a shared secret of at least 32 ASCII characters.",
        ),
        *(
            (
                {"JWT_SECRET": bad},
                "JWT_SECRET must be a shared secret, not a public key (JWT_KEY_FILE is for those).",
            )
            for bad in (PEM.decode(), "ssh-rsa " + "A" * 40)
        ),
        *(
            (
                {"JWT_SCOPES": bad},
                "JWT_SCOPES must be a comma-separated list of scopes, such as"
                " projects:read,projects:write.",
            )
            for bad in ("read", "projects:delete", "projects:read projects:write", ",")
        ),
    ],
)
def test_invalid_jwt_setting_is_reported_in_one_sentence(environ, message):
    with pytest.raises(ConfigError) as refused:
        config.Testing(VALID_SETTINGS | environ)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "url", ["https://i.example/?a=b", "http://localhost:1/", "http://[::1]:1/", "HTTPS://i.example"]
)
def test_valid_jwks_url_is_accepted(url):
    loaded = config.Testing(VALID_SETTINGS | {"JWT_JWKS_URL": url})
    assert url == loaded.JWT_JWKS_URL


def test_verifier_does_not_show_its_secret():
    verifier = jwt.Verifier(
        {"JWT_JWKS_URL": "", "JWT_KEY_FILE": None, "JWT_SECRET": SECRET}
        | {"JWT_ISSUER": "i", "JWT_AUDIENCE": ("a",)},
        frozenset(),
    )
    keys = verifier._keys.get()
    assert SECRET not in repr(verifier) + repr(keys) + str(keys)
    with pytest.raises(InvalidToken) as refused:
        verifier.verify("a.b.c")
    assert refused.value.__suppress_context__
