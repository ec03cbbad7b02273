"""Hostile requests beside honest ones: what they may be answered, and that nobody notices them."""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from faults.client import PROJECTS
from faults.ledger import Attempt, Ledger
from faults.raw import CLOSED, SILENT, Answer, Line
from faults.service import DATABASE_POOL_SIZE, WORKERS
from faults.stage import Stage
from faults.workload import create_body

JSON = "Content-Type: application/json"
MERGE = "Content-Type: application/merge-patch+json"
OK = 200  # in tables of cases also for 201 and 204
SERVED, SLOW = 0.99, 1.0  # of honest requests: the share that is served; p99 in seconds
# Seconds for an answer to what is not slow, and to hang up after it: less than the service waits
# for the rest of a request (10) and for another (5).
_PATIENCE, _END = 8.0, 4.0
_NEVER = "never-"  # begins each marker that must not be stored
_WORDS = {CLOSED: "closed", SILENT: "silence", OK: "served"}
_READS = ("GET", "HEAD", "OPTIONS")
_KINDS = {"POST": "create", "PUT": "change", "PATCH": "change", "DELETE": "delete"}
# In the log these are gaps: an error nobody foresaw, a value that only the database refused.
_GAPS = ("Traceback", "unhandled ", "database error 22", "Error handling request")
_STRANGE = "SELECT count(*) FROM projects WHERE concat(name, description, attributes) ~ %s"


class Shot(NamedTuple):
    """One request; `right` has the statuses of which one must come.

    In `head` <path> stands for a project's path, <PATH> for the same with an upper-case id,
    <length> for the body's length; in `body` @ stands for a field with a marker, by which it is
    found wherever it is stored. `chunked` is the size of the chunks that the body is sent in, and
    what follows the last one. What `breaks` leaves the server without a place in the stream: it
    must answer once and hang up, and never act on what was sent behind it. What `ends` is sent with
    the word that nothing more will come.
    """

    name: str
    method: str
    head: bytes
    body: bytes
    right: Collection[int]
    breaks: bool = False
    ends: bool = False
    chunked: tuple[int, bytes] | None = None


class Range:
    """Fires shots at a stage's service and keeps account of what comes back."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.client = stage, stage.client()
        self.ledger = Ledger(stage.ledgers / "hostile.jsonl")
        self.tally: Counter[int] = Counter()
        self.wrong: dict[str, list[str]] = {}  # by the name of the case
        self.deceived = 0  # answers that promised to keep a connection which was then closed
        self._count = 0
        self.target, self.victim = self.fresh(), self.fresh()  # to be read, and to be harmed

    def marker(self, word: str = _NEVER) -> str:
        self._count += 1
        return f"{word}{self.stage.row.number}-{self._count}"

    def fresh(self) -> str:
        """The path of a new project, at version 1."""
        op = self.marker("target-")
        made = self.client.send("create", op, "POST", PROJECTS, create_body(op), key=op)
        return f"{PROJECTS}/{made.id}"

    def fire(self, shot: Shot) -> None:
        """Send it and judge what comes."""
        may = OK in shot.right
        path = self.target if shot.method in _READS else self.fresh() if may else self.victim
        attempt = self.begin(shot.method, path, self.marker("may-" if may else _NEVER), may)
        with Line(self.stage.service.port, _PATIENCE) as line:
            line.send(_filled(shot, path, attempt.op) + (self._behind() if shot.breaks else b""))
            if shot.ends:
                line.half_close()
            answer = line.answer(shot.method)
            self.end(attempt, answer)
            self.judge(shot.name, shot.method, answer, shot.right)
            if shot.breaks:
                line.sock.settimeout(_END)
                self._promise_end(shot, line.rest())
                self.deceived += isinstance(answer, Answer) and not answer.closes
            elif isinstance(answer, Answer) and not answer.closes and not shot.ends:
                self._promise_next(shot, line, answer.status)

    def begin(self, method: str, path: str, op: str, may: bool, key: str | None = None) -> Attempt:
        """Write down what will be sent: as the write that it is, if it `may` take effect."""
        kind = _KINDS.get(method, "hostile") if may else "hostile"
        sure = '"1"' if kind in ("change", "delete") else None
        now = time.monotonic()
        return self.ledger.before(
            op=op, kind=kind, method=method, path=path, key=key, if_match=sure, sent=now
        )

    def end(self, attempt: Attempt, answer: Answer | int) -> None:
        """Write down what came."""
        now = time.monotonic()
        if isinstance(answer, int):
            self.ledger.after(attempt, done=now, failure=_WORDS[answer])
            return
        self.ledger.after(
            attempt,
            status=answer.status,
            etag=answer.headers.get("ETag"),
            id=answer.headers.get("Location", "").rpartition("/")[2] or None,
            done=now,
            flaws=answer.flaws,
        )

    def judge(self, name: str, method: str, answer: Answer | int, right: Collection[int]) -> None:
        """Count the answer, and note it if it is not `right`."""
        status = answer.status if isinstance(answer, Answer) else answer
        status = OK if status in (201, 204) else status
        self.tally[status] += 1
        if status not in right:
            expected = " or ".join(_WORDS.get(one, str(one)) for one in right)
            self.note(name, method, f"{_WORDS.get(status, status)}, not {expected}")

    def note(self, name: str, method: str, flaw: str) -> None:
        self.wrong.setdefault(name, []).append(f"{flaw} ({method})")

    @property
    def refused(self) -> int:
        return sum(count for status, count in self.tally.items() if status != OK)

    def conclude(self, since: float) -> None:
        """Hold all that is promised of the time `since`; the load must have ended."""
        stage = self.stage
        stage.fired = self.refused
        told = ", ".join(f"{_WORDS.get(one, one)} x {n}" for one, n in sorted(self.tally.items()))
        stage.remarks.append(f"{self.tally.total()} cases, {self.refused} refused: {told}")
        if self.deceived:
            told = f"{self.deceived} answers said keep-alive, and the connection was closed"
            stage.remarks.append(told)
        for name, flaws in self.wrong.items():
            stage.promise(False, f"{name}, {len(flaws)} x: {flaws[0]}")
        ((strange,),) = stage.cluster.sql(_STRANGE, _NEVER)
        stage.promise(not strange, f"{strange} rows say what was refused, or smuggled")
        with ThreadPoolExecutor(2 * WORKERS * DATABASE_POOL_SIZE) as pool:
            said = set(
                pool.map(stage.service.status, [self.target] * 4 * WORKERS * DATABASE_POOL_SIZE)
            )
        stage.promise(said == {200}, f"afterwards reads are answered {said}")
        log = stage.service.log.read_text(errors="replace")
        gaps = {gap: log.count(gap) for gap in _GAPS if gap in log}
        stage.promise(not gaps, f"in the log: {gaps}")
        promise_undisturbed(stage, since)

    def _behind(self) -> bytes:
        """A create that must not happen, in the place of a next request."""
        body = b'{"name": "%s"}' % self.marker().encode()
        return head("POST", PROJECTS, f"{JSON}\r\nContent-Length: {len(body)}") + body

    def _promise_end(self, shot: Shot, rest: bytes | None) -> None:
        if rest is None:
            self.note(shot.name, shot.method, "the connection stays open")
        elif b"HTTP/1." in rest:
            self.note(shot.name, shot.method, "what was sent behind it is answered")

    def _promise_next(self, shot: Shot, line: Line, status: int) -> None:
        line.send(head("GET", self.target, "Connection: close"))
        answer = line.answer()
        if isinstance(answer, Answer) and answer.status == 200:
            return
        self.deceived += answer == CLOSED
        if status != 413 or answer != CLOSED:  # a body that nobody read may cost the connection
            self.note(shot.name, shot.method, "the connection is of no use after it")


def head(method: str, path: str, fields: str = "") -> bytes:
    """A request's head; `fields` are lines without the last one's end."""
    lines = [f"{method} {path} HTTP/1.1", "Host: api.test", *([fields] if fields else [])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunks(body: bytes, size: int, end: bytes = b"0\r\n\r\n") -> bytes:
    """`body` in chunks of `size` bytes."""
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


def _filled(shot: Shot, path: str, op: str) -> bytes:
    field = b'"name"' if shot.method == "POST" else b'"description"'
    body = shot.body.replace(b"@", b'%s: "%s"' % (field, op.encode()))
    words = {
        b"<path>": path,
        b"<PATH>": PROJECTS + path.removeprefix(PROJECTS).upper(),
        b"<length>": str(len(body)),
    }
    begin = shot.head
    for word, value in words.items():
        begin = begin.replace(word, value.encode())
    return begin + (chunks(body, *shot.chunked) if shot.chunked else body)


def promise_undisturbed(stage: Stage, since: float, until: float = float("inf")) -> None:
    """That those who worked in this time were served, and soon."""
    own = f"{stage.row.number}."
    honest = [one for one in stage.attempts() if one.op.startswith(own)]
    honest = [one for one in honest if since <= one.sent < until]
    served = [one for one in honest if one.status and one.status < 500]
    seconds = sorted(one.seconds for one in served) or [0.0]
    late = seconds[int(len(seconds) * 0.99)]
    share = len(served) / max(1, len(honest))
    stage.promise(share >= SERVED, f"{share:.1%} of {len(honest)} honest requests were served")
    stage.promise(late < SLOW + stage.noise, f"p99 of honest requests was {late:.2f} s")
    stage.remarks.append(f"{len(served)} of {len(honest)} honest served, p99 {late:.3f} s")


@contextmanager
def beside(stage: Stage) -> Iterator[Range]:
    """Honest clients work while the block fires; they must not notice."""
    with stage.load():
        stage.pass_time(0.1)
        shots, since = Range(stage), time.monotonic()
        yield shots
        stage.pass_time(0.1)
    shots.conclude(since)
