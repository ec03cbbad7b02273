"""Overload: which requests wait, which get a 503, and how soon."""

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
from tests.test_serving import children, until
from tests.test_worker import (
    LIST_AND_CLOSE,
    check_problem,
    connect,
    count_connections,
    exchange,
    receive,
    statuses,
    time_request,
)

pytestmark = pytest.mark.slow

# One database connection and two threads. Statements wait for a lock longer than any test takes.
SETTINGS = {
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
# QUEUE_TIMEOUT, and an eighth of it, which applies while no thread is idle.
TIMEOUT_SECONDS, SHORT_TIMEOUT_SECONDS = 2, 0.25
HEAD_REQUEST = b"HEAD /api/v1/projects HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server(serve):
    with serve(**SETTINGS) as running:
        yield running


@pytest.fixture
def lock_projects(sql):
    """Lock the table while a `with` block runs, so that all statements on it wait."""

    @contextmanager
    def locked():
        sql("BEGIN")
        sql("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
        yield
        sql("COMMIT")

    return locked


@pytest.fixture
def clients():
    with ThreadPoolExecutor(40) as pool:
        yield pool


def send_request(server, method="GET", path=PROJECTS, body=None):
    """Return the status, headers and body of a response, and the seconds it took."""
    started = time.monotonic()
    return *server.request(method, path, body), time.monotonic() - started


def send_requests(clients, server, *arguments, count=20):
    return [clients.submit(send_request, server, *arguments) for _ in range(count)]


def responses(futures):
    return [future.result() for future in futures]


def statuses_of(futures):
    return [future.result()[0] for future in futures]


def wait_for_responses(futures, count):
    until(lambda: sum(future.done() for future in futures) >= count)


def count_sockets(server):
    """Return how many sockets the only worker has open, even if their clients have gone."""
    [worker] = children(server.process.pid)
    count = 0
    for path in Path(f"/proc/{worker}/fd").iterdir():
        with suppress(OSError):
            count += os.readlink(path).startswith("socket:")
    return count


def wait_for_another(status, received_statuses):
    count = received_statuses.count(status)
    until(lambda: received_statuses.count(status) > count)


def test_requests_during_a_short_stall_get_200(serve, lock_projects, clients):
    with serve(**{**SETTINGS, "QUEUE_TIMEOUT": "60"}) as server:
        with lock_projects():
            futures = send_requests(clients, server)
            time.sleep(0.4)
        assert statuses_of(futures) == [200] * 20


def test_request_queued_too_long_gets_503_with_retry_after(server, lock_projects, clients, sql):
    with lock_projects():
        futures = send_requests(clients, server, "POST", PROJECTS, {"name": "x"})
        wait_for_responses(futures, 18)
    results = sorted(responses(futures), key=lambda result: result[0])
    assert [result[0] for result in results] == [201] * 2 + [503] * 18
    assert sql("SELECT count(*) FROM projects") == [(2,)]
    log = server.log.read_text()
    for _, headers, body, seconds in results[2:]:
        assert seconds > 0.9 * TIMEOUT_SECONDS
        assert (headers["retry-after"], headers["connection"]) == ("1", "close")
        assert headers["content-type"] == "application/problem+json"
        assert (body["status"], body["error"]) == (503, "unavailable")
        assert "overloaded" in body["detail"]
        assert body["request_id"] == headers["x-request-id"]
        assert log.count(f" 503 0 ms  [{body['request_id']}]") == log.count(body["request_id"]) == 1


def test_503_of_an_overload_gets_cors_headers_if_its_origin_is_allowed(
    server, lock_projects, clients
):
    with lock_projects():
        wait_for_responses(send_requests(clients, server), 18)  # the other two hold the threads
        for origin in ("https://a.example", "https://b.example"):
            sent = HEAD_REQUEST.replace(b"HEAD", b"GET").replace(
                b"x\r\n", f"x\r\nOrigin: {origin}\r\n".encode()
            )
            response = exchange(server, sent)
            check_problem(response, 503)
            is_allowed = b"\r\nAccess-Control-Allow-Origin: https://a.example\r\n" in response
            assert is_allowed == (origin == "https://a.example")
            assert (b"Access-Control" in response) == is_allowed


def test_requests_get_503_sooner_while_no_thread_is_idle(server, lock_projects, clients):
    with lock_projects():
        futures = send_requests(clients, server)
        wait_for_responses(futures, 18)
        later_results = responses(send_requests(clients, server))
    assert {result[0] for result in later_results} == {503}
    # A busy machine only makes waits longer, so the test looks at the shortest one.
    shortest_seconds = min(result[3] for result in later_results)
    assert 0.9 * SHORT_TIMEOUT_SECONDS < shortest_seconds < TIMEOUT_SECONDS
    wait_for_responses([clients.submit(send_request, server)], 1)  # now a thread has been idle
    assert statuses_of(send_requests(clients, server)) == [200] * 20


def test_during_overload_health_gets_200_at_once_and_ready_is_not_refused(
    server, lock_projects, clients
):
    with lock_projects():
        futures = send_requests(clients, server)
        ready_futures = send_requests(clients, server, "GET", "/ready", count=1)
        ready_futures += send_requests(clients, server, "GET", "/backend/ready", count=1)
        wait_for_responses(futures, 18)  # the other two hold both threads
        health_results = [
            send_request(server, path=path) for path in ("/health", "/backend/health") * 20
        ]
        time.sleep(0.3)
        assert not ready_futures[0].done()
    assert {result[0] for result in health_results} == {200}
    assert statuses_of(ready_futures) == [200, 200]


def test_second_burst_gets_503_sooner_although_the_queue_was_empty(server, lock_projects, clients):
    """Between two bursts no request waits, but no thread is idle either."""
    time.sleep(0.5)  # the requests of the test before have ended, so now threads have been idle
    with lock_projects():
        for min_seconds, max_seconds in (
            (TIMEOUT_SECONDS, 40),
            (SHORT_TIMEOUT_SECONDS, TIMEOUT_SECONDS),
            (SHORT_TIMEOUT_SECONDS, TIMEOUT_SECONDS),
        ):
            is_first = min_seconds == TIMEOUT_SECONDS
            futures = send_requests(clients, server, count=12)
            wait_for_responses(futures, 10 if is_first else 12)  # two of the first have a thread
            shortest_seconds = min(future.result()[3] for future in futures if future.done())
            assert 0.9 * min_seconds < shortest_seconds < max_seconds


def test_refused_head_request_gets_no_body_and_closes_the_connection(
    server, lock_projects, clients
):
    with lock_projects():
        # Two requests hold the threads, so the third gets a 503.
        wait_for_responses(send_requests(clients, server, count=3), 1)
        response = exchange(server, HEAD_REQUEST * 3)
        check_problem(exchange(server, HEAD_REQUEST.replace(b"HEAD", b"GET") * 3), 503)
    assert statuses(response) == [503]
    assert response.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: 0" not in response
    assert exchange(server, HEAD_REQUEST[:-2]).endswith(b"\r\n\r\n")  # a 408


def test_every_201_under_overload_created_exactly_one_project(server, lock_projects, clients, sql):
    received_statuses, stop = [], threading.Event()

    def create_projects(_):
        while not stop.is_set():
            received_statuses.append(send_request(server, "POST", PROJECTS, {"name": "x"})[0])

    futures = [clients.submit(create_projects, n) for n in range(30)]
    try:
        for _ in range(3):
            with lock_projects():
                wait_for_another(503, received_statuses)
            wait_for_another(201, received_statuses)
    finally:
        stop.set()
    responses(futures)
    assert set(received_statuses) == {201, 503}
    assert sql("SELECT count(*) FROM projects") == [(received_statuses.count(201),)]


SLOW_APPLICATION = """
import time

exec(open("gunicorn.conf.py").read())
prepare_worker = post_fork


def post_fork(server, worker):
    prepare_worker(server, worker)
    load_application = worker.app.wsgi
    worker.app.wsgi = lambda: slow_down(load_application())


def slow_down(serve):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/docs":
            time.sleep(0.1)
        return serve(environ, start_response)

    return application
"""


def test_more_requests_than_threads_can_serve_get_503_although_no_thread_is_blocked(
    serve, clients, tmp_path
):
    """Each request takes a thread 0.1 s, so two threads serve 20 requests a second."""
    (tmp_path / "conf.py").write_text(SLOW_APPLICATION)
    settings = {**SETTINGS, "QUEUE_TIMEOUT": "1"}
    received_statuses, stop = [], threading.Event()
    with serve("-c", str(tmp_path / "conf.py"), **settings) as server:

        def get_docs(_):
            with connect(server) as connection:
                while not stop.is_set():
                    connection.sendall(HEAD_REQUEST.replace(PROJECTS.encode(), b"/docs"))
                    received_statuses.extend(received := statuses(connection.recv(65536)))
                    if received != [200]:
                        return  # the refusal has closed the connection

        futures = [clients.submit(get_docs, number) for number in range(40)]
        # 40 clients wait for two seconds, so some of them wait for longer than QUEUE_TIMEOUT.
        until(lambda: received_statuses.count(503) > 0 and received_statuses.count(200) > 20)
        stop.set()
        responses(futures)
    assert set(received_statuses) == {200, 503}


def test_requests_queued_when_the_server_stops_get_200(serve, lock_projects):
    with serve(**{**SETTINGS, "QUEUE_TIMEOUT": "5"}) as server, ExitStack() as stack:
        with lock_projects():
            connections = [stack.enter_context(connect(server)) for _ in range(20)]
            for connection in connections:
                connection.sendall(LIST_AND_CLOSE)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(7)  # longer than QUEUE_TIMEOUT, which a server that stops does not apply
        assert [statuses(receive(connection)) for connection in connections] == [[200]] * 20
        assert server.process.wait(timeout=60) == 0


def test_client_that_disconnects_while_queued_is_counted_once(serve, lock_projects):
    """If it were counted twice, the worker would accept more than worker_connections."""
    settings = {**SETTINGS, "READ_TIMEOUT": "60"}
    with serve("--worker-connections", "20", **settings) as server, ExitStack() as silent_stack:
        time_request(server)  # now the worker has its connection to the database
        until(lambda: count_connections(server) == 0)
        with lock_projects(), ExitStack() as stack:
            for _ in range(15):
                connection = stack.enter_context(connect(server))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(HEAD_REQUEST)
            until(lambda: count_connections(server) == 15)
            socket_count = count_sockets(server)
            stack.close()
            until(lambda: count_sockets(server) == socket_count - 13)  # threads have the other two
        first_silent, *_ = [silent_stack.enter_context(connect(server)) for _ in range(30)]
        assert first_silent.recv(1) == b""
