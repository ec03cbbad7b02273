"""A TCP proxy before PostgreSQL that sees its messages and breaks the line in chosen ways.

It runs in a thread with an event loop of its own. `counts` says what it did, which is the proof
that a fault fired: links, queries, reset, dropped, held, refused.
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from enum import Enum, auto

from faults.processes import ADDRESS, quiet_port
from tests.wire import _NO_ENCRYPTION_YET, _first_message

_WRITE = re.compile(rb"\b(INSERT INTO|UPDATE \w+ SET|DELETE FROM|COMMIT)\b", re.IGNORECASE)
_CHUNK = 65536


class Mode(Enum):
    FORWARD = auto()
    DELAY = auto()  # each packet waits `delay` seconds
    RESET = auto()  # some queries are passed on and the client's line is reset at once
    DROP_ANSWER = auto()  # some writes are carried out, their answer is lost, the line reset
    BLACK_HOLE = auto()  # what arrives is acknowledged and held; it goes on when the mode changes
    REFUSE = auto()  # nobody listens, and the lines that were open are reset


class Proxy:
    """Between 127.0.0.1:`port` and `upstream`; `chance` is that of a fitting query to be hit."""

    def __init__(self, upstream: tuple[str, int], seed: int) -> None:
        self.upstream, self.port = upstream, quiet_port()
        self.mode, self.chance, self.delay = Mode.FORWARD, 1.0, 0.0
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())

    def set(self, mode: Mode, chance: float = 1.0, delay: float = 0.0) -> None:
        """Change what happens from now on, also to the lines that are open."""
        self._do(self._set(mode, chance, delay))

    def end(self) -> None:
        self.set(Mode.REFUSE)
        self._do(_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _do(self, work: "asyncio.coroutines.Coroutine[None, None, None]") -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _set(self, mode: Mode, chance: float, delay: float) -> None:
        self.mode, self.chance, self.delay = mode, chance, delay
        if mode is Mode.REFUSE and self._listener:
            self._listener.close()
            self._listener = None
            for link in list(self._links):
                link.reset()
                self.counts["refused"] += 1
        elif mode is not Mode.REFUSE and not self._listener:
            await self._listen()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, ADDRESS, self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["links"] += 1
        await self.pause()
        try:
            upstream = await asyncio.open_connection(*self.upstream)
        except OSError:
            _abort(writer)
            return
        link = _Link(self, (reader, writer), upstream)
        self._links.add(link)
        try:
            await asyncio.gather(link.queries(), link.answers())
        except OSError:
            link.reset()
        finally:
            self._links.discard(link)
            writer.close()
            upstream[1].close()

    async def pause(self) -> None:
        """Hold what has just arrived for as long as the mode says."""
        if self.mode is Mode.DELAY:
            await asyncio.sleep(self.delay)
        elif self.mode is Mode.BLACK_HOLE:
            self.counts["held"] += 1
            while self.mode is Mode.BLACK_HOLE:
                await asyncio.sleep(0.02)

    def hits(self, query: bytes) -> bool:
        """Whether this query is to be broken."""
        self.counts["queries"] += 1
        fits = self.mode is Mode.RESET or (self.mode is Mode.DROP_ANSWER and _WRITE.search(query))
        return bool(fits) and self._random.random() < self.chance


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    def __init__(self, proxy: Proxy, client: _Stream, server: _Stream) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.swallowing = False

    async def queries(self) -> None:
        buffer, started = b"", False
        while part := await self.client[0].read(_CHUNK):
            await self.proxy.pause()
            buffer += part
            while message := _first_message(buffer, started):
                buffer = buffer[len(message) :]
                if not started:
                    started = struct.unpack("!i", message[4:8])[0] not in _NO_ENCRYPTION_YET
                    await _pass(self.server[1], message)
                    continue
                hit = message[:1] == b"Q" and self.proxy.hits(message)
                self.swallowing = hit and self.proxy.mode is Mode.DROP_ANSWER
                await _pass(self.server[1], message)
                if hit and not self.swallowing:
                    self.proxy.counts["reset"] += 1
                    self.reset()
                    return
        with suppress(OSError):
            self.server[1].write_eof()

    async def answers(self) -> None:
        buffer = b""
        while part := await self.server[0].read(_CHUNK):
            await self.proxy.pause()
            if not self.swallowing:
                await _pass(self.client[1], part)
                continue
            buffer += part
            while message := _first_message(buffer, True):
                buffer = buffer[len(message) :]
                if message[:1] == b"Z":  # ReadyForQuery: what was asked is done and committed
                    self.proxy.counts["dropped"] += 1
                    self.reset()
                    return
        self.client[1].close()

    def reset(self) -> None:
        """RST to the service; PostgreSQL sees an ordinary end, after what it was asked."""
        _abort(self.client[1])
        self.server[1].close()


async def _others() -> None:
    """Wait for the links, which end soon after they were reset."""
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks, timeout=5)


async def _pass(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    at_once = struct.pack("ii", 1, 0)
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()
