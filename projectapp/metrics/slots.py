"""The files with the values of all processes of a service on this host, in shared memory.

Each process has a slot: a file that it locks. When the process ends, the kernel releases the lock.
The next process takes the file with its values, and continues them. So counters never fall, not
even after a crash, and there are never more files than there were processes at the same time.

A file is a sequence of 8-byte floating-point numbers. The first is how many numbers are in use.
SCRATCH_NUMBERS follow, and then the entries: the size of the key and the number of values, the key
(JSON), the values.
"""

import fcntl
import hashlib
import json
import math
import mmap
import os
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from projectapp.metrics.folders import (
    PREFIX,
    open_folder,
    places,
    remove_unused_folders,
    try_lock,
)

SCRATCH_NUMBERS = 15  # values go there if the file has no room for them
_FIRST_ENTRY = 1 + SCRATCH_NUMBERS
_GROWTH_BYTES = 2**15
# What reading an empty or damaged file raises.
_NO_ENTRIES = (ArithmeticError, LookupError, TypeError, ValueError)


class Key(NamedTuple):
    """Identifies values: the kind and the name of a metric, and the values of its labels."""

    kind: str
    name: str
    labels: tuple[str, ...]


class Slot:
    """The file of this process. `values` may only be changed by a thread that holds `lock`."""

    def __init__(self, folder: int, file: int) -> None:
        """`folder` and `file` are locked file descriptors. Raises OSError."""
        self.lock = threading.Lock()
        self._folder, self._file = folder, file
        self._positions: dict[tuple[Key, int], int] = {}
        # The same by metric and labels, to find them faster. recording.py fills it.
        self.known_positions: dict[Hashable, int] = {}
        try:
            self._open_map(os.fstat(file).st_size)
            for key, position, size in _entries(self.values):
                self._positions[key, size] = position
                if key.kind == "gauge":  # its value was that of the last process
                    self.values[position] = 0
        except _NO_ENTRIES:
            self._positions.clear()
            os.ftruncate(file, 0)
            self._grow()
            self.values[0] = _FIRST_ENTRY

    def position(self, key: Key, size: int) -> int:
        """Return the index of the first of the `size` values of a key. Needs `lock`.

        Raises OSError if there is no room for a new key.
        """
        if (position := self._positions.get((key, size))) is not None:
            return position
        text = json.dumps(key).encode()
        key_numbers = math.ceil(len(text) / 8)
        start = int(self.values[0])
        position = start + 2 + key_numbers
        while position + size > len(self.values):
            self._grow()
        values = self.values
        values[start], values[start + 1] = key_numbers, size
        values.cast("B")[8 * (start + 2) : 8 * position] = text.ljust(8 * key_numbers)
        # A process that died here may have left values.
        for index in range(position, position + size):
            values[index] = 0
        values[0] = position + size  # last, so that a reader never sees half of an entry
        self._positions[key, size] = position
        return position

    def touch(self) -> None:
        """Note that the folder is in use."""
        os.utime(self._folder)

    def close(self) -> None:
        """Let another process have the slot."""
        self.values.release()
        self._map.close()  # its copy of the file descriptor would keep the lock
        os.close(self._file)
        os.close(self._folder)

    def _grow(self) -> None:
        # Zeros are written to get the memory now. If there is none, this is an OSError. If only the
        # size were set, the kernel would end the process at a later write (SIGBUS).
        size_bytes = os.fstat(self._file).st_size
        if os.pwrite(self._file, bytes(_GROWTH_BYTES), size_bytes) != _GROWTH_BYTES:
            os.ftruncate(self._file, size_bytes)
            raise OSError("no space left")
        self._open_map(size_bytes + _GROWTH_BYTES)

    def _open_map(self, size_bytes: int) -> None:
        self._map = mmap.mmap(self._file, size_bytes)
        self.values = memoryview(self._map).cast("d")


@dataclass(frozen=True)
class SlotFiles:
    """The slots of one service: those of all processes of this user with the same `service`.

    The name of their folder begins with `port`, for people.
    """

    port: int
    service: object

    @property
    def _name(self) -> str:
        digest = hashlib.blake2b(repr(self.service).encode(), digest_size=8).hexdigest()
        return f"{PREFIX}{self.port}-{digest}"

    def take(self) -> Slot:
        """Return the first slot that no process has, or a new one. Raises OSError."""
        errors = []
        for place in places():
            try:
                remove_unused_folders(place)
                folder = open_folder(place / self._name)
            except OSError as error:
                errors.append(error)
                continue
            try:
                return self._take(folder)
            except OSError as error:  # such as: no space left
                os.close(folder)
                errors.append(error)
        raise errors[0]

    def _take(self, folder: int) -> Slot:
        number = 0
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            file = os.open(str(number), flags, 0o600, dir_fd=folder)
            try:
                if try_lock(file, fcntl.LOCK_EX):
                    return Slot(folder, file)
            except BaseException:
                os.close(file)
                raise
            os.close(file)
            number += 1

    def read(self) -> Iterator[tuple[Key, Sequence[float]]]:
        """Yield the values of all slots. Gauges come only from processes that run."""
        for place in places():
            try:
                folder = open_folder(place / self._name, create=False)
            except OSError:
                continue
            try:
                for name in os.listdir(folder):
                    yield from _read_file(name, folder)
            finally:
                os.close(folder)


def _read_file(name: str, folder: int) -> Iterator[tuple[Key, Sequence[float]]]:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        is_running = not try_lock(file, fcntl.LOCK_SH)
        data = memoryview(os.pread(file, os.fstat(file).st_size, 0))
    finally:
        os.close(file)
    with suppress(*_NO_ENTRIES):
        values = data.cast("d")
        for key, position, size in _entries(values):
            if is_running or key.kind != "gauge":
                yield key, values[position : position + size].tolist()


def _entries(values: "memoryview[float]") -> Iterator[tuple[Key, int, int]]:
    """Yield the key, the index and the number of the values of each entry; raise _NO_ENTRIES."""
    start, end = _FIRST_ENTRY, int(values[0])
    if not start <= end <= len(values):
        raise ValueError("not a slot")
    while start < end:
        key_numbers, size = int(values[start]), int(values[start + 1])
        position = start + 2 + key_numbers
        kind, name, labels = json.loads(values[start + 2 : position].tobytes())
        if min(key_numbers, size) < 1 or position + size > end:
            raise ValueError("not an entry")
        yield Key(kind, name, tuple(labels)), position, size
        start = position + size
