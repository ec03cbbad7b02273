"""Under gunicorn, with gunicorn.conf.py: start, stop, kill, and the two commands."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from select import select

import pytest

import config
from tests.conftest import PROJECTS
from tests.test_devdb import is_unlocked, pids_with
from tests.wire import free_port

pytestmark = pytest.mark.slow

FORKS = """
import os, sys
import config
from projectapp import create_app
client = create_app(config.Testing({"DATABASE_URL": sys.argv[1]})).test_client()
client.get("/api/v1/projects")
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        children = []
        break
    children.append(pid)
found = {client.get("/api/v1/projects").status_code for _ in range(200)}
os.write(1, (" ".join(map(str, found)) + "\\n").encode())
for pid in children:
    os.waitpid(pid, 0)
"""


WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def until(is_true) -> None:
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


@pytest.mark.parametrize("arguments", [(), ("--preload",)])
def test_workers_share_no_connection(serve, sql, arguments):
    with serve(*arguments) as server, ThreadPoolExecutor(8) as pool:
        created = list(
            pool.map(
                lambda n: server.request("POST", PROJECTS, {"name": str(n)}, Connection="close"),
                range(60),
            )
        )
    assert {status for status, _, _ in created} == {201}
    assert {body["name"] for _, _, body in created} == {str(n) for n in range(60)}
    assert sql("SELECT count(*) FROM projects") == [(60,)]


def test_a_connection_from_before_a_fork_is_not_used_after_it(database_url, sql):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, database_url],
        cwd=config.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["200"] * 3, done.stderr


def test_a_stop_finishes_the_running_request(serve, client, make_project, sql):
    project = make_project()
    sql("BEGIN")
    sql("LOCK TABLE projects IN EXCLUSIVE MODE")
    with serve() as server, ThreadPoolExecutor(1) as pool:
        change = pool.submit(
            server.request, "PUT", f"{PROJECTS}/{project['id']}", {"name": "finished"}
        )
        until(lambda: sql(WAITING) == [(1,)])
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        sql("COMMIT")
        assert change.result()[0] == 200
        assert server.process.wait(timeout=60) == 0
    assert client.get(f"{PROJECTS}/{project['id']}").json["name"] == "finished"


def test_a_killed_worker_is_replaced(serve):
    with serve(WEB_CONCURRENCY="1") as server:
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGKILL)
        server.wait_until_serving()
        assert children(server.process.pid) != [worker]
        assert server.request("GET", PROJECTS)[0] == 200


SLOW_FORK = """
import time
exec(open("gunicorn.conf.py").read())
fork = post_fork
def post_fork(server, worker):
    fork(server, worker)
    time.sleep(1)
"""


def press_ctrl_c(server) -> None:
    """All ends, long before a graceful stop would have to."""
    os.killpg(server.process.pid, signal.SIGINT)
    server.process.wait(timeout=30)


@pytest.mark.parametrize("delay", [0, 0.1, 0.3, 0.5, 0.7])
def test_a_ctrl_c_while_workers_boot_ends_them_at_once(serve, delay):
    with serve(wait=False, WEB_CONCURRENCY="4") as server:
        while "Booting worker" not in server.log.read_text():
            time.sleep(0.01)
        time.sleep(delay)
        press_ctrl_c(server)


def test_a_ctrl_c_before_a_worker_has_its_handlers_is_not_missed(serve, tmp_path):
    (tmp_path / "conf.py").write_text(SLOW_FORK)
    with serve("-c", str(tmp_path / "conf.py"), wait=False, WEB_CONCURRENCY="1") as server:
        while "Booting worker" not in server.log.read_text():
            time.sleep(0.01)
        time.sleep(0.3)
        press_ctrl_c(server)


def test_a_ctrl_c_waits_for_no_running_request(serve, sql):
    ladder = {"LOCK": "60", "STATEMENT": "70", "IDLE": "80"}
    environ = {f"DATABASE_{name}_TIMEOUT": value for name, value in ladder.items()}
    environ |= {"REQUEST_TIMEOUT": "90", "GRACEFUL_TIMEOUT": "100"}
    sql("BEGIN")
    sql("LOCK TABLE projects IN EXCLUSIVE MODE")
    with (
        serve(**environ) as server,
        ThreadPoolExecutor(8) as pool,
    ):

        def create(_: int) -> None:
            with suppress(OSError, HTTPException):
                server.request("POST", PROJECTS, {"name": "x"})

        asked = pool.map(create, range(8))
        until(lambda: sql(WAITING) != [(0,)])
        time.sleep(0.5)
        press_ctrl_c(server)
        list(asked)
    sql("ROLLBACK")


def test_a_ctrl_c_is_the_masters_to_pass_on(serve):
    with serve() as server:
        workers = children(server.process.pid)
        for worker in workers:
            os.kill(worker, signal.SIGINT)
        time.sleep(0.3)
        assert children(server.process.pid) == workers


def test_a_stop_says_so_first_and_serves_on_meanwhile(serve):
    with serve(DRAIN_TIMEOUT="120", GRACEFUL_TIMEOUT="150") as server:
        server.process.send_signal(signal.SIGTERM)
        # Of the two workers any may answer.
        until(lambda: {server.request("GET", "/ready")[0] for _ in range(20)} == {503})
        for _ in range(20):
            assert server.request("GET", PROJECTS)[0] == 200
        status, headers, body = server.request("GET", "/ready")
        assert (status, headers["retry-after"]) == (503, "5")
        assert body["detail"] == "This server is stopping."
        assert server.stop() == 0


def test_a_stop_that_says_so_first_ends_by_itself(serve):
    with serve(DRAIN_TIMEOUT="2") as server:
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started > 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_says_so_first_can_be_hastened(serve, how):
    with serve(DRAIN_TIMEOUT="120", GRACEFUL_TIMEOUT="150") as server:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.request("GET", "/ready")[0] == 503)
        assert server.stop(how) == 0  # within 30 seconds


def test_a_stop_waits_neither_for_idle_clients_nor_for_half_requests(serve):
    with serve() as server, ExitStack() as links:
        for begun in (b"", b"GET / HTTP", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
            link = socket.create_connection(("127.0.0.1", server.port))
            links.enter_context(link).sendall(begun)
        time.sleep(0.3)
        assert server.stop() == 0  # within 30 seconds, before READ_TIMEOUT and GRACEFUL_TIMEOUT


def test_whom_the_kernel_let_in_is_served_before_the_listener_closes(serve):
    with serve(WEB_CONCURRENCY="1") as server, ExitStack() as links:
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGSTOP)
        until(lambda: "State:\tT" in status_of(worker))
        waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for link in waiting:
            links.enter_context(link).sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: is_pending(signal.SIGTERM, worker))
        os.kill(worker, signal.SIGCONT)
        answers = [link.recv(65536) for link in waiting]
        assert all(b"200 OK" in answer and b"Connection: close" in answer for answer in answers)
        assert server.process.wait(timeout=60) == 0


def is_pending(number: int, pid: int) -> bool:
    """Whether the signal was sent to the process, which has not seen it yet."""
    signals = int(re.findall(r"ShdPnd:\t(\w+)", status_of(pid))[0], 16)
    return bool(signals >> (number - 1) & 1)


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_without_their_master_workers_start_nothing_after_four_seconds(serve, sql):
    """Those who are kept, those who come, and those who wait for a thread."""
    sql("BEGIN")
    sql("LOCK TABLE projects IN EXCLUSIVE MODE")  # a create takes four seconds, and is a 503
    ladder = {"LOCK": "4", "STATEMENT": "5", "IDLE": "6", "POOL": "9"}
    environ = {f"DATABASE_{name}_TIMEOUT": value for name, value in ladder.items()}
    environ |= {"WEB_CONCURRENCY": "1", "DATABASE_POOL_SIZE": "1", "REQUEST_TIMEOUT": "12"}
    with serve(**environ) as server, ThreadPoolExecutor(12) as pool:
        [worker] = children(server.process.pid)

        stop = threading.Event()

        def create(_: int) -> None:
            with suppress(OSError, HTTPException):
                while not stop.is_set():
                    server.request("POST", PROJECTS, {"name": "x"})

        asked = pool.map(create, range(12))
        try:
            until(lambda: begun(server) > 0)
            before = begun(server)
            server.process.kill()
            until(lambda: not Path(f"/proc/{worker}").exists())
        finally:
            stop.set()
        list(asked)
    sql("ROLLBACK")
    # Of the two threads each was at work, and began once more at most: another 4 seconds later all
    # is over. Ten clients had been waiting.
    assert 1 <= begun(server) - before <= 4


def begun(server) -> int:
    """How many creates a thread has worked on for a second or more, and ended."""
    return len(re.findall(r" POST .* 503 [1-9]\d{3,}\.\d ms", server.log.read_text()))


class Load:
    """Clients that ask without a pause: half of them keep their connection."""

    def __init__(self, server) -> None:
        self.server, self.failed, self.gap, self.answered = server, [], 0.0, 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n % 2,)) for n in range(8)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, keep: int) -> None:
        client = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        headers = {} if keep else {"Connection": "close"}
        while not self._stop.is_set():
            if client.sock and select([client.sock], [], [], 0)[0]:
                client.close()  # as the server did, while this one had no time to ask
            started = time.monotonic()
            path = "/ready" if self.answered % 2 else f"{PROJECTS}?page_size=1"
            try:
                client.request("GET", path, headers=headers)
                answer = client.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failed.append(answer.status)
            except (OSError, HTTPException) as error:
                self.failed.append(error)
                client.close()
            self.answered += 1
            self.gap = max(self.gap, time.monotonic() - started)
        client.close()


def upgrade(master: int, log: Path, workers: int = 2) -> int:
    """What docs/operations.md says; returns the new master's pid."""
    os.kill(master, signal.SIGUSR2)
    end = time.monotonic() + 90
    while log.read_text().count("Worker ready") < 2 * workers:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    [new] = [pid for pid in children(master) if len(children(pid)) == workers]
    os.kill(master, signal.SIGTERM)
    return new


def end(pid: int) -> None:
    os.kill(pid, signal.SIGINT)
    limit = time.monotonic() + 60
    while (
        Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    ):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_an_upgrade_loses_no_request(serve, client, make_project):
    make_project()
    with serve(DRAIN_TIMEOUT="5") as server, Load(server) as load:
        until(lambda: load.answered > 300)
        usual = load.gap
        new = upgrade(server.process.pid, server.log)
        try:
            assert server.process.wait(timeout=60) == 0
            before = load.answered
            until(lambda: load.answered > before + 300)
            assert server.request("GET", "/ready")[0] == 200
        finally:
            load.__exit__()
            end(new)
    assert load.failed == []
    assert load.gap < 2 + 20 * usual  # while there are twice as many processes


# What follows is what a newcomer does: make run in a clone, at a path with a space.


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = tmp_path_factory.mktemp("new comer") / "project app"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=config.ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(lambda name: name and (config.ROOT / name).exists(), listed.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(config.ROOT / name, clone / name)
    (clone / ".venv").symlink_to(config.ROOT / ".venv")
    return clone


@pytest.fixture
def make_run(clone):
    """`make run` in the clone, in a process group of its own; returns it and its address."""
    started = []

    def run():
        port = free_port()
        environ = {"PATH": os.environ["PATH"], "PORT": str(port), "HOME": "/nonexistent"}
        environ["LOG_LEVEL"] = "debug"  # else development does not say when a worker is ready
        log = (clone.parent / "log").open("wb")
        process = subprocess.Popen(
            ["make", "run"], cwd=clone, env=environ, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        started.append(process)
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while curl(f"{url}/ready").returncode:
            assert time.monotonic() < end, (clone.parent / "log").read_text()
            time.sleep(0.05)
        return process, url

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["curl", "-sf", *arguments], capture_output=True, text=True)


def create(url: str) -> str:
    body = '{"name": "kept"}'
    done = curl(f"{url}{PROJECTS}", "-H", "Content-Type: application/json", "-d", body)
    return re.findall(r'"id" ?: ?"([^"]+)"', done.stdout)[0]


def test_a_reload_keeps_the_database_and_the_stop_after_it_ends_it(clone, make_run):
    process, url = make_run()
    kept = create(url)
    [master] = children(process.pid)
    supervisor = {pid for pid in pids_with(clone) if pid in children(master)}
    before = set(children(master)) - supervisor
    os.kill(master, signal.SIGHUP)
    end = time.monotonic() + 60
    while before & set(children(master)) or curl(f"{url}{PROJECTS}/{kept}").returncode:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.terminate()
    process.wait(timeout=60)
    assert pids_with(clone) == []


def test_an_upgrade_keeps_the_database_too(clone, make_run):
    process, url = make_run()
    kept = create(url)
    [master] = children(process.pid)
    new = upgrade(master, clone.parent / "log")
    process.wait(timeout=60)
    assert curl(f"{url}{PROJECTS}/{kept}").returncode == 0
    end(new)
    assert pids_with(clone) == []


@pytest.mark.parametrize(
    "stop",
    [
        lambda process: process.terminate(),
        lambda process: os.killpg(process.pid, signal.SIGINT),  # Ctrl-C
    ],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_make_run_serves_and_leaves_nothing_running(clone, make_run, stop):
    process, url = make_run()
    kept = create(url)
    assert '"durable": true' in curl(f"{url}/ready").stdout.replace('":true', '": true')
    log = (clone.parent / "log").read_text()
    [home] = (clone / "instance" / "postgres").iterdir()
    assert url in log
    assert str(home) in log
    stop(process)
    process.wait(timeout=60)  # a checkpoint waits for whatever else the disk has to do
    assert is_unlocked(home / "server.lock")
    assert pids_with(clone) == []
    process, url = make_run()
    assert curl(f"{url}{PROJECTS}/{kept}").returncode == 0
    process.terminate()
    process.wait(timeout=60)


def test_what_was_acknowledged_survives_a_kill_of_every_process(clone, make_run):
    process, url = make_run()
    kept = [create(url) for _ in range(20)]
    os.killpg(process.pid, signal.SIGKILL)
    for pid in pids_with(clone):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    process, url = make_run()
    assert [curl(f"{url}{PROJECTS}/{one}").returncode for one in kept] == [0] * 20
    process.terminate()
    process.wait(timeout=60)


def test_make_run_with_a_database_url_starts_no_database(clone, database_url, app):
    shutil.rmtree(clone / "instance" / "postgres", ignore_errors=True)
    port = free_port()
    process = subprocess.Popen(
        ["make", "run"],
        cwd=clone,
        env={"PATH": os.environ["PATH"], "PORT": str(port), "DATABASE_URL": database_url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while curl(f"http://127.0.0.1:{port}/ready").returncode:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert not (clone / "instance" / "postgres").exists()
