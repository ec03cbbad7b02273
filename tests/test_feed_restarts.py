"""The change feed and its streams while PostgreSQL or workers are replaced."""

import shutil
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPSConnection

import psycopg2
import pytest

from faults.cluster import Cluster, binaries, copy_data, make_template
from projectapp.devdb import supervisor
from projectapp.resources.feed import decode_feed_cursor
from tests.conftest import PROJECTS, url_of
from tests.feed_load import CHANGES, open_transaction
from tests.test_overload import SETTINGS as OVERLOAD_SETTINGS
from tests.test_serving import children, end, has_ended, until, upgrade
from tests.test_streams import (
    EVENT_STREAM,
    LAST_CHUNK,
    SETTINGS,
    EventStream,
    long_poll,
    now_cursor,
    open_raw_stream,
    poll,
    post,
)
from tests.test_worker import (
    WITHOUT_EPOLL,
    connect,
    receive,
    statuses,
)

pytestmark = pytest.mark.slow

INSERT = "INSERT INTO projects (id, name) VALUES (gen_random_uuid(), '{}')"


class TestCluster(Cluster):
    """Its database has the word test in its name, as APP_ENV=testing wants it."""

    __test__ = False

    @property
    def parameters(self):
        return {**super().parameters, "dbname": "test"}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A data directory with the tables; each test gets a copy."""
    home = make_template(tmp_path_factory.mktemp("template"))
    cluster = Cluster(home)
    cluster.start()
    parameters = {**cluster.parameters, "dbname": "template1"}
    with closing(psycopg2.connect(**parameters)) as connection:
        connection.autocommit = True
        connection.cursor().execute("ALTER DATABASE postgres RENAME TO test")
    cluster.stop()
    return home


@pytest.fixture
def cluster(template, tmp_path):
    """A PostgreSQL that the test may restart."""
    cluster = TestCluster(copy_data(template, tmp_path / "data"))
    cluster.start()
    yield cluster
    cluster.end()


def restart(cluster, mode):
    cluster.stop(mode)
    cluster.start()


def start_on_another_timeline(cluster):
    """Restart a PostgreSQL as the promotion of a standby does: it goes on with another timeline."""
    cluster.stop()
    signal_file = cluster.home / "recovery.signal"
    signal_file.touch()
    shutil.chown(signal_file, cluster.home.owner(), cluster.home.group())
    cluster.settings = {"restore_command": "false"}
    cluster.start()


def stream_status(server, **headers):
    with EventStream(server, **headers) as stream:
        return stream.status


def names(page):
    return [item["project"]["name"] for item in page["items"]]


# PostgreSQL.


def test_streams_and_long_polls_outlast_restarts_of_postgresql_and_get_each_change_once(
    serve, cluster
):
    with serve(DATABASE_URL=url_of(cluster.parameters), **SETTINGS) as server, ExitStack() as stack:
        stream = stack.enter_context(EventStream(server))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        for mode in ("fast", "kill"):
            post(server, f"before {mode}")
            assert stream.names(1) == [f"before {mode}"]
            cursor = stream.last_id
            future = pool.submit(poll, server, cursor, 30)
            time.sleep(0.5)
            restart(cluster, mode)
            cluster.sql(INSERT.format(f"after {mode}"))
            assert stream.names(1) == [f"after {mode}"]
            status, page, _ = future.result()
            assert (status, names(page)) == (200, [f"after {mode}"])
            with EventStream(server, **{"Last-Event-ID": cursor}) as resumed:
                assert resumed.names(1) == [f"after {mode}"]
                cluster.sql(INSERT.format("last"))
                assert resumed.names(1) == stream.names(1) == ["last"]


def test_another_timeline_ends_streams_and_their_next_request_gets_410(serve, cluster):
    with serve(DATABASE_URL=url_of(cluster.parameters), **SETTINGS) as server, ExitStack() as stack:
        cluster.sql(INSERT.format("a"))
        stream = stack.enter_context(EventStream(server, "?since=start"))
        assert stream.names(1) == ["a"]
        pool = stack.enter_context(ThreadPoolExecutor(1))
        future = pool.submit(poll, server, stream.last_id, 30)
        time.sleep(0.5)
        start_on_another_timeline(cluster)
        assert list(stream.events()) == []
        assert future.result()[0] == 410
        assert stream_status(server, **{"Last-Event-ID": stream.last_id}) == 410
        with EventStream(server, "?since=start") as new_stream:
            assert new_stream.names(1) == ["a"]


def test_history_that_began_again_ends_streams_and_their_next_request_gets_410(serve, sql):
    with serve(**SETTINGS) as server, EventStream(server) as stream:
        post(server, "a")
        assert stream.names(1) == ["a"]
        sql("UPDATE histories SET restored_seq = nextval('changes_seq_seq')")
        assert list(stream.events()) == []
        assert stream_status(server, **{"Last-Event-ID": stream.last_id}) == 410


def test_transaction_ids_beyond_32_bits_lose_no_change(make_app, cluster):
    """The cursor has the upper half of the next id, which PostgreSQL does not give."""
    cluster.stop()
    command = [*supervisor.unprivileged_prefix(), binaries() / "pg_resetwal", "-e", "5"]
    subprocess.run([*command, cluster.home], check=True, capture_output=True)
    cluster.start()
    url = url_of(cluster.parameters)
    app = make_app(DATABASE_URL=url)
    client = app.test_client()
    cursor = client.get(CHANGES).json["next_cursor"]
    with open_transaction(url, INSERT.format("first of 1")) as older:
        with open_transaction(url, INSERT.format("2")), open_transaction(url, INSERT.format("3")):
            older.execute(INSERT.format("last of 1"))
            older.connection.commit()
            page = client.get(f"{CHANGES}?since={cursor}").json
            assert names(page) == ["first of 1", "last of 1"]
        seen_next_xid = decode_feed_cursor(page["next_cursor"], "projects").seen_next_xid
        assert 5 < seen_next_xid / 2**32 < 5.001
        page = client.get(f"{CHANGES}?since={page['next_cursor']}").json
        assert names(page) == ["2", "3"]
    with app.app_context():
        app.extensions["sqlalchemy"].engine.dispose()


# Workers.


def check_replaced_worker(server, streams, cursor):
    """The streams end with the last chunk, and a new one goes on after `cursor`, at "between"."""
    assert all(receive(stream).endswith(LAST_CHUNK[2:]) for stream in streams)
    with EventStream(server, **{"Last-Event-ID": cursor}) as resumed:
        assert resumed.names(1) == ["between"]
        post(server, "after")
        assert resumed.names(1) == ["after"]


def test_upgrade_ends_streams_with_the_last_chunk_and_answers_long_polls(serve, sql):
    with serve(**SETTINGS) as server, ExitStack() as stack:
        cursor = now_cursor(server)
        streams = [open_raw_stream(stack, server) for _ in range(5)]
        waiting = stack.enter_context(connect(server))
        waiting.sendall(long_poll(cursor, 30))
        time.sleep(0.5)
        new_master = upgrade(server.process.pid, server.log, workers=1)
        try:
            response = receive(waiting)
            assert statuses(response) == [200]
            assert b'"items":[]' in response
            assert server.process.wait(timeout=60) == 0
            sql(INSERT.format("between"))
            check_replaced_worker(server, streams, cursor)
        finally:
            end(new_master)


def test_worker_that_ends_after_max_requests_ends_streams_with_the_last_chunk(serve, sql):
    with serve("--max-requests", "20", **SETTINGS) as server, ExitStack() as stack:
        [worker] = children(server.process.pid)
        cursor = now_cursor(server)
        streams = [open_raw_stream(stack, server) for _ in range(5)]
        while not has_ended(worker):
            server.request("GET", "/health")
        sql(INSERT.format("between"))
        check_replaced_worker(server, streams, cursor)


@pytest.mark.parametrize(
    ("queue_seconds", "wait_seconds", "status"), [("60", 2, 200), ("2", 5, 503)]
)
def test_long_poll_that_ends_while_no_thread_is_free_waits_in_the_queue(
    serve, sql, direct_url, queue_seconds, wait_seconds, status
):
    settings = {**OVERLOAD_SETTINGS, "QUEUE_TIMEOUT": queue_seconds}
    with serve(**settings) as server, ExitStack() as stack:
        path = f"{PROJECTS}/{post(server)['id']}"
        waiting = stack.enter_context(connect(server))
        waiting.sendall(long_poll(now_cursor(server), wait_seconds))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        with open_transaction(direct_url, "SELECT FROM projects FOR UPDATE"):
            futures = [pool.submit(server.request, "PUT", path, {"name": name}) for name in "ab"]
            if status == 503:  # while both threads wait
                response = waiting.recv(65536)
            else:
                time.sleep(wait_seconds + 0.5)
        if status == 200:
            response = waiting.recv(65536)
        assert statuses(response) == [status]
        assert (b"Retry-After" in response) == (status == 503)
        assert {future.result()[0] for future in futures} == {200}


# Other workers of gunicorn.


def test_worker_without_epoll_has_long_polls_and_answers_streams_with_501(serve, sql, tmp_path):
    (tmp_path / "conf.py").write_text(WITHOUT_EPOLL)
    with serve("-c", str(tmp_path / "conf.py"), **SETTINGS) as server:
        assert stream_status(server) == 501
        cursor = now_cursor(server)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(poll, server, cursor, 30)
            time.sleep(0.5)
            post(server, "a")
            status, page, _ = future.result()
            assert (status, names(page)) == (200, ["a"])


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs the program openssl")
def test_worker_with_tls_answers_streams_with_501(serve, sql, tmp_path):
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout key -out certificate"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    files = ("--certfile", str(tmp_path / "certificate"), "--keyfile", str(tmp_path / "key"))
    context = ssl.create_default_context(cafile=str(tmp_path / "certificate"))
    context.check_hostname = False

    def status_of(path, headers):
        address = ("127.0.0.1", server.port)
        with closing(HTTPSConnection(*address, context=context, timeout=60)) as connection:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status

    with serve(*files, wait=False, **SETTINGS) as server:
        until(lambda: "Worker ready" in server.log.read_text())
        assert status_of(CHANGES, EVENT_STREAM) == 501
        assert status_of(f"{CHANGES}?since=start&wait=1", {}) == 200
