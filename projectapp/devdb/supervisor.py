"""The supervisor: a small process that starts the server, and stops it after its last user.

Four files show who runs: each process holds a kernel lock (flock) on its file. The kernel releases
the lock when the process ends, even after ``kill -9``, whereas a pid file may be stale.

- ``users.lock``: held by each process that uses the server (shared; forked workers inherit it).
- ``server.lock``: held by PostgreSQL's processes, which inherit it.
- ``keeper.lock``: held by the supervisor. The file has its former name, because an older release
  may run in the same folder.
- ``start.lock``: held by a process that starts a supervisor.

If a supervisor is killed, the next one takes over its server.

This file is run as a script, so it imports only the standard library.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PORT = "5432"  # only a part of the socket's name: the server does not listen on TCP
STOP_SECONDS = 20
_START_SECONDS = 60  # a first start runs initdb, a start after a crash replays the WAL
_NOBODY = 65534  # the user id and group id of `nobody`


def supervise(home: Path, binaries: Path, socket_dir: Path, temporary: bool) -> None:
    """Run the server of `home` until its last user has ended.

    After the start, prints a line of JSON: null, or the reason of a failure.
    """
    own_lock = open_lock_file(home / "keeper.lock")
    fcntl.flock(own_lock, fcntl.LOCK_EX)
    try:
        pid = _find_running_server(home) or _start_server(home, binaries, socket_dir, temporary)
    except Exception as error:  # the process that reads this line reports it
        print(json.dumps(str(error) or repr(error)), flush=True)
        return
    print(json.dumps(None), flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    while not is_unlocked(home / "server.lock"):
        with lock_file(home / "users.lock") as users:
            if try_lock(users):
                _stop_server(home, pid)
                if temporary:
                    shutil.rmtree(home / "data", ignore_errors=True)
                # This must precede the release of users.lock, so that the next user starts a new
                # supervisor.
                os.close(own_lock)
                return
        time.sleep(0.1)


def _find_running_server(home: Path) -> int | None:
    """Return the pid of the postmaster that serves `home`, or None.

    If the postmaster was killed, first wait until its child processes have ended.
    """
    pid_file = home / "data" / "postmaster.pid"

    def is_settled() -> bool:
        return is_unlocked(home / "server.lock") or read_pid_file(pid_file)[1] == "ready"

    wait_until(is_settled, _START_SECONDS)
    if is_unlocked(home / "server.lock"):
        return None
    pid = read_pid_file(pid_file)[0]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        wait_until(lambda: is_unlocked(home / "server.lock"), STOP_SECONDS)
        return None
    return pid


def _start_server(home: Path, binaries: Path, socket_dir: Path, temporary: bool) -> int:
    """Start PostgreSQL, creating its data if needed, and return the postmaster's pid.

    Raises RuntimeError with the end of its log if it does not start.
    """
    data, pid_file = home / "data", home / "data" / "postmaster.pid"
    if temporary:
        shutil.rmtree(data, ignore_errors=True)
    if not data.exists():
        create_data(home, binaries)
    # server.lock is free, so these files are stale, even if a process has their pid.
    for stale in (pid_file, socket_dir / f".s.PGSQL.{PORT}.lock"):
        stale.unlink(missing_ok=True)
    quoted_dir = str(socket_dir).replace('"', '""')
    settings = [f"port={PORT}", "listen_addresses=", "max_connections=200"]
    settings += [f'unix_socket_directories="{quoted_dir}"', "unix_socket_permissions=0700"]
    if temporary:
        settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
    options = [part for setting in settings for part in ("-c", setting)]
    with (home / "postgres.log").open("wb") as log, lock_file(home / "server.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = subprocess.Popen(
            [*unprivileged_prefix(), str(binaries / "postgres"), "-D", str(data), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
        )

    def is_ready() -> bool:
        return read_pid_file(pid_file) == (server.pid, "ready")

    wait_until(lambda: is_ready() or server.poll() is not None, _START_SECONDS)
    if not is_ready():
        server.kill()
        log_lines = (home / "postgres.log").read_text(errors="replace").split("\n")
        raise RuntimeError(" ".join(log_lines[-4:]).strip())
    return server.pid


def _stop_server(home: Path, pid: int) -> None:
    """Request a fast shutdown and, if that takes too long, an immediate one."""
    os.kill(pid, signal.SIGINT)
    wait_until(lambda: is_unlocked(home / "server.lock"), STOP_SECONDS)
    if not is_unlocked(home / "server.lock"):
        os.kill(pid, signal.SIGQUIT)
    with suppress(ChildProcessError):  # a server that another supervisor started is not our child
        os.waitpid(pid, 0)


def create_data(home: Path, binaries: Path) -> None:
    """Run initdb for `home`/data; the name of `home` is PostgreSQL's major version."""
    new_data = home / "data.new"  # renamed when complete: a killed initdb leaves no `data`
    shutil.rmtree(new_data, ignore_errors=True)
    new_data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(new_data, _NOBODY, _NOBODY)
    if major_version(home.name) >= 17:
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    else:
        locale = ["--locale=C.UTF-8", "--lc-messages=C"]
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", *locale]
    initdb = subprocess.run(
        [*unprivileged_prefix(), str(binaries / "initdb"), "-D", str(new_data), *options],
        capture_output=True,
        text=True,
    )
    if initdb.returncode:
        if "No space left on device" in initdb.stderr:
            raise RuntimeError("the disk is full. Free 100 MB, and start again.")
        raise RuntimeError(initdb.stderr.strip()[-500:])
    new_data.rename(home / "data")


def unprivileged_prefix() -> list[str]:
    """Return what root must put in front of a command, because PostgreSQL refuses to run as root.

    For other users it is empty. The command keeps one capability of root: to enter parent folders
    of its data that only root may enter. Raises RuntimeError if setpriv is missing.
    """
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        raise RuntimeError(
            "PostgreSQL cannot run as root without the program setpriv. Install it (Debian:"
            " util-linux), or use another user."
        )
    capabilities = "-all,+dac_override"
    return (
        f"setpriv --reuid={_NOBODY} --regid={_NOBODY} --clear-groups"
        f" --inh-caps={capabilities} --ambient-caps={capabilities}"
    ).split()


def read_pid_file(path: Path) -> tuple[int, str]:
    """Return the pid and the state in a postmaster.pid (lines 1 and 8), or (0, "") without one."""
    try:
        lines = path.read_text().split("\n")
        return int(lines[0]), lines[7].strip()
    except (OSError, ValueError, IndexError):
        return 0, ""


def major_version(text: str) -> int:
    """Return the first number in a version or a path, or 0."""
    return int((re.findall(r"\d+", text) or ["0"])[0])


def open_lock_file(path: Path) -> int:
    """Return a file descriptor. A lock on it ends when all copies of it are closed."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """Open a lock file for a `with` block."""
    descriptor = open_lock_file(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take a lock without waiting. Return False if another process holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_unlocked(path: Path) -> bool:
    with lock_file(path) as descriptor:
        return try_lock(descriptor)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Return when the condition is true, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "True")
