"""Rows 25 to 32: requests that are broken, ambiguous, too much, or mean no good."""

import json
from collections.abc import Collection, Iterator, Mapping

from faults import cases, frames, values
from faults.abuse import JSON, MERGE, OK, Range, Shot, beside, head
from faults.client import PROJECTS
from faults.raw import CLOSED, Answer, Line
from faults.rows import row
from faults.stage import Stage

ONE, UPPER = "<path>", "<PATH>"
READS = [
    *(("GET", path) for path in ("/", "/health", "/ready", "/openapi.json", "/docs")),
    *((method, path) for method in ("GET", "HEAD", "OPTIONS") for path in (PROJECTS, ONE)),
]
BODIES = [("POST", PROJECTS, JSON), ("PUT", ONE, JSON), ("PATCH", ONE, JSON), ("PATCH", ONE, MERGE)]
ROUTES = [*READS, *((method, path) for method, path, _ in BODIES[:3]), ("DELETE", ONE)]
SURE = 'If-Match: "1"'
CHUNKED = "Transfer-Encoding: chunked"

Table = Mapping[int | tuple[int, ...], Mapping[str, bytes]]


@row(25, "chunks of every kind", database=False)
def chunk(stage: Stage) -> None:
    with beside(stage) as shots:
        for method, path, kind in BODIES:
            start = head(method, path, f"{kind}\r\n{SURE}\r\n{CHUNKED}")
            for name, body, right in _each(frames.CHUNKS):
                shots.fire(Shot(name, method, start, body, right, breaks=True))
            for name, body, right in _each(frames.UNENDED):
                shots.fire(Shot(name, method, start, body, right, ends=True))
            for name, (body, *form), right in _each(frames.WELL_CHUNKED):
                shots.fire(Shot(name, method, start, body, right, chunked=form))


@row(26, "smuggling and broken framing", database=False)
def smuggle(stage: Stage) -> None:
    with beside(stage) as shots:
        for name, text, right in _each(frames.SMUGGLED):
            for method, path in ROUTES:
                start = text.replace("<line>", f"{method} {path}").encode("latin-1")
                shots.fire(Shot(name, method, start, b"", right, breaks=True))
        for name, text in frames.NO_HTTP.items():
            shots.fire(Shot(name, "GET", text, b"", (400, 505, CLOSED), breaks=True))
        _promise_pipelining(shots)


@row(27, "header bombs", database=False)
def bomb(stage: Stage) -> None:
    with beside(stage) as shots:
        for name, text, right in _each(frames.BOMBS):
            for method, path in ROUTES:
                start = text.replace("<line>", f"{method} {path}").encode("latin-1")
                shots.fire(Shot(name, method, start, b"", right, breaks=True))
        for name, fields in frames.HEAVY.items():
            for method, path in READS:
                shots.fire(Shot(name, method, head(method, path, fields), b"", [OK]))
            for method, path, kind in BODIES:
                shots.fire(_with_body(name, method, path, f"{kind}\r\n{fields}", b"{@}", [OK]))


@row(28, "deep JSON", database=False)
def nest(stage: Stage) -> None:
    _play(stage, cases.DEEP, cases.DEEP_QUERIES)


@row(29, "text that cannot be stored", database=False)
def garble(stage: Stage) -> None:
    _play(stage, cases.TEXTS, cases.TEXT_QUERIES)


@row(30, "numbers that are none", database=False)
def miscount(stage: Stage) -> None:
    _play(stage, values.NUMBERS, values.NUMBER_QUERIES)


@row(31, "names twice, unknown and too many", database=False)
def repeat_names(stage: Stage) -> None:
    _play(stage, values.NAMES, values.NAME_QUERIES)


@row(32, "ids that are none", database=False)
def identify(stage: Stage) -> None:
    with beside(stage) as shots:
        for name, text, right in _each(cases.IDS):
            for method in ("GET", "HEAD", "DELETE"):
                shots.fire(Shot(name, method, head(method, text), b"", right))
            for method, _, kind in BODIES[1:]:
                shots.fire(_with_body(name, method, text, kind, b"{@}", right))
        _promise_one_document(shots)
        for method in ("GET", "HEAD", "OPTIONS"):
            shots.fire(Shot("upper case", method, head(method, UPPER), b"", [OK]))
        for method, _, kind in BODIES[1:]:
            shots.fire(_with_body("upper case", method, UPPER, kind, b"{@}", [OK]))
        shots.fire(Shot("upper case", "DELETE", head("DELETE", UPPER, SURE), b"", [OK]))


def _play(stage: Stage, bodies: Table, queries: Table) -> None:
    """Every body to every route that takes one, every query to the list."""
    with beside(stage) as shots:
        for name, body, right in _each(bodies):
            for method, path, kind in BODIES:
                shots.fire(_with_body(name, method, path, kind, body, right))
        for name, query, right in _each(queries):
            for method in ("GET", "HEAD"):
                start = head(method, f"{PROJECTS}?{query.decode('latin-1')}")
                shots.fire(Shot(name, method, start, b"", right))


def _each(table: Mapping) -> Iterator[tuple]:
    """Each case of a table, with the statuses that are right for it."""
    for statuses, named in table.items():
        right = (statuses,) if isinstance(statuses, int) else statuses
        yield from ((name, case, right) for name, case in named.items())


def _with_body(
    name: str, method: str, path: str, fields: str, body: bytes, right: Collection[int]
) -> Shot:
    fields += "\r\nContent-Length: <length>" + ("" if method == "POST" else f"\r\n{SURE}")
    return Shot(name, method, head(method, path, fields), body, right)


def _promise_pipelining(shots: Range) -> None:
    """That what is sent behind a good request is acted on: else its absence would prove nothing."""
    op = shots.marker("may-")
    attempt = shots.begin("POST", PROJECTS, op, may=True)
    body = json.dumps({"name": op}).encode()
    behind = head("POST", PROJECTS, f"{JSON}\r\nContent-Length: {len(body)}") + body
    with Line(shots.stage.service.port) as line:
        line.send(head("GET", shots.target) + behind)
        line.answer()
        answer = line.answer()
        shots.end(attempt, answer)
        shots.judge("behind a good request", "POST", answer, [OK])


def _promise_one_document(shots: Range) -> None:
    """That no id that is none is told apart from one that is not there."""
    seen = set()
    for text in cases.IDS[404].values():
        with Line(shots.stage.service.port) as line:
            line.send(head("GET", text))
            answer = line.answer()
        if isinstance(answer, Answer):
            told = json.loads(answer.body)
            told.pop("request_id")
            seen.add(json.dumps(told))
    shots.stage.promise(len(seen) == 1, f"404 has {len(seen)} bodies: {sorted(seen)[:2]}")
