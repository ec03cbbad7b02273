"""Event streams and long polls: connections that the worker holds without a thread."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest
from joserfc.jwk import OctKey

import config
from projectapp.auth.jwt import LEEWAY_SECONDS
from tests.conftest import PROJECTS, all_items
from tests.feed_load import CHANGES, stored_changes_by_id, writers_running
from tests.issuer import AUDIENCE, bearer, sign
from tests.test_overload import count_sockets
from tests.test_serving import children, until
from tests.test_worker import CLIENT_TIMEOUT_SECONDS, connect, exchange, receive, statuses

slow = pytest.mark.slow

EVENT_STREAM = {"Accept": "text/event-stream"}
STREAM_REQUEST = f"GET {CHANGES} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode()
# Two threads: a stream or a long poll that held one would hold up all others.
SETTINGS = {"WEB_CONCURRENCY": "1", "DATABASE_POOL_SIZE": "1"}
LAST_CHUNK = b"\r\n0\r\n\r\n"

# The test of tokens cannot wait for the usual interval.
SHORT_INTERVALS = """
exec(open("gunicorn.conf.py").read())


def post_worker_init(worker):
    from projectapp.resources import feed_streams
    from projectapp.server import streams

    feed_streams.TOKEN_CHECK_SECONDS = 0.5
    streams.HEARTBEAT_SECONDS = 0.5
"""


@pytest.fixture(scope="module")
def server(serve):
    with serve(**SETTINGS) as running:
        yield running


PRINT_CONNECTIONS = """
import resource, runpy
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, ({}, hard))
print(runpy.run_path("gunicorn.conf.py")["worker_connections"])
"""


@pytest.mark.parametrize(
    ("streams", "descriptors", "connections"),
    [("500", 4000, 1500), ("1500", 6000, 3000), ("1500", 2048, 1024), ("10", 3000, 1010)],
)
def test_streams_leave_at_least_half_of_the_connections_to_requests(
    streams, descriptors, connections
):
    result = subprocess.run(
        [sys.executable, "-c", PRINT_CONNECTIONS.format(descriptors)],
        cwd=config.ROOT,
        env={**os.environ, "APP_ENV": "testing", "STREAMS": streams},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) == connections


@pytest.fixture
def short_intervals(tmp_path):
    (tmp_path / "conf.py").write_text(SHORT_INTERVALS)
    return "-c", str(tmp_path / "conf.py")


class EventStream:
    """A client of an event stream, as in a browser."""

    def __init__(self, server, query="", **headers):
        self.connection = HTTPConnection("127.0.0.1", server.port, timeout=CLIENT_TIMEOUT_SECONDS)
        self.connection.request("GET", CHANGES + query, headers={**EVENT_STREAM, **headers})
        self.response = self.connection.getresponse()
        self.status, self.headers = self.response.status, self.response.headers
        self.last_id = None
        if self.status == 200:
            assert self.response.readline() == b"retry: 2000\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()
        self.response.close()

    def events(self):
        """Yield the type and the item of each event, until the server ends the stream."""
        fields = {}
        deadline = time.monotonic() + CLIENT_TIMEOUT_SECONDS
        while line := self.response.readline():
            assert time.monotonic() < deadline, "Only comments come."
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
                continue
            self.last_id = fields.get("id", self.last_id)
            if "data" in fields:
                yield fields["event"], json.loads(fields["data"])
                deadline = time.monotonic() + CLIENT_TIMEOUT_SECONDS
            fields = {}
        assert self.response.isclosed(), "The last chunk is missing."

    def next_item(self):
        operation, item = next(self.events())
        assert item["operation"] == operation
        return item

    def names(self, count):
        return [self.next_item()["project"]["name"] for _ in range(count)]


def post(server, name="x", **headers):
    status, _, project = server.request("POST", PROJECTS, {"name": name}, **headers)
    assert status == 201
    return project


def now_cursor(server, **headers):
    return server.request("GET", CHANGES, **headers)[2]["next_cursor"]


def open_raw_stream(stack, server, receive_buffer=None, request=STREAM_REQUEST):
    connection = stack.enter_context(connect(server, receive_buffer))
    connection.sendall(request)
    data = connection.recv(65536)
    while b"retry: 2000\n" not in data:
        data += connection.recv(65536)
    return connection


# Without a server that can hold connections.


def test_event_stream_in_another_server_gets_501_that_names_long_polling(client, problem):
    response = client.get(CHANGES, headers=EVENT_STREAM)
    assert "wait" in problem(response, 501, "not_supported")["detail"]


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("text/event-stream", True),
        ("text/event-stream, */*;q=0.1", True),
        ("application/json;q=0.5, text/event-stream", True),
        ("application/json, text/event-stream", False),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream;q=0", False),
        ("*/*", False),
        ("text/html", False),
        ("", False),
    ],
)
def test_accept_header_that_prefers_event_streams_gets_one(client, accept, is_stream):
    status = client.get(CHANGES, headers={"Accept": accept}).status_code
    assert status == (501 if is_stream else 200)  # the test client cannot hold connections


def test_invalid_last_event_id_gets_400(client, problem):
    headers = {**EVENT_STREAM, "Last-Event-ID": "x"}
    problem(client.get(CHANGES, headers=headers), 400, "validation_error")


# Streams.


@slow
def test_each_change_comes_once_in_order_although_readers_disconnect(
    serve, client, sql, direct_url
):
    stop = threading.Event()

    def read(server, seed):
        """Return all items. Disconnect at random, often without a word."""
        generator, items, last_id = random.Random(seed), [], None  # noqa: S311
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            with EventStream(server, "?since=start", **headers) as stream:
                assert stream.status == 200
                for _, item in stream.events():
                    items.append(item)
                    last_id = stream.last_id
                    if item["id"] == end_id["id"]:
                        return items
                    if generator.random() < 0.01 and not stop.is_set():
                        break

    end_id = {"id": None}
    with serve(**{**SETTINGS, "WEB_CONCURRENCY": "2"}) as server, ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(read, server, seed) for seed in range(4)]
        with writers_running(direct_url, "streams"):
            time.sleep(5)
        stop.set()
        end_id["id"] = post(server)["id"]
        received = [future.result() for future in futures]
    stored = stored_changes_by_id(sql)
    assert sum(map(len, stored.values())) > 500
    projects = {project["id"]: project for project in all_items(client, "?page_size=100")}
    for items in received:
        changes, copy = defaultdict(list), {}
        for item in items:
            changes[item["id"]].append((item["version"], item["operation"], item["at"]))
            copy[item["id"]] = item["project"]
        assert changes == stored
        assert {key: value for key, value in copy.items() if value} == projects


@slow
def test_stream_has_the_headers_of_all_responses_and_those_that_proxies_need(serve, sql):
    with (
        serve(ALLOWED_ORIGINS="https://a.example", **SETTINGS) as server,
        EventStream(server, Origin="https://a.example", **{"X-Request-ID": "abc"}) as stream,
    ):
        headers = stream.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["X-Request-ID"] == "abc"
        assert headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Connection"] == "close"
        request = STREAM_REQUEST.replace(b"GET", b"HEAD")
        head = exchange(server, request.replace(b"Host", b"Connection: close\r\nHost"))
        assert statuses(head) == [200]
        assert b"text/event-stream" in head
        assert head.endswith(b"\r\n\r\n")


@slow
def test_stream_without_since_starts_now_and_resumes_before_its_first_event(server, sql):
    post(server, "before")
    with EventStream(server) as stream:
        until(lambda: next_id(stream))
    post(server, "between")
    with EventStream(server, **{"Last-Event-ID": stream.last_id}) as stream:
        assert stream.names(1) == ["between"]


def next_id(stream):
    line = stream.response.readline().decode()
    if line.startswith("id: "):
        stream.last_id = line[4:].strip()
    return stream.last_id


@slow
def test_stream_with_a_long_backlog_gets_all_of_it_and_then_what_is_new(server, sql):
    sql(
        "INSERT INTO projects (id, name) SELECT gen_random_uuid(), n FROM generate_series(1, 350) n"
    )
    with EventStream(server, "?since=start") as stream, EventStream(server) as new_stream:
        assert stream.names(350) == [str(n) for n in range(1, 351)]
        post(server, "new")
        assert stream.names(1) == new_stream.names(1) == ["new"]


@slow
def test_callers_get_the_events_of_their_own_rows(serve, auth_headers, sql):
    with serve(AUTH="tokens", **SETTINGS) as server, ExitStack() as stack:
        names = ("ann", "bob")
        headers = {name: auth_headers(name) for name in names}
        headers["root"] = auth_headers("root", "projects:all")
        streams = {
            name: stack.enter_context(EventStream(server, **headers[name])) for name in headers
        }
        project = post(server, "of ann", **headers["ann"])
        post(server, "of bob", **headers["bob"])
        assert streams["ann"].names(1) == ["of ann"]
        assert streams["bob"].names(1) == ["of bob"]
        assert streams["root"].names(2) == ["of ann", "of bob"]
        sql("UPDATE projects SET owner = 'bob' WHERE id = %s", project["id"])
        for name, operation in (("ann", "delete"), ("bob", "create"), ("root", "update")):
            item = streams[name].next_item()
            assert (item["id"], item["operation"]) == (project["id"], operation)
            assert (item["project"] is None) == (operation == "delete")


@slow
def test_revoked_and_expired_tokens_end_their_streams(serve, auth_headers, sql, short_intervals):
    jwt_settings = {"JWT_ISSUER": "https://issuer", "JWT_AUDIENCE": AUDIENCE}
    jwt_settings |= {"AUTH": "tokens,jwt", "JWT_SECRET": "s" * 32}
    with serve(*short_intervals, **jwt_settings, **SETTINGS) as server, ExitStack() as stack:
        ann, bob, root = (
            stack.enter_context(EventStream(server, **headers))
            for headers in (
                *(auth_headers("ann"), auth_headers("bob")),
                auth_headers("root", "projects:all"),
            )
        )
        claims = {"iss": "https://issuer", "aud": AUDIENCE, "sub": "cat"}
        claims["exp"] = int(time.time()) - LEEWAY_SECONDS + 5
        token = sign({"alg": "HS256"}, claims, OctKey.import_key("s" * 32))
        cat = stack.enter_context(EventStream(server, **bearer(token)))
        assert {stream.status for stream in (ann, bob, cat, root)} == {200}
        sql("UPDATE api_tokens SET revoked_at = now() WHERE owner = 'ann'")
        assert list(ann.events()) == []  # it ends with its last chunk
        sql("UPDATE api_tokens SET expires_at = now() WHERE owner = 'bob'")
        assert list(bob.events()) == []
        assert list(cat.events()) == []
        assert time.time() >= claims["exp"] + LEEWAY_SECONDS
        sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'a')")
        assert root.names(1) == ["a"]


@slow
def test_client_that_does_not_read_is_disconnected_and_others_get_their_events(server, sql):
    with ExitStack() as stack:
        silent = [open_raw_stream(stack, server, receive_buffer=4096) for _ in range(20)]
        socket_count = count_sockets(server)
        with EventStream(server) as reader:
            for number in range(45):
                sql(
                    "INSERT INTO projects (id, name, attributes) VALUES (gen_random_uuid(), %s,"
                    " jsonb_build_object('a', repeat('x', 16000)))",
                    str(number),
                )
                assert reader.names(1) == [str(number)]
            until(lambda: count_sockets(server) == socket_count + 1 - len(silent))
        received = [len(receive(connection)) for connection in silent]
        assert max(received) < 2**19


@slow
def test_client_that_disconnects_frees_its_connection(server, sql):
    count = count_sockets(server)
    with ExitStack() as stack:
        cursor = now_cursor(server)
        for _ in range(5):
            open_raw_stream(stack, server)
            poll = stack.enter_context(connect(server))
            poll.sendall(long_poll(cursor, 30))
        until(lambda: count_sockets(server) == count + 10)
    until(lambda: count_sockets(server) == count)


@slow
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP])
def test_stop_and_reload_end_streams_with_the_last_chunk_and_answer_long_polls(
    serve, sql, signal_number
):
    with serve(**SETTINGS) as server, ExitStack() as stack:
        streams = [open_raw_stream(stack, server) for _ in range(20)]
        cursor = now_cursor(server)
        polls = [stack.enter_context(connect(server)) for _ in range(5)]
        for poll in polls:
            poll.sendall(long_poll(cursor, 30))
        [worker] = children(server.process.pid)
        time.sleep(0.5)
        server.process.send_signal(signal_number)
        assert all(receive(stream).endswith(LAST_CHUNK[2:]) for stream in streams)
        for poll in polls:
            response = receive(poll)
            assert statuses(response) == [200]
            assert b'"items":[]' in response
        until(lambda: worker not in children(server.process.pid))


@slow
def test_streams_beyond_the_setting_get_503_and_a_place_that_is_free_again_is_used(serve, sql):
    with serve(STREAMS="2", **SETTINGS) as server, ExitStack() as stack:
        first, _ = (stack.enter_context(EventStream(server)) for _ in range(2))
        with EventStream(server) as third:
            assert third.status == 503
            assert int(third.headers["Retry-After"]) > 0
        assert server.request("GET", f"{CHANGES}?since=start&wait=1")[0] == 503
        post(server)  # other requests are served, and so is a long poll that need not wait
        assert server.request("GET", f"{CHANGES}?since=start&wait=1")[0] == 200
        first.__exit__()
        until(lambda: EventStream(server).status == 200)


@slow
def test_streams_stay_open_when_a_worker_has_all_its_connections(serve, sql):
    arguments = ("--worker-connections", "20")
    with serve(*arguments, **SETTINGS) as server, ExitStack() as stack:
        stream = stack.enter_context(EventStream(server))
        for _ in range(40):  # the worker closes those that have waited longest
            stack.enter_context(connect(server))
        post(server, "a")
        assert stream.names(1) == ["a"]


@slow
def test_streams_stay_open_longer_than_the_timeouts_and_get_heartbeats(serve, sql, short_intervals):
    arguments = (*short_intervals, "--keep-alive", "1")
    with (
        serve(*arguments, READ_TIMEOUT="1", **SETTINGS) as server,
        EventStream(server) as stream,
    ):
        for _ in range(4):  # these take longer than the timeouts
            while stream.response.readline() != b":\n":
                pass
        post(server, "a")
        assert stream.names(1) == ["a"]


@slow
@pytest.mark.parametrize(
    ("version", "header"),
    [(b"1.0", b""), (b"1.0", b"Connection: keep-alive\r\n"), (b"1.1", b"A:  b\r\n")],
)
def test_streams_work_without_chunks_and_with_the_parser_of_gunicorn(server, sql, version, header):
    request = STREAM_REQUEST.replace(b"1.1", version).replace(b"Host", header + b"Host")
    with ExitStack() as stack:
        connection = open_raw_stream(stack, server, request=request)
        post(server, "a")
        data = b""
        while b"\n\n" not in data:
            data += connection.recv(65536)
        assert (b"\r\n" in data) == (version == b"1.1")  # the line of a chunk's size
        assert b"event: create\ndata: {" in data


@slow
def test_stream_on_a_unix_socket_ends_with_the_server(serve, sql, tmp_path):
    path = tmp_path / "socket"
    arguments = ("--bind", f"unix:{path}")
    with serve(*arguments, wait=False, **SETTINGS) as server:
        until(path.exists)
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(CLIENT_TIMEOUT_SECONDS)
            connection.connect(str(path))
            connection.sendall(STREAM_REQUEST)
            assert statuses(connection.recv(65536)) == [200]
            sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'a')")
            while b"event: create" not in connection.recv(65536):
                pass
            server.process.send_signal(signal.SIGTERM)
            assert receive(connection).endswith(LAST_CHUNK[2:])


@slow
def test_worker_sends_no_statement_without_streams(server, sql):
    def last_statement():
        [(time_of_last,)] = sql(
            "SELECT max(query_start) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
        return time_of_last

    with EventStream(server):
        before = last_statement()
        until(lambda: last_statement() > before)
    time.sleep(1)  # the worker notices that the client has gone
    before = last_statement()
    time.sleep(1)
    assert last_statement() == before


# Long polls.


def long_poll(cursor, seconds, rest=b""):
    line = f"GET {CHANGES}?since={cursor}&wait={seconds} HTTP/1.1\r\n"
    return f"{line}Host: x\r\n\r\n".encode() + rest


def poll(server, cursor, seconds, **headers):
    started = time.monotonic()
    status, _, page = server.request("GET", f"{CHANGES}?since={cursor}&wait={seconds}", **headers)
    return status, page, time.monotonic() - started


@slow
def test_fifty_long_polls_on_two_threads_get_the_next_change(server, sql):
    cursor = now_cursor(server)
    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(poll, server, cursor, 30) for _ in range(50)]
        time.sleep(1)
        assert not any(future.done() for future in futures)
        post(server, "a")  # a thread is free
        for future in futures:
            status, page, seconds = future.result()
            assert status == 200
            assert [item["project"]["name"] for item in page["items"]] == ["a"]
            assert seconds < 30


@slow
def test_long_poll_without_a_change_gets_an_empty_page_after_its_time(serve, sql):
    with serve("--keep-alive", "1", READ_TIMEOUT="1", **SETTINGS) as server:
        cursor = now_cursor(server)
        status, page, seconds = poll(server, cursor, 2)
        assert (status, page["items"]) == (200, [])
        assert seconds > 1.9
        [line] = [line for line in server.log.read_text().splitlines() if "changes 200" in line][1:]
        assert "GET" in line  # one line, although the request ran twice


@slow
@pytest.mark.parametrize("header", [b"", b"A:  b\r\n", b"Content-Length: 3\r\n"])
def test_requests_behind_a_long_poll_are_answered_after_it(server, sql, header):
    request = long_poll(now_cursor(server), 1).replace(b"Host", header + b"Host")
    rest = f"GET {PROJECTS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    body = b"abc" if b"Length" in header else b""
    response = exchange(server, request + body, rest, pause=0.2)
    assert statuses(response) == [200, 200]
    assert response.index(b'"has_more"') < response.index(b'"total"')


@slow
def test_long_poll_of_a_revoked_token_gets_401_when_it_is_woken(serve, auth_headers, sql):
    with serve(AUTH="tokens", **SETTINGS) as server, ThreadPoolExecutor(2) as pool:
        headers, other = auth_headers("ann"), auth_headers("bob")
        future = pool.submit(poll, server, now_cursor(server, **headers), 30, **headers)
        other_future = pool.submit(poll, server, now_cursor(server, **other), 2, **other)
        time.sleep(1)
        sql("UPDATE api_tokens SET revoked_at = now() WHERE owner = 'ann'")
        sql("INSERT INTO projects (id, name, owner) VALUES (gen_random_uuid(), 'a', 'ann')")
        assert future.result()[0] == 401
        status, page, seconds = other_future.result()
        assert (status, page["items"]) == (200, [])  # a change of ann does not wake bob
        assert seconds > 1.9


@slow
def test_streams_of_a_database_that_was_replaced_end_and_their_next_request_gets_410(serve, sql):
    with serve(**SETTINGS) as server, EventStream(server) as stream:
        post(server, "a")
        assert stream.names(1) == ["a"]
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(poll, server, stream.last_id, 30)
            time.sleep(1)
            # The history of another database, which has purged what these readers lack.
            sql("UPDATE histories SET purged_seq = 1000000000")
            assert list(stream.events()) == []
            assert future.result()[0] == 410
        with EventStream(server, **{"Last-Event-ID": stream.last_id}) as resumed:
            assert resumed.status == 410
