"""The PostgreSQL of development runs while it is used, and recovers when a process is killed."""

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
from projectapp.devdb import DevPostgres, DevPostgresError, find_binaries, postgres, supervisor
from projectapp.devdb.supervisor import is_unlocked

pytestmark = pytest.mark.slow

USER_SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from projectapp import devdb
devdb.DevPostgres(Path(sys.argv[2])).start()
print("started", flush=True)
time.sleep(600)
"""

APPLICATION_SCRIPT = """
import sys
from pathlib import Path
import config
from projectapp import create_app
config.Testing.EMBEDDED_POSTGRES_DIR = Path(sys.argv[1])
client = create_app(config.Testing({})).test_client()
for path in ("/health", "/ready"):  # /ready queries the database, which is not migrated
    print(client.get(path).status_code, len(list(Path(sys.argv[1]).iterdir())))
"""


@pytest.fixture
def home(tmp_path):
    return tmp_path / 'it\'s a "home"'


@pytest.fixture
def start_user(home):
    """Start processes that use the server; they are killed at the end."""
    processes = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", USER_SCRIPT, str(config.ROOT), str(home)],
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
    assert wait_until_unlocked(DevPostgres(home), "server.lock", "keeper.lock")


def wait_until_unlocked(server, *locks):
    """Return whether all these locks are free within a minute."""
    supervisor.wait_until(lambda: are_unlocked(server, *locks), 60)
    return are_unlocked(server, *locks)


def are_unlocked(server, *locks):
    return all(is_unlocked(server.home / lock) for lock in locks)


def query(server, statement="SELECT 1"):
    connection = psycopg2.connect(**server.parameters)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else None
    connection.close()
    return rows


def pids_with(folder, word=b""):
    """The pids of the processes whose command line contains `folder` and `word`."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has just ended
            command_line = path.read_bytes()
            if os.fsencode(folder) in command_line and word in command_line:
                pids.append(int(path.parent.name))
    return pids


def kill(*pids):
    """Kill the processes, and wait until they have ended."""
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


def test_one_server_is_shared_by_all_users_and_stops_after_the_last(home, start_user):
    users = [start_user() for _ in range(3)]
    assert [process.stdout.readline() for process in users] == [b"started\n"] * 3
    server = DevPostgres(home)
    server.start()
    # A child that was just forked has the postmaster's command line for a moment.
    supervisor.wait_until(lambda: len(pids_with(server.home, b"-D")) == 1, 60)
    assert len(pids_with(server.home, b"-D")) == 1
    for process in users:
        process.kill()
        process.wait()
    time.sleep(0.5)
    assert query(server) == [(1,)]
    server.release()
    assert is_unlocked(server.home / "server.lock")
    with pytest.raises(psycopg2.OperationalError):
        query(server)


def test_release_returns_at_once_while_another_process_uses_the_server(home, start_user):
    other = start_user()
    other.stdout.readline()
    server = DevPostgres(home)
    server.start()
    started = time.monotonic()
    server.release()
    assert time.monotonic() - started < supervisor.STOP_SECONDS / 2
    assert query(server) == [(1,)]
    server.release()


def test_data_survives_kill_9_of_all_processes(home, start_user):
    first = start_user()
    first.stdout.readline()
    server = DevPostgres(home)
    query(server, "CREATE TABLE numbers AS SELECT 42 AS n")
    kill(*pids_with(server.home, b"supervisor.py"), *pids_with(server.home, b"-D"), first.pid)
    server.start()
    assert query(server, "SELECT n FROM numbers") == [(42,)]
    server.release()


def test_new_supervisor_takes_over_and_stops_the_server_of_a_killed_one(home):
    server = DevPostgres(home)
    server.start()
    # Not from the command lines, as children have the postmaster's for a moment.
    pid_before, *_ = (server.home / "data" / "postmaster.pid").read_text().split()
    kill(*pids_with(server.home, b"supervisor.py"))
    assert wait_until_unlocked(server, "keeper.lock")
    server.start()
    pid_after, *_ = (server.home / "data" / "postmaster.pid").read_text().split()
    assert pid_after == pid_before
    server.release()
    assert is_unlocked(server.home / "server.lock")


def test_release_stops_the_server_of_a_killed_supervisor(home):
    server = DevPostgres(home)
    server.start()
    kill(*pids_with(server.home, b"supervisor.py"))
    assert wait_until_unlocked(server, "keeper.lock")
    server.release()
    assert is_unlocked(server.home / "server.lock")


def test_start_after_kill_9_of_the_server_starts_it_again(home):
    server = DevPostgres(home)
    server.start()
    kill(*pids_with(server.home, b"-D"))
    assert wait_until_unlocked(server, "server.lock", "keeper.lock")
    server.start()
    assert query(server) == [(1,)]
    server.release()


def test_stale_pid_file_with_pid_of_another_program_does_not_stop_that_program(home):
    server = DevPostgres(home)
    server.start()
    server.release()
    other_program = subprocess.Popen(["sleep", "600"])
    try:
        pid_file = server.home / "data" / "postmaster.pid"
        pid_file.write_text(f"{other_program.pid}\n{server.home / 'data'}\n\n\n\n\n\nready\n")
        server.start()
        assert query(server) == [(1,)]
        server.release()
        assert other_program.poll() is None
    finally:
        other_program.kill()
        other_program.wait()


def test_incomplete_data_folder_is_created_again(home):
    server = DevPostgres(home)
    (server.home / "data.new").mkdir(parents=True)
    (server.home / "data.new" / "PG_VERSION").write_text("18")
    server.start()
    assert query(server) == [(1,)]
    server.release()


@pytest.mark.parametrize("name", ["long" * 30, "with,comma"])
def test_folder_name_that_libpq_cannot_use_gets_another_socket_folder(tmp_path, name):
    server = DevPostgres(tmp_path / name)
    server.start()
    assert len(server.parameters["host"]) < 100
    assert query(server) == [(1,)]
    server.release()


def test_temporary_data_is_not_synced_and_is_deleted_after_the_stop(home):
    server = DevPostgres(home, temporary=True)
    server.start()
    assert query(server, "SHOW fsync") == [("off",)]
    server.release()
    assert not (server.home / "data").exists()


def test_default_server_is_durable_utf8_and_not_on_the_network(home):
    server = DevPostgres(home)
    server.start()
    for name in ("fsync", "synchronous_commit"):
        assert query(server, f"SHOW {name}") == [("on",)]
    assert query(server, "SHOW listen_addresses") == [("",)]
    assert query(server, "SELECT lower('ÄΣ'), current_setting('server_encoding')") == [
        ("äσ", "UTF8")
    ]
    assert (server.home.stat().st_mode & 0o777) == 0o700
    server.release()


def test_start_with_data_of_another_version_raises_error_with_the_reason(home):
    server = DevPostgres(home)
    server.start()
    server.release()
    (server.home / "data" / "PG_VERSION").write_text("9")
    with pytest.raises(DevPostgresError, match="version"):
        server.start()
    server.release()


def test_configured_folder_comes_first_and_must_contain_postgres(tmp_path):
    with pytest.raises(DevPostgresError, match="EMBEDDED_POSTGRES_BIN"):
        find_binaries(tmp_path)
    for name in ("postgres", "initdb"):
        (tmp_path / name).touch()
    assert find_binaries(tmp_path) == tmp_path


def test_postgres_that_does_not_run_raises_error(tmp_path):
    for name in ("postgres", "initdb"):
        (tmp_path / name).touch()
    with pytest.raises(DevPostgresError, match="does not run"):
        DevPostgres(tmp_path, tmp_path)


def test_without_postgres_the_error_names_both_remedies(monkeypatch):
    monkeypatch.setattr(postgres.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(postgres.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(postgres.shutil, "which", lambda name: None)
    with pytest.raises(DevPostgresError, match=r"DATABASE_URL.*pip install"):
        find_binaries()


def test_application_starts_the_server_at_the_first_statement(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION_SCRIPT, str(tmp_path)],
        cwd=config.ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["200", "0", "503", "1"], done.stderr


def test_folder_that_cannot_be_created_raises_error_with_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DevPostgresError, match=r"cannot be created: Not a directory\. .* DATABASE_URL"
    ):
        DevPostgres(tmp_path / "file" / "postgres").start()


def test_full_disk_raises_error_with_remedy(tmp_path):
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
