"""More come than can be served: who waits, who is refused, and how soon."""

import signal
import socket
import statistics
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.conftest import PROJECTS
from tests.test_worker import connect, exchange, is_problem, statuses

pytestmark = pytest.mark.slow

# One connection and two threads; a locked table is waited for longer than any test takes.
FEW = {
    "WEB_CONCURRENCY": "1",
    "THREADS": "1",
    "READ_TIMEOUT": "1",
    "QUEUE_TIMEOUT": "1",
    "DATABASE_LOCK_TIMEOUT": "4",
    "DATABASE_STATEMENT_TIMEOUT": "5",
    "DATABASE_POOL_TIMEOUT": "9",
    "DATABASE_IDLE_TIMEOUT": "6",
    "REQUEST_TIMEOUT": "15",
    "ALLOWED_ORIGINS": "https://a.example",
    "SCRIPT_NAME": "/backend",
}
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
    end = time.monotonic() + 5
    while sum(future.done() for future in futures) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_short_stall_is_sat_out(server, stall, clients):
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
        assert 0.9 < seconds < 2
        assert (headers["retry-after"], headers["connection"]) == ("1", "close")
        assert headers["content-type"] == "application/problem+json"
        assert (body["status"], body["error"]) == (503, "unavailable")
        assert "More requests come" in body["detail"]
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
    assert 0.1 < statistics.median(answer[3] for answer in later) < 0.7
    wait_for([clients.submit(ask, server)], 1)  # then a thread has been free
    assert [answer[0] for answer in found(crowd(clients, server))] == [200] * 20


def test_whether_it_lives_is_told_at_once_and_whether_it_is_ready_not_refused(
    server, stall, clients
):
    with stall():
        asked = crowd(clients, server)
        ready = crowd(clients, server, "GET", "/ready", size=1)
        ready += crowd(clients, server, "GET", "/backend/ready", size=1)
        lives = [ask(server, path=path) for path in ("/health", "/backend/health") * 20]
        wait_for(asked, 18)
        lives += [ask(server, path="/health") for _ in range(40)]
        time.sleep(0.3)
    assert {answer[0] for answer in lives} == {200}
    assert statistics.quantiles([answer[3] for answer in lives], n=10)[-1] < 0.1
    assert [answer[0] for answer in found(ready)] == [200, 200]


def test_a_burst_that_was_refused_does_not_lengthen_the_wait_of_the_next(server, stall, clients):
    """As nobody waits then, but no thread is free either."""
    with stall():
        for least, most in ((0.9, 2), (0.1, 0.7), (0.1, 0.7)):
            asked = crowd(clients, server, size=12)
            wait_for(asked, 10 if least == 0.9 else 12)
            refused = [future.result()[3] for future in asked if future.done()]
            assert least < statistics.median(refused) < most


def test_a_refusal_of_a_head_has_no_body_and_ends_the_connection(server, stall, clients):
    with stall():
        crowd(clients, server, size=2)
        time.sleep(0.2)
        answer = exchange(server, HEAD * 3)
        is_problem(exchange(server, HEAD.replace(b"HEAD", b"GET") * 3), 503)
    assert statuses(answer) == [503]
    assert answer.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: 0" not in answer
    assert exchange(server, HEAD[:-2]).endswith(b"\r\n\r\n")  # a 408


def test_nothing_that_was_acknowledged_under_overload_is_lost_or_doubled(
    server, stall, clients, sql
):
    end = time.monotonic() + 3

    def create(_):
        told = []
        while time.monotonic() < end:
            told.append(ask(server, "POST", PROJECTS, {"name": "x"})[0])
        return told

    asked = [clients.submit(create, n) for n in range(30)]
    while time.monotonic() < end:
        with stall():
            time.sleep(0.3)
        time.sleep(0.02)
    told = [status for one in asked for status in one.result()]
    assert set(told) == {201, 503}
    assert sql("SELECT count(*) FROM projects") == [(told.count(201),)]


def test_who_waits_when_it_stops_is_served_all_the_same(serve, stall, clients):
    with serve(**FEW) as server:
        with stall():
            asked = crowd(clients, server)
            time.sleep(0.4)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(1.5)
        assert [answer[0] for answer in found(asked)] == [200] * 20
        assert server.process.wait(timeout=20) == 0


def test_who_goes_away_while_waiting_is_counted_once(serve, stall):
    """Else the worker would take more clients than it may."""
    few = {**FEW, "READ_TIMEOUT": "8"}
    with serve("--worker-connections", "20", **few) as server, ExitStack() as silent:
        with stall(), ExitStack() as links:
            for _ in range(15):
                link = links.enter_context(connect(server))
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                link.sendall(HEAD)
            time.sleep(0.4)
            links.close()
            time.sleep(1)
        first, *_ = [silent.enter_context(connect(server)) for _ in range(30)]
        first.settimeout(4)
        assert first.recv(1) == b""
