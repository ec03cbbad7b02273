"""gunicorn with gunicorn.conf.py: fork, stop, kill, upgrade, and `make run`."""

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
from faults.processes import free_port
from tests.conftest import PROJECTS
from tests.test_devdb import is_unlocked, pids_with

pytestmark = pytest.mark.slow

FORK_AFTER_A_REQUEST = """
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
statuses = {client.get("/api/v1/projects").status_code for _ in range(200)}
os.write(1, (" ".join(map(str, statuses)) + "\\n").encode())
for pid in children:
    os.waitpid(pid, 0)
"""


COUNT_WAITING_LOCKS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def until(is_true, seconds: float = 60) -> None:
    """Wait until a condition is true. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


def test_forked_processes_do_not_use_the_database_connection_of_their_parent(database_url, sql):
    completed = subprocess.run(
        [sys.executable, "-c", FORK_AFTER_A_REQUEST, database_url],
        cwd=config.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.stdout.split() == ["200"] * 3, completed.stderr


def test_request_that_runs_at_sigterm_gets_200(serve, client, make_project, sql):
    project = make_project()
    sql("BEGIN")
    sql("LOCK TABLE projects IN EXCLUSIVE MODE")
    with serve() as server, ThreadPoolExecutor(1) as pool:
        response = pool.submit(
            server.request, "PUT", f"{PROJECTS}/{project['id']}", {"name": "finished"}
        )
        until(lambda: sql(COUNT_WAITING_LOCKS) == [(1,)])
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        sql("COMMIT")
        assert response.result()[0] == 200
        assert server.process.wait(timeout=60) == 0
    assert client.get(f"{PROJECTS}/{project['id']}").json["name"] == "finished"


def test_killed_worker_is_replaced(serve):
    with serve(WEB_CONCURRENCY="1") as server:
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGKILL)
        server.wait_until_serving()
        assert children(server.process.pid) != [worker]
        assert server.request("GET", PROJECTS)[0] == 200


SLOW_POST_FORK = """
import time
exec(open("gunicorn.conf.py").read())
original_post_fork = post_fork
def post_fork(server, worker):
    original_post_fork(server, worker)
    time.sleep(1)
"""


def press_ctrl_c(server) -> None:
    """Send SIGINT to all processes, as Ctrl-C does. The server must not use GRACEFUL_TIMEOUT."""
    os.killpg(server.process.pid, signal.SIGINT)
    server.process.wait(timeout=30)


@pytest.mark.parametrize("delay", [0, 0.1, 0.3, 0.5, 0.7])
def test_ctrl_c_while_workers_boot_ends_the_server(serve, delay):
    with serve(wait=False, WEB_CONCURRENCY="4") as server:
        while "Booting worker" not in server.log.read_text():
            time.sleep(0.01)
        time.sleep(delay)
        press_ctrl_c(server)


def test_ctrl_c_before_a_worker_has_signal_handlers_ends_the_server(serve, tmp_path):
    (tmp_path / "conf.py").write_text(SLOW_POST_FORK)
    with serve("-c", str(tmp_path / "conf.py"), wait=False, WEB_CONCURRENCY="1") as server:
        while "Booting worker" not in server.log.read_text():
            time.sleep(0.01)
        time.sleep(0.3)
        press_ctrl_c(server)


def test_ctrl_c_does_not_wait_for_running_requests(serve, sql):
    timeouts = {"LOCK": "60", "STATEMENT": "70", "IDLE_IN_TRANSACTION": "80"}
    environ = {f"DATABASE_{name}_TIMEOUT": value for name, value in timeouts.items()}
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

        requests = pool.map(create, range(8))
        until(lambda: sql(COUNT_WAITING_LOCKS) != [(0,)])
        time.sleep(0.5)
        press_ctrl_c(server)
        list(requests)  # waits for them
    sql("ROLLBACK")


def test_sigint_to_a_worker_is_ignored(serve):
    with serve() as server:
        workers = children(server.process.pid)
        for worker in workers:
            os.kill(worker, signal.SIGINT)
        time.sleep(0.3)
        assert children(server.process.pid) == workers


def test_sigterm_with_drain_timeout_makes_ready_503_while_requests_get_200(serve):
    with serve(DRAIN_TIMEOUT="120", GRACEFUL_TIMEOUT="150") as server:
        server.process.send_signal(signal.SIGTERM)
        # Each of the two workers may answer, so several requests are needed to see both.
        until(lambda: {server.request("GET", "/ready")[0] for _ in range(20)} == {503})
        for _ in range(20):
            assert server.request("GET", PROJECTS)[0] == 200
        status, headers, body = server.request("GET", "/ready")
        assert (status, headers["retry-after"]) == (503, "5")
        assert body["detail"] == "This server is stopping."
        assert server.stop() == 0


def test_server_ends_after_drain_timeout(serve):
    with serve(DRAIN_TIMEOUT="2") as server:
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started > 2


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_drain(serve, signal_number):
    with serve(DRAIN_TIMEOUT="120", GRACEFUL_TIMEOUT="150") as server:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.request("GET", "/ready")[0] == 503)
        assert server.stop(signal_number) == 0  # within 30 seconds


def test_sigterm_does_not_wait_for_idle_clients_or_half_requests(serve):
    with serve() as server, ExitStack() as stack:
        for sent in (b"", b"GET / HTTP", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
            connection = socket.create_connection(("127.0.0.1", server.port))
            stack.enter_context(connection).sendall(sent)
        time.sleep(0.3)
        assert server.stop() == 0  # within 30 seconds, before READ_TIMEOUT and GRACEFUL_TIMEOUT


def test_clients_in_the_backlog_at_sigterm_get_200(serve):
    with serve(WEB_CONCURRENCY="1") as server, ExitStack() as stack:
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGSTOP)
        until(lambda: "State:\tT" in status_of(worker))
        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for connection in connections:
            stack.enter_context(connection).sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: is_pending(signal.SIGTERM, worker))
        os.kill(worker, signal.SIGCONT)
        for connection in connections:
            response = connection.recv(65536)
            assert b"200 OK" in response
            assert b"Connection: close" in response
        assert server.process.wait(timeout=60) == 0


def is_pending(number: int, pid: int) -> bool:
    """Return whether the process has not handled the signal yet."""
    pending_signals = int(re.findall(r"ShdPnd:\t(\w+)", status_of(pid))[0], 16)
    return bool(pending_signals >> (number - 1) & 1)


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_worker_without_its_master_soon_starts_no_more_requests(serve, sql):
    """This includes requests on kept connections, on new connections, and in the queue."""
    sql("BEGIN")
    sql("LOCK TABLE projects IN EXCLUSIVE MODE")  # so each POST gets a 503 after four seconds
    timeouts = {"LOCK": "4", "STATEMENT": "5", "IDLE_IN_TRANSACTION": "6", "POOL": "9"}
    environ = {f"DATABASE_{name}_TIMEOUT": value for name, value in timeouts.items()}
    environ |= {"WEB_CONCURRENCY": "1", "DATABASE_POOL_SIZE": "1", "REQUEST_TIMEOUT": "12"}
    with serve(**environ) as server, ThreadPoolExecutor(12) as pool:
        [worker] = children(server.process.pid)

        stop = threading.Event()

        def create(_: int) -> None:
            with suppress(OSError, HTTPException):
                while not stop.is_set():
                    server.request("POST", PROJECTS, {"name": "x"})

        requests = pool.map(create, range(12))
        try:
            until(lambda: count_slow_creates(server) > 0)
            count_before = count_slow_creates(server)
            server.process.kill()
            until(lambda: not Path(f"/proc/{worker}").exists())
        finally:
            stop.set()
        list(requests)  # waits for them
    sql("ROLLBACK")
    # Each of the two threads finishes its request and may start one more. The other ten clients,
    # whose requests are in the queue, get no response.
    assert 1 <= count_slow_creates(server) - count_before <= 4


def count_slow_creates(server) -> int:
    """Return how many POSTs were in a thread for a second or more and have ended."""
    return len(re.findall(r" POST .* 503 [1-9]\d{3,}\.\d ms", server.log.read_text()))


class Load:
    """Eight clients that send requests without a pause. Four of them keep their connection."""

    def __init__(self, server) -> None:
        self.server = server
        self.failures, self.response_count, self.max_seconds = [], 0, 0.0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._send_requests, args=(n % 2 == 0,)) for n in range(8)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send_requests(self, keep_alive: bool) -> None:
        client = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        headers = {} if keep_alive else {"Connection": "close"}
        while not self._stop.is_set():
            if client.sock and select([client.sock], [], [], 0)[0]:
                client.close()  # the server has closed the connection between two requests
            started = time.monotonic()
            path = "/ready" if self.response_count % 2 else f"{PROJECTS}?page_size=1"
            try:
                client.request("GET", path, headers=headers)
                response = client.getresponse()
                response.read()
                if response.status != 200:
                    self.failures.append(response.status)
            except (OSError, HTTPException) as error:
                self.failures.append(error)
                client.close()
            self.response_count += 1
            self.max_seconds = max(self.max_seconds, time.monotonic() - started)
        client.close()


def upgrade(master: int, log: Path, workers: int = 2) -> int:
    """Upgrade as docs/operations.md describes it. Return the new master's pid."""
    os.kill(master, signal.SIGUSR2)
    deadline = time.monotonic() + 90
    while log.read_text().count("Worker ready") < 2 * workers:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    [new_master] = [pid for pid in children(master) if len(children(pid)) == workers]
    os.kill(master, signal.SIGTERM)
    return new_master


def end(pid: int) -> None:
    """End a master that is not our child, and wait for its end."""
    os.kill(pid, signal.SIGINT)
    until(lambda: has_ended(pid))


def has_ended(pid: int) -> bool:
    try:
        return "State:\tZ" in status_of(pid)
    except OSError:
        return True


def test_no_request_fails_during_an_upgrade(serve, client, make_project):
    make_project()
    with serve(DRAIN_TIMEOUT="5") as server, Load(server) as load:
        until(lambda: load.response_count > 300)
        max_seconds_before = load.max_seconds
        new_master = upgrade(server.process.pid, server.log)
        try:
            assert server.process.wait(timeout=60) == 0
            response_count = load.response_count
            until(lambda: load.response_count > response_count + 300)
            assert server.request("GET", "/ready")[0] == 200
        finally:
            load.__exit__()
            end(new_master)
    assert load.failures == []
    # Responses may be slower, because twice as many processes run during the upgrade.
    assert load.max_seconds < 2 + 20 * max_seconds_before


# The following tests do what a newcomer does: `make run` in a clone, at a path with a space.


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = tmp_path_factory.mktemp("new comer") / "project app"
    file_names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=config.ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(lambda name: name and (config.ROOT / name).exists(), file_names.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(config.ROOT / name, clone / name)
    (clone / ".venv").symlink_to(config.ROOT / ".venv")
    return clone


@pytest.fixture
def make_run(clone):
    """Start `make run` in the clone, in its own process group. Return the process and its URL."""
    processes = []

    def run():
        port = free_port()
        environ = {"PATH": os.environ["PATH"], "PORT": str(port), "HOME": "/nonexistent"}
        environ["LOG_LEVEL"] = "debug"  # so that development logs "Worker ready"
        log = (clone.parent / "log").open("wb")
        process = subprocess.Popen(
            ["make", "run"], cwd=clone, env=environ, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        processes.append(process)
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while curl(f"{url}/ready").returncode:
            assert time.monotonic() < deadline, (clone.parent / "log").read_text()
            time.sleep(0.05)
        return process, url

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["curl", "-sf", *arguments], capture_output=True, text=True)


def create(url: str) -> str:
    """Create a project. Return its id."""
    body = '{"name": "x"}'
    completed = curl(f"{url}{PROJECTS}", "-H", "Content-Type: application/json", "-d", body)
    return re.findall(r'"id" ?: ?"([^"]+)"', completed.stdout)[0]


def test_reload_loads_new_code_and_keeps_the_database_until_the_stop(clone, make_run):
    process, url = make_run()
    project_id = create(url)
    [master] = children(process.pid)
    supervisors = {pid for pid in pids_with(clone) if pid in children(master)}
    old_workers = set(children(master)) - supervisors
    module = clone / "projectapp" / "http" / "health.py"
    with module.open("a") as file:
        file.write('print("new code is loaded", flush=True)\n')
    os.kill(master, signal.SIGHUP)
    until(lambda: not old_workers & set(children(master)))
    until(lambda: curl(f"{url}{PROJECTS}/{project_id}").returncode == 0)
    process.terminate()
    process.wait(timeout=60)
    assert "new code is loaded" in (clone.parent / "log").read_text()
    assert pids_with(clone) == []


def test_upgrade_keeps_the_database_until_the_stop(clone, make_run):
    process, url = make_run()
    project_id = create(url)
    [master] = children(process.pid)
    new_master = upgrade(master, clone.parent / "log")
    process.wait(timeout=60)
    assert curl(f"{url}{PROJECTS}/{project_id}").returncode == 0
    end(new_master)
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
    project_id = create(url)
    assert '"durable": true' in curl(f"{url}/ready").stdout.replace('":true', '": true')
    log = (clone.parent / "log").read_text()
    [home] = (clone / "instance" / "postgres").iterdir()
    assert url in log
    assert str(home) in log
    stop(process)
    process.wait(timeout=60)  # the last checkpoint may wait for a busy disk
    assert is_unlocked(home / "server.lock")
    assert pids_with(clone) == []
    process, url = make_run()
    assert curl(f"{url}{PROJECTS}/{project_id}").returncode == 0
    process.terminate()
    process.wait(timeout=60)


def test_created_projects_survive_a_kill_of_every_process(clone, make_run):
    process, url = make_run()
    project_ids = [create(url) for _ in range(20)]
    os.killpg(process.pid, signal.SIGKILL)
    for pid in pids_with(clone):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    process, url = make_run()
    assert [curl(f"{url}{PROJECTS}/{id_}").returncode for id_ in project_ids] == [0] * 20
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
        until(lambda: curl(f"http://127.0.0.1:{port}/ready").returncode == 0, 120)
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert not (clone / "instance" / "postgres").exists()
