"""Rows 22 to 24: clients that go away, that are slow, that never stop sending."""

import json
import select
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import repeat
from pathlib import Path

from faults.abuse import JSON, OK, Range, beside, chunks, head, promise_undisturbed
from faults.client import PROJECTS
from faults.hostile import BODIES, CHUNKED
from faults.ledger import Attempt
from faults.raw import CLOSED, Answer, Line, held
from faults.rows import row
from faults.stage import Stage
from faults.workload import create_body

ROUNDS = 3
SLOW = 40  # clients of each of five kinds
DROPPED = 12.5  # seconds after which none of them is left: 12, and noise
FAT = 80  # projects of 15 KB: a list of them is more than a kernel takes off the service's hands
GIGABYTE, PIECE = 2**30, 2**16  # bytes
PROMPT = 1.0  # seconds to a 413; where nothing else runs it takes milliseconds
CUT = 2**27  # bytes after which a client that goes on is cut off
GROWTH = 16 * 2**20  # bytes of a worker

_LEAVING: dict[str, Callable[[Line], None]] = {
    "a close": lambda line: line.sock.close(),
    "a reset": Line.reset,
    "a half-close": Line.half_close,
}


@row(22, "a client goes away in mid-request", database=False)
def leave(stage: Stage) -> None:
    left: list[Attempt] = []
    with beside(stage) as shots:
        for _ in range(ROUNDS):
            for how in _LEAVING:
                for method, path, kind in BODIES:
                    for what, data in _beginnings(shots, method, path, kind).items():
                        _send_part(shots, f"{what}, then {how}", method, data, how)
                left += [_send_whole(shots, method, how) for method in ("POST", "PUT", "DELETE")]
                left.append(_send_whole(shots, "POST", how, keyed=True))
        time.sleep(0.5)
        first, again = ([_retry(shots, one) for one in left if one.key] for _ in range(2))
    stage.fired += len(left)
    same = [(one.outcome, one.id) for one in first] == [("ok", one.id) for one in again]
    stage.promise(same, "the same key twice was not answered with the same id")
    stood = sum(one.replayed for one in first)
    stage.remarks.append(f"{stood} of {len(first)} keyed creates stood when their key came again")
    stage.promise(stood, "no create stood of those whose client had left: it proves nothing")


def _beginnings(shots: Range, method: str, path: str, kind: str) -> dict[str, bytes]:
    path = path.replace("<path>", shots.victim)
    field = "name" if method == "POST" else "description"
    body = json.dumps({field: shots.marker()}).encode()
    counted = head(method, path, f"{kind}\r\nContent-Length: {len(body) + 1}")
    parts = head(method, path, f"{kind}\r\n{CHUNKED}") + chunks(body, 9, b"")
    return {
        "half a head": counted[: len(counted) // 2],
        "a head": counted,
        "half a body": counted + body[: len(body) // 2],
        "a body less a byte": counted + body,
        "half a chunk": parts[:-5],
        "no last chunk": parts,
    }


def _send_part(shots: Range, name: str, method: str, data: bytes, how: str) -> None:
    with Line(shots.stage.service.port) as line:
        line.send(data)
        _LEAVING[how](line)
        if how == "a half-close":
            answer = line.answer(method)
            shots.judge(name, method, answer, (400, 408, CLOSED))


def _send_whole(shots: Range, method: str, how: str, keyed: bool = False) -> Attempt:
    """Send all of a request that may take effect, and leave; only a half-close sees the answer."""
    op = shots.marker("may-")
    path = PROJECTS if method == "POST" else shots.fresh()
    attempt = shots.begin(method, path, op, may=True, key=op if keyed else None)
    content = {"POST": create_body(op), "PUT": {"description": op}}.get(method)
    body = json.dumps(content).encode() if content else b""
    fields = f"{JSON}\r\nContent-Length: {len(body)}" + f"\r\nIdempotency-Key: {op}" * keyed
    fields += '\r\nIf-Match: "1"' * (method != "POST")
    with Line(shots.stage.service.port) as line:
        line.send(head(method, path, fields) + body)
        _LEAVING[how](line)
        if how == "a half-close":
            answer = line.answer(method)
            shots.judge(f"all, then {how}", method, answer, (OK, CLOSED))
            shots.end(attempt, answer)
        else:
            shots.end(attempt, CLOSED)
    return attempt


def _retry(shots: Range, left: Attempt) -> Attempt:
    op = left.op
    return shots.client.send("create", op, "POST", PROJECTS, create_body(op), key=op)


@row(23, "two hundred slow clients", database=False)
def crawl(stage: Stage) -> None:
    with stage.load(), ExitStack() as open_:
        stage.pass_time(0.1)
        kinds = _slow_kinds(stage)
        before = _reset_peaks(stage)
        lines, begun = defaultdict(list), time.monotonic()
        for kind, (start, _, buffer) in kinds.items():
            for _ in range(SLOW):
                line = open_.enter_context(Line(stage.service.port, 0.1, buffer))
                lines[kind].append(line)
                line.send(start)
        stage.fired = len(held(stage.service.port) & _ports(lines))
        dropped = _trickle(stage, kinds, lines, begun)
        ended = time.monotonic()
        growth = max(_peak(pid) - size for pid, size in before.items())
    for kind, left in {kind: SLOW - len(seconds) for kind, seconds in dropped.items()}.items():
        stage.promise(not left, f"{left} of {SLOW}, {kind}, were not dropped in {DROPPED} s")
    told = ", ".join(f"{kind} {max(dropped[kind], default=0):.1f} s" for kind in kinds)
    stage.remarks.append(f"the last was dropped after: {told}; a worker grew {growth >> 20} MiB")
    promise_undisturbed(stage, begun, ended)


def _slow_kinds(stage: Stage) -> dict[str, tuple[bytes, bytes, int | None]]:
    """What each kind sends at first and then every second, and its buffer's bytes."""
    client = stage.client()
    for n in range(FAT):
        body = create_body(f"fat-{n}") | {"attributes": {"made": "fat", "text": "x" * 15_000}}
        client.send("create", f"fat-{n}", "POST", PROJECTS, body)
    client.close()
    most = f'{PROJECTS}?page_size={FAT}&attributes={{"made":"fat"}}'
    post = head("POST", PROJECTS, f"{JSON}\r\nContent-Length: 1000")
    chunked = head("POST", PROJECTS, f"{JSON}\r\n{CHUNKED}")
    return {
        "idle": (b"", b"", None),
        "slow in the head": (head("GET", PROJECTS, "X: a")[:-4], b"a", None),
        "slow in the body": (post + b"{", b" ", None),
        "slow in chunks": (chunked + b"1\r\n{\r\n", b"1\r\n \r\n", None),
        "never reading": (head("GET", most), b"", 4096),
    }


def _trickle(
    stage: Stage,
    kinds: dict[str, tuple[bytes, bytes, int | None]],
    lines: dict[str, list[Line]],
    begun: float,
) -> dict[str, list[float]]:
    """Go on with what each kind does; by kind the seconds after which each one was dropped."""
    dropped: dict[str, list[float]] = {kind: [] for kind in kinds}
    gone: set[int] = set()
    second = 1
    end = DROPPED + stage.noise
    while (now := time.monotonic() - begun) < end:
        there = held(stage.service.port)
        for kind, some in lines.items():
            for line in some:
                if line.port not in there | gone:
                    gone.add(line.port)
                    dropped[kind].append(now)
                elif now > second and kinds[kind][1]:
                    with suppress(OSError):
                        line.sock.send(kinds[kind][1])
        second += now > second
        time.sleep(0.2)
    return dropped


def _ports(lines: dict[str, list[Line]]) -> set[int]:
    return {line.port for some in lines.values() for line in some}


@row(24, "a gigabyte as a body", database=False)
def flood(stage: Stage) -> None:
    taken, waited = Counter[str](), Counter[str]()
    with beside(stage) as shots:
        stage.pass_time(0.2)  # so that what a worker grows by is not its warming up
        before = _reset_peaks(stage)
        for method, path, kind in BODIES:
            start = {
                "announced": f"Content-Length: {GIGABYTE}",
                "announced, asking first": f"Content-Length: {GIGABYTE}\r\nExpect: 100-continue",
                "10^20 announced": f"Content-Length: {10**20}",
                "streamed": f"Content-Length: {GIGABYTE}",
                "streamed in chunks": CHUNKED,
            }
            for name, fields in start.items():
                data = head(method, path.replace("<path>", shots.victim), f"{kind}\r\n{fields}")
                pieces = repeat(b"x" * PIECE) if name == "streamed" else iter(())
                if name == "streamed in chunks":
                    pieces = repeat(b"%x\r\n%s\r\n" % (PIECE, b"x" * PIECE))
                size, seconds = _flood(shots, name, method, data, pieces)
                taken[name] = max(taken[name], size)
                waited[name] = max(waited[name], seconds)
        growth = max(_peak(pid) - size for pid, size in before.items())
        stage.promise(set(before) == set(stage.service.workers()), "a worker died")
    stage.promise(growth < GROWTH, f"a worker grew by {growth / 2**20:.1f} MiB")
    for name, seconds in waited.items():
        stage.promise(seconds < PROMPT + stage.noise, f"{name}: an answer took {seconds:.2f} s")
        stage.promise(taken[name] < CUT, f"{name}: {taken[name] >> 20} MiB were taken")
    most = max(taken.values()) >> 20
    slowest = max(waited.values())
    stage.remarks.append(
        f"the slowest 413 took {slowest:.3f} s, at most {most} MiB were taken,"
        f" a worker grew {growth / 2**20:.1f} MiB"
    )


def _flood(
    shots: Range, name: str, method: str, data: bytes, pieces: Iterator[bytes]
) -> tuple[int, float]:
    """Send without end; how many bytes were taken in all, and the seconds to the answer."""
    with Line(shots.stage.service.port) as line:
        attempt = shots.begin(method, PROJECTS, shots.marker(), may=False)
        line.send(data)
        size = _pour(line, pieces, lambda: bool(select.select([line.sock], [], [], 0)[0]))
        answer = line.answer(method)
        shots.end(attempt, answer)
        shots.judge(name, method, answer, [413])
        seconds = time.monotonic() - attempt.sent
        if isinstance(answer, Answer):  # and go on, as one who does not listen
            size += _pour(line, pieces, lambda: False)
    return size, seconds


def _pour(line: Line, pieces: Iterator[bytes], is_over: Callable[[], bool]) -> int:
    size, end = 0, time.monotonic() + 10
    while size < GIGABYTE and time.monotonic() < end and not is_over():
        piece = next(pieces, None)
        if piece is None or not line.send(piece):
            break
        size += len(piece)
    return size


def _reset_peaks(stage: Stage) -> dict[int, int]:
    """The workers' bytes by pid; from now on they have a new peak."""
    sizes = {}
    for pid in stage.service.workers():
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        sizes[pid] = _peak(pid)
    return sizes


def _peak(pid: int) -> int:
    """The most bytes of memory that a process has had; 0 when it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
