"""More come than can be served: who waits, who is refused, and how soon."""

import os
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import PROJECTS
from tests.test_serving import children
from tests.test_worker import (
    ONE,
    connect,
    connected,
    exchange,
    get_one,
    is_problem,
    receive,
    statuses,
    until,
)

pytestmark = pytest.mark.slow

# One connection and two threads; a locked table is waited for longer than any test takes.
FEW = {
    "WEB_CONCURRENCY": "1",
    "DATABASE_POOL_SIZE": "1",
    "READ_TIMEOUT": "5",
    "QUEUE_TIMEOUT": "2",
    "DATABASE_LOCK_TIMEOUT": "90",
    "DATABASE_STATEMENT_TIMEOUT": "100",
    "DATABASE_POOL_TIMEOUT": "110",
    "DATABASE_IDLE_IN_TRANSACTION_TIMEOUT": "110",
    "REQUEST_TIMEOUT": "120",
    "GRACEFUL_TIMEOUT": "150",
    "ALLOWED_ORIGINS": "https://a.example",
    "SCRIPT_NAME": "/backend",
}
# Seconds of QUEUE_TIMEOUT, and the eighth of it for which is waited while no thread is free.
WAIT, SHORT_WAIT = 2, 0.25
HEAD = b"HEAD /api/v1/projects HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server(serve):
    with serve(**FEW) as running:
        yield running


@pytest.fixture
def stall(sql):
    """Let no statement on projects end while a `with` block runs."""

    @contextmanager
    def stalled():
        sql("BEGIN")
        sql("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
        yield
        sql("COMMIT")

    return stalled


@pytest.fixture
def clients():
    with ThreadPoolExecutor(40) as pool:
        yield pool


def ask(server, method="GET", path=PROJECTS, body=None):
    """The status, headers and body of an answer, and the seconds it took."""
    started = time.monotonic()
    return *server.request(method, path, body), time.monotonic() - started


def crowd(clients, server, *request, size=20):
    return [clients.submit(ask, server, *request) for _ in range(size)]


def found(futures):
    return [future.result() for future in futures]


def wait_for(futures, count):
    end = time.monotonic() + 40
    while sum(future.done() for future in futures) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def sockets(server):
    """So many the only worker has, also of clients that have gone without its noticing."""
    [worker] = children(server.process.pid)
    found = 0
    for link in Path(f"/proc/{worker}/fd").iterdir():
        with suppress(OSError):
            found += os.readlink(link).startswith("socket:")
    return found


def wait_for_more(told, status):
    before = told.count(status)
    until(lambda: told.count(status) > before)


def test_a_short_stall_is_sat_out(serve, stall, clients):
    with serve(**{**FEW, "QUEUE_TIMEOUT": "60"}) as server:
        with stall():
            asked = crowd(clients, server)
            time.sleep(0.4)
        assert [answer[0] for answer in found(asked)] == [200] * 20


def test_who_waits_too_long_for_a_thread_is_told_when_to_come_back(server, stall, clients, sql):
    with stall():
        asked = crowd(clients, server, "POST", PROJECTS, {"name": "x"})
        wait_for(asked, 18)
    answers = sorted(found(asked), key=lambda answer: answer[0])
    assert [answer[0] for answer in answers] == [201] * 2 + [503] * 18
    assert sql("SELECT count(*) FROM projects") == [(2,)]
    log = server.log.read_text()
    for _, headers, body, seconds in answers[2:]:
        assert seconds > 0.9 * WAIT
        assert (headers["retry-after"], headers["connection"]) == ("1", "close")
        assert headers["content-type"] == "application/problem+json"
        assert (body["status"], body["error"]) == (503, "unavailable")
        assert "overloaded" in body["detail"]
        assert body["request_id"] == headers["x-request-id"]
        assert log.count(f" 503 0 ms  [{body['request_id']}]") == log.count(body["request_id"]) == 1


def test_a_page_may_read_the_503_of_an_overload(server, stall, clients):
    with stall():
        wait_for(crowd(clients, server), 18)  # the other two hold the threads
        for origin in ("https://a.example", "https://b.example"):
            sent = HEAD.replace(b"HEAD", b"GET").replace(
                b"x\r\n", f"x\r\nOrigin: {origin}\r\n".encode()
            )
            answer = exchange(server, sent)
            is_problem(answer, 503)
            allowed = b"\r\nAccess-Control-Allow-Origin: https://a.example\r\n" in answer
            assert allowed == (origin == "https://a.example")
            assert (b"Access-Control" in answer) == allowed


def test_while_no_thread_is_free_the_next_are_refused_sooner(server, stall, clients):
    with stall():
        asked = crowd(clients, server)
        wait_for(asked, 18)
        later = found(crowd(clients, server))
    assert {answer[0] for answer in later} == {503}
    # That the machine is busy makes none of them shorter.
    assert 0.9 * SHORT_WAIT < min(answer[3] for answer in later) < WAIT
    wait_for([clients.submit(ask, server)], 1)  # then a thread has been free
    assert [answer[0] for answer in found(crowd(clients, server))] == [200] * 20


def test_whether_it_lives_is_told_at_once_and_whether_it_is_ready_not_refused(
    server, stall, clients
):
    with stall():
        asked = crowd(clients, server)
        ready = crowd(clients, server, "GET", "/ready", size=1)
        ready += crowd(clients, server, "GET", "/backend/ready", size=1)
        wait_for(asked, 18)  # both threads wait for as long as it stalls
        lives = [ask(server, path=path) for path in ("/health", "/backend/health") * 20]
        time.sleep(0.3)
        assert not ready[0].done()
    assert {answer[0] for answer in lives} == {200}
    assert [answer[0] for answer in found(ready)] == [200, 200]


def test_a_burst_that_was_refused_does_not_lengthen_the_wait_of_the_next(server, stall, clients):
    """As nobody waits then, but no thread is free either."""
    with stall():
        for least, most in ((WAIT, 40), (SHORT_WAIT, WAIT), (SHORT_WAIT, WAIT)):
            asked = crowd(clients, server, size=12)
            wait_for(asked, 10 if least == WAIT else 12)
            refused = [future.result()[3] for future in asked if future.done()]
            assert 0.9 * least < min(refused) < most


def test_a_refusal_of_a_head_has_no_body_and_ends_the_connection(server, stall, clients):
    with stall():
        wait_for(crowd(clients, server, size=3), 1)  # two threads are taken
        answer = exchange(server, HEAD * 3)
        is_problem(exchange(server, HEAD.replace(b"HEAD", b"GET") * 3), 503)
    assert statuses(answer) == [503]
    assert answer.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: 0" not in answer
    assert exchange(server, HEAD[:-2]).endswith(b"\r\n\r\n")  # a 408


def test_nothing_that_was_acknowledged_under_overload_is_lost_or_doubled(
    server, stall, clients, sql
):
    told, stop = [], threading.Event()

    def create(_):
        while not stop.is_set():
            told.append(ask(server, "POST", PROJECTS, {"name": "x"})[0])

    asked = [clients.submit(create, n) for n in range(30)]
    try:
        for _ in range(3):
            with stall():
                wait_for_more(told, 503)
            wait_for_more(told, 201)
    finally:
        stop.set()
    found(asked)
    assert set(told) == {201, 503}
    assert sql("SELECT count(*) FROM projects") == [(told.count(201),)]


def test_who_waits_when_it_stops_is_served_all_the_same(serve, stall):
    with serve(**{**FEW, "QUEUE_TIMEOUT": "5"}) as server, ExitStack() as links:
        with stall():
            asked = [links.enter_context(connect(server)) for _ in range(20)]
            for link in asked:
                link.sendall(ONE)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(7)  # nobody is refused now, who else would be
        assert [statuses(receive(link)) for link in asked] == [[200]] * 20
        assert server.process.wait(timeout=60) == 0


def test_who_goes_away_while_waiting_is_counted_once(serve, stall):
    """Else the worker would take more clients than it may."""
    few = {**FEW, "READ_TIMEOUT": "60"}
    with serve("--worker-connections", "20", **few) as server, ExitStack() as silent:
        get_one(server)  # the worker has its connection to the database
        until(lambda: connected(server) == 0)
        with stall(), ExitStack() as links:
            for _ in range(15):
                link = links.enter_context(connect(server))
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                link.sendall(HEAD)
            until(lambda: connected(server) == 15)
            held = sockets(server)
            links.close()
            until(lambda: sockets(server) == held - 13)  # threads have the other two
        first, *_ = [silent.enter_context(connect(server)) for _ in range(30)]
        assert first.recv(1) == b""
