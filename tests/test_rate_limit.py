"""RATE_LIMIT: a caller's requests are counted over all workers, and do not affect other callers."""

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
from faults.processes import free_port
from projectapp.auth import session_cookie
from projectapp.auth.tokens import hash_token, new_token
from projectapp.rate_limit import stores
from projectapp.rate_limit.stores import SharedMemoryStore
from projectapp.rate_limit.window import Rate, WindowCount
from tests.conftest import PROJECTS, Clock
from tests.test_serving import children, until

pytestmark = pytest.mark.slow

REDIS = shutil.which("redis-server")
SHARED = Path("/dev/shm")  # noqa: S108 - the folder of the counters on Linux

COUNT_PROGRAM = """
import sys
from projectapp.rate_limit import stores
from projectapp.rate_limit.stores import SharedMemoryStore
from projectapp.rate_limit.window import Rate
stores.LOCK_TIMEOUT_SECONDS = 60
store = SharedMemoryStore(Rate(30_000, 86400), "test", int(sys.argv[1]))
print(sum(store.count(b"a" * 16).is_allowed for _ in range(20_000)))
"""

HOLD_LOCK_PROGRAM = """
import fcntl, sys, time
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(600)
"""


def counter_file(port):
    """The file of counters of the service on this port.

    An interrupted test of another checkout may have left an older one.
    """
    paths = SHARED.glob(f"projectapp-limits-{os.geteuid()}-{port}-*")
    return max(paths, key=lambda path: path.stat().st_mtime)


@pytest.fixture
def limited_client(make_app, sql):
    """Make a client of an application with this RATE_LIMIT and its own counters."""
    ports = []

    def make(rate, **environ):
        ports.append(str(free_port()))
        return make_app(RATE_LIMIT=rate, PORT=ports[-1], **environ).test_client()

    yield make
    for port in ports:
        counter_file(port).unlink()


@pytest.fixture
def serve_limited(serve, sql):
    """Serve with this RATE_LIMIT and two workers while a `with` block runs."""

    @contextmanager
    def run(rate, **environ):
        with serve(RATE_LIMIT=rate, WEB_CONCURRENCY="2", **environ) as server:
            yield server
        counter_file(server.port).unlink()

    return run


@pytest.fixture
def auth_headers(sql):
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
    """Send this number of requests; return the status and the milliseconds of each."""
    end = time.monotonic() + 300
    numbers = iter(range(requests))
    lock = threading.Lock()

    def run(_):
        results, connection = [], None
        while time.monotonic() < end:
            with lock:
                if next(numbers, None) is None:
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
            results.append((status, (time.monotonic() - started) * 1000))
        if connection:
            connection.close()
        return results

    with ThreadPoolExecutor(connections) as pool:
        return [result for results in pool.map(run, range(connections)) for result in results]


def distinct_statuses(results):
    return sorted({status for status, _ in results})


def excess_events(records):
    return [r for r in records if getattr(r, "event", "") == "excess_rate_limit_exceeded"]


# One process


def test_request_over_the_limit_gets_429_with_retry_after(limited_client, problem, caplog):
    client = limited_client("3/day")
    headers = [client.get(PROJECTS).headers["RateLimit"] for _ in range(3)]
    assert [re.match(r'"default";r=(\d);t=\d+$', header)[1] for header in headers] == [
        "2",
        "1",
        "0",
    ]
    answers = [client.get(PROJECTS) for _ in range(5)]
    for answer in answers:
        problem(answer, 429, "too_many_requests")
        seconds = answer.headers["Retry-After"]
        assert 1 <= int(seconds) <= 2 * 86400
        assert answer.headers["RateLimit-Policy"] == '"default";q=3;w=86400'
        assert answer.headers["RateLimit"] == f'"default";r=0;t={seconds}'
    [event] = excess_events(caplog.records)
    assert (event.address, event.caller) == ("127.0.0.1", None)


def test_without_rate_limit_responses_have_no_rate_limit_headers(client):
    answers = [client.get(PROJECTS) for _ in range(3)]
    assert not [name for a in answers for name, _ in a.headers if name.startswith("RateLimit")]
    document = client.get("/openapi.json").json
    assert "429" not in json.dumps(document["paths"])


def test_every_response_to_a_counted_request_has_the_remaining_requests(
    limited_client, auth_headers
):
    client = limited_client("100/day", AUTH="tokens")
    reader = auth_headers("ann", "projects:read")
    answers = [
        client.get(PROJECTS, headers=reader),
        client.get(f"{PROJECTS}/{uuid4()}", headers=reader),
        client.get(f"{PROJECTS}?page=x", headers=reader),
        client.post(PROJECTS, json={"name": "x"}, headers=reader),
        client.get(PROJECTS),
        client.get(PROJECTS, headers={"Authorization": "Bearer a b"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 400, 403, 401, 400]
    remaining = [re.findall(r"r=(\d+)", answer.headers["RateLimit"])[0] for answer in answers]
    assert remaining == ["99", "98", "97", "96", "99", "98"]
    assert not [answer for answer in answers if "Retry-After" in answer.headers]
    assert "RateLimit" not in client.get("/health").headers
    assert "RateLimit" not in client.get("/nowhere").headers


def test_all_tokens_of_an_owner_share_a_counter_and_owners_do_not(limited_client, auth_headers):
    client = limited_client("4/day", AUTH="tokens")
    first, second, bobs = auth_headers("ann"), auth_headers("ann"), auth_headers("bob")
    for headers in (first, second, first, second):
        assert client.get(PROJECTS, headers=headers).status_code == 200
    assert client.get(PROJECTS, headers=first).status_code == 429
    assert client.get(PROJECTS, headers=second).status_code == 429
    assert client.get(PROJECTS, headers=bobs).status_code == 200


def test_request_with_429_is_neither_parsed_nor_executed(limited_client, auth_headers, sql):
    client = limited_client("1/day", AUTH="tokens")
    ann = auth_headers()
    assert client.post(PROJECTS, json={"name": "x"}, headers=ann).status_code == 201
    assert client.post(PROJECTS, json={"name": "y"}, headers=ann).status_code == 429
    assert client.post(PROJECTS, data="{", headers=ann).status_code == 429
    assert sql("SELECT name FROM projects") == [("x",)]


def test_failed_authentications_of_an_address_do_not_affect_valid_tokens(
    limited_client, auth_headers, caplog
):
    client = limited_client("3/day", AUTH="tokens")
    ann = auth_headers()
    guesses = [
        client.get(PROJECTS, headers={"Authorization": f"Bearer {new_token()}"}) for _ in range(6)
    ]
    assert [answer.status_code for answer in guesses] == [401, 401, 401, 429, 429, 429]
    assert int(guesses[-1].headers["Retry-After"]) >= 1
    assert [client.get(PROJECTS, headers=ann).status_code for _ in range(4)] == [200] * 3 + [429]
    other_address = {"REMOTE_ADDR": "192.0.2.7"}
    assert client.get(PROJECTS, environ_overrides=other_address).status_code == 401
    assert [event.__dict__.get("caller") for event in excess_events(caplog.records)] == [
        None,
        "ann",
    ]
    assert len([r for r in caplog.records if getattr(r, "event", "") == "authn_fail"]) == 4


def test_requests_with_a_revoked_token_do_not_count_for_its_owner(
    limited_client, auth_headers, sql
):
    client = limited_client("5/day", AUTH="tokens")
    stolen = auth_headers("ann")
    assert client.get(PROJECTS, headers=stolen).status_code == 200
    assert [client.get(PROJECTS).status_code for _ in range(6)] == [401] * 5 + [429]
    sql("UPDATE api_tokens SET revoked_at = now()")
    assert {client.get(PROJECTS, headers=stolen).status_code for _ in range(8)} == {429}
    valid = auth_headers("ann")
    assert [client.get(PROJECTS, headers=valid).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", "2001:db8:0:2::1"),
        ("", "", "192.0.2.1"),
    ],
)
def test_client_is_counted_by_ipv4_address_or_ipv6_64_network(limited_client, address, same, other):
    client = limited_client("1/day")
    statuses = [
        client.get(PROJECTS, environ_overrides={"REMOTE_ADDR": remote}).status_code
        for remote in (address, same, other)
    ]
    assert statuses == [200, 429, 200]


def test_openapi_describes_the_429_and_the_rate_limit_headers(limited_client):
    document = limited_client("100/minute").get("/openapi.json").json
    operations = document["paths"][PROJECTS]
    for operation in (operations["get"], operations["post"]):
        assert "Retry-After" in operation["responses"]["429"]["headers"]
        for answer in operation["responses"].values():
            assert {"RateLimit", "RateLimit-Policy"} <= answer["headers"].keys()
    assert "429" not in document["paths"]["/health"]["get"]["responses"]


def test_cors_exposes_the_rate_limit_headers(limited_client):
    client = limited_client("100/minute", ALLOWED_ORIGINS="https://app.example.com")
    answer = client.get(PROJECTS, headers={"Origin": "https://app.example.com"})
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= {*exposed}


# RateLimit and Retry-After


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    quota=st.integers(1, 1000),
    seconds=st.sampled_from([1, 60, 3600]),
    previous=st.integers(0, 1500),
    current=st.integers(1, 1500),
    part=st.floats(0, 1, exclude_max=True),
)
def test_reset_is_the_first_whole_second_with_one_more_request(
    quota, seconds, previous, current, part
):
    rate = Rate(quota, seconds)

    def remaining_at(elapsed):
        windows, elapsed = divmod(elapsed, seconds)
        before, now = {0: (previous, current), 1: (current, 0)}.get(windows, (0, 0))
        remaining = max(0, quota - int(before * (1 - elapsed / seconds)) - now)
        assert rate.is_below_quota(elapsed, before, now) == (remaining > 0)
        return remaining

    elapsed = part * seconds
    remaining, reset = rate.remaining_and_reset(WindowCount(True, elapsed, previous, current, 0))
    assert remaining == remaining_at(elapsed)
    assert remaining_at(elapsed + reset + 1e-6) > remaining
    assert remaining_at(max(elapsed, elapsed + reset - 1 - 1e-6)) <= remaining


def test_failed_sign_ins_to_the_console_count_as_failures_of_the_address(limited_client):
    client = limited_client("2/hour", AUTH="tokens")
    headers = {"Authorization": f"Bearer {new_token()}", "Sec-Fetch-Site": "same-origin"}
    statuses = [client.post("/console/session", headers=headers).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    cookie = {"Cookie": f"{session_cookie.NAME}={new_token()}", "Sec-Fetch-Site": "same-origin"}
    assert client.get(PROJECTS, headers=cookie).status_code == 429


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stores, "time", clock)
    return clock


def test_request_after_retry_after_is_allowed(limited_client, clock):
    client = limited_client("2/second")
    for _ in range(9):
        while (answer := client.get(PROJECTS)).status_code == 200:
            assert "Retry-After" not in answer.headers
        assert answer.status_code == 429
        clock.sleep(int(answer.headers["Retry-After"]))
        assert client.get(PROJECTS).status_code == 200
        clock.sleep(0.13)


def test_burst_at_the_end_of_a_window_counts_in_the_next_window(clock):
    port, rate = free_port(), Rate(20, 1)
    store = SharedMemoryStore(rate, "test", port)
    try:
        clock.now += 0.95
        assert sum(store.count(b"a" * 16).is_allowed for _ in range(30)) == 20
        clock.now += 0.15
        assert sum(store.count(b"a" * 16).is_allowed for _ in range(30)) == 2
    finally:
        os.close(store._file)
        counter_file(port).unlink()


# A changed RATE_LIMIT


@pytest.fixture
def make_store():
    """Make stores with the same port, like a service whose RATE_LIMIT changes."""
    port, stores_made = free_port(), []

    def make(quota, seconds):
        stores_made.append(SharedMemoryStore(Rate(quota, seconds), "test", port))
        return stores_made[-1]

    yield make
    for store in stores_made:
        os.close(store._file)
    for path in SHARED.glob(f"projectapp-limits-{os.geteuid()}-{port}-*"):
        path.unlink()


def digest_in_one_bucket(number):
    return b"same" + number.to_bytes(12, "big")


@pytest.mark.parametrize(("before", "after"), [(1, 86400), (86400, 1), (60, 3600)])
def test_limits_with_different_windows_use_separate_files(make_store, before, after):
    old = make_store(5, before)
    for number in range(8):
        old.count(digest_in_one_bucket(number))
    new = make_store(1000, after)
    counts = [
        new.count(digest_in_one_bucket(100 + number)).current for number in (0, 1, 2, 0, 1, 2)
    ]
    if after > 1:  # a window of one second may end during the test
        assert counts == [1, 1, 1, 2, 2, 2]
        for number in range(8):
            old.count(digest_in_one_bucket(200 + number))  # a worker with the old setting
        assert [new.count(digest_in_one_bucket(100 + number)).current for number in range(3)] == [
            3,
            3,
            3,
        ]
    assert [new.count(digest_in_one_bucket(number)).current for number in range(8)] == [1] * 8


def test_counters_continue_after_a_change_of_the_quota(make_store):
    smaller, larger = make_store(3, 86400), make_store(5, 86400)
    assert [smaller.count(b"a" * 16).is_allowed for _ in range(4)] == [True, True, True, False]
    assert [larger.count(b"a" * 16).is_allowed for _ in range(3)] == [True, True, False]


def test_counters_from_before_a_reboot_are_replaced_first(make_store):
    store = make_store(3, 86400)
    old_records = [
        stores._RECORD.pack(digest_in_one_bucket(number), 10**6, 9, 9, 9) for number in range(8)
    ]
    start = int.from_bytes(b"same", "big") % stores._BUCKETS * stores._BUCKET_BYTES
    os.pwrite(store._file, b"".join(old_records), start)
    new_digests = [digest_in_one_bucket(100 + number) for number in range(8)]
    assert [store.count(digest).current for digest in new_digests * 3] == [1] * 8 + [2] * 8 + [
        3
    ] * 8


def test_limits_with_different_windows_use_separate_counters_in_redis(limited_client, redis):
    daily, hourly = (
        limited_client(rate, RATE_LIMIT_REDIS_URL=redis.url) for rate in ("2/day", "2/hour")
    )
    answers = [client.get(PROJECTS).status_code for client in (daily, hourly) * 3]
    assert answers == [200] * 4 + [429] * 2


# All workers of a host


def test_concurrent_processes_lose_no_count():
    port = free_port()
    try:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", COUNT_PROGRAM, str(port)],
                cwd=config.ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        allowed = [int(process.communicate(timeout=300)[0]) for process in processes]
        assert sum(allowed) == 30_000
    finally:
        counter_file(port).unlink()


def test_all_workers_share_one_exact_count(serve_limited):
    with serve_limited("100/day", LOG_FORMAT="json") as server:
        statuses = [status for status, _ in flood(server, {}, requests=600)]
        assert (statuses.count(200), statuses.count(429)) == (100, 500)
        before = children(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: not {*children(server.process.pid)} & {*before})
        assert server.request("GET", PROJECTS)[0] == 429
        lines = server.log.read_text().splitlines()
        events = [json.loads(line).get("event") for line in lines if line[:1] == "{"]
    assert events.count("excess_rate_limit_exceeded") == 1


def test_caller_at_fifty_times_its_limit_does_not_affect_another_caller(
    serve_limited, auth_headers
):
    loud, quiet = auth_headers("loud"), auth_headers("quiet")
    with serve_limited("20/day", AUTH="tokens") as server, ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood, server, loud, requests=1000, connections=4)
        answers = []
        for _ in range(20):
            answers += flood(server, quiet, requests=1, connections=1)
            time.sleep(0.05)
        loud_answers = flooding.result()
    allowed = [status for status, _ in loud_answers].count(200)
    assert distinct_statuses(answers) == [200]
    assert distinct_statuses(loud_answers) == [200, 429]
    assert allowed == 20
    print(f"{len(loud_answers)} requests sent, {allowed} allowed; p95 {p95(answers):.1f} ms")


def p95(answers):
    return sorted(ms for _, ms in answers)[int(len(answers) * 0.95)]


def test_killed_workers_neither_reset_nor_block_the_count(serve_limited):
    with serve_limited("200/day") as server, ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(flood, server, {}, requests=2000)
        for _ in range(6):
            time.sleep(0.5)
            for worker in children(server.process.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
        statuses = [status for status, _ in flooding.result()]
        lost = statuses.count(0)  # these requests may have been counted
        assert 200 - lost <= statuses.count(200) <= 200
        server.wait_until_serving()
        assert server.request("GET", PROJECTS)[0] == 429


def test_stopped_process_with_the_lock_delays_one_request_and_a_dead_one_none(
    limited_client, monkeypatch, caplog
):
    monkeypatch.setattr(stores, "RETRY_AFTER_FAILURE_SECONDS", 300)
    client = limited_client("2/day")
    assert client.get(PROJECTS).status_code == 200
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD_LOCK_PROGRAM,
            str(counter_file(client.application.config["PORT"])),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        started = time.monotonic()
        answers = [client.get(PROJECTS) for _ in range(20)]
        # Only one request waits.
        assert time.monotonic() - started < 10 * stores.LOCK_TIMEOUT_SECONDS
        assert [(a.status_code, "RateLimit" in a.headers) for a in answers] == [(200, False)] * 20
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    monkeypatch.setattr(stores, "RETRY_AFTER_FAILURE_SECONDS", 0)
    assert [client.get(PROJECTS).status_code for _ in range(2)] == [200, 429]
    assert len(store_messages(caplog)) == 2


def store_messages(caplog):
    return [r.getMessage() for r in caplog.records if r.name.endswith("stores")]


def test_flood_of_new_callers_refuses_none_and_does_not_reset_a_refused_caller():
    port = free_port()
    store = SharedMemoryStore(Rate(5, 86400), "test", port)
    try:
        refused = os.urandom(16)
        assert [store.count(refused).is_allowed for _ in range(6)] == [True] * 5 + [False]
        assert all(store.count(os.urandom(16)).is_allowed for _ in range(100_000))
        assert not store.count(refused).is_allowed
        assert counter_file(port).stat().st_size <= 2**20
    finally:
        os.close(store._file)
        counter_file(port).unlink()


# Several hosts


class Redis:
    """A redis-server with a password, which keeps its port after a restart."""

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

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def stop(self):
        self.signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def redis(tmp_path, monkeypatch):
    if not REDIS:
        pytest.skip("redis-server is not installed")
    monkeypatch.setattr(stores, "REDIS_TIMEOUT_SECONDS", 2)
    running = Redis(tmp_path)
    yield running
    running.stop()


def test_hosts_with_one_redis_share_a_count(limited_client, redis, caplog):
    hosts = [limited_client("6/day", RATE_LIMIT_REDIS_URL=redis.url) for _ in range(2)]
    answers = [hosts[n % 2].get(PROJECTS) for n in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 4
    remaining = [re.findall(r"r=(\d+)", answer.headers["RateLimit"])[0] for answer in answers]
    assert remaining == ["5", "4", "3", "2", "1", "0", "0", "0", "0", "0"]
    assert len(excess_events(caplog.records)) == 1


def test_request_after_retry_after_is_allowed_with_redis(limited_client, redis):
    client = limited_client("2/second", RATE_LIMIT_REDIS_URL=redis.url)
    for _ in range(4):
        end = time.monotonic() + 60
        while (answer := client.get(PROJECTS)).status_code == 200:
            assert time.monotonic() < end, "no three requests come in a second"
        time.sleep(int(answer.headers["Retry-After"]))
        assert client.get(PROJECTS).status_code == 200
        time.sleep(0.13)


@pytest.mark.parametrize("failure", ["stopped", "silent", "refusing"])
def test_rate_limit_uses_shared_memory_while_redis_fails(
    limited_client, redis, caplog, monkeypatch, failure
):
    monkeypatch.setattr(stores, "RETRY_AFTER_FAILURE_SECONDS", 300)
    client = limited_client("3/day", RATE_LIMIT_REDIS_URL=redis.url)
    get = client.get
    assert [get(PROJECTS).status_code for _ in range(4)] == [200, 200, 200, 429]
    fail = {
        "stopped": redis.stop,
        "silent": lambda: redis.signal(signal.SIGSTOP),
        "refusing": lambda: send_commands(redis, "config set requirepass another"),
    }
    fail[failure]()
    if failure == "refusing":
        send_commands(redis, "client kill type normal", password="another")  # noqa: S106 - a test's
    started = time.monotonic()
    assert [get(PROJECTS).status_code for _ in range(30)] == [200] * 3 + [429] * 27
    assert time.monotonic() - started < 15 * stores.REDIS_TIMEOUT_SECONDS  # not all of them wait
    monkeypatch.setattr(stores, "RETRY_AFTER_FAILURE_SECONDS", 0)
    assert get(PROJECTS).status_code == 429
    recover = {
        "stopped": redis.start,
        "silent": lambda: redis.signal(signal.SIGCONT),
        "refusing": lambda: send_commands(
            redis,
            "config set requirepass s3cret-word",
            password="another",  # noqa: S106 - of a test
        ),
    }
    recover[failure]()
    # A restarted Redis has lost its counters.
    assert get(PROJECTS).status_code == (200 if failure == "stopped" else 429)
    failed, recovered = store_messages(caplog)
    assert failed.startswith("RATE_LIMIT cannot use Redis now: ")
    assert recovered == "RATE_LIMIT can use Redis again."
    assert "s3cret" not in caplog.text


def send_commands(redis, *commands, password="s3cret-word"):  # noqa: S107 - a test's
    with closing(socket.create_connection(("127.0.0.1", redis.port), 60)) as connection:
        for command in (f"auth {password}", *commands):
            connection.sendall(f"{command}\r\n".encode())
            assert connection.recv(1000)[:1] in (b"+", b":")


# Settings


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RATE_LIMIT": "0/minute"}, "RATE_LIMIT must be"),
        ({"RATE_LIMIT": "100"}, "RATE_LIMIT must be"),
        ({"RATE_LIMIT": "5/week"}, "RATE_LIMIT must be"),
        ({"RATE_LIMIT_REDIS_URL": "redis://h"}, "has no effect without RATE_LIMIT"),
        ({"RATE_LIMIT": "1/day", "RATE_LIMIT_REDIS_URL": "http://u:s3cret@h"}, "redis://"),
    ],
)
def test_invalid_rate_limit_setting_is_refused(environ, message):
    with pytest.raises(config.ConfigError, match=message) as error:
        config.Testing(environ)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("rest", ["h:port/0", "h/0?no_such_key=1"])
def test_invalid_redis_url_does_not_appear_in_the_error(make_app, rest):
    with pytest.raises(config.ConfigError, match="RATE_LIMIT_REDIS_URL must be") as error:
        make_app(RATE_LIMIT="1/day", RATE_LIMIT_REDIS_URL=f"redis://:s3cret@{rest}")
    assert "s3cret" not in str(error.value)


def test_redis_url_without_the_redis_package_is_refused(monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(config.ConfigError, match="pip install 'redis"):
        config.Testing({"RATE_LIMIT": "1/day", "RATE_LIMIT_REDIS_URL": "redis://h"})
