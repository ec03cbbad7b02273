"""Random changes of requests: what we call a plain request, gunicorn reads in the same way.

If the two disagreed about the end of a request, bytes of one client could be read as a request of
another one behind the same proxy (request smuggling).
"""

import random

import pytest
from gunicorn.config import Config as GunicornConfig
from gunicorn.http import RequestParser
from gunicorn.http.wsgi import create

import config
from projectapp.server.gunicorn_requests import GunicornRequest
from projectapp.server.plain_requests import PlainRequests
from projectapp.server.request_framing import follow_request

REQUESTS = [
    b"GET /a/b%20c?x=1&y=%2F HTTP/1.1\r\nHost: x.y:80\r\nAccept: a/b;q=0.1, */*\r\n"
    b"Connection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /backend/api HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: 10\r\nX-Request-ID: 12\r\n\r\n0123456789GET / HTTP/1.1\r\n",
    b"GET /back/../backendx;a=b?c?d#e HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n"
    b"Expect: 100-continue\r\nUpgrade: h2c\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
]
PARTS = [
    *(b"\r\n", b"\r", b"\n", b"\r\n ", b" \r\n", b" ", b"\t", b"\x0b", b"\x1c", b"\0", b"\x7f"),
    *(b":", b": ", b"/", b"//", b"?", b"#", b"@", b"_", b"-", b"%", b"%2F", b"[", b"]", b"\\"),
    *(b"+", b"0", b"e", b",", b"*", b"\x85", b"\xa0", b"\xb2", "é".encode(), b"keep-alive"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"CONNECT", b"http://h/", b"/backend", b"close", b"Proxy: 1\r\n"),
    *(b"Content-Length: 3\r\n", b"content-length", b"Host: b\r\n", b"Script-Name: /q\r\n"),
    b"Transfer-Encoding: chunked\r\n",
]
ADDRESS, SERVER_ADDRESS = ("127.0.0.1", 5), ("127.0.0.1", 80)
NOT_COMPARED = {"wsgi.input", "wsgi.errors", "wsgi.multithread", "wsgi.early_hints"}


def change(data: bytearray, choice: random.Random) -> None:
    position, part = choice.randrange(len(data)), choice.choice(PARTS)
    kind = choice.choice(["insert", "insert", "overwrite", "delete", "byte"])
    if kind == "insert":
        data[position:position] = part
    elif kind == "overwrite":
        data[position : position + len(part)] = part
    elif kind == "delete":
        del data[position : position + choice.randint(1, 4)]
    else:
        data[position] = choice.randrange(256)


def comparable(environ: dict) -> dict:
    return {key: value for key, value in environ.items() if key not in NOT_COMPARED}


@pytest.mark.parametrize("prefix", ["", "/backend"])
def test_randomly_changed_plain_request_has_the_environ_and_the_end_that_gunicorn_finds(
    prefix, monkeypatch
):
    monkeypatch.setenv("SCRIPT_NAME", prefix)
    monkeypatch.setattr(GunicornRequest, "prefix", prefix)
    monkeypatch.setattr(RequestParser, "mesg_class", GunicornRequest)
    cfg = GunicornConfig()
    cfg.set("raw_env", [f"SCRIPT_NAME={prefix}"])
    cfg.set("secure_scheme_headers", {})
    settings = config.Testing({"SCRIPT_NAME": prefix} if prefix else {})
    plain_requests = PlainRequests(cfg, settings, False)
    base_environ = plain_requests.base_environ_of(ADDRESS, SERVER_ADDRESS)
    choice = random.Random(prefix)  # noqa: S311
    compared = 0
    for _ in range(40_000):
        sent = bytearray(choice.choice(REQUESTS))
        for _ in range(choice.choice([0, 1, 1, 2, 3])):
            change(sent, choice)
        if not (request := plain_requests.parse(sent, base_environ)):
            continue
        size = request.size if len(sent) >= request.size else 0
        assert next(follow_request(sent, 2**20, len), None) == size, sent
        if size:
            parsed = next(RequestParser(cfg, iter([bytes(sent[:size])]), ADDRESS))
            _, environ = create(parsed, None, ADDRESS, SERVER_ADDRESS, cfg)
            del environ["gunicorn.socket"]
            assert comparable(environ) == comparable(request.environ), sent
            assert environ["wsgi.input"].read() == sent[request.body_start : size]
            assert parsed.should_close() == request.should_close()
            compared += 1
    assert compared > 1000
