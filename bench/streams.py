"""Measure 1 000 event streams on one worker, with 50 changes a second; see README.md."""

import multiprocessing
import os
import re
import selectors
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from cpu import cpu_seconds
from workers import migrate, request_rate, start_gunicorn

from projectapp.devdb import DevPostgres

STREAMS, CHANGES_A_SECOND, SECONDS, ROUNDS, PORT = 1000, 50, 10, 5, 21030
GROUP = 20
REQUEST = b"GET /api/v1/projects/changes HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
# A change sets the name of a project to the time of the change.
SENT_AT = re.compile(rb'"name" : "at ([0-9.]+)"')


def read_streams(pipe: Any, measures_delays: bool) -> None:
    """Open STREAMS streams and read them until the parent sends something.

    Reports when they are open, then the delays of all events in seconds, then how many streams
    ended with their last chunk, and the seconds until the last one did.
    """
    if not measures_delays:
        os.nice(19)  # else the clients would take the CPU time of the server that they measure
    selector = selectors.DefaultSelector()
    while len(selector.get_map()) < STREAMS:
        # More at once would be an overload.
        clients = [socket.create_connection(("127.0.0.1", PORT)) for _ in range(GROUP)]
        for client in clients:
            client.sendall(REQUEST)
        for client in clients:
            if b" 200 OK" in client.recv(65536):
                selector.register(client, selectors.EVENT_READ)
            else:  # the server has not noticed yet that the streams of the last round are closed
                client.close()
                time.sleep(0.05)
    pipe.send("open")
    delays: list[float] = []
    while not pipe.poll():
        for key, _ in selector.select(0.1):
            data = key.fileobj.recv(65536)
            now = time.time()
            if measures_delays:
                delays += [now - float(at) for at in SENT_AT.findall(data)]
    pipe.send(delays)
    if pipe.recv() == "close":
        return
    started, ends = time.monotonic(), 0
    while selector.get_map() and time.monotonic() < started + 10:
        for key, _ in selector.select(0.1):
            data = key.fileobj.recv(65536)
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()
            ends += data.endswith(b"\r\n0\r\n\r\n") or data == b"0\r\n\r\n"
    pipe.send((ends, time.monotonic() - started))


class Readers:
    def __init__(self, *, measure_delays: bool = False) -> None:
        self.pipe, other_end = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=read_streams, args=(other_end, measure_delays), daemon=True
        )
        self.process.start()
        other_end.close()
        self.pipe.recv()

    def finish(self, last_command: str = "close") -> list[float]:
        self.pipe.send(last_command)
        delays: list[float] = self.pipe.recv()
        if last_command == "close":
            self.process.join()
        return delays


@contextmanager
def changes(server: DevPostgres, per_second: int = CHANGES_A_SECOND) -> Iterator[list[int]]:
    """Change projects in the background. Yield a list whose item is the number of changes."""
    stop, count = threading.Event(), [0]

    def change() -> None:
        connection = psycopg2.connect(**server.parameters)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT id FROM projects LIMIT 100")
            ids = [row[0] for row in cursor]
            started = time.monotonic()
            while not stop.wait(max(0.0, started + count[0] / per_second - time.monotonic())):
                project_id = ids[count[0] % len(ids)]
                name = f"at {time.time():.6f}"
                cursor.execute("UPDATE projects SET name = %s WHERE id = %s", (name, project_id))
                count[0] += 1
        connection.close()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


def private_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"Private_\w+:\s+(\d+) kB", text)))


def cpu_share(pid: int, seconds: float) -> float:
    """Return the share of a core that a process uses, in percent."""
    before, started = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - started)


def measure_delivery(server: DevPostgres, worker: int) -> None:
    before_kib = private_kib(worker)
    readers = Readers(measure_delays=True)
    time.sleep(1)
    kib = (private_kib(worker) - before_kib) / STREAMS
    idle_share = cpu_share(worker, 5)
    with changes(server) as count:
        share = cpu_share(worker, SECONDS)
    time.sleep(1)
    delays = sorted(readers.finish())
    p50, p99 = (1000 * delays[int(len(delays) * part)] for part in (0.5, 0.99))
    print(
        f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {1000 * delays[-1]:.0f} ms;"
        f" {len(delays)} of {count[0] * STREAMS} events;"
        f" CPU {share:.1f} % of a core, without changes {idle_share:.1f} %; {kib:.1f} KiB a stream",
        flush=True,
    )


def measure_gets(server: DevPostgres, url: str) -> None:
    rates: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * ROUNDS):
        has_streams = number % 2 == 0
        readers = Readers() if has_streams else None
        with changes(server):
            rates[has_streams].append(request_rate(url))
        if readers:
            readers.finish()
    ratios = [a / b for a, b in zip(rates[True], rates[False], strict=True)]
    print(
        f"GETs: {statistics.median(rates[True]):.0f}/s beside the streams,"
        f" {statistics.median(rates[False]):.0f}/s without; ratio {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        environ = migrate(
            server, PORT=str(PORT), WEB_CONCURRENCY="1", STREAMS=str(STREAMS), DRAIN_TIMEOUT="0"
        )
        connection = psycopg2.connect(**server.parameters)
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO projects (id, name)"
                " SELECT gen_random_uuid(), 'x' FROM generate_series(1, 1000)"
            )
            cursor.execute("SELECT id FROM projects LIMIT 1")
            [project_id] = cursor.fetchone()
        connection.close()
        gunicorn = start_gunicorn(environ)
        try:
            url = f"http://127.0.0.1:{PORT}/api/v1/projects/{project_id}"
            request_rate(url, seconds=1)  # opens its connections
            children = Path(f"/proc/{gunicorn.pid}/task/{gunicorn.pid}/children").read_text()
            [worker] = map(int, children.split())
            for _ in range(3):
                measure_delivery(server, worker)
            measure_gets(server, url)
            readers = Readers()
            readers.finish("stop")
            started = time.monotonic()
            os.kill(gunicorn.pid, signal.SIGTERM)
            ends, seconds = readers.pipe.recv()
            gunicorn.wait(30)
            print(
                f"Stop: {ends} of {STREAMS} streams ended with their last chunk, the last one after"
                f" {seconds:.2f} s; the server after {time.monotonic() - started:.2f} s"
            )
        finally:
            gunicorn.kill()
            gunicorn.wait()
            server.release()


if __name__ == "__main__":
    main()
