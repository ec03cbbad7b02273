"""Scenarios 25 to 32: requests that are invalid, ambiguous or too large."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from faults import hostile_framing, hostile_json, hostile_values
from faults.environment import Environment
from faults.hostile_client import (
    JSON,
    MERGE_PATCH,
    OK,
    HostileClient,
    HostileRequest,
    attack,
    make_head,
)
from faults.raw_http import CLOSED, RawConnection, Response
from faults.scenarios import scenario

LIST, CREATE, ROW, UPPER_CASE_ROW = "<list>", "<create>", "<path>", "<PATH>"
READS = [
    *(("GET", path) for path in ("/", "/health", "/ready", "/openapi.json", "/docs")),
    *((method, path) for method in ("GET", "HEAD", "OPTIONS") for path in (LIST, ROW)),
]
# Routes that read a body: method, path and Content-Type.
WRITES = [
    ("POST", CREATE, JSON),
    ("PUT", ROW, JSON),
    ("PATCH", ROW, JSON),
    ("PATCH", ROW, MERGE_PATCH),
]
ROUTES = [*READS, *((method, path) for method, path, _ in WRITES[:3]), ("DELETE", ROW)]
IF_MATCH = 'If-Match: "1"'
CHUNKED = "Transfer-Encoding: chunked"

# By expected statuses: the cases by name. They are in hostile_json, _values and _framing.
Table = Mapping[int | tuple[int, ...], Mapping[str, Any]]


@scenario(25, "chunks of every kind", is_database_fault=False)
def send_chunks(env: Environment) -> None:
    with attack(env) as hostile:
        for method, path, content_type in WRITES:
            head = make_head(method, path, f"{content_type}\r\n{IF_MATCH}\r\n{CHUNKED}")
            for name, body, expected in _cases(env, hostile_framing.CHUNKS):
                hostile.send(
                    HostileRequest(name, method, head, body, expected, breaks_framing=True)
                )
            for name, body, expected in _cases(env, hostile_framing.UNFINISHED):
                hostile.send(HostileRequest(name, method, head, body, expected, half_closes=True))
            for table, half_closes in (
                (hostile_framing.UNFINISHED_CHUNKS, True),
                (hostile_framing.WELL_CHUNKED, False),
            ):
                for name, (body, *chunked), expected in _cases(env, table):
                    hostile.send(
                        HostileRequest(
                            name,
                            method,
                            head,
                            env.resource.fill_in(body),
                            expected,
                            half_closes=half_closes,
                            chunked=chunked,
                        )
                    )


@scenario(26, "request smuggling and broken framing", is_database_fault=False)
def smuggle_requests(env: Environment) -> None:
    with attack(env) as hostile:
        _send_heads(env, hostile, hostile_framing.SMUGGLED)
        for name, text in hostile_framing.NOT_HTTP.items():
            expected = (400, 505, CLOSED)
            hostile.send(HostileRequest(name, "GET", text, b"", expected, breaks_framing=True))
        _check_pipelining(hostile)


@scenario(27, "header bombs", is_database_fault=False)
def send_header_bombs(env: Environment) -> None:
    with attack(env) as hostile:
        _send_heads(env, hostile, hostile_framing.TOO_LARGE)
        for name, fields in hostile_framing.ALLOWED_HEADERS.items():
            for method, path in READS:
                head = make_head(method, path, fields)
                hostile.send(HostileRequest(name, method, head, b"", [OK]))
            for method, path, content_type in WRITES:
                fields_with_type = f"{content_type}\r\n{fields}"
                hostile.send(_write(name, method, path, fields_with_type, b"{@}", [OK]))


@scenario(28, "deep JSON", is_database_fault=False)
def send_deep_json(env: Environment) -> None:
    _send_all(env, hostile_json.DEEP, hostile_json.DEEP_QUERIES)


@scenario(29, "text that cannot be stored", is_database_fault=False)
def send_unstorable_text(env: Environment) -> None:
    body = env.resource.fill_in(b'{"<title>": "never-"}').decode()
    encoded = {f"a body in {name}": body.encode(name) for name in hostile_json.WRONG_ENCODINGS}
    bodies = {**hostile_json.TEXTS, 400: hostile_json.TEXTS[400] | encoded}
    _send_all(env, bodies, hostile_json.TEXT_QUERIES)


@scenario(30, "invalid numbers", is_database_fault=False)
def send_invalid_numbers(env: Environment) -> None:
    _send_all(env, hostile_values.NUMBERS, hostile_values.NUMBER_QUERIES)


@scenario(31, "repeated, unknown and too many names", is_database_fault=False)
def send_repeated_names(env: Environment) -> None:
    _send_all(env, hostile_values.NAMES, hostile_values.NAME_QUERIES)


@scenario(32, "invalid ids", is_database_fault=False)
def send_invalid_ids(env: Environment) -> None:
    with attack(env) as hostile:
        for name, path, expected in _cases(env, hostile_json.IDS):
            for method in ("GET", "HEAD", "DELETE"):
                hostile.send(HostileRequest(name, method, make_head(method, path), b"", expected))
            for method, _, content_type in WRITES[1:]:
                hostile.send(_write(name, method, path, content_type, b"{@}", expected))
        _check_equal_bodies(hostile)
        path, name = UPPER_CASE_ROW, "upper case"
        for method in ("GET", "HEAD", "OPTIONS"):
            hostile.send(HostileRequest(name, method, make_head(method, path), b"", [OK]))
        for method, _, content_type in WRITES[1:]:
            hostile.send(_write(name, method, path, content_type, b"{@}", [OK]))
        head = make_head("DELETE", path, IF_MATCH)
        hostile.send(HostileRequest(name, "DELETE", head, b"", [OK]))


def _send_all(env: Environment, bodies: Table, queries: Table) -> None:
    """Send every body to every route that reads one, and every query to the list."""
    with attack(env) as hostile:
        for name, body, expected in _cases(env, bodies):
            for method, path, content_type in WRITES:
                hostile.send(_write(name, method, path, content_type, body, expected))
        for name, query, expected in _cases(env, queries):
            for method in ("GET", "HEAD"):
                head = make_head(method, f"{LIST}?{query.decode('latin-1')}")
                hostile.send(HostileRequest(name, method, head, b"", expected))


def _send_heads(env: Environment, hostile: HostileClient, table: Table) -> None:
    """Send every head of the table to every route; <line> stands for the method and the path."""
    for name, text, expected in _cases(env, table):
        for method, path in ROUTES:
            head = text.replace("<line>", f"{method} {path}").encode("latin-1")
            hostile.send(HostileRequest(name, method, head, b"", expected, breaks_framing=True))


def _cases(env: Environment, table: Table) -> Iterator[tuple[str, Any, Collection[int]]]:
    """Yield the name, the content and the expected statuses of each case.

    Field names are filled into bytes. Cases for which the resource has no field are left out.
    """
    for statuses, cases in table.items():
        expected = (statuses,) if isinstance(statuses, int) else statuses
        for name, content in cases.items():
            filled = env.resource.fill_in(content) if isinstance(content, bytes) else content
            if filled is not None:
                yield name, filled, expected


def _write(
    name: str, method: str, path: str, fields: str, body: bytes, expected: Collection[int]
) -> HostileRequest:
    fields += "\r\nContent-Length: <length>" + ("" if method == "POST" else f"\r\n{IF_MATCH}")
    return HostileRequest(name, method, make_head(method, path, fields), body, expected)


def _check_pipelining(hostile: HostileClient) -> None:
    """Check that the server executes a create that follows a valid request.

    If it did not, the checks of creates that follow broken requests would prove nothing.
    """
    marker = hostile.new_marker("may-")
    attempt = hostile.record_request("POST", hostile.create_path, marker, may_succeed=True)
    body = json.dumps(hostile.env.resource.create_body(marker)).encode()
    fields = f"{JSON}\r\nContent-Length: {len(body)}"
    create = make_head("POST", hostile.create_path, fields) + body
    with RawConnection(hostile.env.service.port) as connection:
        connection.send(make_head("GET", hostile.read_path) + create)
        connection.read_response()
        response = connection.read_response()
        hostile.record_response(attempt, response)
        hostile.check_status("after a valid request", "POST", response, [OK])


def _check_equal_bodies(hostile: HostileClient) -> None:
    """Check that invalid ids and unknown ids get the same 404."""
    bodies = set()
    for path in hostile_json.IDS[404].values():
        with RawConnection(hostile.env.service.port) as connection:
            connection.send(make_head("GET", hostile.fill_in_path(path)))
            response = connection.read_response()
        if isinstance(response, Response):
            problem = json.loads(response.body)
            problem.pop("request_id")
            bodies.add(json.dumps(problem))
    hostile.env.check(len(bodies) == 1, f"404 has {len(bodies)} bodies: {sorted(bodies)[:2]}")
