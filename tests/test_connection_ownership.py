"""Many clients of every kind at once: each request has one response, and it is its own.

A connection belongs to one thread at a time. If two threads had the same one, requests would run
twice, or responses would be lost, mixed or sent to other clients.
"""

import random
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from types import SimpleNamespace

import pytest
from gunicorn.config import Config as GunicornConfig

import config
from projectapp.server.client_buffer import BufferedClient
from projectapp.server.client_connections import ClientConnections
from projectapp.server.plain_requests import PlainRequests
from projectapp.server.request_threads import RequestThreads
from tests.test_serving import until
from tests.test_worker import GET, connect, count_connections, exchange, statuses

pytestmark = pytest.mark.slow

SECONDS = 6
NORMAL_CLIENTS, HOSTILE_CLIENTS = 6, 10

# Another thread takes a client at the moment at which the main thread has chosen to close it.


class TakenClient(BufferedClient):
    """A client that another thread takes at the moment at which one of these attributes is read."""

    connections: ClientConnections

    def take(self) -> float:
        self.connections.waiting.pop(self, False)
        return 0.0

    deadline = property(take, lambda self, value: None)
    waiting_since = property(take, lambda self, value: None)
    buffered_bytes = property(lambda self: 1 + int(self.take()), lambda self, value: None)


@pytest.fixture
def connections():
    cfg = GunicornConfig()
    settings = config.Testing({})
    worker = SimpleNamespace(worker_connections=1, cfg=cfg)
    return ClientConnections(worker, settings, PlainRequests(cfg, settings, False))


@pytest.mark.parametrize("limit", ["deadlines", "surplus", "memory"])
def test_main_thread_leaves_a_client_alone_that_a_thread_has_just_taken(connections, limit):
    sock, other_end = socket.socketpair()
    with closing(sock), closing(other_end):
        client = TakenClient(sock, ("127.0.0.1", 1), ("127.0.0.1", 2), connections.plain_requests)
        client.connections = connections
        client.on_ready = connections.receive_request
        connections.client_by_fd[client.fd] = client
        connections.waiting[client] = True
        if limit == "deadlines":
            connections.worker.worker_connections = 2
        if limit == "memory":
            connections.max_buffered_bytes = -1
            connections._limit_buffered_bytes()
        else:
            connections.last_sweep_at = 0.0 if limit == "deadlines" else float("inf")
            connections.enforce_limits()
        assert sock.fileno() == client.fd  # it is open
        assert connections.client_by_fd == {client.fd: client}
        assert connections.waiting == {}


@pytest.mark.parametrize("number_of_requests", [1, 2])
def test_requests_queued_while_all_threads_are_idle_run_at_once(connections, number_of_requests):
    executed: list[object] = []
    barrier = threading.Barrier(number_of_requests)  # each request waits for the others

    def run_request(client):
        barrier.wait(10)
        executed.append(client)

    connections.worker.cfg.set("threads", 2)
    connections.worker.run_request = run_request
    threads = RequestThreads(connections.worker, config.Testing({}), connections)
    threads.start()
    try:
        for _ in range(100):
            until(lambda: len(threads.idle_threads) == 2)
            pairs = [socket.socketpair() for _ in range(number_of_requests)]
            clients = [
                BufferedClient(sock, ("127.0.0.1", 1), ("127.0.0.1", 2), connections.plain_requests)
                for sock, _ in pairs
            ]
            for client in clients:
                connections.client_by_fd[client.fd] = client
                connections.epoll.register(client.fd, 0)
            for client in clients:
                threads.submit(client)
            until(lambda: len(executed) == number_of_requests, 10)
            for _, other_end in pairs:
                other_end.close()
            until(lambda: not connections.client_by_fd)
            executed.clear()
    finally:
        threads.stop(time.monotonic() + 10)


def test_client_of_an_abstract_unix_socket_is_accepted(connections):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("")  # Linux chooses a name, which getsockname() returns as bytes
        listener.listen()
        client.connect(listener.getsockname())
        connections.accept(listener)
        [accepted] = connections.client_by_fd.values()
        accepted.sock.close()


def test_event_without_data_does_not_end_the_wait_for_the_client_to_close(connections):
    sock, other_end = socket.socketpair()
    with closing(sock), closing(other_end):
        client = BufferedClient(
            sock, ("127.0.0.1", 1), ("127.0.0.1", 2), connections.plain_requests
        )
        assert client.discard_input()
        other_end.send(b"abc")
        assert client.discard_input()
        other_end.close()
        assert not client.discard_input()


def test_main_thread_survives_that_a_thread_takes_the_last_queued_request(connections):
    class EmptiedQueue(deque):
        def __bool__(self):
            return True  # as it was a moment ago

    threads = RequestThreads(connections.worker, config.Testing({}), connections)
    threads.queue = EmptiedQueue()
    connections.worker.alive = True
    threads.refuse_late_requests()


# /work?id=ID&size=BYTES answers with the id and so many bytes. It reports an id that comes twice.
CONFIGURATION = """
import random, time
from urllib.parse import parse_qs

exec(open("gunicorn.conf.py").read())
prepare_worker = post_fork


def post_fork(server, worker):
    prepare_worker(server, worker)
    sys.setswitchinterval(1e-5)  # so that threads interrupt each other at more places
    load_application = worker.app.wsgi
    worker.app.wsgi = lambda: wrap(load_application())


def wrap(serve):
    ids = set()

    def application(environ, start_response):
        if environ["PATH_INFO"] != "/work":
            return serve(environ, start_response)
        query = parse_qs(environ["QUERY_STRING"])
        [id_], [size] = query["id"], query["size"]
        time.sleep(random.choice([0, 0, 0.001, 0.01]))
        text = "twice:" + id_ if id_ in ids else id_
        ids.add(id_)
        body = text.encode() + b" " + b"x" * int(size)
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    return application
"""


def work(id_: str, size: int = 10, *, is_plain: bool = True) -> bytes:
    """Return a request. If it is not plain, gunicorn parses it."""
    space = " " if is_plain else ""
    return f"GET /work?id={id_}&size={size} HTTP/1.1\r\nHost:{space}x\r\n\r\n".encode()


def new_ids(name: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{name}-{number}"


class Results:
    def __init__(self) -> None:
        self.answered = self.interrupted = 0
        self.wrong: list[str] = []


def send_and_check(server, name: str, stop: threading.Event, results: Results) -> None:
    """Send requests, sometimes several at once. Check that each response is that of its request."""
    choice, ids = random.Random(name), new_ids(name)  # noqa: S311
    while not stop.is_set():
        with connect(server) as connection, suppress(ConnectionError):
            stream = connection.makefile("rb")
            for _ in range(choice.randint(1, 30)):
                batch = [next(ids) for _ in range(choice.choice([1, 1, 2, 5]))]
                sent = b"".join(
                    work(id_, choice.choice([5, 5, 200_000]), is_plain=choice.random() < 0.7)
                    for id_ in batch
                )
                connection.sendall(sent)
                for id_ in batch:
                    head = stream.readline()
                    while head and (line := stream.readline()).rstrip():
                        head += line
                    if not head.startswith(b"HTTP/1.1 200"):
                        results.interrupted += 1
                        raise ConnectionResetError
                    body = stream.read(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
                    if not body.startswith(id_.encode() + b" "):
                        results.wrong.append(f"{id_} got {body[:40]!r}")
                    results.answered += 1
                if choice.random() < 0.1:
                    time.sleep(choice.random() / 5)


def misbehave(server, name: str, stop: threading.Event) -> None:
    choice, ids = random.Random(name), new_ids(name)  # noqa: S311
    while not stop.is_set():
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        with closing(connection), suppress(OSError):
            connection.connect(("127.0.0.1", server.port))
            if choice.random() < 0.5:  # then close() resets the connection
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            choice.choice(BEHAVIORS)(connection, choice, next(ids))


def leave_at_once(connection, choice, id_):
    time.sleep(choice.random() / 50)


def leave_in_a_request(connection, choice, id_):
    sent = work(id_)
    connection.sendall(sent[: choice.randint(1, len(sent) - 1)])


def leave_before_the_response(connection, choice, id_):
    connection.sendall(work(id_, choice.choice([5, 500_000]), is_plain=choice.random() < 0.5))
    time.sleep(choice.choice([0, 0, 0.002, 0.02]))


def read_little(connection, choice, id_):
    connection.sendall(b"".join(work(f"{id_}-{n}", 300_000) for n in range(4)))
    for _ in range(choice.randint(1, 20)):
        connection.recv(20_000)
        time.sleep(0.01)


def send_in_pieces(connection, choice, id_):
    sent = work(id_) * 2
    for start in range(0, len(sent), 9):
        connection.sendall(sent[start : start + 9])
        time.sleep(choice.choice([0, 0.001]))
    connection.recv(100)


def wait_for_a_deadline(connection, choice, id_):
    connection.sendall(work(id_)[: choice.choice([0, 20])])
    connection.settimeout(1.5)
    connection.recv(100)


def send_too_much(connection, choice, id_):
    connection.sendall(b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 70_000 + b"\r\n\r\n")
    connection.recv(100)


BEHAVIORS = [
    leave_at_once,
    leave_in_a_request,
    leave_before_the_response,
    read_little,
    send_in_pieces,
    wait_for_a_deadline,
    send_too_much,
]


@pytest.mark.parametrize("is_patient", [True, False], ids=["patient", "impatient"])
def test_each_request_among_many_kinds_of_clients_gets_one_own_response(
    serve, tmp_path, is_patient
):
    """A patient server closes no normal client. An impatient one closes them, but mixes nothing."""
    (tmp_path / "conf.py").write_text(CONFIGURATION)
    arguments = ["-c", str(tmp_path / "conf.py")]
    arguments += ["--keep-alive", "60"] if is_patient else ["--worker-connections", "12"]
    settings = {"WEB_CONCURRENCY": "1", "DATABASE_POOL_SIZE": "2", "QUEUE_TIMEOUT": "60"}
    settings |= {"REQUEST_TIMEOUT": "90", "GRACEFUL_TIMEOUT": "100"}
    settings |= {"READ_TIMEOUT": "60" if is_patient else "1"}
    results, stop = Results(), threading.Event()
    with serve(*arguments, **settings) as server:
        threads = [
            threading.Thread(target=send_and_check, args=(server, f"n{number}", stop, results))
            for number in range(NORMAL_CLIENTS)
        ]
        threads += [
            threading.Thread(target=misbehave, args=(server, f"h{number}", stop))
            for number in range(HOSTILE_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS)
        until(lambda: results.answered > 200)
        stop.set()
        for thread in threads:
            thread.join()
        assert results.wrong == []
        if is_patient:
            assert results.interrupted == 0
        # No connection is forgotten, and all threads still run.
        until(lambda: count_connections(server) == 0)
        assert (
            statuses(
                exchange(server, work("last") * 50 + GET.replace(b"x", b"x\r\nConnection: close"))
            )
            == [200] * 51
        )
    log = server.log.read_text()
    assert "Traceback" not in log, log
