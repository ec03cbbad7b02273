"""The gunicorn worker with slow, silent and greedy clients, and with unusual requests."""

import json
import os
import random
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest
from gunicorn.http.errors import LimitRequestHeaders

from projectapp.http.security_headers import HEADERS
from projectapp.server.request_framing import follow_request
from tests.conftest import PROJECTS, GunicornServer
from tests.test_bad_input import CHUNKED, GOOD, LIMIT, chunks, post
from tests.test_serving import children, until

pytestmark = pytest.mark.slow

# How long a client waits for a response. The limits of the service are longer, except in tests of a
# limit. So a test fails if its request has to wait until a limit.
CLIENT_TIMEOUT_SECONDS = 40

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
GET_AND_CLOSE = GET.replace(b"x\r\n", b"x\r\nConnection: close\r\n")
LIST_AND_CLOSE = GET_AND_CLOSE.replace(b"/health", b"/api/v1/projects?page_size=1")
# Four, because the kernel buffers one list even if the client does not read.
LARGE_LISTS = GET.replace(b"/health", b"/api/v1/projects?page_size=100") * 4


def connect(server, receive_buffer=None):
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(CLIENT_TIMEOUT_SECONDS)
    connection.connect(("127.0.0.1", server.port))
    return closing(connection)


def receive(connection):
    """Receive until the server closes or resets the connection."""
    response = b""
    with suppress(ConnectionError):
        while data := connection.recv(65536):
            response += data
    return response


def exchange(server, *parts, pause=0.0):
    with connect(server) as connection:
        for part in parts:
            with suppress(ConnectionError):
                connection.sendall(part)
            time.sleep(pause)
        return receive(connection)


def statuses(response):
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", response)]


def check_problem(response, status):
    """Check that a response is a problem document of the worker. Return its detail."""
    head, _, body = response.partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert statuses(head) == [status] == [problem["status"]]
    assert b"Content-Type: application/problem+json" in head
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n", head)
    assert b"\r\nVary: Origin" in head
    assert all(f"\r\n{name}: {value}".encode() in head for name, value in HEADERS.items())
    assert f"X-Request-ID: {problem['request_id']}".encode() in head
    return problem["detail"]


def time_request(server):
    """Request a list, which needs a thread of the pool. Return the seconds until the response."""
    started = time.monotonic()
    assert statuses(exchange(server, LIST_AND_CLOSE)) == [200]
    return time.monotonic() - started


# Two threads: four clients would block both, if a client could block a thread.
FEW_THREADS = {
    "WEB_CONCURRENCY": "1",
    "DATABASE_POOL_SIZE": "1",
    "ALLOWED_ORIGINS": "https://*.example.com",
}


@pytest.fixture(scope="module")
def server(serve):
    """Serve with limits for slow and idle clients that are longer than CLIENT_TIMEOUT_SECONDS."""
    with serve("--keep-alive", "60", READ_TIMEOUT="60", **FEW_THREADS) as running:
        yield running


@pytest.fixture(scope="module")
def impatient_server(serve):
    with serve(READ_TIMEOUT="2", **FEW_THREADS) as running:
        yield running


def count_connections(server):
    """Return how many clients are connected to the server."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    server_rows = [row for row in rows if row[1].endswith(f":{server.port:04X}")]
    # State 0A is a listener. A connection has no inode before accept() and after close().
    return sum(row[3] != "0A" and row[9] != "0" for row in server_rows)


@pytest.fixture
def large_list(sql):
    sql(
        "INSERT INTO projects (id, name, attributes) SELECT gen_random_uuid(), n,"
        " jsonb_build_object('a', repeat('x', 16000)) FROM generate_series(1, 100) AS n"
    )


# Slow clients.


def test_two_hundred_slow_clients_do_not_hold_up_others(serve, large_list):
    body = post(b"Content-Length: 1000")
    first_bytes_of_clients = [GET[:5], body, b"", LARGE_LISTS]  # the last ones never read
    with serve(WEB_CONCURRENCY="2") as server, ExitStack() as connections:
        seconds_alone = [time_request(server) for _ in range(50)]
        slow_senders, stop, seconds_beside = [], threading.Event(), []

        def send_byte_every_second():
            while not stop.wait(1):
                for connection in slow_senders:
                    with suppress(OSError):
                        connection.send(b"x")

        def send_fifty_requests(_):
            for _ in range(50):
                seconds_beside.append(time_request(server))

        for first_bytes in first_bytes_of_clients:
            for _ in range(50):
                connection = connections.enter_context(connect(server, 4096))
                connection.sendall(first_bytes)
                if first_bytes in (GET[:5], body):
                    slow_senders.append(connection)
        threading.Thread(target=send_byte_every_second, daemon=True).start()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send_fifty_requests, range(4)))  # raises if a request failed
        stop.set()
    assert len(seconds_beside) == 200
    assert statistics.median(seconds_beside) < 1 + 20 * statistics.median(seconds_alone)


@pytest.mark.parametrize(
    "first_part",
    [GET[:-2], post(b"Content-Length: 50") + GOOD, CHUNKED, CHUNKED + chunks(GOOD) + b"0\r\n"],
    ids=["head", "body", "no chunk", "no end of chunks"],
)
def test_half_request_gets_408_at_read_timeout(impatient_server, first_part):
    started = time.monotonic()
    detail = check_problem(exchange(impatient_server, first_part), 408)
    assert detail == "The request was not received completely within 2 seconds."
    assert time.monotonic() - started > 1.9


@pytest.mark.parametrize(
    "first_part", [GET[:5], post(b"Content-Length: 100")], ids=["head", "body"]
)
def test_request_sent_byte_by_byte_gets_408_at_read_timeout(impatient_server, first_part):
    started = time.monotonic()
    with connect(impatient_server) as connection:
        connection.settimeout(0.2)
        response = b""
        while not response and time.monotonic() < started + CLIENT_TIMEOUT_SECONDS:
            connection.sendall(first_part)
            first_part = b"x"
            with suppress(TimeoutError):
                response = connection.recv(65536)
    check_problem(response, 408)


def test_client_that_sends_nothing_is_closed_without_response(impatient_server):
    assert exchange(impatient_server) == b""


def test_clients_that_never_read_block_no_thread(server, large_list):
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(connect(server, 4096))
            connection.sendall(LARGE_LISTS)
            assert connection.recv(1) == b"H"
        time_request(server)


def test_client_that_never_reads_is_closed(impatient_server, large_list):
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(impatient_server, 4096)) for _ in range(4)]
        for connection in connections:
            connection.sendall(LARGE_LISTS)
            assert connection.recv(1, socket.MSG_PEEK) == b"H"
        until(lambda: count_connections(impatient_server) == 0)
        assert all(0 < len(receive(connection)) < 6_000_000 for connection in connections)


def test_slow_reader_gets_complete_responses(impatient_server, large_list):
    started = time.monotonic()
    with connect(impatient_server, 4096) as connection:
        connection.sendall(LARGE_LISTS + GET_AND_CLOSE)
        response = b""
        while data := connection.recv(65536):
            response += data
            if time.monotonic() < started + 4:  # twice READ_TIMEOUT
                time.sleep(0.01)
    assert statuses(response) == [200] * 5
    assert len(response) > 6_000_000


# Large requests.


@pytest.mark.parametrize("body", [b"", b"x" * 2**16])
def test_too_large_content_length_gets_413_before_the_body_and_blocks_no_thread(server, body):
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(connect(server))
            connection.sendall(post(b"Content-Length: 1073741824") + body)
            assert statuses(connection.recv(65536)) == [413]
        time_request(server)


@pytest.mark.parametrize(
    "sent",
    [
        post(b"Content-Length: 1073741824"),
        post(b"Transfer-Encoding: chunked") + b"fffffffffffffffff1\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_last_response_of_a_connection_has_connection_close(server, sent):
    with connect(server) as connection:
        connection.sendall(sent)
        assert b"Connection: close" in connection.recv(65536)


@pytest.mark.parametrize("host", [b"a b", b"a/", b"<x>", b"\xff"])
def test_invalid_host_gets_400(server, host):
    check_problem(exchange(server, GET.replace(b"Host: x", b"Host: " + host)), 400)


def test_client_that_sends_a_whole_too_large_body_can_read_the_413(server):
    with closing(
        HTTPConnection("127.0.0.1", server.port, timeout=CLIENT_TIMEOUT_SECONDS)
    ) as client:
        client.request("POST", PROJECTS, b" " * 8 * LIMIT, {"Content-Type": "application/json"})
        assert client.getresponse().status == 413


def test_too_long_head_gets_431_with_and_without_its_end(server):
    line = b"X-A: " + b"a" * 4000 + b"\r\n"
    detail = check_problem(exchange(server, GET[:-2] + line * 17), 431)
    assert detail == check_problem(exchange(server, GET[:-2] + line * 17 + b"\r\n"), 431)
    assert "65536" in detail


def test_memory_for_requests_of_all_clients_is_bounded(serve):
    with serve(WEB_CONCURRENCY="1") as server, ExitStack() as connections:
        [worker] = children(server.process.pid)
        bytes_before = resident_bytes(worker)
        first_part = post(b"Content-Length: %d" % LIMIT) + b" " * (LIMIT - 1)
        for _ in range(80):
            with suppress(ConnectionError):
                connections.enter_context(connect(server)).sendall(first_part)
        time_request(server)
        assert resident_bytes(worker) - bytes_before < 60 * 2**20


def test_idle_connection_does_not_keep_the_head_of_its_last_request(serve):
    line = b"X-A: " + b"a" * 8000 + b"\r\n"
    sent = GET[:-2] + line * 7 + b"\r\n"
    with serve("--keep-alive", "60", WEB_CONCURRENCY="1") as server, ExitStack() as connections:
        [worker] = children(server.process.pid)
        bytes_before = resident_bytes(worker)
        for _ in range(400):
            connection = connections.enter_context(connect(server))
            connection.sendall(sent)
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert resident_bytes(worker) - bytes_before < 15 * 2**20


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_silent_clients_above_worker_connections_do_not_block_others(serve):
    with (
        serve("--worker-connections", "20", WEB_CONCURRENCY="1") as server,
        ExitStack() as connections,
    ):
        for _ in range(60):
            connections.enter_context(connect(server))
        for _ in range(20):
            time_request(server)


# Chunks, pipelines, expectations.


INVALID_REQUESTS = {
    "over the limit, endless": (CHUNKED + chunks(*[b" " * 65536] * 17), 413),
    "one chunk over the limit": (CHUNKED + b"40000000\r\n" + b" " * (LIMIT + 2000), 413),
    "bad size": (CHUNKED + b"zz\r\n", 400),
    "no line end after a chunk": (CHUNKED + b"1\r\naXX", 400),
    "chunk size line too long": (CHUNKED + b"1;" + b"a" * 70_000, 400),
    "trailers too long": (CHUNKED + b"0\r\n" + b"X-A: a\r\n" * 9000, 400),
    "bare line feeds": (GET.replace(b"\r", b""), 400),
    "no HTTP": (b"hello\r\n", 400),
    "an unknown coding": (post(b"Transfer-Encoding: br"), 501),
    "an unknown expectation": (post(b"Content-Length: 13", b"Expect: a"), 417),
    "no Host": (GET.replace(b"Host: x\r\n", b""), 400),
    "two Hosts": (GET.replace(b"Host: x\r\n", b"Host: x\r\nHost: x\r\n"), 400),
}


@pytest.mark.parametrize(("sent", "status"), INVALID_REQUESTS.values(), ids=INVALID_REQUESTS.keys())
def test_invalid_request_is_refused_before_its_end(server, sql, sent, status):
    check_problem(exchange(server, sent), status)
    assert sql("SELECT * FROM projects") == []


def test_complete_body_slightly_over_the_limit_gets_413(server):
    sent = post(b"Transfer-Encoding: chunked", b"Connection: close") + chunks(b" " * (LIMIT + 10))
    check_problem(exchange(server, sent, b"0\r\n\r\n", pause=0.2), 413)


LONG_HEADER = b"X-A: " + b"a" * 4000 + b"\r\n"
UNPARSED_REQUESTS = {
    "408, half a body": (post(b"Content-Length: 50", b"%s"), 408),
    "408, half a head": (GET.replace(b"\r\n\r\n", b"\r\n%s\r\nX"), 408),
    "431, endless": (GET.replace(b"\r\n\r\n", b"\r\n%s\r\n" + LONG_HEADER * 17), 431),
    "431, too many": (GET.replace(b"\r\n\r\n", b"\r\n%s\r\n" + b"a: b\r\n" * 60 + b"\r\n"), 431),
    "400, two hosts": (GET.replace(b"Host: x", b"Host: x\r\nHost: x\r\n%s"), 400),
    "414": (GET.replace(b"/health", b"/" * 9000).replace(b"x\r\n", b"x\r\n%s\r\n"), 414),
    "417": (post(b"Content-Length: 13", b"Expect: a", b"%s"), 417),
    "501": (post(b"Transfer-Encoding: br", b"%s"), 501),
}


ORIGIN = b"Origin: https://a.example.com"


@pytest.mark.parametrize(
    ("sent", "status", "headers", "is_allowed"),
    [
        *((*case, ORIGIN, True) for case in UNPARSED_REQUESTS.values()),
        *(
            (*UNPARSED_REQUESTS["501"], headers, is_allowed)
            for headers, is_allowed in [
                (b"oRIGIN:https://a.example.com \t", True),
                (b"Origin: https://example.com", False),
                (b"Origin: https://a.example.com.evil.org", False),
                (b"X-" + ORIGIN, False),
                (ORIGIN + b"\r\nOrigin: https://b.example.com", False),
            ]
        ),
    ],
)
def test_unparsed_request_gets_cors_headers_if_its_origin_is_allowed(
    server, impatient_server, sent, status, headers, is_allowed
):
    response = exchange(impatient_server if status == 408 else server, sent % headers)
    check_problem(response, status)
    assert (b"\r\nAccess-Control-Allow-Origin: https://a.example.com\r\n" in response) == is_allowed
    assert (b"\r\nAccess-Control-Expose-Headers: ETag, " in response) == is_allowed
    assert (b"\r\nAccess-Control-Allow-Credentials: true\r\n" in response) == is_allowed


def test_incomplete_origin_line_gets_no_cors_headers(impatient_server):
    response = exchange(
        impatient_server, GET.replace(b"\r\n\r\n", b"\r\nOrigin: https://a.example.com")
    )
    check_problem(response, 408)
    assert b"Access-Control" not in response


def test_headers_of_a_request_do_not_affect_the_next_408(impatient_server):
    first = GET.replace(b"x\r\n", b"x\r\nOrigin: https://a.example.com\r\nX-Request-ID: abc\r\n")
    response = exchange(impatient_server, first + GET[:9])
    second = response[response.index(b"HTTP/1.1 408") :]
    check_problem(second, 408)
    assert b"Access-Control" not in second
    assert b"abc" not in second


@pytest.mark.parametrize(
    ("sent", "status"), UNPARSED_REQUESTS.values(), ids=UNPARSED_REQUESTS.keys()
)
def test_request_id_of_unparsed_request_is_returned_and_logged(
    server, impatient_server, sent, status
):
    used_server = impatient_server if status == 408 else server
    request_id = f"mine-{random.random()}"  # noqa: S311
    response = exchange(used_server, sent % f"X-Request-ID: {request_id}".encode())
    check_problem(response, status)
    assert f"\r\nX-Request-ID: {request_id}\r\n".encode() in response
    assert used_server.log.read_text().count(f" {status} 0 ms  [{request_id}]") == 1


def test_invalid_request_id_of_unparsed_request_is_replaced(server):
    response = exchange(server, UNPARSED_REQUESTS["501"][0] % b"X-Request-ID: a b")
    check_problem(response, 501)
    assert re.search(rb"\r\nX-Request-ID: [0-9a-f]{32}\r\n", response)


@pytest.mark.parametrize(
    "line", [b"Host: a b", b"Expect: a", b"Transfer-Encoding: br", b"no colon"]
)
def test_refused_head_request_gets_no_body(server, line):
    response = exchange(server, b"HEAD /health HTTP/1.1\r\n" + line + b"\r\n\r\n")
    assert response.endswith(b"\r\n\r\n")
    assert statuses(response)[0] >= 400
    assert re.search(rb"\r\nContent-Length: [1-9]", response)


# Targets that are not ASCII.


def test_raw_utf8_in_query_is_read_like_percent_encoded(server, sql):
    sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), '번역 é')")
    for query in ("q=번역", "name=번역 é", "name=번역+%C3%A9", "q=%EB%B2%88역"):
        line = f"GET {PROJECTS}?{query.replace(' ', '%20')}"
        assert (
            '"total": 1'
            in exchange(server, GET_AND_CLOSE.replace(b"GET /health", line.encode())).decode()
        )
        response = exchange(
            server, GET_AND_CLOSE.replace(b"GET /health", b"HEAD" + line[3:].encode())
        )
        assert statuses(response) == [200]
    sent = post(b"Content-Length: 13", b"Connection: close").replace(b" HTTP", "?é HTTP".encode())
    assert statuses(exchange(server, sent + GOOD)) == [201]


@pytest.mark.parametrize("target", [f"{PROJECTS}/번역", "/번역", f"http://x{PROJECTS}/é?é#é"])
def test_raw_utf8_in_path_is_read_like_percent_encoded(server, target):
    for method in (b"GET ", b"PUT "):
        check_problem(
            exchange(server, GET_AND_CLOSE.replace(b"GET /health", method + target.encode())), 404
        )


@pytest.mark.parametrize(
    "target",
    [b"/\xff", b"/health?q=\xb9\xf8\xbf\xaa", b"/\xc0\xaf", b"/\xed\xa0\x80", "/é".encode()[:2]],
)
def test_target_that_is_not_utf8_gets_400_with_advice_to_percent_encode(server, target):
    detail = check_problem(exchange(server, GET_AND_CLOSE.replace(b"/health", target)), 400)
    assert detail == "The path or the query is not UTF-8. Percent-encode it."
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "line", ["GÉT / HTTP/1.1", "GET / HTTP/1.1é", "GET /é /é HTTP/1.1", "é", "GET é HTTP/1.1"]
)
def test_raw_utf8_outside_the_target_gets_400(server, line):
    sent = GET_AND_CLOSE.replace(b"GET /health HTTP/1.1", line.encode())
    assert "UTF-8" not in check_problem(exchange(server, sent), 400)


def test_other_error_in_request_with_raw_utf8_gets_no_advice_to_percent_encode(server):
    sent = post(b"Content-Length: x").replace(b" HTTP", "?q=번역 HTTP".encode())
    assert "UTF-8" not in check_problem(exchange(server, sent), 400)


def test_unicode_space_in_target_is_part_of_the_path(server):
    for byte in ("\x85", "\xa0", "\u2028"):
        line = f"GET /health{byte}HTTP/1.1 HTTP/1.1"
        sent = GET_AND_CLOSE.replace(b"GET /health HTTP/1.1", line.encode())
        check_problem(exchange(server, sent), 404)


def test_http_1_0_without_host_gets_200(server):
    assert statuses(exchange(server, b"GET /health HTTP/1.0\r\n\r\n")) == [200]


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0;a=b\r\nX-Trailer: a\r\nX-B: b\r\n\r\n"])
def test_seventy_thousand_chunks_of_one_byte_create_one_project_and_trailers_are_ignored(
    server, sql, end
):
    body = GOOD[:-1] + b" " * 70_000 + b"}"
    sent = CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + end
    assert statuses(exchange(server, sent + GET_AND_CLOSE)) == [201, 200]
    assert sql("SELECT name FROM projects") == [("x",)]


def test_pipelined_requests_get_responses_in_order(server, sql):
    create = post(b"Content-Length: 13") + GOOD
    sent = GET + create + GET.replace(b"health", b"nowhere") + CHUNKED + chunks(GOOD) + b"0\r\n\r\n"
    assert statuses(exchange(server, sent * 3 + GET_AND_CLOSE)) == [200, 201, 404, 201] * 3 + [200]
    assert sql("SELECT count(*) FROM projects") == [(6,)]


def test_request_with_ambiguous_end_closes_the_connection(server, sql):
    sent = post(b"Transfer-Encoding: identity, chunked") + chunks(GOOD) + b"0\r\n\r\n" + GET
    response = exchange(server, sent)
    assert statuses(response) == [201]
    assert b"Connection: close" in response


FRAMES_ALL_AS_ONE = """
exec(open("gunicorn.conf.py").read())
log_ready = post_worker_init


def post_worker_init(worker):
    from projectapp.server import client_buffer

    log_ready(worker)
    client_buffer.follow_request = lambda received, *_: iter([len(received)])
"""


def test_connection_is_closed_if_gunicorn_finds_another_end_of_the_request(serve, tmp_path):
    """What gunicorn has left over must not be read as a request."""
    (tmp_path / "conf.py").write_text(FRAMES_ALL_AS_ONE)
    not_plain = GET.replace(b"Host: ", b"Host:")
    with (
        serve("-c", str(tmp_path / "conf.py"), WEB_CONCURRENCY="1") as server,
        connect(server) as connection,
    ):
        connection.sendall(not_plain * 2)
        assert statuses(connection.recv(65536)) == [200]
        with suppress(ConnectionError):
            connection.sendall(not_plain)
        assert receive(connection) == b""


def test_half_pipelined_request_is_completed_or_gets_408(server, impatient_server):
    assert statuses(exchange(server, GET + GET_AND_CLOSE[:-9], GET_AND_CLOSE[-9:], pause=0.3)) == [
        200,
        200,
    ]
    first, second = statuses(exchange(impatient_server, GET + GET_AND_CLOSE[:-9]))
    assert (first, second) == (200, 408)


def test_expect_100_continue_gets_one_100_before_the_body(server, sql):
    head = post(b"Content-Length: 13", b"Expect: 100-Continue", b"Connection: close")
    with connect(server) as connection:
        connection.sendall(head)
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert statuses(receive(connection)) == [201]
    assert statuses(exchange(server, head + GOOD)) == [201]  # a client need not wait for the 100
    http_1_0 = head.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert statuses(exchange(server, http_1_0, GOOD, pause=0.2)) == [201]
    assert sql("SELECT count(*) FROM projects") == [(3,)]


def test_expect_100_continue_with_too_large_body_gets_413_without_100(server):
    head = post(b"Content-Length: %d" % (LIMIT + 1), b"Expect: 100-continue")
    check_problem(exchange(server, head), 413)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(GET, [200]), (GET[:-2], []), (post(b"Content-Length: 50") + GOOD, [400]), (b"", [])],
    ids=["request", "head", "body", "nothing"],
)
def test_client_that_shuts_down_its_sending_side_gets_its_response(server, sent, expected):
    with connect(server) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert statuses(receive(connection)) == expected


def test_connection_is_kept_alive_for_the_next_request(server):
    with closing(
        HTTPConnection("127.0.0.1", server.port, timeout=CLIENT_TIMEOUT_SECONDS)
    ) as client:
        client.connect()
        connection = client.sock
        for method, path in [("GET", "/health"), ("HEAD", "/docs"), ("GET", "/nowhere")] * 10:
            client.request(method, path)
            body = client.getresponse().read()
            assert (body == b"") == (method == "HEAD")
        assert client.sock is connection


def test_idle_connection_is_closed_after_keepalive(serve):
    with serve("--keep-alive", "1", WEB_CONCURRENCY="1") as server, connect(server) as connection:
        started = time.monotonic()
        connection.sendall(GET)
        assert statuses(receive(connection)) == [200]
        assert time.monotonic() - started > 0.9


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl for a certificate")
def test_gunicorn_serves_with_its_own_tls(database_url, app, tmp_path):
    files = ("--keyfile", tmp_path / "key", "--certfile", tmp_path / "cert")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -days 1 -keyout key -out cert"
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True)  # noqa: S602
    environ = {"APP_ENV": "testing", "DATABASE_URL": database_url}
    server = GunicornServer({**os.environ, **environ}, files, tmp_path / "log")
    context = ssl.create_default_context(cafile=tmp_path / "cert")
    context.check_hostname = False
    try:
        until(lambda: "Worker ready" in server.log.read_text())
        client = HTTPSConnection(
            "127.0.0.1", server.port, timeout=CLIENT_TIMEOUT_SECONDS, context=context
        )
        with closing(client):
            for path in ("/health", PROJECTS, "/ready") * 2:
                client.request("GET", path)
                response = client.getresponse()
                assert (response.status, response.read()[:1]) == (200, b"{")
    finally:
        assert server.stop() == 0


WITHOUT_EPOLL = """
import select, selectors

del select.epoll, select.EPOLLIN, select.EPOLLOUT, select.EPOLLONESHOT
selectors.DefaultSelector = selectors.PollSelector
exec(open("gunicorn.conf.py").read())
"""


def test_system_without_epoll_is_served_by_gthread(serve, tmp_path):
    (tmp_path / "conf.py").write_text(WITHOUT_EPOLL)
    with serve("-c", str(tmp_path / "conf.py"), WEB_CONCURRENCY="1") as server:
        sent = GET + GET.replace(b"Host: x\r\n", b"")
        assert statuses(exchange(server, sent)) == [200, 400]
        assert server.request("POST", PROJECTS, {"name": "x"})[0] == 201
        assert server.stop() == 0


# The end of a request.

COMPLETE_REQUESTS = [
    GET,
    b"\r\n" + GET,
    post(b"Content-Length: 13") + GOOD,
    post(b"content-length:0"),
    CHUNKED + chunks(*[GOOD] * 3) + b"0\r\n\r\n",
    CHUNKED + b"00;a=b\r\nX: y\r\n\r\n",
]


@pytest.mark.parametrize("sent", COMPLETE_REQUESTS)
def test_end_of_request_is_found_in_pieces_of_any_length(sent):
    random_lengths = random.Random(0)  # noqa: S311 - a fixed seed makes the test repeatable
    for _ in range(200):
        received, rest = bytearray(), sent + GET
        lengths = follow_request(received, LIMIT, len)
        while not (length := next(lengths, -1)):
            size = random_lengths.randint(1, 40)
            received += rest[:size]
            rest = rest[size:]
        assert length == len(sent)


def test_too_long_request_line_raises_limit_request_headers():
    with pytest.raises(LimitRequestHeaders):
        next(follow_request(bytearray(b"GET /" + b"a" * 2**16), LIMIT, len))
