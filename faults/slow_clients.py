"""Scenarios 22 to 24: clients that disconnect, that are slow, or that send without end."""

import json
import select
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from faults.environment import Environment
from faults.hostile_client import (
    JSON,
    OK,
    HostileClient,
    attack,
    check_normal_clients,
    make_chunks,
    make_head,
)
from faults.hostile_requests import CHUNKED, WRITES
from faults.ledger import Attempt
from faults.raw_http import CLOSED, RawConnection, Response, open_client_ports
from faults.scenarios import scenario

ROUNDS = 3
CLIENTS = 40  # of each kind of slow client
DROP_SECONDS = 12.5  # after this no slow client is connected: 12, and a margin
# A list of these rows is larger than what the kernel buffers for the service.
LARGE_ROWS, LARGE_SIZE = 80, 15_000
BODY_BYTES, PIECE_BYTES = 2**30, 2**16
REFUSAL_SECONDS = 1.0  # until a 413; milliseconds on an idle machine
LIMIT_BYTES = 2**27  # then a client that does not stop is cut off
GROWTH_BYTES = 16 * 2**20  # of a worker's memory

_DISCONNECTIONS: dict[str, Callable[[RawConnection], None]] = {
    "a close": RawConnection.close,
    "a reset": RawConnection.reset,
    "a half-close": RawConnection.half_close,
}


@scenario(22, "clients disconnect during a request", is_database_fault=False)
def disconnect(env: Environment) -> None:
    attempts: list[Attempt] = []
    with attack(env) as hostile:
        for _ in range(ROUNDS):
            for ending in _DISCONNECTIONS:
                for method, path, content_type in WRITES:
                    for part, data in _parts(hostile, method, path, content_type).items():
                        _send_part(hostile, f"{part}, then {ending}", method, data, ending)
                attempts += [
                    _send_whole(hostile, method, ending) for method in ("POST", "PUT", "DELETE")
                ]
                attempts.append(_send_whole(hostile, "POST", ending, has_key=True))
        time.sleep(0.5)
        keys = [attempt.key for attempt in attempts if attempt.key]
        first, second = ([hostile.client.create(key, key=key) for key in keys] for _ in range(2))
    env.fault_count += len(attempts)
    are_same = [(a.outcome, a.id) for a in first] == [("ok", a.id) for a in second]
    env.check(are_same, "the same key twice was not answered with the same id")
    existing = sum(attempt.is_replay for attempt in first)
    env.notes.append(f"{existing} of {len(first)} keyed creates existed when they were repeated")
    env.check(existing, "void: no create of a client that had disconnected took effect")


def _parts(hostile: HostileClient, method: str, path: str, content_type: str) -> dict[str, bytes]:
    """Return the beginnings of a request, by name."""
    path = hostile.fill_in_path(path, hostile.write_path)
    resource = hostile.env.resource
    field = resource.title_field if method == "POST" else resource.text_field
    body = json.dumps({field: hostile.new_marker()}).encode()
    head = make_head(method, path, f"{content_type}\r\nContent-Length: {len(body) + 1}")
    chunked_head = make_head(method, path, f"{content_type}\r\n{CHUNKED}")
    chunked = chunked_head + make_chunks(body, 9, b"")
    return {
        "half a head": head[: len(head) // 2],
        "a head": head,
        "half a body": head + body[: len(body) // 2],
        "a body less a byte": head + body,
        "half a chunk": chunked[:-5],
        "no last chunk": chunked,
    }


def _send_part(hostile: HostileClient, name: str, method: str, data: bytes, ending: str) -> None:
    with RawConnection(hostile.env.service.port) as connection:
        connection.send(data)
        _DISCONNECTIONS[ending](connection)
        if ending == "a half-close":
            response = connection.read_response(method)
            hostile.check_status(name, method, response, (400, 408, CLOSED))


def _send_whole(hostile: HostileClient, method: str, ending: str, has_key: bool = False) -> Attempt:
    """Send a whole request, and disconnect; only after a half-close there is a response."""
    marker = hostile.new_marker("may-")
    path = hostile.create_path if method == "POST" else hostile.new_row()
    key = marker if has_key else None
    attempt = hostile.record_request(method, path, marker, may_succeed=True, key=key)
    resource = hostile.env.resource
    contents = {"POST": resource.create_body(marker), "PUT": {resource.text_field: marker}}
    body = json.dumps(contents[method]).encode() if method in contents else b""
    fields = f"{JSON}\r\nContent-Length: {len(body)}\r\nX-Request-ID: {marker}"
    fields += f"\r\nIdempotency-Key: {key}" if key else ""
    fields += '\r\nIf-Match: "1"' if method != "POST" else ""
    with RawConnection(hostile.env.service.port) as connection:
        connection.send(make_head(method, path, fields) + body)
        _DISCONNECTIONS[ending](connection)
        response: Response | int = CLOSED
        if ending == "a half-close":
            response = connection.read_response(method)
            hostile.check_status(f"all, then {ending}", method, response, (OK, CLOSED))
        hostile.record_response(attempt, response)
    return attempt


class SlowKind(NamedTuple):
    """A kind of slow client: what it sends at first and then each second."""

    start: bytes = b""
    each_second: bytes = b""
    receive_buffer: int | None = None  # bytes


@scenario(23, "two hundred slow clients", is_database_fault=False)
def send_slowly(env: Environment) -> None:
    with env.load(), ExitStack() as stack:
        env.sleep_share(0.1)
        kinds = _slow_kinds(env)
        sizes = _reset_peaks(env)
        connections, start = defaultdict(list), time.monotonic()
        for name, kind in kinds.items():
            for _ in range(CLIENTS):
                connection = RawConnection(env.service.port, 0.1, kind.receive_buffer)
                connections[name].append(stack.enter_context(connection))
                connection.send(kind.start)
        ports = {c.port for group in connections.values() for c in group}
        env.fault_count = len(open_client_ports(env.service.port) & ports)
        dropped = _send_until_dropped(env, kinds, connections, start)
        end = time.monotonic()
        growth = max(_peak_bytes(pid) - size for pid, size in sizes.items())
    for name, seconds in dropped.items():
        remaining = CLIENTS - len(seconds)
        failure = f"{remaining} of {CLIENTS} clients ({name}) were not dropped in {DROP_SECONDS} s"
        env.check(not remaining, failure)
    times = ", ".join(f"{name} {max(dropped[name], default=0):.1f} s" for name in kinds)
    env.notes.append(f"the last were dropped after: {times}; a worker grew {growth >> 20} MiB")
    check_normal_clients(env, start, end)


def _slow_kinds(env: Environment) -> dict[str, SlowKind]:
    """Return the kinds of slow clients by name; create the rows that one of them lists."""
    client, path = env.new_client(), env.resource.path
    for n in range(LARGE_ROWS):
        body = env.resource.large_body(f"large-{n}", LARGE_SIZE)
        client.send("create", f"large-{n}", "POST", client.create_path, body)
    client.close()
    post = make_head("POST", client.create_path, f"{JSON}\r\nContent-Length: 1000")
    chunked = make_head("POST", client.create_path, f"{JSON}\r\n{CHUNKED}")
    large_list = make_head("GET", f"{path}?page_size={LARGE_ROWS}&q=large-")
    return {
        "idle": SlowKind(),
        "slow in the head": SlowKind(make_head("GET", path, "X: a")[:-4], b"a"),
        "slow in the body": SlowKind(post + b"{", b" "),
        "slow in chunks": SlowKind(chunked + b"1\r\n{\r\n", b"1\r\n \r\n"),
        "not reading": SlowKind(large_list, receive_buffer=4096),
    }


def _send_until_dropped(
    env: Environment,
    kinds: dict[str, SlowKind],
    connections: dict[str, list[RawConnection]],
    start: float,
) -> dict[str, list[float]]:
    """Continue to send; return by kind after how many seconds each client was dropped."""
    dropped: dict[str, list[float]] = {name: [] for name in kinds}
    dropped_ports: set[int] = set()
    second = 1
    while (now := time.monotonic() - start) < DROP_SECONDS + env.noise_seconds:
        open_ports = open_client_ports(env.service.port)
        for name, group in connections.items():
            for connection in group:
                if connection.port not in open_ports | dropped_ports:
                    dropped_ports.add(connection.port)
                    dropped[name].append(now)
                elif now > second and kinds[name].each_second:
                    with suppress(OSError):
                        connection.sock.send(kinds[name].each_second)
        second += now > second
        time.sleep(0.2)
    return dropped


@scenario(24, "bodies of a gigabyte", is_database_fault=False)
def send_huge_bodies(env: Environment) -> None:
    max_bytes, max_seconds = Counter[str](), Counter[str]()  # by case
    with attack(env) as hostile:
        env.sleep_share(0.2)  # warm up, so that only the bodies can make a worker grow
        sizes = _reset_peaks(env)
        for method, path, content_type in WRITES:
            fields = {
                "announced": f"Content-Length: {BODY_BYTES}",
                "announced, asking first": f"Content-Length: {BODY_BYTES}\r\nExpect: 100-continue",
                "10^20 announced": f"Content-Length: {10**20}",
                "streamed": f"Content-Length: {BODY_BYTES}",
                "streamed in chunks": CHUNKED,
            }
            path = hostile.fill_in_path(path, hostile.write_path)
            for name, field in fields.items():
                head = make_head(method, path, f"{content_type}\r\n{field}")
                pieces = repeat(b"x" * PIECE_BYTES) if name == "streamed" else iter(())
                if name == "streamed in chunks":
                    pieces = repeat(make_chunks(b"x" * PIECE_BYTES, PIECE_BYTES, b""))
                size, seconds = _send_without_end(hostile, name, method, head, pieces)
                max_bytes[name] = max(max_bytes[name], size)
                max_seconds[name] = max(max_seconds[name], seconds)
        growth = max(_peak_bytes(pid) - size for pid, size in sizes.items())
        env.check(set(sizes) == set(env.service.worker_pids()), "a worker died")
    env.check(growth < GROWTH_BYTES, f"a worker grew by {growth / 2**20:.1f} MiB")
    for name, seconds in max_seconds.items():
        limit = REFUSAL_SECONDS + env.noise_seconds
        env.check(seconds < limit, f"{name}: a response took {seconds:.2f} s")
        mebibytes = max_bytes[name] >> 20
        env.check(max_bytes[name] < LIMIT_BYTES, f"{name}: the server accepted {mebibytes} MiB")
    env.notes.append(
        f"the slowest 413 took {max(max_seconds.values()):.3f} s, the server accepted at most"
        f" {max(max_bytes.values()) >> 20} MiB, a worker grew {growth / 2**20:.1f} MiB"
    )


def _send_without_end(
    hostile: HostileClient, name: str, method: str, head: bytes, pieces: Iterator[bytes]
) -> tuple[int, float]:
    """Send a body, also after the response; return the bytes sent and the response's seconds."""
    with RawConnection(hostile.env.service.port) as connection:
        marker = hostile.new_marker()
        attempt = hostile.record_request(method, hostile.create_path, marker, may_succeed=False)
        connection.send(head)
        size = _send_pieces(
            connection, pieces, lambda: bool(select.select([connection.sock], [], [], 0)[0])
        )
        response = connection.read_response(method)
        hostile.record_response(attempt, response)
        hostile.check_status(name, method, response, [413])
        seconds = time.monotonic() - attempt.sent_at
        if isinstance(response, Response):
            size += _send_pieces(connection, pieces, lambda: False)
    return size, seconds


def _send_pieces(
    connection: RawConnection, pieces: Iterator[bytes], is_over: Callable[[], bool]
) -> int:
    """Send pieces for at most ten seconds; return the number of bytes."""
    size, deadline = 0, time.monotonic() + 10
    while size < BODY_BYTES and time.monotonic() < deadline and not is_over():
        piece = next(pieces, None)
        if piece is None or not connection.send(piece):
            break
        size += len(piece)
    return size


def _reset_peaks(env: Environment) -> dict[int, int]:
    """Return the workers' memory in bytes by pid; their peaks are measured from now on."""
    sizes = {}
    for pid in env.service.worker_pids():
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        sizes[pid] = _peak_bytes(pid)
    return sizes


def _peak_bytes(pid: int) -> int:
    """Return the peak of a process's resident memory; 0 if the process is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
