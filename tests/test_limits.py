"""RATE_LIMIT: so many requests of a caller, over all workers, and nobody else is refused for it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import config
from projectapp.auth.tokens import hash_token, new_token
from projectapp.rate_limit import stores
from projectapp.rate_limit.stores import SharedMemoryStore
from projectapp.rate_limit.window import Count, Rate
from tests.conftest import PROJECTS, Clock
from tests.test_serving import children, until
from tests.wire import free_port

pytestmark = pytest.mark.slow

REDIS = shutil.which("redis-server")
SHARED = Path("/dev/shm")  # noqa: S108 - where the counters are on Linux

COUNT = """
import sys
from projectapp.rate_limit import stores
from projectapp.rate_limit.stores import SharedMemoryStore
from projectapp.rate_limit.window import Rate
stores.TURN = 60
store = SharedMemoryStore(Rate(30_000, 86400), "test", int(sys.argv[1]))
print(sum(store.count(b"a" * 16).passed for _ in range(20_000)))
"""

HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(600)
"""


def counters(port):
    """The file of counters of the service on this port."""
    [found] = SHARED.glob(f"projectapp-limits-{os.geteuid()}-{port}-*")
    return found


@pytest.fixture
def limited(make_app, sql):
    """Make a client of an application with this limit, which has counters of its own."""
    ports = []

    def make(rate, **environ):
        ports.append(str(free_port()))
        return make_app(RATE_LIMIT=rate, PORT=ports[-1], **environ).test_client()

    yield make
    for port in ports:
        counters(port).unlink()


@pytest.fixture
def served(serve, sql):
    """Serve with this limit and two workers while a `with` block runs."""

    @contextmanager
    def run(rate, **environ):
        with serve(RATE_LIMIT=rate, WEB_CONCURRENCY="2", **environ) as server:
            yield server
        counters(server.port).unlink()

    return run


@pytest.fixture
def bearer(sql):
    """The headers of a new token."""

    def make(owner="ann", *scopes):
        token = new_token()
        sql(
            "INSERT INTO api_tokens (id, name, owner, scopes, digest) VALUES (%s, %s, %s, %s, %s)",
            str(uuid4()),
            "test",
            owner,
            list(scopes or ("projects:read", "projects:write")),
            hash_token(token),
        )
        return {"Authorization": f"Bearer {token}"}

    return make


def flood(server, headers, requests, connections=16):
    """The statuses, and the milliseconds each took, of so many requests."""
    end = time.monotonic() + 300
    left = iter(range(requests))
    turn = threading.Lock()

    def run(_):
        found, connection = [], None
        while time.monotonic() < end:
            with turn:
                if next(left, None) is None:
                    break
            started = time.monotonic()
            connection = connection or HTTPConnection("127.0.0.1", server.port, timeout=60)
            try:
                connection.request("GET", PROJECTS, headers=headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, HTTPException):  # a worker was killed
                connection.close()
                connection, status = None, 0
            found.append((status, (time.monotonic() - started) * 1000))
        if connection:
            connection.close()
        return found

    with ThreadPoolExecutor(connections) as pool:
        return [one for found in pool.map(run, range(connections)) for one in found]


def statuses(answers):
    return sorted({status for status, _ in answers})


def excesses(records):
    return [one for one in records if getattr(one, "event", "") == "excess_rate_limit_exceeded"]


# A caller, in one process


def test_a_caller_over_the_limit_is_refused_and_told_when_to_come_back(limited, problem, caplog):
    client = limited("3/day")
    left = [client.get(PROJECTS).headers["RateLimit"] for _ in range(3)]
    assert [re.match(r'"default";r=(\d);t=\d+$', one)[1] for one in left] == ["2", "1", "0"]
    answers = [client.get(PROJECTS) for _ in range(5)]
    for answer in answers:
        problem(answer, 429, "too_many_requests")
        seconds = answer.headers["Retry-After"]
        assert 1 <= int(seconds) <= 2 * 86400
        assert answer.headers["RateLimit-Policy"] == '"default";q=3;w=86400'
        assert answer.headers["RateLimit"] == f'"default";r=0;t={seconds}'
    [told] = excesses(caplog.records)
    assert (told.address, told.caller) == ("127.0.0.1", None)


def test_without_a_limit_nothing_is_said_of_one(client):
    answers = [client.get(PROJECTS) for _ in range(3)]
    assert not [name for a in answers for name, _ in a.headers if name.startswith("RateLimit")]
    document = client.get("/openapi.json").json
    assert "429" not in json.dumps(document["paths"])


def test_every_answer_to_a_counted_request_says_what_is_left(limited, bearer):
    client = limited("100/day", AUTH="tokens")
    reader = bearer("ann", "projects:read")
    answers = [
        client.get(PROJECTS, headers=reader),
        client.get(f"{PROJECTS}/{uuid4()}", headers=reader),
        client.get(f"{PROJECTS}?page=x", headers=reader),
        client.post(PROJECTS, json={"name": "x"}, headers=reader),
        client.get(PROJECTS),
        client.get(PROJECTS, headers={"Authorization": "Bearer a b"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 400, 403, 401, 400]
    left = [re.findall(r"r=(\d+)", answer.headers["RateLimit"])[0] for answer in answers]
    assert left == ["99", "98", "97", "96", "99", "98"]
    assert not [answer for answer in answers if "Retry-After" in answer.headers]
    assert "RateLimit" not in client.get("/health").headers
    assert "RateLimit" not in client.get("/nowhere").headers


def test_callers_are_counted_apart_and_all_tokens_of_one_together(limited, bearer):
    client = limited("4/day", AUTH="tokens")
    one, another, foreign = bearer("ann"), bearer("ann"), bearer("bob")
    for headers in (one, another, one, another):
        assert client.get(PROJECTS, headers=headers).status_code == 200
    assert client.get(PROJECTS, headers=one).status_code == 429
    assert client.get(PROJECTS, headers=another).status_code == 429
    assert client.get(PROJECTS, headers=foreign).status_code == 200


def test_nothing_of_a_refused_request_is_read_or_done(limited, bearer, sql):
    client = limited("1/day", AUTH="tokens")
    ann = bearer()
    assert client.post(PROJECTS, json={"name": "x"}, headers=ann).status_code == 201
    assert client.post(PROJECTS, json={"name": "y"}, headers=ann).status_code == 429
    assert client.post(PROJECTS, data="{", headers=ann).status_code == 429
    assert sql("SELECT name FROM projects") == [("x",)]


def test_wrong_guesses_refuse_nobody_with_good_credentials(limited, bearer, caplog):
    client = limited("3/day", AUTH="tokens")
    ann = bearer()
    guesses = [
        client.get(PROJECTS, headers={"Authorization": f"Bearer {new_token()}"}) for _ in range(6)
    ]
    assert [answer.status_code for answer in guesses] == [401, 401, 401, 429, 429, 429]
    assert int(guesses[-1].headers["Retry-After"]) >= 1
    assert [client.get(PROJECTS, headers=ann).status_code for _ in range(4)] == [200] * 3 + [429]
    elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
    assert client.get(PROJECTS, environ_overrides=elsewhere).status_code == 401
    assert [one.__dict__.get("caller") for one in excesses(caplog.records)] == [None, "ann"]
    assert len([one for one in caplog.records if getattr(one, "event", "") == "authn_fail"]) == 4


def test_a_revoked_token_costs_its_owner_nothing_more(limited, bearer, sql):
    client = limited("5/day", AUTH="tokens")
    stolen = bearer("ann")
    assert client.get(PROJECTS, headers=stolen).status_code == 200
    assert [client.get(PROJECTS).status_code for _ in range(6)] == [401] * 5 + [429]
    sql("UPDATE api_tokens SET revoked_at = now()")
    assert {client.get(PROJECTS, headers=stolen).status_code for _ in range(8)} == {429}
    good = bearer("ann")
    assert [client.get(PROJECTS, headers=good).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", "2001:db8:0:2::1"),
        ("", "", "192.0.2.1"),
    ],
)
def test_an_address_is_one_of_ipv4_and_64_bits_of_ipv6(limited, address, same, other):
    client = limited("1/day")
    got = [
        client.get(PROJECTS, environ_overrides={"REMOTE_ADDR": one}).status_code
        for one in (address, same, other)
    ]
    assert got == [200, 429, 200]


def test_the_document_tells_of_the_limit(limited):
    document = limited("100/minute").get("/openapi.json").json
    operations = document["paths"][PROJECTS]
    for operation in (operations["get"], operations["post"]):
        assert "Retry-After" in operation["responses"]["429"]["headers"]
        for answer in operation["responses"].values():
            assert {"RateLimit", "RateLimit-Policy"} <= answer["headers"].keys()
    assert "429" not in document["paths"]["/health"]["get"]["responses"]


def test_a_page_may_read_what_is_left(limited):
    client = limited("100/minute", ALLOWED_ORIGINS="https://app.example.com")
    answer = client.get(PROJECTS, headers={"Origin": "https://app.example.com"})
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= {*exposed}


# When to come back


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    quota=st.integers(1, 1000),
    seconds=st.sampled_from([1, 60, 3600]),
    previous=st.integers(0, 1500),
    current=st.integers(1, 1500),
    part=st.floats(0, 1, exclude_max=True),
)
def test_the_wait_is_as_long_as_it_must_be(quota, seconds, previous, current, part):
    rate = Rate(quota, seconds)

    def left(elapsed):
        windows, elapsed = divmod(elapsed, seconds)
        before, now = {0: (previous, current), 1: (current, 0)}.get(windows, (0, 0))
        found = max(0, quota - int(before * (1 - elapsed / seconds)) - now)
        assert rate.allows(elapsed, before, now) == (found > 0)
        return found

    elapsed = part * seconds
    found, wait = rate.left(Count(True, elapsed, previous, current, 0))
    assert found == left(elapsed)
    assert left(elapsed + wait + 1e-6) > left(elapsed)
    assert left(max(elapsed, elapsed + wait - 1 - 1e-6)) <= left(elapsed)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stores, "time", clock)
    return clock


def test_who_comes_back_when_it_was_told_to_passes(limited, clock):
    client = limited("2/second")
    for _ in range(9):
        while (answer := client.get(PROJECTS)).status_code == 200:
            assert "Retry-After" not in answer.headers
        assert answer.status_code == 429
        clock.sleep(int(answer.headers["Retry-After"]))
        assert client.get(PROJECTS).status_code == 200
        clock.sleep(0.13)


def test_a_burst_at_the_end_of_a_window_is_not_repeated_at_the_start_of_the_next(clock):
    port, rate = free_port(), Rate(20, 1)
    store = SharedMemoryStore(rate, "test", port)
    try:
        clock.now += 0.95
        assert sum(store.count(b"a" * 16).passed for _ in range(30)) == 20
        clock.now += 0.15
        assert sum(store.count(b"a" * 16).passed for _ in range(30)) == 2
    finally:
        os.close(store._file)
        counters(port).unlink()


# A limit that changes


@pytest.fixture
def make_store():
    """Make stores of a service whose limit changes: they have the same port."""
    port, made = free_port(), []

    def make(quota, seconds):
        made.append(SharedMemoryStore(Rate(quota, seconds), "test", port))
        return made[-1]

    yield make
    for store in made:
        os.close(store._file)
    for path in SHARED.glob(f"projectapp-limits-{os.geteuid()}-{port}-*"):
        path.unlink()


def in_one_bucket(number):
    return b"same" + number.to_bytes(12, "big")


@pytest.mark.parametrize(("before", "after"), [(1, 86400), (86400, 1), (60, 3600)])
def test_a_limit_of_another_window_costs_no_counter_its_place(make_store, before, after):
    old = make_store(5, before)
    for number in range(8):
        old.count(in_one_bucket(number))
    new = make_store(1000, after)
    counts = [new.count(in_one_bucket(100 + number)).current for number in (0, 1, 2, 0, 1, 2)]
    if after > 1:  # else a window may end meanwhile
        assert counts == [1, 1, 1, 2, 2, 2]
        for number in range(8):
            old.count(in_one_bucket(200 + number))  # by a worker of before the change
        assert [new.count(in_one_bucket(100 + number)).current for number in range(3)] == [3, 3, 3]
    assert [new.count(in_one_bucket(number)).current for number in range(8)] == [1] * 8


def test_a_limit_of_another_quota_goes_on_counting(make_store):
    smaller, larger = make_store(3, 86400), make_store(5, 86400)
    assert [smaller.count(b"a" * 16).passed for _ in range(4)] == [True, True, True, False]
    assert [larger.count(b"a" * 16).passed for _ in range(3)] == [True, True, False]


def test_counters_of_before_a_reboot_give_up_their_place_first(make_store):
    store = make_store(3, 86400)
    of_long_ago = [
        stores._RECORD.pack(in_one_bucket(number), 10**6, 9, 9, 9) for number in range(8)
    ]
    start = int.from_bytes(b"same", "big") % stores._BUCKETS * stores._BUCKET
    os.pwrite(store._file, b"".join(of_long_ago), start)
    live = [in_one_bucket(100 + number) for number in range(8)]
    assert [store.count(caller).current for caller in live * 3] == [1] * 8 + [2] * 8 + [3] * 8


def test_services_with_other_windows_count_apart_in_one_redis(limited, redis):
    daily, hourly = (limited(rate, RATE_LIMIT_REDIS_URL=redis.url) for rate in ("2/day", "2/hour"))
    answers = [client.get(PROJECTS).status_code for client in (daily, hourly) * 3]
    assert answers == [200] * 4 + [429] * 2


# All workers of a host


def test_processes_that_count_at_once_lose_no_count():
    port = free_port()
    try:
        counting = [
            subprocess.Popen(
                [sys.executable, "-c", COUNT, str(port)],
                cwd=config.ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        passed = [int(process.communicate(timeout=300)[0]) for process in counting]
        assert sum(passed) == 30_000
    finally:
        counters(port).unlink()


def test_all_workers_count_together_to_the_last_request(served):
    with served("100/day", LOG_FORMAT="json") as server:
        found = [status for status, _ in flood(server, {}, requests=600)]
        assert (found.count(200), found.count(429)) == (100, 500)
        before = children(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: not {*children(server.process.pid)} & {*before})
        assert server.request("GET", PROJECTS)[0] == 429
        lines = [json.loads(one) for one in server.log.read_text().splitlines() if one[:1] == "{"]
    assert len([one for one in lines if one.get("event") == "excess_rate_limit_exceeded"]) == 1


def test_a_caller_at_fifty_times_its_limit_costs_another_nothing(served, bearer):
    loud, quiet = bearer("loud"), bearer("quiet")
    with served("20/day", AUTH="tokens") as server, ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood, server, loud, requests=1000, connections=4)
        answers = []
        for _ in range(20):
            answers += flood(server, quiet, requests=1, connections=1)
            time.sleep(0.05)
        loud_ones = flooding.result()
    passed = [status for status, _ in loud_ones].count(200)
    assert statuses(answers) == [200]
    assert statuses(loud_ones) == [200, 429]
    assert passed == 20
    print(f"{len(loud_ones)} requests flooded, {passed} passed; p95 {p95(answers):.1f} ms")


def p95(answers):
    return sorted(ms for _, ms in answers)[int(len(answers) * 0.95)]


def test_killed_workers_let_nobody_through_and_block_nobody(served):
    with served("200/day") as server, ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood, server, {}, requests=2000)
        for _ in range(6):
            time.sleep(0.5)
            for worker in children(server.process.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
        found = [status for status, _ in flooding.result()]
        lost = found.count(0)  # a request that was counted, and its answer lost
        assert 200 - lost <= found.count(200) <= 200
        server.wait_until_serving()
        assert server.request("GET", PROJECTS)[0] == 429


def test_a_process_that_dies_with_the_lock_leaves_it_and_a_stopped_one_is_not_waited_for(
    limited, monkeypatch, caplog
):
    monkeypatch.setattr(stores, "REST", 300)
    client = limited("2/day")
    assert client.get(PROJECTS).status_code == 200
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(counters(client.application.config["PORT"]))],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        started = time.monotonic()
        answers = [client.get(PROJECTS) for _ in range(20)]
        assert time.monotonic() - started < 10 * stores.TURN  # not each waits
        assert [(a.status_code, "RateLimit" in a.headers) for a in answers] == [(200, False)] * 20
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    monkeypatch.setattr(stores, "REST", 0)
    assert [client.get(PROJECTS).status_code for _ in range(2)] == [200, 429]
    told = [one.getMessage() for one in caplog.records if one.name.endswith("stores")]
    assert len(told) == 2


def test_a_flood_of_callers_refuses_nobody_and_frees_nobody_who_floods():
    port = free_port()
    store = SharedMemoryStore(Rate(5, 86400), "test", port)
    try:
        flooder = os.urandom(16)
        assert [store.count(flooder).passed for _ in range(6)] == [True] * 5 + [False]
        assert all(store.count(os.urandom(16)).passed for _ in range(100_000))
        assert not store.count(flooder).passed
        assert counters(port).stat().st_size <= 2**20
    finally:
        os.close(store._file)
        counters(port).unlink()


# Several hosts


class Redis:
    """A redis-server of our own, with a password, on one port whenever it runs."""

    def __init__(self, folder):
        self.port, self.folder, self.process = free_port(), folder, None
        self.url = f"redis://:s3cret-word@127.0.0.1:{self.port}/0"
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [
                *("timeout", "--signal=KILL", "300", REDIS, "--port", str(self.port)),
                *("--bind", "127.0.0.1", "--save", "", "--requirepass", "s3cret-word"),
            ],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def signal(self, how):
        os.killpg(self.process.pid, how)

    def stop(self):
        self.signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def redis(tmp_path, monkeypatch):
    if not REDIS:
        pytest.skip("redis-server is not installed")
    monkeypatch.setattr(stores, "ANSWER", 2)
    running = Redis(tmp_path)
    yield running
    running.stop()


def test_hosts_count_together_where_they_share_a_store(limited, redis, caplog):
    hosts = [limited("6/day", RATE_LIMIT_REDIS_URL=redis.url) for _ in range(2)]
    answers = [hosts[n % 2].get(PROJECTS) for n in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 4
    left = [re.findall(r"r=(\d+)", answer.headers["RateLimit"])[0] for answer in answers]
    assert left == ["5", "4", "3", "2", "1", "0", "0", "0", "0", "0"]
    assert len(excesses(caplog.records)) == 1


def test_who_comes_back_when_a_shared_store_told_to_passes(limited, redis):
    client = limited("2/second", RATE_LIMIT_REDIS_URL=redis.url)
    for _ in range(4):
        end = time.monotonic() + 60
        while (answer := client.get(PROJECTS)).status_code == 200:
            assert time.monotonic() < end, "no three requests come in a second"
        time.sleep(int(answer.headers["Retry-After"]))
        assert client.get(PROJECTS).status_code == 200
        time.sleep(0.13)


@pytest.mark.parametrize("how", ["away", "silent", "refusing"])
def test_a_store_that_is_away_is_done_without_until_it_is_back(
    limited, redis, caplog, monkeypatch, how
):
    monkeypatch.setattr(stores, "REST", 300)
    client = limited("3/day", RATE_LIMIT_REDIS_URL=redis.url)
    get = client.get
    assert [get(PROJECTS).status_code for _ in range(4)] == [200, 200, 200, 429]
    leave = {
        "away": redis.stop,
        "silent": lambda: redis.signal(signal.SIGSTOP),
        "refusing": lambda: ask(redis, "config set requirepass another"),
    }
    leave[how]()
    if how == "refusing":
        ask(redis, "client kill type normal", password="another")  # noqa: S106 - a test's
    started = time.monotonic()
    assert [get(PROJECTS).status_code for _ in range(30)] == [200] * 3 + [429] * 27
    assert time.monotonic() - started < 15 * stores.ANSWER  # not each waits
    monkeypatch.setattr(stores, "REST", 0)
    assert get(PROJECTS).status_code == 429
    come_back = {
        "away": redis.start,
        "silent": lambda: redis.signal(signal.SIGCONT),
        "refusing": lambda: ask(redis, "config set requirepass s3cret-word", password="another"),  # noqa: S106
    }
    come_back[how]()
    # One that was started anew has forgotten, the others have not.
    assert get(PROJECTS).status_code == (200 if how == "away" else 429)
    told = [one.getMessage() for one in caplog.records if one.name.endswith("stores")]
    assert [("is away" in one, "is back" in one) for one in told] == [(True, False), (False, True)]
    assert "s3cret" not in caplog.text


def ask(redis, *commands, password="s3cret-word"):  # noqa: S107 - a test's
    with closing(socket.create_connection(("127.0.0.1", redis.port), 60)) as line:
        for command in (f"auth {password}", *commands):
            line.sendall(f"{command}\r\n".encode())
            assert line.recv(1000)[:1] in (b"+", b":")


# Settings


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RATE_LIMIT": "0/minute"}, "RATE_LIMIT must be"),
        ({"RATE_LIMIT": "100"}, "RATE_LIMIT must be"),
        ({"RATE_LIMIT": "5/week"}, "RATE_LIMIT must be"),
        ({"RATE_LIMIT_REDIS_URL": "redis://h"}, "has no effect without RATE_LIMIT"),
        ({"RATE_LIMIT": "1/day", "RATE_LIMIT_REDIS_URL": "http://u:s3cret@h"}, "redis://"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(environ, told):
    with pytest.raises(config.ConfigError, match=told) as error:
        config.Testing(environ)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("rest", ["h:port/0", "h/0?no_such_key=1"])
def test_a_store_whose_url_cannot_be_read_is_not_told(make_app, rest):
    with pytest.raises(config.ConfigError, match="RATE_LIMIT_REDIS_URL must be") as error:
        make_app(RATE_LIMIT="1/day", RATE_LIMIT_REDIS_URL=f"redis://:s3cret@{rest}")
    assert "s3cret" not in str(error.value)


def test_without_its_client_a_store_is_refused(monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(config.ConfigError, match="pip install 'redis"):
        config.Testing({"RATE_LIMIT": "1/day", "RATE_LIMIT_REDIS_URL": "redis://h"})
