"""Fetching the keys of an identity provider: rotation, outages, and limits on waiting."""

import logging
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from projectapp.auth import jwks_client, jwt, tokens
from projectapp.problems import ServiceUnavailable
from tests import issuer as issuer_answers
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
def make_keys_stale(clock):
    """Advance the clock so that the next request starts a fetch."""

    def make_stale():
        until(lambda: "jwks" not in {thread.name for thread in threading.enumerate()})
        clock.sleep(jwks_client.REFRESH_AFTER_SECONDS + 1)

    return make_stale


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_keys_are_fetched_when_a_token_first_needs_them(issuer, make_app, sql):
    client = make_app(**issuer.settings).test_client()
    assert client.get("/health").status_code == 200
    assert client.get(PROJECTS).status_code == 401
    assert issuer.fetches == 0
    assert [get(client, issuer.token()).status_code for _ in range(5)] == [200] * 5
    assert issuer.fetches == 1


def test_new_key_is_accepted_and_revoked_key_refused_after_a_refresh(
    issuer, make_app, sql, make_keys_stale, problem
):
    client = make_app(**issuer.settings).test_client()
    old = issuer.token()
    assert get(client, old).status_code == 200
    issuer.published_keys["second"] = make_key("RSA", 2048, 1)
    make_keys_stale()
    assert get(client, issuer.token("second")).status_code == 200  # waits for the fetch
    assert get(client, old).status_code == 200
    unseen = issuer.token(sub="another")
    make_keys_stale()
    del issuer.published_keys["first"]
    fetches = issuer.fetches
    assert get(client, old).status_code == 200  # for the last time: it starts the fetch
    until(lambda: get(client, old).status_code == 401)
    assert issuer.fetches > fetches
    make_keys_stale()
    problem(get(client, unseen), 401, "invalid_token")
    assert get(client, issuer.token("second")).status_code == 200


def test_key_revoked_during_an_idle_hour_is_refused_at_the_first_request(
    issuer, make_app, sql, clock, problem
):
    client = make_app(**issuer.settings).test_client()
    old = issuer.token()
    assert get(client, old).status_code == 200
    issuer.published_keys = {"second": make_key("RSA", 2048, 1)}
    clock.sleep(3600)
    problem(get(client, old), 401, "invalid_token")
    issuer.respond = issuer_answers.status_500
    clock.sleep(3600)
    assert get(client, issuer.token("second")).status_code == 200


def test_refresh_with_unchanged_keys_returns_the_same_object(issuer, make_keys_stale):
    remote_keys = jwks_client.RemoteKeys(issuer.settings["JWT_JWKS_URL"], 4)
    before = remote_keys.refresh()
    make_keys_stale()
    assert remote_keys.refresh() is before
    assert issuer.fetches == 2


def test_unknown_kids_cause_one_fetch_per_minimum_interval(issuer, make_app, sql, clock):
    client = make_app(**issuer.settings).test_client()
    for fetches in (1, 2):
        statuses = [get(client, issuer.token(f"unknown {n}")).status_code for n in range(20)]
        assert statuses == [401] * 20
        assert issuer.fetches == fetches
        clock.sleep(jwks_client.MIN_FETCH_INTERVAL_SECONDS)


def test_last_keys_stay_in_use_for_a_day_while_the_issuer_fails(
    issuer, make_app, sql, make_keys_stale, problem, caplog, clock
):
    client = make_app(**issuer.settings).test_client()
    caplog.set_level(logging.INFO, jwks_client.__name__)
    assert get(client, issuer.token()).status_code == 200
    caplog.clear()
    issuer.respond = issuer_answers.status_500
    for _ in range(3):
        make_keys_stale()
        assert get(client, issuer.token()).status_code == 200
        answer = get(client, issuer.token("unknown"))  # the key may be new
        problem(answer, 503, "unavailable")
        assert 1 <= int(answer.headers["Retry-After"]) <= 10
    assert messages(caplog) == [
        "The identity provider's keys cannot be fetched: HTTPException('the status is 500')"
    ]
    caplog.clear()
    issuer.respond = issuer_answers.healthy
    make_keys_stale()
    until(lambda: get(client, issuer.token("unknown")).status_code == 401)
    assert messages(caplog) == ["The identity provider's keys can be fetched again."]
    issuer.respond = issuer_answers.status_500
    clock.sleep(jwks_client.EXPIRE_AFTER_SECONDS + 1)
    assert get(client, issuer.token()).status_code == 503
    issuer.respond = issuer_answers.healthy
    clock.sleep(jwks_client.MIN_FETCH_INTERVAL_SECONDS)
    until(lambda: get(client, issuer.token()).status_code == 200)


def messages(caplog):
    return [r.getMessage() for r in caplog.records if r.name == jwks_client.__name__]


BAD_RESPONSES = {
    issuer_answers.status_500: "the status is 500",
    issuer_answers.html: "is not valid JSON",
    issuer_answers.deeply_nested: "is nested too deeply",
    issuer_answers.not_a_jwks: "is not a JWKS",
    issuer_answers.redirect: "the status is 302",
    issuer_answers.too_long: "the response is longer than 262144 bytes",
    issuer_answers.too_many_keys: "is not a JWKS with at most 100 keys",
    issuer_answers.truncated: "the response ends early",
    issuer_answers.silent: "timed out",
    issuer_answers.slow_headers: "the response took 0.8 s or more",
    issuer_answers.slow_body: "the response took 0.8 s or more",
}


@pytest.mark.parametrize("bad", BAD_RESPONSES, ids=lambda bad: bad.__name__)
def test_bad_jwks_response_gets_503_within_the_deadline(
    issuer, make_app, sql, problem, caplog, monkeypatch, bad
):
    if bad is issuer_answers.silent:
        monkeypatch.setattr(jwks_client, "READ_TIMEOUT_SECONDS", 0.5)
    elif bad in (issuer_answers.slow_headers, issuer_answers.slow_body):
        monkeypatch.setattr(jwks_client, "FETCH_DEADLINE_SECONDS", 0.8)
    issuer.respond = bad
    client = make_app(**issuer.settings).test_client()
    started = time.monotonic()
    answer = get(client, issuer.token())
    problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert time.monotonic() - started < 20  # the other limit is 30 s or more
    issuer.respond = issuer_answers.healthy
    until(lambda: get(client, issuer.token()).status_code == 200)  # no thread is stuck
    [warning] = [message for message in messages(caplog) if "cannot" in message]
    assert BAD_RESPONSES[bad] in warning
    assert issuer.url not in warning


def test_empty_jwks_gets_401_and_logs_a_warning(issuer, make_app, sql, problem, caplog):
    """For instance a Supabase project with a shared secret."""
    issuer.published_keys.clear()
    problem(get(make_app(**issuer.settings).test_client(), issuer.token()), 401, "invalid_token")
    assert "The identity provider has 0 usable keys." in caplog.text


def test_unreachable_issuer_gets_503(make_app, sql, problem, issuer):
    client = make_app(**issuer.settings).test_client()
    issuer.server_close()
    problem(get(client, issuer.token()), 503, "unavailable")


def test_issuer_with_an_untrusted_certificate_gets_503(make_app, sql, tmp_path, monkeypatch):
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
        issuer.respond = issuer_answers.slow_headers
        started = time.monotonic()
        assert get(make_app(**issuer.settings).test_client(), issuer.token()).status_code == 503
        assert time.monotonic() - started < 20


def test_at_most_half_of_the_threads_wait_for_a_silent_issuer(issuer, make_keys_stale):
    verifier = jwt.Verifier(settings_of(issuer, DATABASE_POOL_SIZE="2"), frozenset())
    cached = issuer.token()
    verifier.verify(cached)
    issuer.respond = issuer_answers.silent
    make_keys_stale()
    numbers = count()

    def verify_unknown(_):
        with pytest.raises(ServiceUnavailable) as refused:
            verifier.verify(issuer.token(f"unknown {next(numbers)}"))
        return int(refused.value.headers["Retry-After"])

    with ThreadPoolExecutor(8) as pool:
        try:
            futures = [pool.submit(verify_unknown, n) for n in range(8)]
            until(lambda: sum(future.done() for future in futures) == 6)
            assert verifier.verify(cached).subject == "ann"
            verifier.verify(issuer.token(sub="another, whose token is not cached"))
            assert sum(future.done() for future in futures) == 6  # the other two are still waiting
        finally:
            issuer.is_stopped.set()
        assert {future.result() for future in futures} == {1}
    assert issuer.fetches == 2


SHORT_INTERVAL = """
exec(open("gunicorn.conf.py").read())
def post_worker_init(worker):
    from projectapp.auth import jwks_client
    jwks_client.MIN_FETCH_INTERVAL_SECONDS = 0.5
    jwks_client.READ_TIMEOUT_SECONDS = jwks_client.FETCH_DEADLINE_SECONDS = 300
"""


def test_flood_of_unknown_kids_does_not_affect_other_callers(issuer, serve, sql, tmp_path):
    """The issuer first answers and then is silent."""
    (tmp_path / "conf.py").write_text(SHORT_INTERVAL)
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
    numbers, stop, is_silent = count(), threading.Event(), threading.Event()

    def stay_silent(handler):
        """Do not answer before the end of the test."""
        is_silent.set()
        handler.server.is_stopped.wait()

    def send_requests(make_token, statuses, path=PROJECTS):
        while not stop.is_set():
            statuses.append(server.request("GET", path, **bearer(make_token()))[0])

    with (
        serve("-c", str(tmp_path / "conf.py"), **settings) as server,
        ThreadPoolExecutor(11) as pool,
    ):
        cached, started = issuer.token(exp=int(time.time()) + 3600), time.monotonic()
        assert server.request("GET", PROJECTS, **bearer(cached))[0] == 200
        others, flood = [[], [], [], []], []
        futures = [
            pool.submit(send_requests, lambda: cached, others[0]),
            pool.submit(
                send_requests, lambda: issuer.token(sub=f"user {next(numbers)}"), others[1]
            ),
            pool.submit(send_requests, lambda: api_token, others[2]),
            pool.submit(send_requests, lambda: "", others[3], "/health"),
        ]
        for _ in range(7):
            futures.append(
                pool.submit(send_requests, lambda: issuer.token(f"unknown {next(numbers)}"), flood)
            )
        try:
            until(lambda: issuer.fetches > 2)
            fetches, seconds = issuer.fetches, time.monotonic() - started
            issuer.respond = stay_silent
            assert is_silent.wait(60)
            while_silent, before = issuer.fetches, [len(statuses) for statuses in others]
            until(lambda: all(len(now) > n + 20 for now, n in zip(others, before, strict=True)))
            assert issuer.fetches == while_silent
        finally:
            stop.set()
            issuer.is_stopped.set()
        for future in futures:
            future.result()
    assert {status for statuses in others for status in statuses} == {200}
    assert set(flood) == {401, 503}
    assert fetches <= 2 + seconds / 0.5


def test_preloaded_service_fetches_keys_in_its_workers(issuer, serve, sql):
    with serve("--preload", **issuer.settings) as server:
        assert issuer.fetches == 0
        for _ in range(20):
            answer = server.request("GET", PROJECTS, **bearer(issuer.token()), Connection="close")
            assert answer[0] == 200
    assert 1 <= issuer.fetches <= 2
