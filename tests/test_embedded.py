"""The embedded PostgreSQL lives as long as it is used, and survives what may happen to it."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psycopg2
import pytest

import config
from projectapp import devdb
from projectapp.devdb import DevPostgres, DevPostgresError, find_binaries

pytestmark = pytest.mark.slow

USER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from projectapp import devdb
devdb.DevPostgres(Path(sys.argv[2])).start()
print("started", flush=True)
time.sleep(600)
"""

APPLICATION = """
import sys
from pathlib import Path
import config
from projectapp import create_app
config.Testing.EMBEDDED_POSTGRES_DIR = Path(sys.argv[1])
client = create_app(config.Testing({})).test_client()
for path in ("/health", "/ready"):  # the second is not migrated
    print(client.get(path).status_code, len(list(Path(sys.argv[1]).iterdir())))
"""


@pytest.fixture
def home(tmp_path):
    return tmp_path / 'it\'s a "home"'


@pytest.fixture
def user(home):
    """Start processes that use the server; they are killed at the end."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", USER, str(config.ROOT), str(home)],
            stdout=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
    assert wait_until_free(DevPostgres(home), "server.lock", "keeper.lock")


def wait_until_free(server, *locks):
    end = time.monotonic() + 60
    while not all(is_free(server.home / lock) for lock in locks):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_free(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def ask(server, statement="SELECT 1"):
    connection = psycopg2.connect(**server.parameters)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
        found = cursor.fetchall() if cursor.description else None
    connection.close()
    return found


def pids_naming(folder, word=b""):
    """The pids of the processes whose command line has `folder` and `word`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            line = path.read_bytes()
            if os.fsencode(folder) in line and word in line:
                found.append(int(path.parent.name))
    return found


def kill(*pids):
    """Kill for good: a signal is sent before it is obeyed."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        while is_alive(pid):
            time.sleep(0.01)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_server_serves_all_and_stops_with_the_last(home, user):
    users = [user() for _ in range(3)]
    assert [process.stdout.readline() for process in users] == [b"started\n"] * 3
    server = DevPostgres(home)
    server.start()
    # A child that was just forked has its command line for a moment, too.
    devdb.keeper.wait(lambda: len(pids_naming(server.home, b"-D")) == 1, 60)
    assert len(pids_naming(server.home, b"-D")) == 1
    for process in users:
        process.kill()
        process.wait()
    time.sleep(0.5)
    assert ask(server) == [(1,)]
    server.release()
    assert is_free(server.home / "server.lock")
    with pytest.raises(psycopg2.OperationalError):
        ask(server)


def test_release_returns_at_once_while_others_use_it(home, user):
    other = user()
    other.stdout.readline()
    server = DevPostgres(home)
    server.start()
    started = time.monotonic()
    server.release()
    assert time.monotonic() - started < devdb.STOP_SECONDS / 2
    assert ask(server) == [(1,)]
    server.release()


def test_data_survives_a_kill_of_everything(home, user):
    first = user()
    first.stdout.readline()
    server = DevPostgres(home)
    ask(server, "CREATE TABLE kept AS SELECT 42 AS n")
    kill(*pids_naming(server.home, b"keeper.py"), *pids_naming(server.home, b"-D"), first.pid)
    server.start()
    assert ask(server, "SELECT n FROM kept") == [(42,)]
    server.release()


def test_a_server_whose_keeper_was_killed_is_adopted_and_stopped(home):
    server = DevPostgres(home)
    server.start()
    # Not by its command line, which its children have for a moment, too.
    before, *_ = (server.home / "data" / "postmaster.pid").read_text().split()
    kill(*pids_naming(server.home, b"keeper.py"))
    assert wait_until_free(server, "keeper.lock")
    server.start()
    after, *_ = (server.home / "data" / "postmaster.pid").read_text().split()
    assert after == before
    server.release()
    assert is_free(server.home / "server.lock")


def test_release_stops_a_server_whose_keeper_was_killed(home):
    server = DevPostgres(home)
    server.start()
    kill(*pids_naming(server.home, b"keeper.py"))
    assert wait_until_free(server, "keeper.lock")
    server.release()
    assert is_free(server.home / "server.lock")


def test_a_killed_server_is_started_again(home):
    server = DevPostgres(home)
    server.start()
    kill(*pids_naming(server.home, b"-D"))
    assert wait_until_free(server, "server.lock", "keeper.lock")
    server.start()
    assert ask(server) == [(1,)]
    server.release()


def test_a_strangers_pid_in_a_stale_file_is_left_alone(home):
    server = DevPostgres(home)
    server.start()
    server.release()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        pid_file = server.home / "data" / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n{server.home / 'data'}\n\n\n\n\n\nready\n")
        server.start()
        assert ask(server) == [(1,)]
        server.release()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_half_made_cluster_is_made_again(home):
    server = DevPostgres(home)
    (server.home / "data.new").mkdir(parents=True)
    (server.home / "data.new" / "PG_VERSION").write_text("18")
    server.start()
    assert ask(server) == [(1,)]
    server.release()


@pytest.mark.parametrize("name", ["long" * 30, "with,comma"])
def test_a_path_that_no_socket_can_have_gets_another(tmp_path, name):
    server = DevPostgres(tmp_path / name)
    server.start()
    assert len(server.parameters["host"]) < 100
    assert ask(server) == [(1,)]
    server.release()


def test_a_throwaway_is_empty_each_time(home):
    server = DevPostgres(home, temporary=True)
    server.start()
    assert ask(server, "SHOW fsync") == [("off",)]
    server.release()
    assert not (server.home / "data").exists()


def test_the_default_is_durable_utf8_and_not_on_the_network(home):
    server = DevPostgres(home)
    server.start()
    shown = [ask(server, f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
    assert shown == [[("on",)], [("on",)]]
    assert ask(server, "SHOW listen_addresses") == [("",)]
    assert ask(server, "SELECT lower('ÄΣ'), current_setting('server_encoding')") == [("äσ", "UTF8")]
    assert (server.home.stat().st_mode & 0o777) == 0o700
    server.release()


def test_a_server_that_cannot_start_says_why(home):
    server = DevPostgres(home)
    server.start()
    server.release()
    (server.home / "data" / "PG_VERSION").write_text("9")
    with pytest.raises(DevPostgresError, match="version"):
        server.start()
    server.release()


def test_pg_bin_comes_first_and_has_to_hold_a_server(tmp_path):
    with pytest.raises(DevPostgresError, match="EMBEDDED_POSTGRES_BIN"):
        find_binaries(tmp_path)
    for name in ("postgres", "initdb"):
        (tmp_path / name).touch()
    assert find_binaries(tmp_path) == tmp_path


def test_binaries_that_do_not_run_are_named(tmp_path):
    for name in ("postgres", "initdb"):
        (tmp_path / name).touch()
    with pytest.raises(DevPostgresError, match="does not run"):
        DevPostgres(tmp_path, tmp_path)


def test_without_any_binaries_both_ways_out_are_named(monkeypatch):
    monkeypatch.setattr(devdb.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(devdb.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(devdb.shutil, "which", lambda name: None)
    with pytest.raises(DevPostgresError, match=r"DATABASE_URL.*pip install"):
        find_binaries()


def test_the_application_starts_its_server_at_the_first_statement(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION, str(tmp_path)],
        cwd=config.ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["200", "0", "503", "1"], done.stderr


def test_a_folder_that_cannot_be_made_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DevPostgresError, match=r"needs a folder .*Not a directory.* DATABASE_URL"):
        DevPostgres(tmp_path / "file" / "postgres").start()


def test_a_full_disk_is_named_with_a_remedy(tmp_path):
    programs = {
        "postgres": "echo 'postgres (PostgreSQL) 18.0'",
        "initdb": "echo initdb: could not write: No space left on device >&2; exit 1",
    }
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    server = DevPostgres(tmp_path / "home", tmp_path)
    with pytest.raises(DevPostgresError, match=r"the disk is full\. Free 100 MB"):
        server.start()
    server.release()
