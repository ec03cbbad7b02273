"""Plain requests are parsed without gunicorn: they get the same environ and the same response.

Two servers run the same application. In one of them no request is plain, so gunicorn parses all.
"""

import re
import socket
from collections.abc import Mapping

import pytest

from faults import hostile_framing, hostile_json, hostile_values
from faults.hostile_client import make_chunks, make_head
from tests.conftest import PROJECTS
from tests.test_bad_input import INVALID_BODIES
from tests.test_worker import (
    COMPLETE_REQUESTS,
    GET,
    INVALID_REQUESTS,
    UNPARSED_REQUESTS,
    connect,
    receive,
)

pytestmark = pytest.mark.slow

# An application around ours: /echo answers with its environ, and /answer as the query says.
CONFIGURATION = """
import io, json
from urllib.parse import unquote_to_bytes

exec(open("gunicorn.conf.py").read())
log_ready, prepare_worker = post_worker_init, post_fork


def post_worker_init(worker):
    log_ready(worker)
    if IS_GUNICORN_ONLY:
        worker.plain_requests.max_head_bytes = 0


def post_fork(server, worker):
    prepare_worker(server, worker)
    load_application = worker.app.wsgi
    worker.app.wsgi = lambda: wrap(load_application())


def wrap(serve):
    def application(environ, start_response):
        path = environ["PATH_INFO"]
        if "/echo" in path:
            parts = [echo(environ)]
            headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(parts[0])))]
            start_response("200 OK", headers)
            return parts
        if path == "/answer":
            return ANSWERS[environ["QUERY_STRING"]](environ, start_response)
        return serve(environ, start_response)

    return application


def echo(environ):
    environ = dict(environ)
    body = environ.pop("wsgi.input").read()
    is_plain = environ.pop("wsgi.early_hints", None) is None
    objects = ("projectapp.received_at", "projectapp.streams", "gunicorn.socket", "wsgi.errors")
    for name in (*objects, "REMOTE_PORT"):
        environ[name] = type(environ[name]).__name__
    environ["SERVER_PORT"] = type(environ["SERVER_PORT"]).__name__
    values = {name: repr(value) for name, value in sorted(environ.items())}
    return json.dumps({"is_plain": is_plain, "body": body.hex(), "environ": values}).encode()


class Parts(list):
    is_closed = False

    def close(self):
        Parts.is_closed = True


def answer(status="200 OK", parts=(b"ab", b"c"), **headers):
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]

    def run(environ, start_response):
        start_response(status, pairs)
        return Parts(parts)

    return run


def write(environ, start_response):
    write = start_response("200 OK", [("Content-Length", "6")])
    write(b"abc")
    return [b"def"]


def replace(environ, start_response):
    start_response("200 OK", [("Content-Length", "1")])
    try:
        raise ValueError
    except ValueError:
        start_response("404 NOT FOUND", [("Content-Length", "3")], sys.exc_info())
    return [b"abc"]


def start_twice(environ, start_response):
    start_response("200 OK", [])
    start_response("200 OK", [])


def fail(environ, start_response):
    raise ValueError("secret")


def iterate(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    yield b"a"
    yield b"b"


def was_closed(environ, start_response):
    text = str(Parts.is_closed).encode()
    Parts.is_closed = False
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]


LONG = "x" * 70000
ANSWERS = {
    "length": answer(Content_Length="3", X_A="b"),
    "lower": answer(content_length="3", x_a="b"),
    "none": answer(),
    "short": answer(Content_Length="2"),
    "long": answer(Content_Length="4"),
    "twice": lambda environ, start: start("200 OK", [("Content-Length", "3")] * 2) and [b"abc"],
    "padded": answer(Content_Length=" 3 ", X_A="  b\\t"),
    "hop": answer(Content_Length="3", Connection="close", Keep_Alive="a", Transfer_Encoding="x"),
    "own": answer(Content_Length="3", Server="mine", Date="today", server="b", DATE="c"),
    "no content": answer("204 NO CONTENT", [], Content_Length="0", ETag="a"),
    "no content, with a body": answer("204 NO CONTENT", [b"a"]),
    "not modified": answer("304 NOT MODIFIED", [], ETag="a"),
    "not modified, with a length": answer("304 NOT MODIFIED", [], Content_Length="3"),
    "empty": answer("200 OK", [], Content_Length="0"),
    "nothing": answer("200 OK", []),
    "reason": answer("299 a \\xe9\\t", Content_Length="3"),
    "no reason": answer("200", Content_Length="3"),
    "error": answer("500 X", Content_Length="3"),
    "early": answer("103 X", []),
    "latin": answer(Content_Length="3", X_A="\\xe9"),
    "tab": answer(Content_Length="3", X_A="a\\tb"),
    "empty value": answer(Content_Length="3", X_A=""),
    "odd name": answer(**{"Content-Length": "3", "X!~": "a"}),
    "many": answer("200 OK", [LONG.encode()] * 5, Content_Length="350000"),
    "injection": answer(Content_Length="3", X_A="a\\r\\nX-B: c"),
    "injection of a line feed": answer(Content_Length="3", X_A="a\\nX-B: c"),
    "korean": answer(Content_Length="3", X_A="\\uac00"),
    "a number": answer(Content_Length=3),
    "name with a colon": answer(**{"Content-Length": "3", "X: Y": "a"}),
    "name with a space": answer(**{"Content-Length": "3", "X Y": "a"}),
    "name with a line end": answer(**{"Content-Length": "3", "X\\r\\nY": "a"}),
    "no status": answer(None, Content_Length="3"),
    "bad status": answer("abc", Content_Length="3"),
    "status with a line end": answer("200 OK\\r\\nX: y", Content_Length="3"),
    "write": write,
    "iterate": iterate,
    "fail": fail,
    "start_twice": start_twice, "replace": replace, "was_closed": was_closed,
    "exit": lambda environ, start: sys.exit(3),
}
ANSWERS = {name.replace(" ", "%20"): run for name, run in ANSWERS.items()}
"""


@pytest.fixture(scope="module", params=["", "/backend"], ids=["no prefix", "prefix"])
def servers(request, serve, tmp_path_factory):
    """Two servers: the usual one, and one that gives all requests to gunicorn."""
    folder = tmp_path_factory.mktemp("configuration")
    settings = {"WEB_CONCURRENCY": "1", "SCRIPT_NAME": request.param, "READ_TIMEOUT": "60"}
    files = [folder / "plain.py", folder / "gunicorn.py"]
    for file, is_gunicorn_only in zip(files, [False, True], strict=True):
        file.write_text(f"IS_GUNICORN_ONLY = {is_gunicorn_only}\n{CONFIGURATION}")
    with (
        serve("-c", str(files[0]), **settings) as plain,
        serve("-c", str(files[1]), **settings) as gunicorn,
    ):
        yield plain, gunicorn


def exchange(server, sent: bytes) -> bytes:
    """Send a request and the end of the stream. Return all that the server answers."""
    with connect(server) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # the server has refused a long request before its end
        return receive(connection)


VARIABLE_PARTS = re.compile(
    rb"(?<=Date: )[^\r]+|(?<=X-Request-ID: )\w{32}|\w{8}-\w{4}-\w{4}-\w{4}-\w{12}"
    rb'|"request_id": ?"\w{32}"|\d{4}-\d\d-\d\dT[\d:.]+Z|"is_plain": \w+|"timestamp": ?[^,]+'
    rb"|(?<=Content-Length: )\d+(?=(?s:.)*is_plain)|(?<=cursor=)[\w-]+"
)


def comparable(response: bytes) -> bytes:
    return VARIABLE_PARTS.sub(b"*", response)


def check_same(servers, sent: bytes) -> bytes:
    """Check that both servers answer the same. Return the response of the usual server."""
    plain, gunicorn = (exchange(server, sent) for server in servers)
    assert comparable(plain) == comparable(gunicorn), sent[:2000]
    return plain


def echo(*fields: str, method="GET", target="/echo", body=b"") -> bytes:
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *fields])
    return head.encode("latin-1") + b"\r\n\r\n" + body


HOST = "Host: a.example"
PLAIN = {
    "host": echo(HOST),
    "port": echo("Host: a:80"),
    "IPv6": echo("Host: [::1]:80"),
    "path": echo(HOST, target="/echo/a/b;c=d/%ED%95%9C%2F%20:@!$&'()*+,=~"),
    "query": echo(HOST, target="/echo?a=b&c=%20d?e=/[]"),
    "question mark": echo(HOST, target="/echo?"),
    "percent signs": echo(HOST, target="/echo/%/%zz/%00/%25/%FF%FE"),
    "dots": echo(HOST, target="/echo/../a/./b//c"),
    "odd ASCII": echo(HOST, target='/echo/"<>[]\\^`{|}'),
    "with the prefix": echo(HOST, target="/backend/echo"),
    "prefix of a name": echo(HOST, target="/backendecho/echo"),
    "other case": echo("hOST: a", "ACCEPT: b", "x-Y-z: c"),
    "header names": echo(
        HOST, "X: 1", "X-1: 2", "-: 3", "X--Y: 4", "Script-Name: /a", "Remote-User: b"
    ),
    "forwarded": echo(
        HOST, "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "Forwarded: for=a"
    ),
    "values": echo(HOST, 'X-A: a:b "c" ; d', "X-B: :", "X-C: \\"),
    "keep-alive": echo(HOST, "Connection: keep-alive"),
    "close": echo(HOST, "Connection: Close"),
    "another Connection": echo(HOST, "Connection: close, TE"),
    "type": echo(HOST, "Content-Type: text/plain"),
    "length 0": echo(HOST, "Content-Length: 0"),
    "length 00": echo(HOST, "Content-Length: 00"),
    "body": echo(HOST, "Content-Length: 4", "Content-Type: a/b", method="POST", body=b"a\0\r\n"),
    "body of GET": echo(HOST, "Content-Length: 3", body=b"abc"),
    "method": echo(HOST, method="PURGE"),
    "OPTIONS": echo(HOST, "Origin: https://a", method="OPTIONS"),
    "50 headers": echo(HOST, *(f"X-{n}: a" for n in range(49))),
    "browser": echo(
        HOST,
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
        "Accept: application/json, text/plain, */*",
        "Accept-Encoding: gzip, deflate, br, zstd",
        'sec-ch-ua: "Chromium";v="126"',
        "Cookie: a=b; c=d",
        "Authorization: Bearer abc.def",
    ),
}
NOT_PLAIN = {
    "HTTP/1.0": echo(HOST).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "absolute": echo(HOST, target="http://b.example/echo?a"),
    "two slashes": echo(HOST, target="//a.example/echo"),
    "fragment": echo(HOST, target="/echo?a#b"),
    "UTF-8": echo(HOST, target="/echo/é".encode().decode("latin-1")),
    "UTF-8 in a value": echo(HOST, "X: \xc3\xa9"),
    "tab in a value": echo(HOST, "X: a\tb"),
    "no space": echo("Host:a"),
    "spaces": echo(HOST, "X:   a"),
    "space at the end": echo(HOST, "X: a "),
    "no value": echo(HOST, "X:"),
    "empty value": echo(HOST, "X: "),
    "two spaces inside": echo(HOST, "X: a:  b"),
    "two cookies": echo(HOST, "Cookie: a=b", "cookie: c=d"),
    "two Connections": echo(HOST, "Connection: close", "Connection: keep-alive"),
    "odd name": echo(HOST, "X!#$%&'*+.^`|~: a"),
    "chunked": echo(HOST, "Transfer-Encoding: chunked", body=make_chunks(b"abcdef", 4)),
    "expectation": echo(HOST, "Expect: 100-continue", "Content-Length: 3", body=b"abc"),
    "upgrade": echo(HOST, "Connection: Upgrade", "Upgrade: websocket"),
    "empty line before": b"\r\n" + echo(HOST),
    "line of 8190 bytes": echo(HOST, target="/echo?" + "a" * (8190 - 19)),
    "header of 8190 bytes": echo(HOST, "X: " + "a" * (8190 - 5)),
    "heads longer than 8190 bytes": echo(HOST, *(f"X-{n}: {'a' * 4000}" for n in range(3))),
}
REFUSED = {
    "CONNECT": echo(HOST, method="CONNECT"),
    "CONNECT to a host": echo(HOST, method="CONNECT", target="a:80"),
    "lower case": echo(HOST, method="get"),
    "two letters": echo(HOST, method="GE"),
    "21 letters": echo(HOST, method="A" * 21),
    "asterisk": echo(HOST, target="*"),
    "no slash": echo(HOST, target="echo"),
    "no host": echo("X: a"),
    "two hosts": echo(HOST, HOST),
    "host in other cases": echo("Host: a", "HOST: a"),
    "bad host": echo("Host: a/b"),
    "user": echo("Host: a@b"),
    "underscore": echo(HOST, "X_A: b"),
    "length with an underscore": echo(HOST, "Content_Length: 3", body=b"abc"),
    "type with an underscore": echo(HOST, "Content_Type: text/plain"),
    "SCRIPT_NAME": echo(HOST, "SCRIPT_NAME: /a"),
    "length twice": echo(HOST, "Content-Length: 0", "content-length: 0"),
    "type twice": echo(HOST, "Content-Type: a/b", "Content-type: a/b"),
    "length with a sign": echo(HOST, "Content-Length: +0"),
    "too long": echo(HOST, "Content-Length: 1048577"),
    "length of ten digits": echo(HOST, "Content-Length: 0000000001", body=b"a"),
    "no length": echo(HOST, "Content-Length:"),
    "51 headers": echo(HOST, *(f"X-{n}: a" for n in range(50))),
    "header of 8191 bytes": echo(HOST, "X: " + "a" * (8190 - 4)),
    "line of 8191 bytes": echo(HOST, target="/echo?" + "a" * (8190 - 18)),
    "line feeds": echo(HOST).replace(b"\r", b""),
    "bare carriage return": echo(HOST, "X: a\rb"),
    "bare line feed": echo(HOST, "X: a\nY: b"),
    "NUL": echo(HOST, "X: a\0b"),
    "DEL": echo(HOST, "X: a\x7fb"),
    "DEL in the target": echo(HOST, target="/echo/\x7f"),
    "fold": echo(HOST, "X: a", " b"),
    "space before the colon": echo(HOST, "X : a"),
    "half a body": echo(HOST, "Content-Length: 9", body=b"abc"),
    "half a head": echo(HOST)[:-3],
}


@pytest.mark.parametrize("sent", PLAIN.values(), ids=PLAIN)
def test_plain_request_gets_the_environ_that_gunicorn_builds(servers, sent):
    response = check_same(servers, sent)
    assert b'"is_plain": true' in response or b"404" in response[:20]
    assert b'"is_plain": false' in exchange(servers[1], sent) or b"404" in response[:20]


@pytest.mark.parametrize("sent", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_request_that_is_not_plain_is_left_to_gunicorn(servers, sent):
    assert b'"is_plain": false' in check_same(servers, sent)


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
def test_request_is_refused_as_gunicorn_refuses_it(servers, sent):
    assert b'"is_plain": true' not in check_same(servers, sent)


@pytest.mark.parametrize("sent", PLAIN.values(), ids=PLAIN)
def test_plain_request_in_pieces_gets_the_same_response(servers, sent):
    with connect(servers[0]) as connection:
        for start in range(0, len(sent), max(1, len(sent) // 5)):
            connection.sendall(sent[start : start + max(1, len(sent) // 5)])
        connection.shutdown(socket.SHUT_WR)
        response = receive(connection)
    assert comparable(response) == comparable(exchange(servers[1], sent))


def test_pipelined_requests_of_both_kinds_get_their_responses_in_order(servers):
    sent = b"".join(
        echo(HOST, f"X-Number: {number}", *fields, body=body)
        for number in range(30)
        for fields, body in [
            ([], b""),
            (["Content-Length: 3"], b"abc"),
            (["Transfer-Encoding: chunked"], make_chunks(b"abcdef", 4)),
            (["X:a"], b""),
        ]
    )
    response = check_same(servers, sent)
    numbers = re.findall(rb"\"HTTP_X_NUMBER\": \"'(\d+)'", response)
    assert [int(number) for number in numbers] == [n for n in range(30) for _ in range(4)]


ANSWER_NAMES = re.findall(r'^    "([\w ,-]+)": ', CONFIGURATION.partition("\nANSWERS")[2], re.M)
ANSWER_NAMES += ["was_closed"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ANSWER_NAMES)
def test_response_to_plain_request_is_the_one_that_gunicorn_sends(servers, method, name):
    assert len(ANSWER_NAMES) > 30
    target = f"/answer?{name.replace(' ', '%20')}"
    check_same(servers, echo(HOST, method=method, target=target))
    check_same(servers, echo(HOST, "Connection: close", method=method, target=target))


def test_second_start_response_replaces_status_and_headers(servers):
    response = exchange(servers[0], echo(HOST, target="/answer?replace"))
    assert re.fullmatch(rb"HTTP/1.1 404 (?s:.*)Content-Length: 3\r\n\r\nabc", response)


def test_close_of_the_response_is_called(servers):
    check_same(servers, echo(HOST, target="/answer?was_closed"))
    check_same(servers, echo(HOST, target="/answer?length"))
    closed = check_same(servers, echo(HOST, target="/answer?was_closed"))
    assert closed.endswith(b"True")


# The tables of the fault harness and of other tests.

PLACEHOLDERS = {"@": '"name": "x"', "<title>": "name", "<text>": "description"}
PLACEHOLDERS |= {"<flag>": "is_active", "<json>": "attributes", "<list>": PROJECTS}


def fill_in(text: bytes) -> bytes:
    for name, value in PLACEHOLDERS.items():
        text = text.replace(name.encode(), value.encode())
    return text


def cases(*tables: Mapping) -> list:
    """Return the contents of tables that have the cases by expected status and by name."""
    contents = [c for table in tables for named in table.values() for c in named.values()]
    return [c.encode("latin-1") if isinstance(c, str) else c for c in contents]


def framed_heads() -> list[bytes]:
    heads = cases(hostile_framing.SMUGGLED, hostile_framing.TOO_LARGE)
    return [
        head.replace(b"<line>", line)
        for head in heads
        for line in (b"GET /echo", f"POST {PROJECTS}".encode())
    ]


def with_length(body: bytes, *, method="POST", path=PROJECTS) -> bytes:
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    return make_head(method, path, fields) + body


def chunked(body: bytes) -> bytes:
    return make_head("POST", "/echo", "Transfer-Encoding: chunked") + body


FAULT_TABLES = {
    "heads": framed_heads(),
    "other protocols": list(hostile_framing.NOT_HTTP.values()),
    "allowed headers": [
        make_head("GET", "/echo", fields) for fields in hostile_framing.ALLOWED_HEADERS.values()
    ],
    "chunks": [
        chunked(fill_in(body))
        for body in cases(hostile_framing.CHUNKS, hostile_framing.UNFINISHED)
        if len(body) < 2**19  # of a longer one a reset may cut the response
    ],
    "well chunked": [
        chunked(make_chunks(fill_in(body), size, end))
        for body, size, end in cases(
            hostile_framing.WELL_CHUNKED, hostile_framing.UNFINISHED_CHUNKS
        )
        if len(body) < 2**19
    ],
    "numbers": [with_length(fill_in(body)) for body in cases(hostile_values.NUMBERS)],
    "deep JSON": [with_length(fill_in(body)) for body in cases(hostile_json.DEEP)],
    "invalid bodies": [
        with_length(body if isinstance(body, bytes) else body.encode())
        for body, _ in INVALID_BODIES.values()
    ],
    "requests of test_worker": [
        *COMPLETE_REQUESTS,
        GET.replace(b"/health", b"/nowhere"),
        *(sent for sent, _ in INVALID_REQUESTS.values() if len(sent) < 2**19),
        *(sent % b"X: y" for sent, status in UNPARSED_REQUESTS.values() if status != 408),
    ],
}


@pytest.mark.parametrize("name", FAULT_TABLES)
def test_fault_table_gets_the_same_responses_with_and_without_gunicorns_parser(servers, name):
    assert FAULT_TABLES[name]
    for sent in FAULT_TABLES[name]:
        check_same(servers, sent)
