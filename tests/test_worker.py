"""gunicorn with the worker of our own: slow, silent, greedy and hasty clients."""

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
from tests.conftest import PROJECTS, Served
from tests.test_bad_input import CHUNKED, GOOD, LIMIT, chunks, post
from tests.test_serving import children

pytestmark = pytest.mark.slow

# Seconds that a client waits for what takes the service none. Its own limits, where a test is not
# about them, are longer: whoever had to wait for one would not be answered in time.
PATIENCE = 40

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = GET.replace(b"x\r\n", b"x\r\nConnection: close\r\n")
ONE = LAST.replace(b"/health", b"/api/v1/projects?page_size=1")
# Several, as the kernel itself keeps one list for a client that does not read.
LISTS = GET.replace(b"/health", b"/api/v1/projects?page_size=100") * 4


def connect(server, receive_buffer=None):
    link = socket.socket()
    if receive_buffer:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    link.settimeout(PATIENCE)
    link.connect(("127.0.0.1", server.port))
    return closing(link)


def receive(link):
    """All that comes until the server closes, or resets."""
    answer = b""
    with suppress(ConnectionError):
        while part := link.recv(65536):
            answer += part
    return answer


def exchange(server, *parts, pause=0.0):
    with connect(server) as link:
        for part in parts:
            with suppress(ConnectionError):
                link.sendall(part)
            time.sleep(pause)
        return receive(link)


def statuses(answer):
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def is_problem(answer, status):
    head, _, body = answer.partition(b"\r\n\r\n")
    found = json.loads(body)
    assert statuses(head) == [status] == [found["status"]]
    assert b"Content-Type: application/problem+json" in head
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n", head)
    assert b"\r\nVary: Origin" in head
    assert all(f"\r\n{name}: {value}".encode() in head for name, value in HEADERS.items())
    assert f"X-Request-ID: {found['request_id']}".encode() in head
    return found["detail"]


def get_one(server):
    """Seconds that an honest client waits for its answer; /health has a thread of its own."""
    started = time.monotonic()
    assert statuses(exchange(server, ONE)) == [200]
    return time.monotonic() - started


# As few threads as can be: four who held one would hold all.
FEW = {
    "WEB_CONCURRENCY": "1",
    "DATABASE_POOL_SIZE": "1",
    "ALLOWED_ORIGINS": "https://*.example.com",
}


@pytest.fixture(scope="module")
def server(serve):
    """A client that is slow, or rests, is waited for longer than another has PATIENCE."""
    with serve("--keep-alive", "60", READ_TIMEOUT="60", **FEW) as running:
        yield running


@pytest.fixture(scope="module")
def hasty_server(serve):
    with serve(READ_TIMEOUT="2", **FEW) as running:
        yield running


def until(is_true):
    end = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def connected(server):
    """So many clients the server has at present."""
    links = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = [link for link in links if link[1].endswith(f":{server.port:04X}")]
    # Listeners are 0A, and a connection has no inode before it is accepted and after its close.
    return sum(link[3] != "0A" and link[9] != "0" for link in own)


@pytest.fixture
def large_list(sql):
    sql(
        "INSERT INTO projects (id, name, attributes) SELECT gen_random_uuid(), n,"
        " jsonb_build_object('a', repeat('x', 16000)) FROM generate_series(1, 100) AS n"
    )


# Slow ones.


def test_two_hundred_slow_clients_do_not_hold_up_others(serve, large_list):
    body = post(b"Content-Length: 1000")
    begun = {"head": GET[:5], "body": body, "silent": b"", "never reading": LISTS}
    with serve(WEB_CONCURRENCY="2") as server, ExitStack() as links:
        alone = [get_one(server) for _ in range(50)]
        slow, stop, waited = [], threading.Event(), []

        def trickle():
            while not stop.wait(1):
                for link in slow:
                    with suppress(OSError):
                        link.send(b"x")

        def ask(_):
            for _ in range(50):
                waited.append(get_one(server))

        for first in begun.values():
            for _ in range(50):
                link = links.enter_context(connect(server, 4096))
                link.sendall(first)
                if first in (GET[:5], body):
                    slow.append(link)
        threading.Thread(target=trickle, daemon=True).start()
        with ThreadPoolExecutor(4) as honest:
            list(honest.map(ask, range(4)))  # raises for one that was not answered
        stop.set()
    assert len(waited) == 200
    assert statistics.median(waited) < 1 + 20 * statistics.median(alone)


@pytest.mark.parametrize(
    "begun",
    [GET[:-2], post(b"Content-Length: 50") + GOOD, CHUNKED, CHUNKED + chunks(GOOD) + b"0\r\n"],
    ids=["head", "body", "no chunk", "no end of chunks"],
)
def test_half_a_request_is_answered_with_408_at_the_deadline(hasty_server, begun):
    started = time.monotonic()
    told = is_problem(exchange(hasty_server, begun), 408)
    assert told == "The request was not received completely within 2 seconds."
    assert time.monotonic() - started > 1.9


@pytest.mark.parametrize("begun", [GET[:5], post(b"Content-Length: 100")], ids=["head", "body"])
def test_a_byte_now_and_then_does_not_move_the_deadline(hasty_server, begun):
    started = time.monotonic()
    with connect(hasty_server) as link:
        link.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() < started + PATIENCE:
            link.sendall(begun)
            begun = b"x"
            with suppress(TimeoutError):
                answer = link.recv(65536)
    is_problem(answer, 408)


def test_a_silent_client_is_closed_without_a_word(hasty_server):
    assert exchange(hasty_server) == b""


def test_clients_that_never_read_hold_no_thread(server, large_list):
    with ExitStack() as stack:
        for _ in range(4):
            link = stack.enter_context(connect(server, 4096))
            link.sendall(LISTS)
            assert link.recv(1) == b"H"
        get_one(server)


def test_a_client_that_never_reads_is_dropped(hasty_server, large_list):
    with ExitStack() as stack:
        links = [stack.enter_context(connect(hasty_server, 4096)) for _ in range(4)]
        for link in links:
            link.sendall(LISTS)
            assert link.recv(1, socket.MSG_PEEK) == b"H"
        until(lambda: connected(hasty_server) == 0)
        assert all(0 < len(receive(link)) < 6_000_000 for link in links)


def test_a_slow_reader_gets_all_of_it(hasty_server, large_list):
    started = time.monotonic()
    with connect(hasty_server, 4096) as link:
        link.sendall(LISTS + LAST)
        answer = b""
        while part := link.recv(65536):
            answer += part
            if time.monotonic() < started + 4:  # twice READ_TIMEOUT
                time.sleep(0.01)
    assert statuses(answer) == [200] * 5
    assert len(answer) > 6_000_000


# Large ones.


@pytest.mark.parametrize("body", [b"", b"x" * 2**16])
def test_a_body_too_large_is_refused_before_it_comes_and_holds_no_thread(server, body):
    with ExitStack() as stack:
        for _ in range(4):
            link = stack.enter_context(connect(server))
            link.sendall(post(b"Content-Length: 1073741824") + body)
            assert statuses(link.recv(65536)) == [413]
        get_one(server)


@pytest.mark.parametrize(
    "request_",
    [
        post(b"Content-Length: 1073741824"),
        post(b"Transfer-Encoding: chunked") + b"fffffffffffffffff1\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_an_answer_after_which_the_connection_ends_says_so(server, request_):
    with connect(server) as link:
        link.sendall(request_)
        assert b"Connection: close" in link.recv(65536)


@pytest.mark.parametrize("host", [b"a b", b"a/", b"<x>", b"\xff"])
def test_a_host_that_is_none_is_a_400(server, host):
    is_problem(exchange(server, GET.replace(b"Host: x", b"Host: " + host)), 400)


def test_who_sends_a_body_too_large_to_the_end_reads_the_413(server):
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as client:
        client.request("POST", PROJECTS, b" " * 8 * LIMIT, {"Content-Type": "application/json"})
        assert client.getresponse().status == 413


def test_a_head_too_long_is_431_whether_it_ends_or_not(server):
    line = b"X-A: " + b"a" * 4000 + b"\r\n"
    detail = is_problem(exchange(server, GET[:-2] + line * 17), 431)
    assert detail == is_problem(exchange(server, GET[:-2] + line * 17 + b"\r\n"), 431)
    assert "65536" in detail


def test_what_all_clients_send_together_is_bounded(serve):
    with serve(WEB_CONCURRENCY="1") as server, ExitStack() as links:
        [worker] = children(server.process.pid)
        before = resident(worker)
        begun = post(b"Content-Length: %d" % LIMIT) + b" " * (LIMIT - 1)
        for _ in range(80):
            with suppress(ConnectionError):
                links.enter_context(connect(server)).sendall(begun)
        get_one(server)
        assert resident(worker) - before < 60 * 2**20


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_more_silent_clients_than_connections_do_not_keep_others_out(serve):
    with serve("--worker-connections", "20", WEB_CONCURRENCY="1") as server, ExitStack() as links:
        for _ in range(60):
            links.enter_context(connect(server))
        for _ in range(20):
            get_one(server)


# Chunks, pipelines, expectations.


REFUSED = {
    "over the limit, endless": (CHUNKED + chunks(*[b" " * 65536] * 17), 413),
    "one chunk over the limit": (CHUNKED + b"40000000\r\n" + b" " * (LIMIT + 2000), 413),
    "bad size": (CHUNKED + b"zz\r\n", 400),
    "no line end behind a chunk": (CHUNKED + b"1\r\naXX", 400),
    "line of a size too long": (CHUNKED + b"1;" + b"a" * 70_000, 400),
    "trailers too long": (CHUNKED + b"0\r\n" + b"X-A: a\r\n" * 9000, 400),
    "bare line feeds": (GET.replace(b"\r", b""), 400),
    "no HTTP": (b"hello\r\n", 400),
    "an unknown coding": (post(b"Transfer-Encoding: br"), 501),
    "an unknown expectation": (post(b"Content-Length: 13", b"Expect: a"), 417),
    "no Host": (GET.replace(b"Host: x\r\n", b""), 400),
    "two Hosts": (GET.replace(b"Host: x\r\n", b"Host: x\r\nHost: x\r\n"), 400),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_what_can_only_be_refused_is_not_waited_for(server, sql, sent, status):
    is_problem(exchange(server, sent), status)
    assert sql("SELECT * FROM projects") == []


def test_a_body_a_little_over_the_limit_is_413_when_it_is_whole(server):
    sent = post(b"Transfer-Encoding: chunked", b"Connection: close") + chunks(b" " * (LIMIT + 10))
    is_problem(exchange(server, sent, b"0\r\n\r\n", pause=0.2), 413)


LONG = b"X-A: " + b"a" * 4000 + b"\r\n"
NOT_SERVED = {
    "408, half a body": (post(b"Content-Length: 50", b"%s"), 408),
    "408, half a head": (GET.replace(b"\r\n\r\n", b"\r\n%s\r\nX"), 408),
    "431, endless": (GET.replace(b"\r\n\r\n", b"\r\n%s\r\n" + LONG * 17), 431),
    "431, too many": (GET.replace(b"\r\n\r\n", b"\r\n%s\r\n" + b"a: b\r\n" * 60 + b"\r\n"), 431),
    "400, two hosts": (GET.replace(b"Host: x", b"Host: x\r\nHost: x\r\n%s"), 400),
    "414": (GET.replace(b"/health", b"/" * 9000).replace(b"x\r\n", b"x\r\n%s\r\n"), 414),
    "417": (post(b"Content-Length: 13", b"Expect: a", b"%s"), 417),
    "501": (post(b"Transfer-Encoding: br", b"%s"), 501),
}


ORIGIN = b"Origin: https://a.example.com"


@pytest.mark.parametrize(
    ("sent", "status", "fields", "is_let_in"),
    [
        *((*case, ORIGIN, True) for case in NOT_SERVED.values()),
        *(
            (*NOT_SERVED["501"], fields, is_let_in)
            for fields, is_let_in in [
                (b"oRIGIN:https://a.example.com \t", True),
                (b"Origin: https://example.com", False),
                (b"Origin: https://a.example.com.evil.org", False),
                (b"X-" + ORIGIN, False),
                (ORIGIN + b"\r\nOrigin: https://b.example.com", False),
            ]
        ),
    ],
)
def test_a_page_may_read_what_never_reaches_the_application_as_all_else(
    server, hasty_server, sent, status, fields, is_let_in
):
    asked = hasty_server if status == 408 else server
    answer = exchange(asked, sent % fields)
    is_problem(answer, status)
    assert (b"\r\nAccess-Control-Allow-Origin: https://a.example.com\r\n" in answer) == is_let_in
    assert (b"\r\nAccess-Control-Expose-Headers: ETag, " in answer) == is_let_in
    assert (b"\r\nAccess-Control-Allow-Credentials: true\r\n" in answer) == is_let_in


def test_an_origin_whose_line_has_not_come_to_its_end_is_not_answered(hasty_server):
    answer = exchange(hasty_server, GET.replace(b"\r\n\r\n", b"\r\nOrigin: https://a.example.com"))
    is_problem(answer, 408)
    assert b"Access-Control" not in answer


def test_the_head_of_the_request_before_says_nothing_of_the_next(hasty_server):
    first = GET.replace(b"x\r\n", b"x\r\nOrigin: https://a.example.com\r\nX-Request-ID: abc\r\n")
    answer = exchange(hasty_server, first + GET[:9])
    second = answer[answer.index(b"HTTP/1.1 408") :]
    is_problem(second, 408)
    assert b"Access-Control" not in second
    assert b"abc" not in second


@pytest.mark.parametrize(("sent", "status"), NOT_SERVED.values(), ids=NOT_SERVED.keys())
def test_a_request_id_is_returned_and_logged_with_what_never_reaches_the_application(
    server, hasty_server, sent, status
):
    asked = hasty_server if status == 408 else server
    request_id = f"mine-{random.random()}"  # noqa: S311
    answer = exchange(asked, sent % f"X-Request-ID: {request_id}".encode())
    is_problem(answer, status)
    assert f"\r\nX-Request-ID: {request_id}\r\n".encode() in answer
    assert asked.log.read_text().count(f" {status} 0 ms  [{request_id}]") == 1


def test_a_request_id_that_is_none_is_replaced(server):
    answer = exchange(server, NOT_SERVED["501"][0] % b"X-Request-ID: a b")
    is_problem(answer, 501)
    assert re.search(rb"\r\nX-Request-ID: [0-9a-f]{32}\r\n", answer)


@pytest.mark.parametrize(
    "line", [b"Host: a b", b"Expect: a", b"Transfer-Encoding: br", b"no colon"]
)
def test_a_refusal_of_a_head_has_no_body(server, line):
    answer = exchange(server, b"HEAD /health HTTP/1.1\r\n" + line + b"\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert statuses(answer)[0] >= 400
    assert re.search(rb"\r\nContent-Length: [1-9]", answer)


# Targets that are not ASCII.


def test_raw_utf8_in_a_query_is_what_it_is_percent_encoded(server, sql):
    sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), '번역 é')")
    for query in ("q=번역", "name=번역 é", "name=번역+%C3%A9", "q=%EB%B2%88역"):
        line = f"GET {PROJECTS}?{query.replace(' ', '%20')}"
        assert (
            '"total": 1' in exchange(server, LAST.replace(b"GET /health", line.encode())).decode()
        )
        answer = exchange(server, LAST.replace(b"GET /health", b"HEAD" + line[3:].encode()))
        assert statuses(answer) == [200]
    sent = post(b"Content-Length: 13", b"Connection: close").replace(b" HTTP", "?é HTTP".encode())
    assert statuses(exchange(server, sent + GOOD)) == [201]


@pytest.mark.parametrize("target", [f"{PROJECTS}/번역", "/번역", f"http://x{PROJECTS}/é?é#é"])
def test_raw_utf8_in_a_path_is_what_it_is_percent_encoded(server, target):
    for method in (b"GET ", b"PUT "):
        is_problem(exchange(server, LAST.replace(b"GET /health", method + target.encode())), 404)


@pytest.mark.parametrize(
    "target",
    [b"/\xff", b"/health?q=\xb9\xf8\xbf\xaa", b"/\xc0\xaf", b"/\xed\xa0\x80", "/é".encode()[:2]],
)
def test_a_target_that_is_not_utf8_is_a_400_that_says_to_encode_it(server, target):
    detail = is_problem(exchange(server, LAST.replace(b"/health", target)), 400)
    assert detail == "The path or the query is not UTF-8. Percent-encode it."
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "line", ["GÉT / HTTP/1.1", "GET / HTTP/1.1é", "GET /é /é HTTP/1.1", "é", "GET é HTTP/1.1"]
)
def test_other_raw_utf8_in_the_first_line_is_a_400(server, line):
    sent = LAST.replace(b"GET /health HTTP/1.1", line.encode())
    assert "UTF-8" not in is_problem(exchange(server, sent), 400)


def test_another_fault_of_a_request_with_raw_utf8_is_not_blamed_on_it(server):
    sent = post(b"Content-Length: x").replace(b" HTTP", "?q=번역 HTTP".encode())
    assert "UTF-8" not in is_problem(exchange(server, sent), 400)


def test_a_byte_that_only_latin_1_takes_for_a_space_ends_no_target(server):
    for byte in ("\x85", "\xa0", "\u2028"):
        line = f"GET /health{byte}HTTP/1.1 HTTP/1.1"
        sent = LAST.replace(b"GET /health HTTP/1.1", line.encode())
        is_problem(exchange(server, sent), 404)


def test_http_1_0_needs_no_host(server):
    assert statuses(exchange(server, b"GET /health HTTP/1.0\r\n\r\n")) == [200]


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0;a=b\r\nX-Trailer: a\r\nX-B: b\r\n\r\n"])
def test_seventy_thousand_chunks_of_a_byte_are_one_body_and_trailers_are_ignored(server, sql, end):
    body = GOOD[:-1] + b" " * 70_000 + b"}"
    sent = CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + end
    assert statuses(exchange(server, sent + LAST)) == [201, 200]
    assert sql("SELECT name FROM projects") == [("x",)]


def test_pipelined_requests_are_answered_in_order(server, sql):
    created = post(b"Content-Length: 13") + GOOD
    sent = (
        GET + created + GET.replace(b"health", b"nowhere") + CHUNKED + chunks(GOOD) + b"0\r\n\r\n"
    )
    assert statuses(exchange(server, sent * 3 + LAST)) == [200, 201, 404, 201] * 3 + [200]
    assert sql("SELECT count(*) FROM projects") == [(6,)]


def test_a_request_whose_end_could_be_elsewhere_is_the_last_of_its_connection(server, sql):
    sent = post(b"Transfer-Encoding: identity, chunked") + chunks(GOOD) + b"0\r\n\r\n" + GET
    answer = exchange(server, sent)
    assert statuses(answer) == [201]
    assert b"Connection: close" in answer


def test_half_a_pipelined_request_waits_for_its_other_half(server, hasty_server):
    assert statuses(exchange(server, GET + LAST[:-9], LAST[-9:], pause=0.3)) == [200, 200]
    first, second = statuses(exchange(hasty_server, GET + LAST[:-9]))
    assert (first, second) == (200, 408)


def test_a_client_that_asks_is_told_once_to_go_on(server, sql):
    head = post(b"Content-Length: 13", b"Expect: 100-Continue", b"Connection: close")
    with connect(server) as link:
        link.sendall(head)
        assert link.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(GOOD)
        assert statuses(receive(link)) == [201]
    assert statuses(exchange(server, head + GOOD)) == [201]  # it did not wait to be told
    old = head.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert statuses(exchange(server, old, GOOD, pause=0.2)) == [201]
    assert sql("SELECT count(*) FROM projects") == [(3,)]


def test_a_client_that_asks_is_not_told_to_go_on_with_a_body_too_large(server):
    head = post(b"Content-Length: %d" % (LIMIT + 1), b"Expect: 100-continue")
    is_problem(exchange(server, head), 413)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(GET, [200]), (GET[:-2], []), (post(b"Content-Length: 50") + GOOD, [400]), (b"", [])],
    ids=["request", "head", "body", "nothing"],
)
def test_a_client_that_ends_its_half_is_answered_what_it_asked(server, sent, expected):
    with connect(server) as link:
        link.sendall(sent)
        link.shutdown(socket.SHUT_WR)
        assert statuses(receive(link)) == expected


def test_a_connection_is_kept_for_the_next_request(server):
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as client:
        client.connect()
        link = client.sock
        for method, path in [("GET", "/health"), ("HEAD", "/docs"), ("GET", "/nowhere")] * 10:
            client.request(method, path)
            body = client.getresponse().read()
            assert (body == b"") == (method == "HEAD")
        assert client.sock is link


def test_a_connection_that_idles_is_closed(serve):
    with serve("--keep-alive", "1", WEB_CONCURRENCY="1") as server, connect(server) as link:
        started = time.monotonic()
        link.sendall(GET)
        assert statuses(receive(link)) == [200]
        assert time.monotonic() - started > 0.9


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl for a certificate")
def test_with_tls_of_its_own_it_serves_as_gunicorn_does(database_url, app, tmp_path):
    files = ("--keyfile", tmp_path / "key", "--certfile", tmp_path / "cert")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -days 1 -keyout key -out cert"
    subprocess.run(make, shell=True, cwd=tmp_path, check=True, capture_output=True)  # noqa: S602
    environ = {"APP_ENV": "testing", "DATABASE_URL": database_url}
    server = Served({**os.environ, **environ}, files, tmp_path / "log")
    context = ssl.create_default_context(cafile=tmp_path / "cert")
    context.check_hostname = False
    try:
        until(lambda: "Worker ready" in server.log.read_text())
        client = HTTPSConnection("127.0.0.1", server.port, timeout=PATIENCE, context=context)
        with closing(client):
            for path in ("/health", PROJECTS, "/ready") * 2:
                client.request("GET", path)
                answer = client.getresponse()
                assert (answer.status, answer.read()[:1]) == (200, b"{")
    finally:
        assert server.stop() == 0


# Where a request ends.

WHOLE = [
    GET,
    b"\r\n" + GET,
    post(b"Content-Length: 13") + GOOD,
    post(b"content-length:0"),
    CHUNKED + chunks(*[GOOD] * 3) + b"0\r\n\r\n",
    CHUNKED + b"00;a=b\r\nX: y\r\n\r\n",
]


@pytest.mark.parametrize("whole", WHOLE)
def test_the_end_of_a_request_is_found_however_it_is_cut(whole):
    dice = random.Random(0)  # noqa: S311 - a fixed seed is the point
    for _ in range(200):
        data, left = bytearray(), whole + GET
        follow = follow_request(data, LIMIT, len)
        while not (size := next(follow, -1)):
            piece = dice.randint(1, 40)
            data += left[:piece]
            left = left[piece:]
        assert size == len(whole)


def test_a_head_of_one_line_too_long_is_not_followed():
    with pytest.raises(LimitRequestHeaders):
        next(follow_request(bytearray(b"GET /" + b"a" * 2**16), LIMIT, len))
