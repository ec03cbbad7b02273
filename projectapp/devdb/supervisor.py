"""The keeper: a small process that starts the embedded PostgreSQL and stops it after its last user.

Every fact about the server is a kernel lock, which a ``kill -9`` releases too, so no pid file has
to be trusted:

- ``users.lock``: shared, held by each process that uses the server (forked workers inherit it);
- ``server.lock``: held by PostgreSQL's own processes, which inherit it from their starter;
- ``keeper.lock``: held by the keeper, which adopts a server whose own keeper was killed;
- ``start.lock``: held by the process that is starting a keeper.

Only the standard library is imported, since this file is run as a script.
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

PORT = "5432"  # only a part of the socket's name: nothing listens on TCP
STOP_SECONDS = 20
_START_SECONDS = 60  # a first start runs initdb, a start after a crash replays the log
_NOBODY = 65534


def keep(home: Path, binaries: Path, sockets: Path, temporary: bool) -> None:
    """The keeper: start or adopt the server, say so on stdout, stop it when nobody is left."""
    keeper = open_lock(home / "keeper.lock")
    fcntl.flock(keeper, fcntl.LOCK_EX)
    try:
        pid = _running(home) or _launch(home, binaries, sockets, temporary)
    except Exception as error:  # whatever it is, only the starter can tell somebody
        print(json.dumps(str(error) or repr(error)), flush=True)
        return
    print(json.dumps(None), flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    while not is_free(home / "server.lock"):
        with opened(home / "users.lock") as users:
            if lock(users):
                os.kill(pid, signal.SIGINT)
                wait(lambda: is_free(home / "server.lock"), STOP_SECONDS)
                if not is_free(home / "server.lock"):
                    os.kill(pid, signal.SIGQUIT)
                with suppress(ChildProcessError):  # an adopted one is init's
                    os.waitpid(pid, 0)
                if temporary:
                    shutil.rmtree(home / "data", ignore_errors=True)
                os.close(keeper)  # before users.lock: who gets that finds no keeper and starts one
                return
        time.sleep(0.1)


def _running(home: Path) -> int | None:
    """The pid of the postmaster serving from `home`; what a dead one left is waited out."""
    status = home / "data" / "postmaster.pid"

    def settled() -> bool:
        return is_free(home / "server.lock") or _status(status)[1] == "ready"

    wait(settled, _START_SECONDS)
    if is_free(home / "server.lock"):
        return None
    pid = _status(status)[0]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        wait(lambda: is_free(home / "server.lock"), STOP_SECONDS)
        return None
    return pid


def _launch(home: Path, binaries: Path, sockets: Path, temporary: bool) -> int:
    data, status = home / "data", home / "data" / "postmaster.pid"
    if temporary:
        shutil.rmtree(data, ignore_errors=True)
    if not data.exists():
        _initdb(home, binaries)
    # Nobody holds server.lock, so whatever pid these two name is not this server's.
    for stale in (status, sockets / f".s.PGSQL.{PORT}.lock"):
        stale.unlink(missing_ok=True)
    quoted = str(sockets).replace('"', '""')
    settings = [
        *(f"port={PORT}", "listen_addresses=", "max_connections=200"),
        *(f'unix_socket_directories="{quoted}"', "unix_socket_permissions=0700"),
        *(("fsync=off", "synchronous_commit=off", "full_page_writes=off") if temporary else ()),
    ]
    options = [part for setting in settings for part in ("-c", setting)]
    with (home / "postgres.log").open("wb") as log, opened(home / "server.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = subprocess.Popen(
            [*_unprivileged(), str(binaries / "postgres"), "-D", str(data), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
        )

    def settled() -> bool:
        return server.poll() is not None or _status(status) == (server.pid, "ready")

    wait(settled, _START_SECONDS)
    if _status(status) != (server.pid, "ready"):
        server.kill()
        words = (home / "postgres.log").read_text(errors="replace").split("\n")
        raise RuntimeError(" ".join(words[-4:]).strip())
    return server.pid


def _initdb(home: Path, binaries: Path) -> None:
    fresh = home / "data.new"  # renamed when complete, so that a kill leaves no half-made cluster
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(fresh, _NOBODY, _NOBODY)
    if major(home.name) >= 17:
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    else:
        locale = ["--locale=C.UTF-8", "--lc-messages=C"]
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", *locale]
    made = subprocess.run(
        [*_unprivileged(), str(binaries / "initdb"), "-D", str(fresh), *options],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        if "No space left on device" in made.stderr:
            raise RuntimeError("the disk is full. Free 100 MB, and start again.")
        raise RuntimeError(made.stderr.strip()[-500:])
    fresh.rename(home / "data")


def _unprivileged() -> list[str]:
    """The prefix with which root runs PostgreSQL, which refuses to be root.

    The one capability kept lets it reach its folder through parents that only root may enter.
    """
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        raise RuntimeError("as root it needs setpriv (Debian: util-linux); or use another user")
    only = "-all,+dac_override"
    return (
        f"setpriv --reuid={_NOBODY} --regid={_NOBODY} --clear-groups"
        f" --inh-caps={only} --ambient-caps={only}"
    ).split()


def _status(path: Path) -> tuple[int, str]:
    """The pid and the state in a postmaster.pid (its 1st and 8th line); (0, "") without one."""
    try:
        lines = path.read_text().split("\n")
        return int(lines[0]), lines[7].strip()
    except (OSError, ValueError, IndexError):
        return 0, ""


def major(path: str) -> int:
    return int((re.findall(r"\d+", path) or ["0"])[0])


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = open_lock(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_free(path: Path) -> bool:
    with opened(path) as descriptor:
        return lock(descriptor)


def wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "True")
