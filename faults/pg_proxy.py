"""A proxy in front of PostgreSQL: it records queries, delays packets and breaks connections.

The tests, the fault scenarios and the benchmarks use it. It runs in a thread of its own. Its
attributes may be changed at any time, also for connections that are open. The messages are those of
PostgreSQL's frontend/backend protocol 3.0 (its documentation, "Message Formats").
"""

import asyncio
import random
import re
import selectors
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum, auto

from faults.processes import ADDRESS, free_port

_SSL_REQUEST, _GSSENC_REQUEST = 80877103, 80877104
_WRITE = re.compile(r"\b(INSERT INTO|UPDATE \w+ SET|DELETE FROM|COMMIT)\b", re.IGNORECASE)
_PREPARE, _EXECUTE = re.compile(r"\bPREPARE (\w+) "), re.compile(r"\bEXECUTE (\w+) \(")
_KEY_DATA = re.compile(rb"K\0\0\0\x0c....", re.DOTALL)  # BackendKeyData up to the process id
_POLL_SECONDS = 0.02


class Harm(Enum):
    """What the proxy can do to a query. Afterwards it resets the client's connection."""

    DROP_QUERY = auto()  # PostgreSQL does not get the query
    RESET = auto()  # PostgreSQL gets the query; the proxy does not wait for the answer
    LOSE_ANSWER = auto()  # PostgreSQL executes the query; the client does not get the answer


class Proxy:
    """Forwards 127.0.0.1:`port` to the server that libpq's `parameters` name, until `close`."""

    def __init__(self, parameters: Mapping[str, str], seed: int | None = None) -> None:
        """`seed` decides which queries `harm_some_queries` chooses."""
        self.upstream, self.port = parameters, free_port()
        # What the proxy has seen and done:
        # The texts of all simple queries. An EXECUTE is preceded by the message that prepared it.
        self.queries: list[str] = []
        self._prepared: dict[str, str] = {}  # that message; a name stands for the same SQL always
        self.round_trips = 0  # how often a client sent something and got an answer, in any protocol
        self.clients: list[_Client] = []  # all client connections, also closed ones
        self.terminated_connections = (
            0  # connections that PostgreSQL has terminated (SQLSTATE 57P01)
        )
        self.harmed: Counter[Harm] = Counter()  # queries
        self.held_packets = 0
        # What the proxy does to all connections:
        self.delay = 0.0  # seconds for each packet, in both directions
        self.refuses = False  # close new connections at once
        self.is_silent = False  # hold all packets (TCP acknowledges them) until this is False again
        self.pooler = False  # change the process id that clients get, as a transaction pooler does
        self.tls: ssl.SSLContext | None = None  # accept TLS; the embedded server cannot
        # What it does to a query that contains the first text of a list. Then it removes the text.
        self.drop: list[str] = []  # Harm.DROP_QUERY
        self.lose: list[str] = []  # Harm.LOSE_ANSWER
        self.swallow: str | None = None  # swallow the query; the connection stays open
        self.before_reset: Callable[[], object] = lambda: (
            None
        )  # called after a harm, before the reset
        self._random, self._random_harm, self._chance = random.Random(seed), None, 0.0  # noqa: S311
        # select is precise to a microsecond; epoll would wait two milliseconds instead of one.
        self.loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen())

    @property
    def url(self) -> str:
        upstream = self.upstream
        login = upstream.get("user", "")
        login += f":{upstream['password']}" if "password" in upstream else ""
        return f"postgresql://{login}@{ADDRESS}:{self.port}/{upstream['dbname']}?sslmode=disable"

    def harm_some_queries(self, harm: Harm | None, chance: float = 0.0) -> None:
        """Harm this share of all queries (of writes for LOSE_ANSWER) from now on; None stops it."""
        self._random_harm, self._chance = harm, chance

    def choose_harm(self, query: str) -> Harm | None:
        """Choose what happens to the next query."""
        for texts, harm in ((self.drop, Harm.DROP_QUERY), (self.lose, Harm.LOSE_ANSWER)):
            if texts and texts[0] in query:
                texts.pop(0)
                return harm
        if self._random_harm is Harm.LOSE_ANSWER and not _WRITE.search(query):
            return None
        return self._random_harm if self._random.random() < self._chance else None

    def record_query(self, query: str) -> str:
        """Record a query; return it as it is recorded."""
        if prepared := _PREPARE.search(query):
            self._prepared[prepared[1]] = query
        elif executed := _EXECUTE.search(query):
            query = f"{self._prepared.get(executed[1], '')} {query}"
        self.queries.append(query)
        return query

    def cut(self) -> None:
        """Reset every connection, as a server that goes away does."""
        self._run(self._cut())

    def close(self) -> None:
        """Stop listening, reset every connection and end the thread."""
        self.loop.call_soon_threadsafe(self._listener.close)
        self.cut()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def _listen(self) -> None:
        self._listener = await self.loop.create_server(lambda: _Client(self), ADDRESS, self.port)

    async def _cut(self) -> None:
        for client in self.clients:
            client.reset()
            if client.peer:
                client.peer.transport.abort()
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=5)
        for _ in range(3):  # the transports close their sockets in the next rounds of the loop
            await asyncio.sleep(0)


class _End(asyncio.Protocol):
    """One end of a connection; forwards what it receives to the end `peer`."""

    transport: asyncio.Transport
    peer: "_End | None" = None

    def __init__(self, proxy: Proxy) -> None:
        self.proxy, self.buffer = proxy, b""
        self._held: list[bytes | None] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.peer:
            self.forward(None)

    def pause_writing(self) -> None:
        if self.peer:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer:
            self.peer.transport.resume_reading()

    def take_message(self, has_type: bool = True) -> bytes:
        """Take the first message from the buffer; b"" if it has not arrived in full."""
        head = 1 if has_type else 0  # the length counts itself, but not the type in front of it
        if len(self.buffer) < head + 4:
            return b""
        size = head + int.from_bytes(self.buffer[head : head + 4], "big")
        if len(self.buffer) < size:
            return b""
        message, self.buffer = self.buffer[:size], self.buffer[size:]
        return message

    def forward(self, data: bytes | None) -> None:
        """Send the data, or the end of the connection (None), in the order of the calls."""
        if self._held or self.proxy.is_silent:
            self.proxy.held_packets += data is not None
            if not self._held:
                self.proxy.loop.call_later(_POLL_SECONDS, self._release)
            self._held.append(data)
        elif self.proxy.delay:
            self.proxy.loop.call_later(self.proxy.delay, self._send, data)
        else:
            self._send(data)

    def _release(self) -> None:
        if self.proxy.is_silent:
            self.proxy.loop.call_later(_POLL_SECONDS, self._release)
            return
        held, self._held = self._held, []
        for data in held:
            self._send(data)

    def _send(self, data: bytes | None) -> None:
        if data is None:
            self.peer.transport.close()
        else:
            self.peer.transport.write(data)


class _Client(_End):
    """The client's end. It opens the server's end when the client has connected."""

    peer: "_Server | None"
    is_waiting = False  # for an answer
    _is_started = False  # the startup message has come; before that, messages have no type

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self.proxy.refuses:
            transport.close()
            return
        self.proxy.clients.append(self)
        transport.pause_reading()
        self._opening = self.proxy.loop.create_task(self._open())

    async def _open(self) -> None:
        upstream, loop = self.proxy.upstream, self.proxy.loop
        host, port = upstream.get("host", "localhost"), upstream.get("port", "5432")
        try:
            if host.startswith("/"):
                path = f"{host}/.s.PGSQL.{port}"
                _, self.peer = await loop.create_unix_connection(lambda: _Server(self), path)
            else:
                _, self.peer = await loop.create_connection(lambda: _Server(self), host, int(port))
        except OSError:
            self.reset()
            return
        if self.transport.is_closing():
            self.peer.transport.close()
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.is_waiting = True
        self.buffer += data
        messages = b""
        while message := self.take_message(has_type=self._is_started):
            if not self._is_started:
                code = int.from_bytes(message[4:8], "big")
                self._is_started = code not in (_SSL_REQUEST, _GSSENC_REQUEST)
                if code == _SSL_REQUEST and self.proxy.tls:
                    self._opening = self.proxy.loop.create_task(self._start_tls())
                    return
            elif message[:1] == b"Q":
                query = self.proxy.record_query(message[5:-1].decode(errors="replace"))
                if self.proxy.swallow and self.proxy.swallow in query:
                    continue
                harm = self.proxy.choose_harm(query)
                if harm is Harm.LOSE_ANSWER:
                    self.peer.is_losing_answer = True
                elif harm:
                    if harm is Harm.RESET:
                        self.forward(messages + message)
                    self.record_harm_and_reset(harm)
                    return
            messages += message
        if messages:
            self.forward(messages)

    async def _start_tls(self) -> None:
        self.transport.write(b"S")
        self.transport = await self.proxy.loop.start_tls(
            self.transport, self, self.proxy.tls, server_side=True
        )

    def record_harm_and_reset(self, harm: Harm) -> None:
        self.proxy.harmed[harm] += 1
        self.proxy.before_reset()
        self.reset()

    def reset(self) -> None:
        """Send an RST to the client. PostgreSQL gets the queries so far, then a normal close."""
        if not self.transport.is_closing():
            linger = struct.pack("ii", 1, 0)
            tcp = self.transport.get_extra_info("socket")
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


class _Server(_End):
    """PostgreSQL's end."""

    peer: _Client
    is_losing_answer = False  # to the current query

    def __init__(self, client: _Client) -> None:
        super().__init__(client.proxy)
        self.peer = client

    def data_received(self, data: bytes) -> None:
        self.proxy.round_trips += self.peer.is_waiting
        self.peer.is_waiting = False
        if self.is_losing_answer:
            self.buffer += data
            while message := self.take_message():
                if message[:1] == b"Z":  # ReadyForQuery: the query is committed
                    self.peer.record_harm_and_reset(Harm.LOSE_ANSWER)
                    return
            return
        if self.proxy.pooler:
            data = _KEY_DATA.sub(b"K\0\0\0\x0c\x7f\0\0\0", data)
        self.forward(data)
        self.proxy.terminated_connections += b"57P01" in data
