"""Where counters are: in a file that all processes of this host share, and in a Redis for several.

A store that fails is left alone for some seconds, so that requests wait for it now and then, and
not each of them.
"""

import fcntl
import hashlib
import logging
import os
import struct
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress

from projectapp.rate_limit.window import Count, Rate

ANSWER = 0.2  # seconds for a Redis to answer, or to be connected to
TURN = 2.0  # seconds to wait for who is counting: on a busy host that takes a while
REST = 5.0  # seconds for which a store that failed is left alone

_RECORD = struct.Struct("<16s4I")  # digest, window, previous, current, refused
_BUCKET = 8 * _RECORD.size
_BUCKETS = 4096

log = logging.getLogger(__name__)


class Store(ABC):
    """Counts the requests of callers, each known by 16 bytes."""

    name: str
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._is_away = False
        self._tried_again = 0.0

    def count(self, caller: bytes) -> Count | None:
        """Count a request, if it passes; None where the store is away."""
        if self._is_away:
            now = time.monotonic()
            if now < self._tried_again + REST:
                return None
            self._tried_again = now  # by this thread, for all
        try:
            count = self._count(caller)
        except self.errors as error:
            self._tried_again = time.monotonic()
            if not self._is_away:
                self._is_away = True
                log.warning("%s is away (%s): RATE_LIMIT does without.", self.name, error)
            return None
        if self._is_away:
            self._is_away = False
            log.warning("%s is back: RATE_LIMIT counts there again.", self.name)
        return count

    @abstractmethod
    def _count(self, caller: bytes) -> Count: ...


class SharedMemoryStore(Store):
    """A file for the processes of one host: 1 MiB at most.

    They share it if they have the same user, folder, PORT, and length of a window.

    It has place for 32768 callers, eight in each bucket. Where a bucket is full, a new caller takes
    the place of whom it has not seen for the longest time, or has seen the least: who floods
    it with callers frees a few, and refuses nobody.
    """

    name = "the file of counters"

    def __init__(self, rate: Rate, root: str, port: int) -> None:
        """Raises OSError where no file can be shared."""
        super().__init__(rate)
        # What its records mean is part of its name, as the code or the setting may change while
        # another process still counts.
        meaning = repr((root, rate.seconds, _RECORD.format, _BUCKETS))
        digest = hashlib.blake2b(meaning.encode(), digest_size=8).hexdigest()
        self._file = _open(f"projectapp-limits-{os.geteuid()}-{port}-{digest}")
        self._turn = threading.Lock()  # the kernel's is one for all threads of a process

    def _count(self, caller: bytes) -> Count:
        start = int.from_bytes(caller[:4], "big") % _BUCKETS * _BUCKET
        if not self._turn.acquire(timeout=TURN):
            raise TimeoutError("another thread has it")
        try:
            self._lock(start)
            try:
                return self._count_alone(caller, start)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, _BUCKET, start)
        finally:
            self._turn.release()

    def _count_alone(self, caller: bytes, start: int) -> Count:
        number, elapsed = divmod(time.monotonic(), self.rate.seconds)  # the same in all processes
        window, previous, current, refused = int(number), 0, 0, 0
        bucket = os.pread(self._file, _BUCKET, start).ljust(_BUCKET, b"\0")
        at = bucket.find(caller)
        if at < 0:
            at = min(range(0, _BUCKET, _RECORD.size), key=lambda at: _worth(bucket, at, window))
        else:
            _, last, previous, current, refused = _RECORD.unpack_from(bucket, at)
            if last != window:
                previous, current, refused = current if last == window - 1 else 0, 0, 0
        passed = self.rate.allows(elapsed, previous, current)
        if passed:
            current += 1
        else:
            refused += 1
        record = _RECORD.pack(caller, window, previous, current, refused)
        os.pwrite(self._file, record, start + at)
        return Count(passed, elapsed, previous, current, refused)

    def _lock(self, start: int) -> None:
        """Wait for who has the bucket: not for long, as it may be stopped; a dead one has none."""
        end = time.monotonic() + TURN
        while True:
            try:
                return fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, _BUCKET, start)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.0001)


class RedisStore(Store):
    """A Redis for several hosts, in whose script and by whose clock they all count."""

    name = "RATE_LIMIT_REDIS_URL"
    _SCRIPT = """
local time = redis.call('TIME')
local quota, seconds = tonumber(ARGV[1]), tonumber(ARGV[2])
local window = math.floor(time[1] / seconds)
local elapsed = time[1] % seconds + time[2] / 1000000
local held = redis.call('HMGET', KEYS[1], 'window', 'previous', 'current', 'refused')
local last, previous, current, refused = tonumber(held[1]), 0, 0, 0
if last == window then
    previous, current, refused = tonumber(held[2]), tonumber(held[3]), tonumber(held[4])
elseif last == window - 1 then
    previous = tonumber(held[3])
end
local passed = 0
if math.floor(previous * (1 - elapsed / seconds)) + current < quota then
    passed, current = 1, current + 1
else
    refused = refused + 1
end
redis.call('HSET', KEYS[1],
    'window', window, 'previous', previous, 'current', current, 'refused', refused)
redis.call('EXPIRE', KEYS[1], 2 * seconds)
return {passed, tostring(elapsed), previous, current, refused}
"""

    def __init__(self, rate: Rate, url: str) -> None:
        """Raises ValueError or TypeError for a URL that cannot be used."""
        super().__init__(rate)
        from redis import Redis, RedisError
        from redis.backoff import ConstantBackoff
        from redis.retry import Retry

        self.errors = (RedisError, OSError)
        self._client = Redis.from_url(
            url,
            socket_timeout=ANSWER,
            socket_connect_timeout=ANSWER,
            retry=Retry(ConstantBackoff(0), 0),
        )
        pool = self._client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # refuses what it does not know in a query
        self._run = self._client.register_script(self._SCRIPT)

    def _count(self, caller: bytes) -> Count:
        try:
            answer = self._run([f"projectapp:limits:{self.rate.seconds}:{caller.hex()}"], self.rate)
        except self.errors:
            with suppress(*self.errors):
                self._client.connection_pool.disconnect()  # else each would fail in its turn
            raise
        passed, elapsed, previous, current, refused = answer
        return Count(passed == 1, float(elapsed), previous, current, refused)


def _worth(bucket: bytes, at: int, now: int) -> tuple[int, int, int]:
    """The order in which records give up their place; a window to come is of before a reboot."""
    _, window, previous, current, _ = _RECORD.unpack_from(bucket, at)
    return window if window <= now else -1, current, previous


def _open(name: str) -> int:
    """A file of ours in memory, else among the temporary ones."""
    for folder in ("/dev/shm", None):  # noqa: S108 - who made the file is looked at
        with suppress(OSError):
            path = os.path.join(folder or tempfile.gettempdir(), name)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if os.fstat(file).st_uid == os.geteuid():
                return file
            os.close(file)
    raise PermissionError(f"no file {name} of ours")
