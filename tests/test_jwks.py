"""How the keys of an identity provider come and go, and that nothing waits for them for long."""

import logging
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from projectapp.auth import jwks, jwt, tokens
from projectapp.errors import Unavailable
from tests import issuer as answers
from tests.conftest import PROJECTS
from tests.issuer import EC, Issuer, bearer, make_key
from tests.test_jwt import certificate, get, settings_of

pytestmark = pytest.mark.slow


@pytest.fixture
def quick(monkeypatch):
    """Keys are fetched anew with the first request that is some time after the last."""
    monkeypatch.setattr(jwks, "FRESH", 0.1)
    monkeypatch.setattr(jwks, "COOL_DOWN", 0.1)
    return lambda: time.sleep(0.15)


def until(true):
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nothing_is_fetched_before_a_token_needs_it(issuer, make_app, sql):
    service = make_app(**issuer.settings).test_client()
    assert service.get("/health").status_code == 200
    assert service.get(PROJECTS).status_code == 401
    assert issuer.fetches == 0
    assert [get(service, issuer.token()).status_code for _ in range(5)] == [200] * 5
    assert issuer.fetches == 1


def test_keys_rotate(issuer, make_app, sql, quick, problem):
    service = make_app(**issuer.settings).test_client()
    old = issuer.token()
    assert get(service, old).status_code == 200
    issuer.published["second"] = make_key("RSA", 2048, 1)
    quick()
    assert get(service, issuer.token("second")).status_code == 200  # at the first request
    assert get(service, old).status_code == 200
    withdrawn = issuer.token(sub="another")
    del issuer.published["first"]
    fetches = issuer.fetches
    quick()
    assert get(service, old).status_code == 200  # the last one, which has the keys fetched anew
    until(lambda: get(service, old).status_code == 401)
    assert issuer.fetches > fetches
    quick()
    problem(get(service, withdrawn), 401, "invalid_token")
    assert get(service, issuer.token("second")).status_code == 200


def test_a_key_that_was_withdrawn_in_a_quiet_hour_is_not_used(
    issuer, make_app, sql, quick, problem, monkeypatch
):
    monkeypatch.setattr(jwks, "DEADLINE", 0.5)
    service = make_app(**issuer.settings).test_client()
    old = issuer.token()
    assert get(service, old).status_code == 200
    issuer.published = {"second": make_key("RSA", 2048, 1)}
    time.sleep(0.7)
    problem(get(service, old), 401, "invalid_token")
    issuer.answer = answers.failing
    time.sleep(0.7)
    assert get(service, issuer.token("second")).status_code == 200


def test_the_same_keys_fetched_again_forget_nothing(issuer, quick):
    fetched = jwks.Fetched(issuer.settings["JWT_JWKS_URL"], 4)
    before = fetched.renewed()
    quick()
    assert fetched.renewed() is before
    assert issuer.fetches == 2


def test_unknown_keys_cost_one_fetch_in_so_many_seconds(issuer, make_app, sql):
    service = make_app(**issuer.settings).test_client()
    answered = [get(service, issuer.token(f"unknown {n}")).status_code for n in range(20)]
    assert answered == [401] * 20
    assert issuer.fetches == 1


def test_without_the_issuer_its_last_keys_serve_on(
    issuer, make_app, sql, quick, problem, caplog, monkeypatch
):
    service = make_app(**issuer.settings).test_client()
    caplog.set_level(logging.INFO, jwks.__name__)
    assert get(service, issuer.token()).status_code == 200
    caplog.clear()
    issuer.answer = answers.failing
    for _ in range(3):
        quick()
        assert get(service, issuer.token()).status_code == 200
        answer = get(service, issuer.token("unknown"))  # it may be a new one: not the token's fault
        problem(answer, 503, "unavailable")
        assert 1 <= int(answer.headers["Retry-After"]) <= 10
    told = [record.getMessage() for record in caplog.records if record.name == jwks.__name__]
    assert told == [
        "The identity provider's keys cannot be fetched: HTTPException('the answer is 500')"
    ]
    caplog.clear()
    issuer.answer = answers.well
    quick()
    until(lambda: get(service, issuer.token("unknown")).status_code == 401)
    told = [record.getMessage() for record in caplog.records if record.name == jwks.__name__]
    assert told == ["The identity provider's keys can be fetched again."]
    issuer.answer = answers.failing
    monkeypatch.setattr(jwks, "STALE", 0.2)
    time.sleep(0.3)
    assert get(service, issuer.token()).status_code == 503
    issuer.answer = answers.well
    until(lambda: get(service, issuer.token()).status_code == 200)


BAD_ANSWERS = {
    answers.failing: "the answer is 500",
    answers.not_json: "is not valid JSON",
    answers.nested: "is nested too deeply",
    answers.no_jwks: "is no JWKS",
    answers.redirecting: "the answer is 302",
    answers.giant: "the answer is longer than 262144 bytes",
    answers.numerous: "is no JWKS of at most 100 keys",
    answers.cut: "is not valid JSON",
    answers.silent: "timed out",
    answers.dripping: "the answer took 0.8 s or more",
    answers.dripping_body: "the answer took 0.8 s or more",
}


@pytest.mark.parametrize("bad", BAD_ANSWERS, ids=lambda bad: bad.__name__)
def test_a_bad_answer_for_keys_is_a_503_in_time(
    issuer, make_app, sql, problem, caplog, monkeypatch, bad
):
    monkeypatch.setattr(jwks, "TIMEOUT", 0.5)
    monkeypatch.setattr(jwks, "DEADLINE", 0.8)
    issuer.answer = bad
    service = make_app(**issuer.settings).test_client()
    started = time.monotonic()
    answer = get(service, issuer.token())
    problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert time.monotonic() - started < 2
    issuer.answer = answers.well
    until(lambda: get(service, issuer.token()).status_code == 200)  # and no thread is stuck
    [told] = [
        r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "cannot" in r.msg
    ]
    assert BAD_ANSWERS[bad] in told
    assert issuer.name not in told


def test_an_issuer_without_keys_is_told_of(issuer, make_app, sql, problem, caplog):
    """As Supabase projects with a shared secret are."""
    issuer.published.clear()
    problem(get(make_app(**issuer.settings).test_client(), issuer.token()), 401, "invalid_token")
    assert "The identity provider has 0 keys for this use." in caplog.text


def test_no_issuer_is_a_503(make_app, sql, problem, issuer):
    service = make_app(**issuer.settings).test_client()
    issuer.server_close()
    problem(get(service, issuer.token()), 503, "unavailable")


def test_the_issuers_certificate_is_verified(make_app, sql, tmp_path, monkeypatch):
    (tmp_path / "cert").write_bytes(certificate(EC))
    (tmp_path / "key").write_bytes(EC.as_pem(private=True))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with Issuer(tls) as issuer:
        assert get(make_app(**issuer.settings).test_client(), issuer.token()).status_code == 503
        assert issuer.fetches == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        assert get(make_app(**issuer.settings).test_client(), issuer.token()).status_code == 200
        monkeypatch.setattr(jwks, "DEADLINE", 0.8)
        issuer.answer = answers.dripping
        started = time.monotonic()
        assert get(make_app(**issuer.settings).test_client(), issuer.token()).status_code == 503
        assert time.monotonic() - started < 2


def test_no_more_than_half_of_the_threads_wait_for_a_silent_issuer(issuer, quick):
    verifier = jwt.Verifier(settings_of(issuer, THREADS="2"))
    known = issuer.token()
    verifier.verify(known)
    issuer.answer = answers.silent
    quick()
    took, names = {}, count()

    def ask(_):
        started = time.monotonic()
        with pytest.raises(Unavailable) as refused:
            verifier.verify(issuer.token(f"unknown {next(names)}"))
        took[threading.get_ident()] = time.monotonic() - started
        return int(refused.value.headers["Retry-After"])

    with ThreadPoolExecutor(8) as pool:
        asked = pool.map(ask, range(8))
        time.sleep(0.2)
        started = time.monotonic()
        assert verifier.verify(known).subject == "ann"
        verifier.verify(issuer.token(sub="another, not seen before"))
        assert time.monotonic() - started < 0.2
        assert set(asked) == {1}
    waited = sorted(took.values())
    assert len([seconds for seconds in waited if seconds > 1]) == 2
    assert waited[-1] < 3.5
    assert issuer.fetches == 2


SOON = """
exec(open("gunicorn.conf.py").read())
def post_worker_init(worker):
    from projectapp.auth import jwks
    jwks.COOL_DOWN = 0.5
"""


def test_a_flood_of_unknown_keys_costs_others_nothing(issuer, serve, sql, tmp_path):
    """First while the issuer answers, then while it is silent."""
    (tmp_path / "conf.py").write_text(SOON)
    api_token = tokens.new_token()
    sql(
        "INSERT INTO api_tokens (id, name, owner, scopes, digest) VALUES"
        " (gen_random_uuid(), 'machine', 'machine', '{projects:read}', %s)",
        tokens.hash_token(api_token),
    )
    settings = {**issuer.settings, "AUTH": "tokens,jwt", "WEB_CONCURRENCY": "1", "THREADS": "2"}
    names = count()

    def ask(make_token, path=PROJECTS):
        """The statuses until the end, and the longest time that one took."""
        found, longest = set(), 0.0
        while time.monotonic() < end:
            started = time.monotonic()
            found.add(server.request("GET", path, **bearer(make_token()))[0])
            longest = max(longest, time.monotonic() - started)
        return found, longest

    with (
        serve("-c", str(tmp_path / "conf.py"), **settings) as server,
        ThreadPoolExecutor(11) as pool,
    ):
        known, end = issuer.token(), time.monotonic() + 7
        assert server.request("GET", PROJECTS, **bearer(known))[0] == 200
        others = [
            pool.submit(ask, lambda: known),
            pool.submit(ask, lambda: issuer.token(sub=f"user {next(names)}")),
            pool.submit(ask, lambda: api_token),
            pool.submit(ask, lambda: "", "/health"),
        ]
        flood = [pool.submit(ask, lambda: issuer.token(f"unknown {next(names)}")) for _ in range(7)]
        time.sleep(2)
        while_well, issuer.answer = issuer.fetches, answers.silent
        for done in others:
            statuses, longest = done.result()
            assert statuses == {200}
            assert longest < 1.5
        assert set().union(*(done.result()[0] for done in flood)) == {401, 503}
    assert 2 <= while_well <= 6
    assert 1 <= issuer.fetches - while_well <= 5


def test_a_preloaded_service_fetches_in_its_workers(issuer, serve, sql):
    with serve("--preload", **issuer.settings) as server:
        assert issuer.fetches == 0
        for _ in range(20):
            answer = server.request("GET", PROJECTS, **bearer(issuer.token()), Connection="close")
            assert answer[0] == 200
    assert 1 <= issuer.fetches <= 2
