"""Where counters are: in a file for the processes of one host, in Redis for several hosts.

After a failure a store is not used for RETRY_AFTER_FAILURE_SECONDS, so that few requests wait for
it.
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

from projectapp.rate_limit.window import Rate, WindowCount

REDIS_TIMEOUT_SECONDS = 0.2  # to connect, and for each response
LOCK_TIMEOUT_SECONDS = 2.0  # on a busy host the process with the lock may not run for a while
RETRY_AFTER_FAILURE_SECONDS = 5.0

_RECORD = struct.Struct("<16s4I")  # digest, window, previous, current, refused
_BUCKET_BYTES = 8 * _RECORD.size
_BUCKETS = 4096

log = logging.getLogger(__name__)


class Store(ABC):
    """Counts requests with a counter for each digest, which has 16 bytes."""

    name: str
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._is_down = False
        self._last_try = 0.0  # seconds on the monotonic clock

    def count(self, digest: bytes) -> WindowCount | None:
        """Count a request; None if the store is not available."""
        if self._is_down:
            now = time.monotonic()
            if now < self._last_try + RETRY_AFTER_FAILURE_SECONDS:
                return None
            self._last_try = now  # this thread tries for all threads
        try:
            count = self._try_count(digest)
        except self.errors as error:
            self._last_try = time.monotonic()
            if not self._is_down:
                self._is_down = True
                log.warning("RATE_LIMIT cannot use %s now: %s", self.name, error)
            return None
        if self._is_down:
            self._is_down = False
            log.warning("RATE_LIMIT can use %s again.", self.name)
        return count

    @abstractmethod
    def _try_count(self, digest: bytes) -> WindowCount: ...


class SharedMemoryStore(Store):
    """A hash table in a file of at most 1 MiB, for the processes of one host.

    Processes share the file if they have the same user, folder, PORT and window length.

    The table has 4096 buckets of eight counters. In a full bucket, a new counter replaces the one
    with the oldest window, and among these the lowest. A caller whose counter was replaced starts
    again at zero. So a flood of new callers resets a few counters, but causes no refusal.
    """

    name = "the shared-memory file"

    def __init__(self, rate: Rate, root: str, port: int) -> None:
        """Open the file. Raises OSError if this is not possible."""
        super().__init__(rate)
        # The file's name depends on the meaning of its records, because processes with older code
        # or another window length may still be counting.
        meaning = repr((root, rate.window_seconds, _RECORD.format, _BUCKETS))
        digest = hashlib.blake2b(meaning.encode(), digest_size=8).hexdigest()
        self._file = _open(f"projectapp-limits-{os.geteuid()}-{port}-{digest}")
        # Locks of lockf() belong to the process, so the threads of a process need their own.
        self._thread_lock = threading.Lock()

    def _try_count(self, digest: bytes) -> WindowCount:
        start = int.from_bytes(digest[:4], "big") % _BUCKETS * _BUCKET_BYTES
        if not self._thread_lock.acquire(timeout=LOCK_TIMEOUT_SECONDS):
            raise TimeoutError("another thread has the lock")
        try:
            self._lock_bucket(start)
            try:
                return self._count_locked(digest, start)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, _BUCKET_BYTES, start)
        finally:
            self._thread_lock.release()

    def _count_locked(self, digest: bytes, start: int) -> WindowCount:
        # On one host, all processes have the same monotonic clock.
        number, elapsed_seconds = divmod(time.monotonic(), self.rate.window_seconds)
        window, previous, current, refused = int(number), 0, 0, 0
        bucket = os.pread(self._file, _BUCKET_BYTES, start).ljust(_BUCKET_BYTES, b"\0")
        offset = bucket.find(digest)
        if offset < 0:
            offsets = range(0, _BUCKET_BYTES, _RECORD.size)
            offset = min(offsets, key=lambda offset: _eviction_rank(bucket, offset, window))
        else:
            _, last_window, previous, current, refused = _RECORD.unpack_from(bucket, offset)
            if last_window != window:
                previous = current if last_window == window - 1 else 0
                current, refused = 0, 0
        is_allowed = self.rate.is_below_quota(elapsed_seconds, previous, current)
        if is_allowed:
            current += 1
        else:
            refused += 1
        record = _RECORD.pack(digest, window, previous, current, refused)
        os.pwrite(self._file, record, start + offset)
        return WindowCount(is_allowed, elapsed_seconds, previous, current, refused)

    def _lock_bucket(self, start: int) -> None:
        """Lock a bucket. Raises OSError after a timeout: the process with the lock may be stopped.

        When a process dies, the kernel releases its locks.
        """
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while True:
            try:
                flags = fcntl.LOCK_EX | fcntl.LOCK_NB
                return fcntl.lockf(self._file, flags, _BUCKET_BYTES, start)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.0001)


class RedisStore(Store):
    """Counters in a Redis, for several hosts: a script counts atomically, by the clock of Redis."""

    name = "Redis"
    _SCRIPT = """
local time = redis.call('TIME')
local quota, window_seconds = tonumber(ARGV[1]), tonumber(ARGV[2])
local window = math.floor(time[1] / window_seconds)
local elapsed_seconds = time[1] % window_seconds + time[2] / 1000000
local record = redis.call('HMGET', KEYS[1], 'window', 'previous', 'current', 'refused')
local last_window, previous, current, refused = tonumber(record[1]), 0, 0, 0
if last_window == window then
    previous, current, refused = tonumber(record[2]), tonumber(record[3]), tonumber(record[4])
elseif last_window == window - 1 then
    previous = tonumber(record[3])
end
local is_allowed = 0
if math.floor(previous * (1 - elapsed_seconds / window_seconds)) + current < quota then
    is_allowed, current = 1, current + 1
else
    refused = refused + 1
end
redis.call('HSET', KEYS[1],
    'window', window, 'previous', previous, 'current', current, 'refused', refused)
redis.call('EXPIRE', KEYS[1], 2 * window_seconds)
return {is_allowed, tostring(elapsed_seconds), previous, current, refused}
"""

    def __init__(self, rate: Rate, url: str) -> None:
        """Does not connect. Raises ValueError or TypeError if the URL is invalid."""
        super().__init__(rate)
        from redis import Redis, RedisError
        from redis.backoff import ConstantBackoff
        from redis.retry import Retry

        self.errors = (RedisError, OSError)
        self._client = Redis.from_url(
            url,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            retry=Retry(ConstantBackoff(0), 0),
        )
        pool = self._client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # raises on unknown options in the URL
        self._run_script = self._client.register_script(self._SCRIPT)

    def _try_count(self, digest: bytes) -> WindowCount:
        key = f"projectapp:limits:{self.rate.window_seconds}:{digest.hex()}"
        try:
            result = self._run_script([key], self.rate)
        except self.errors:
            # The other connections are broken too, and each would cost a further failure.
            with suppress(*self.errors):
                self._client.connection_pool.disconnect()
            raise
        is_allowed, elapsed_seconds, previous, current, refused = result
        return WindowCount(is_allowed == 1, float(elapsed_seconds), previous, current, refused)


def _eviction_rank(bucket: bytes, offset: int, window: int) -> tuple[int, int, int]:
    """Return a sort key of the counter at `offset`: the lowest is replaced first."""
    _, last_window, previous, current, _ = _RECORD.unpack_from(bucket, offset)
    # A window in the future is from before a reboot, when the monotonic clock started again.
    return last_window if last_window <= window else -1, current, previous


def _open(name: str) -> int:
    """Open a file in /dev/shm, or else in the folder for temporary files; create it if needed."""
    for folder in ("/dev/shm", None):  # noqa: S108 - the file must belong to this user, see below
        with suppress(OSError):
            path = os.path.join(folder or tempfile.gettempdir(), name)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if os.fstat(file).st_uid == os.geteuid():
                return file
            os.close(file)
    raise PermissionError(f"{name} cannot be created, or belongs to another user")
