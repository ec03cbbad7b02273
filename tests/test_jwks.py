"""How the keys of an identity provider come and go, and that nothing waits for them for long."""

import logging
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from projectapp.auth import jwks_client, jwt, tokens
from projectapp.problems import ServiceUnavailable
from tests import issuer as answers
from tests.conftest import PROJECTS, Clock
from tests.issuer import EC, Issuer, bearer, make_key
from tests.test_jwt import certificate, get, settings_of

pytestmark = pytest.mark.slow


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(jwks_client, "time", clock)
    return clock


@pytest.fixture
def quick(clock):
    """Let so much time pass that the next request has the keys fetched anew."""

    def pass_():
        until(lambda: "jwks" not in {thread.name for thread in threading.enumerate()})
        clock.sleep(jwks_client.REFRESH_AFTER_SECONDS + 1)

    return pass_


def until(true):
    end = time.monotonic() + 60
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
    issuer.published_keys["second"] = make_key("RSA", 2048, 1)
    quick()
    assert get(service, issuer.token("second")).status_code == 200  # at the first request
    assert get(service, old).status_code == 200
    withdrawn = issuer.token(sub="another")
    quick()
    del issuer.published_keys["first"]
    fetches = issuer.fetches
    assert get(service, old).status_code == 200  # the last one, which has the keys fetched anew
    until(lambda: get(service, old).status_code == 401)
    assert issuer.fetches > fetches
    quick()
    problem(get(service, withdrawn), 401, "invalid_token")
    assert get(service, issuer.token("second")).status_code == 200


def test_a_key_that_was_withdrawn_in_a_quiet_hour_is_not_used(
    issuer, make_app, sql, clock, problem
):
    service = make_app(**issuer.settings).test_client()
    old = issuer.token()
    assert get(service, old).status_code == 200
    issuer.published_keys = {"second": make_key("RSA", 2048, 1)}
    clock.sleep(3600)
    problem(get(service, old), 401, "invalid_token")
    issuer.answer = answers.failing
    clock.sleep(3600)
    assert get(service, issuer.token("second")).status_code == 200


def test_the_same_keys_fetched_again_forget_nothing(issuer, quick):
    fetched = jwks_client.RemoteKeys(issuer.settings["JWT_JWKS_URL"], 4)
    before = fetched.refresh()
    quick()
    assert fetched.refresh() is before
    assert issuer.fetches == 2


def test_unknown_keys_cost_one_fetch_in_so_many_seconds(issuer, make_app, sql, clock):
    service = make_app(**issuer.settings).test_client()
    for fetches in (1, 2):
        answered = [get(service, issuer.token(f"unknown {n}")).status_code for n in range(20)]
        assert answered == [401] * 20
        assert issuer.fetches == fetches
        clock.sleep(jwks_client.MIN_FETCH_INTERVAL_SECONDS)


def test_without_the_issuer_its_last_keys_serve_on(
    issuer, make_app, sql, quick, problem, caplog, clock
):
    service = make_app(**issuer.settings).test_client()
    caplog.set_level(logging.INFO, jwks_client.__name__)
    assert get(service, issuer.token()).status_code == 200
    caplog.clear()
    issuer.answer = answers.failing
    for _ in range(3):
        quick()
        assert get(service, issuer.token()).status_code == 200
        answer = get(service, issuer.token("unknown"))  # it may be a new one: not the token's fault
        problem(answer, 503, "unavailable")
        assert 1 <= int(answer.headers["Retry-After"]) <= 10
    told = [record.getMessage() for record in caplog.records if record.name == jwks_client.__name__]
    assert told == [
        "The identity provider's keys cannot be fetched: HTTPException('the status is 500')"
    ]
    caplog.clear()
    issuer.answer = answers.well
    quick()
    until(lambda: get(service, issuer.token("unknown")).status_code == 401)
    told = [record.getMessage() for record in caplog.records if record.name == jwks_client.__name__]
    assert told == ["The identity provider's keys can be fetched again."]
    issuer.answer = answers.failing
    clock.sleep(jwks_client.EXPIRE_AFTER_SECONDS + 1)
    assert get(service, issuer.token()).status_code == 503
    issuer.answer = answers.well
    clock.sleep(jwks_client.MIN_FETCH_INTERVAL_SECONDS)
    until(lambda: get(service, issuer.token()).status_code == 200)


BAD_ANSWERS = {
    answers.failing: "the status is 500",
    answers.not_json: "is not valid JSON",
    answers.nested: "is nested too deeply",
    answers.no_jwks: "is not a JWKS",
    answers.redirecting: "the status is 302",
    answers.giant: "the response is longer than 262144 bytes",
    answers.numerous: "is not a JWKS with at most 100 keys",
    answers.cut: "is not valid JSON",
    answers.silent: "timed out",
    answers.dripping: "the response took 0.8 s or more",
    answers.dripping_body: "the response took 0.8 s or more",
}


@pytest.mark.parametrize("bad", BAD_ANSWERS, ids=lambda bad: bad.__name__)
def test_a_bad_answer_for_keys_is_a_503_in_time(
    issuer, make_app, sql, problem, caplog, monkeypatch, bad
):
    if bad is answers.silent:
        monkeypatch.setattr(jwks_client, "READ_TIMEOUT_SECONDS", 0.5)
    elif bad in (answers.dripping, answers.dripping_body):
        monkeypatch.setattr(jwks_client, "FETCH_DEADLINE_SECONDS", 0.8)
    issuer.answer = bad
    service = make_app(**issuer.settings).test_client()
    started = time.monotonic()
    answer = get(service, issuer.token())
    problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert time.monotonic() - started < 20  # the limit that is not short here is 30 or more
    issuer.answer = answers.well
    until(lambda: get(service, issuer.token()).status_code == 200)  # and no thread is stuck
    [told] = [
        r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "cannot" in r.msg
    ]
    assert BAD_ANSWERS[bad] in told
    assert issuer.url not in told


def test_an_issuer_without_keys_is_told_of(issuer, make_app, sql, problem, caplog):
    """As Supabase projects with a shared secret are."""
    issuer.published_keys.clear()
    problem(get(make_app(**issuer.settings).test_client(), issuer.token()), 401, "invalid_token")
    assert "The identity provider has 0 usable keys." in caplog.text


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
        monkeypatch.setattr(jwks_client, "FETCH_DEADLINE_SECONDS", 0.8)
        issuer.answer = answers.dripping
        started = time.monotonic()
        assert get(make_app(**issuer.settings).test_client(), issuer.token()).status_code == 503
        assert time.monotonic() - started < 20


def test_no_more_than_half_of_the_threads_wait_for_a_silent_issuer(issuer, quick):
    verifier = jwt.Verifier(settings_of(issuer, DATABASE_POOL_SIZE="2"), frozenset())
    known = issuer.token()
    verifier.verify(known)
    issuer.answer = answers.silent
    quick()
    names = count()

    def ask(_):
        with pytest.raises(ServiceUnavailable) as refused:
            verifier.verify(issuer.token(f"unknown {next(names)}"))
        return int(refused.value.headers["Retry-After"])

    with ThreadPoolExecutor(8) as pool:
        try:
            asked = [pool.submit(ask, n) for n in range(8)]
            until(lambda: sum(one.done() for one in asked) == 6)
            assert verifier.verify(known).subject == "ann"
            verifier.verify(issuer.token(sub="another, not seen before"))
            assert sum(one.done() for one in asked) == 6  # the other two wait on
        finally:
            issuer.ended.set()
        assert {one.result() for one in asked} == {1}
    assert issuer.fetches == 2


SOON = """
exec(open("gunicorn.conf.py").read())
def post_worker_init(worker):
    from projectapp.auth import jwks_client
    jwks_client.MIN_FETCH_INTERVAL_SECONDS = 0.5
    jwks_client.READ_TIMEOUT_SECONDS = jwks_client.FETCH_DEADLINE_SECONDS = 300
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
    settings = {
        **issuer.settings,
        "AUTH": "tokens,jwt",
        "WEB_CONCURRENCY": "1",
        "DATABASE_POOL_SIZE": "2",
    }
    names, stop, held = count(), threading.Event(), threading.Event()

    def hold(handler):
        """Be silent to the end, for longer than any request may take."""
        held.set()
        handler.server.ended.wait()

    def ask(make_token, found, path=PROJECTS):
        while not stop.is_set():
            found.append(server.request("GET", path, **bearer(make_token()))[0])

    with (
        serve("-c", str(tmp_path / "conf.py"), **settings) as server,
        ThreadPoolExecutor(11) as pool,
    ):
        known, started = issuer.token(exp=int(time.time()) + 3600), time.monotonic()
        assert server.request("GET", PROJECTS, **bearer(known))[0] == 200
        others, flooded = [[], [], [], []], []
        asked = [
            pool.submit(ask, lambda: known, others[0]),
            pool.submit(ask, lambda: issuer.token(sub=f"user {next(names)}"), others[1]),
            pool.submit(ask, lambda: api_token, others[2]),
            pool.submit(ask, lambda: "", others[3], "/health"),
        ]
        for _ in range(7):
            asked.append(pool.submit(ask, lambda: issuer.token(f"unknown {next(names)}"), flooded))
        try:
            until(lambda: issuer.fetches > 2)
            fetches, seconds = issuer.fetches, time.monotonic() - started
            issuer.answer = hold
            assert held.wait(60)
            while_held, before = issuer.fetches, [len(one) for one in others]
            until(lambda: all(len(one) > n + 20 for one, n in zip(others, before, strict=True)))
            assert issuer.fetches == while_held
        finally:
            stop.set()
            issuer.ended.set()
        for one in asked:
            one.result()
    assert {status for one in others for status in one} == {200}
    assert set(flooded) == {401, 503}
    assert fetches <= 2 + seconds / 0.5


def test_a_preloaded_service_fetches_in_its_workers(issuer, serve, sql):
    with serve("--preload", **issuer.settings) as server:
        assert issuer.fetches == 0
        for _ in range(20):
            answer = server.request("GET", PROJECTS, **bearer(issuer.token()), Connection="close")
            assert answer[0] == 200
    assert 1 <= issuer.fetches <= 2
