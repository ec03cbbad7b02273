"""Exports that the worker sends without a thread, however slow their clients are."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from joserfc.jwk import OctKey

from projectapp.auth.jwt import LEEWAY_SECONDS
from tests.conftest import PROJECTS
from tests.issuer import AUDIENCE, bearer, sign
from tests.test_overload import count_sockets
from tests.test_serving import children, until
from tests.test_streams import EventStream, post
from tests.test_worker import connect, receive, statuses

pytestmark = pytest.mark.slow

EXPORT = f"{PROJECTS}/export"
SETTINGS = {"WEB_CONCURRENCY": "1", "DATABASE_POOL_SIZE": "1"}  # two threads, one connection
ROWS = 3000  # of 2 KiB: more than the kernel and the worker keep for a client
INSERT = (
    "INSERT INTO projects (id, name, attributes, owner) SELECT gen_random_uuid(), 'row ' || n,"
    " jsonb_build_object('text', repeat('x', 2000)), 'ann' FROM generate_series(1, %s) AS n"
)
# Tests cannot wait as long as an export does, and they send what could get into it.
SHORT_INTERVALS = """
exec(open("gunicorn.conf.py").read())


def post_worker_init(worker):
    from projectapp.bulk import export_pages
    from projectapp.server import held_connections, streams

    export_pages.MAX_RETRY_SECONDS = {}
    streams.HEARTBEAT_SECONDS = 0.05
    held_connections.STALLED_DOWNLOAD_SECONDS = {}
"""


@pytest.fixture(scope="module")
def server(serve):
    with serve(**SETTINGS) as running:
        yield running


@pytest.fixture
def retry_seconds(tmp_path):
    """Return the arguments of a server with this MAX_RETRY_SECONDS."""

    def configure(seconds, stalled_seconds=120):
        (tmp_path / "conf.py").write_text(SHORT_INTERVALS.format(seconds, stalled_seconds))
        return "-c", str(tmp_path / "conf.py")

    return configure


def request(query="", version="1.1", header=""):
    return f"GET {EXPORT}{query} HTTP/{version}\r\nHost: x\r\n{header}\r\n".encode()


def begin_export(stack, server, data=None):
    """Send a request, and read only the beginning of its response."""
    connection = stack.enter_context(connect(server, receive_buffer=4096))
    connection.sendall(data or request())
    assert statuses(connection.recv(1000)[:20]) == [200]
    return connection


def read_rest(connection):
    """Return the number of the other lines, and whether the last chunk came."""
    data = receive(connection)
    return data.count(b'"owner" : "ann"}'), data.endswith(b"\r\n0\r\n\r\n")


def export(server, data=None):
    """Return the body of an export of which no chunk is missing."""
    with connect(server) as connection:
        connection.sendall(data or request())
        head, _, rest = receive(connection).partition(b"\r\n\r\n")
    assert statuses(head) == [200]
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            assert rest == b"\r\n"
            return body
        body += rest[: int(size, 16)]
        assert rest[int(size, 16) :][:2] == b"\r\n"
        rest = rest[int(size, 16) + 2 :]


def own_sessions(sql):
    """Return state and start of the transaction of each of the server's database sessions."""
    return sql(
        "SELECT state, xact_start FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database() AND backend_type = 'client backend'"
    )


def thread_count(server):
    [worker] = children(server.process.pid)
    return len([*Path(f"/proc/{worker}/task").iterdir()])


def test_slow_clients_occupy_no_thread_no_connection_and_no_transaction(server, sql):
    sql(INSERT, ROWS)
    post(server)  # the connection to the database is open
    threads = thread_count(server)
    with ExitStack() as stack:
        clients = [begin_export(stack, server) for _ in range(20)]
        until(lambda: thread_count(server) == threads)  # no page is needed
        assert all(state == "idle" and start is None for state, start in own_sessions(sql))
        for _ in range(20):
            post(server)
            for connection in clients:
                assert len(connection.recv(64)) == 64  # slowly
        assert all(state == "idle" and start is None for state, start in own_sessions(sql))
        # The export goes on when its client does.
        lines, is_complete = read_rest(clients[0])
        assert ROWS - 5 <= lines <= ROWS
        assert is_complete


def test_parallel_exports_are_complete_and_nothing_else_gets_into_them(serve, sql, retry_seconds):
    sql(INSERT, ROWS)
    with (
        serve(*retry_seconds(30), **SETTINGS) as server,
        EventStream(server) as stream,
        ThreadPoolExecutor(8) as pool,
    ):
        bodies = [*pool.map(export, [server] * 16)]
        assert len({*bodies}) == 1
        assert bodies[0].count(b"\n") == ROWS
        post(server, "new")
        assert stream.names(1) == ["new"]
    log = server.log.read_text()
    assert log.count("export 200") == 16


@pytest.mark.parametrize("header", ["", "A:  b\r\n"])
def test_export_to_a_client_without_chunks_ends_with_the_connection(server, sql, header):
    sql(INSERT, ROWS)
    with connect(server) as connection:
        connection.sendall(request(version="1.0", header=header))
        head, _, body = receive(connection).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == export(server, request(header=header))


def test_small_export_has_a_length_and_keeps_the_connection(server, sql):
    sql(INSERT, 3)
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(request())
            data = connection.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}".encode() in head
            assert body.count(b"\n") == 3


def test_exports_beyond_streams_get_503_and_small_ones_are_served(serve, sql):
    sql(INSERT, ROWS)
    with serve(STREAMS="2", **SETTINGS) as server, ExitStack() as stack:
        first, _ = (begin_export(stack, server) for _ in range(2))
        status, headers, _ = server.request("GET", EXPORT)
        assert (status, int(headers["retry-after"]) > 0) == (503, True)
        assert server.request("GET", f"{EXPORT}?q=2999")[0] == 200
        assert server.request("HEAD", EXPORT)[0] == 200
        first.close()
        until(lambda: statuses(first_bytes(server)) == [200])


def first_bytes(server):
    with connect(server) as connection:
        connection.sendall(request())
        return connection.recv(1000)


def test_client_that_disconnects_frees_its_connection(server, sql):
    sql(INSERT, ROWS)
    count = count_sockets(server)
    with ExitStack() as stack:
        for _ in range(5):
            begin_export(stack, server)
        until(lambda: count_sockets(server) == count + 5)
    until(lambda: count_sockets(server) == count)


# Incomplete exports.


def test_client_that_reads_nothing_for_too_long_is_disconnected_and_a_slow_one_is_not(
    serve, sql, retry_seconds
):
    sql(INSERT, ROWS)
    arguments = retry_seconds(30, stalled_seconds=8)
    with serve(*arguments, STREAMS="2", **SETTINGS) as server, ExitStack() as stack:
        silent, slow = (begin_export(stack, server) for _ in range(2))
        count = count_sockets(server)
        deadline = time.monotonic() + 60
        while count_sockets(server) == count:
            assert time.monotonic() < deadline
            assert slow.recv(1024)
            time.sleep(0.1)
        lines, is_complete = read_rest(slow)
        assert lines > ROWS // 2
        assert is_complete
        check_incomplete(silent)


def check_incomplete(connection, version="1.1"):
    """Check that the client of an export can tell that a part is missing."""
    data, is_reset = b"", False
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        is_reset = True
    assert data.count(b'"owner" : "ann"}') < ROWS - 5
    assert not data.endswith(b"0\r\n\r\n")
    assert is_reset or version == "1.1"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_export_that_loses_the_database_ends_without_its_last_chunk(
    serve, sql, proxy, retry_seconds, version
):
    sql(INSERT, ROWS)
    arguments = retry_seconds(0)
    with serve(*arguments, DATABASE_URL=proxy.url, **SETTINGS) as server, ExitStack() as stack:
        connection = begin_export(stack, server, request(version=version))
        proxy.refuses = True
        proxy.cut()
        check_incomplete(connection, version)
    log = server.log.read_text()
    assert log.count("An export of projects was aborted after ") == 1
    assert log.count("export 200") == 1


def test_export_goes_on_when_the_database_was_away_for_a_moment(serve, sql, proxy, retry_seconds):
    sql(INSERT, ROWS)
    arguments = retry_seconds(30)
    with serve(*arguments, DATABASE_URL=proxy.url, **SETTINGS) as server, ExitStack() as stack:
        connection = begin_export(stack, server)
        proxy.refuses = True
        proxy.cut()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(read_rest, connection)
            time.sleep(1)
            assert not future.done()
            proxy.refuses = False
            lines, is_complete = future.result()
    assert ROWS - 5 <= lines <= ROWS
    assert is_complete


def test_export_of_a_revoked_token_ends_without_its_last_chunk(serve, sql, auth_headers):
    sql(INSERT, ROWS)
    with serve(AUTH="tokens", **SETTINGS) as server, ExitStack() as stack:
        header, other = (
            f"Authorization: {auth_headers('ann')['Authorization']}\r\n" for _ in range(2)
        )
        [(revoked,)] = sql("SELECT id FROM api_tokens ORDER BY created_at LIMIT 1")
        connection = begin_export(stack, server, request(header=header))
        other_connection = begin_export(stack, server, request(header=other))
        sql("UPDATE api_tokens SET revoked_at = now() WHERE id = %s", revoked)
        check_incomplete(connection)
        assert read_rest(other_connection)[1]


def test_export_whose_jwt_expires_ends_without_its_last_chunk(serve, sql):
    sql(INSERT, ROWS)
    settings = {"JWT_ISSUER": "https://issuer", "JWT_AUDIENCE": AUDIENCE, "JWT_SECRET": "s" * 32}
    with serve(AUTH="jwt", **settings, **SETTINGS) as server, ExitStack() as stack:
        expires_at = int(time.time()) + 8
        claims = {"iss": "https://issuer", "aud": AUDIENCE, "sub": "ann"}
        claims["exp"] = expires_at - LEEWAY_SECONDS
        token = sign({"alg": "HS256"}, claims, OctKey.import_key("s" * 32))
        header = f"Authorization: {bearer(token)['Authorization']}\r\n"
        connection = begin_export(stack, server, request(header=header))
        until(lambda: time.time() > expires_at)
        check_incomplete(connection)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP])
def test_stop_lets_an_export_go_on_but_not_longer_than_its_timeout(serve, sql, signal_number):
    sql(INSERT, ROWS)
    with serve(GRACEFUL_TIMEOUT="9", **SETTINGS) as server, ExitStack() as stack:
        reader, silent = (begin_export(stack, server) for _ in range(2))
        [worker] = children(server.process.pid)
        server.process.send_signal(signal_number)
        time.sleep(1)
        lines, is_complete = read_rest(reader)
        assert ROWS - 5 <= lines <= ROWS
        assert is_complete
        until(lambda: worker not in children(server.process.pid))
        check_incomplete(silent)
        assert "SIGKILL" not in server.log.read_text()


def test_export_on_a_unix_socket_is_complete(serve, sql, tmp_path):
    sql(INSERT, ROWS)
    path = tmp_path / "socket"
    with serve("--bind", f"unix:{path}", wait=False, **SETTINGS):
        until(path.exists)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(40)
            connection.connect(str(path))
            connection.sendall(request())
            assert read_rest(connection) == (ROWS, True)
