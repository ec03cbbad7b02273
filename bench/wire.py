"""A proxy before PostgreSQL that counts round trips, and adds distance to every packet."""

import asyncio
import selectors
import threading
from typing import cast


class Wire:
    """Between 127.0.0.1:`port` and the Unix socket `upstream`, in a thread of its own.

    Each packet, in either direction, arrives `delay` seconds late. `trips` counts how often a
    client spoke and was answered, whatever it said; `query` is the text of the last simple query.
    """

    def __init__(self, port: int, upstream: str) -> None:
        self.port, self.upstream = port, upstream
        self.delay = 0.0
        self.trips = 0
        self.query = ""
        # select takes microseconds, epoll would round a millisecond up to two.
        self.loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result()

    async def _listen(self) -> None:
        await self.loop.create_server(lambda: _Client(self), "127.0.0.1", self.port)


class _End(asyncio.Protocol):
    """One end of a line; what comes in goes out at its `peer`."""

    peer: asyncio.Transport

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.wire.delay:
            self.wire.loop.call_later(self.wire.delay, self.peer.write, data)
        else:
            self.peer.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.peer.close()


class _Client(_End):
    asks = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self.opening = self.wire.loop.create_task(self._open())

    async def _open(self) -> None:
        upstream, server = await self.wire.loop.create_unix_connection(
            lambda: _Server(self), self.wire.upstream
        )
        self.peer, server.peer = upstream, self.transport
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.asks = True
        if data[:1] == b"Q":
            self.wire.query = data[5:-1].decode(errors="replace")
        super().data_received(data)


class _Server(_End):
    def __init__(self, client: _Client) -> None:
        super().__init__(client.wire)
        self.client = client

    def data_received(self, data: bytes) -> None:
        if self.client.asks:
            self.client.asks = False
            self.wire.trips += 1
        super().data_received(data)
