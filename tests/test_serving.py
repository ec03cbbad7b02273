"""Under gunicorn, with gunicorn.conf.py: start, stop, kill, and the two commands."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

import config
from tests.conftest import PROJECTS
from tests.test_embedded import is_free, pids_naming
from tests.wire import free_port

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
        timeout=60,
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
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while sql(waiting) == [(0,)]:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        sql("COMMIT")
        assert change.result()[0] == 200
        assert server.process.wait(timeout=20) == 0
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


def press_ctrl_c(server) -> float:
    """Seconds until all has ended."""
    started = time.monotonic()
    os.killpg(server.process.pid, signal.SIGINT)
    server.process.wait(timeout=60)
    return time.monotonic() - started


@pytest.mark.parametrize("delay", [0, 0.1, 0.3, 0.5, 0.7])
def test_a_ctrl_c_while_workers_boot_ends_them_at_once(serve, delay):
    with serve(wait=False, WEB_CONCURRENCY="4") as server:
        while "Booting worker" not in server.log.read_text():
            time.sleep(0.01)
        time.sleep(delay)
        assert press_ctrl_c(server) < 3


def test_a_ctrl_c_before_a_worker_has_its_handlers_is_not_missed(serve, tmp_path):
    (tmp_path / "conf.py").write_text(SLOW_FORK)
    with serve("-c", str(tmp_path / "conf.py"), wait=False, WEB_CONCURRENCY="1") as server:
        while "Booting worker" not in server.log.read_text():
            time.sleep(0.01)
        time.sleep(0.3)
        assert press_ctrl_c(server) < 5


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3])
def test_a_ctrl_c_while_workers_work_ends_them_at_once(serve, seconds):
    with serve() as server, ThreadPoolExecutor(8) as pool:
        end = time.monotonic() + 5

        def ask() -> None:
            with suppress(OSError, HTTPException):
                while time.monotonic() < end:
                    server.request("GET", "/health")

        for _ in range(8):
            pool.submit(ask)
        time.sleep(seconds)
        assert press_ctrl_c(server) < 3


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
        log = (clone.parent / "log").open("wb")
        process = subprocess.Popen(
            ["make", "run"], cwd=clone, env=environ, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        started.append(process)
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
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
    keeper = {pid for pid in pids_naming(clone) if pid in children(master)}
    before = set(children(master)) - keeper
    os.kill(master, signal.SIGHUP)
    end = time.monotonic() + 20
    while before & set(children(master)) or curl(f"{url}{PROJECTS}/{kept}").returncode:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.terminate()
    process.wait(timeout=60)
    assert pids_naming(clone) == []


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
    assert is_free(home / "server.lock")
    assert pids_naming(clone) == []
    process, url = make_run()
    assert curl(f"{url}{PROJECTS}/{kept}").returncode == 0
    process.terminate()
    process.wait(timeout=60)


def test_what_was_acknowledged_survives_a_kill_of_every_process(clone, make_run):
    process, url = make_run()
    kept = [create(url) for _ in range(20)]
    os.killpg(process.pid, signal.SIGKILL)
    for pid in pids_naming(clone):
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
        end = time.monotonic() + 30
        while curl(f"http://127.0.0.1:{port}/ready").returncode:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert not (clone / "instance" / "postgres").exists()
