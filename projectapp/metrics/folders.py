"""The folder with the slots of a service: in /dev/shm, or else in the folder for temporary files.

Each process keeps a shared lock on the folder while it has a slot in it. So a folder without a lock
is not in use. systemd-tmpfiles respects the lock, too.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PREFIX = f"projectapp-metrics-{os.geteuid()}-"
_UNUSED_SECONDS = 600  # then another service removes the folder of a service that has ended


def places() -> Iterator[Path]:
    """Yield the folders that may have the slots, the best first."""
    shared_memory = Path("/dev/shm")  # noqa: S108 - the folder must belong to this user, see below
    yield shared_memory
    with suppress(OSError):  # no folder is writable
        temporary = Path(tempfile.gettempdir())
        if temporary.resolve() != shared_memory.resolve():  # TMPDIR may name the first one
            yield temporary


def open_folder(path: Path, create: bool = True) -> int:
    """Open a folder with a shared lock, which says that it is in use. Raises OSError."""
    while True:
        if create:
            with suppress(FileExistsError):
                path.mkdir(0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(folder).st_uid != os.geteuid():
                raise PermissionError(f"{path} belongs to another user")
            fcntl.flock(folder, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(folder), path.stat()):
                    return folder
        except BaseException:
            os.close(folder)
            raise
        os.close(folder)  # another process has just removed it
        if not create:
            raise FileNotFoundError(path)


def remove_unused_folders(place: Path) -> None:
    """Remove the folders of this user's services that ended a while ago."""
    for path in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(folder)
                is_own = status.st_uid == os.geteuid()  # another user may choose any name
                is_old = time.time() > status.st_mtime + _UNUSED_SECONDS
                if is_own and is_old and try_lock(folder, fcntl.LOCK_EX):
                    for name in os.listdir(folder):
                        os.unlink(name, dir_fd=folder)
                    path.rmdir()
            finally:
                os.close(folder)


def try_lock(file: int, kind: int) -> bool:
    """Lock a file or a folder until it is closed. Return False if another process has a lock."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
