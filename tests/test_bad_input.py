"""Invalid input of every kind gets a clear problem: no 500, no hang, no stored row."""

import gzip
import io
import json
import socket

import pytest

from tests.conftest import PROJECTS

SOME_ID = "01900000-0000-7000-8000-000000000000"
LIMIT = 2**20


def body_with_name(name: bytes) -> bytes:
    return b'{"name": "' + name + b'"}'


def project_with_depth(levels: int) -> dict:
    value: dict = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return {"name": "x", "attributes": value}


INVALID_BODIES = {
    "empty": (b"", 400),
    "blank": (b"  ", 400),
    "broken": (b'{"name": "x"', 400),
    "garbage after": (b'{"name": "x"} {', 400),
    "comment": (b'{"name": "x" /* */}', 400),
    "trailing comma": (b'{"name": "x",}', 400),
    "single quotes": (b"{'name': 'x'}", 400),
    "array in an array": (b'[[{"name": "x"}]]', 400),
    "string": (b'"name"', 400),
    "number": (b"1", 400),
    "null": (b"null", 400),
    "bytes that are not UTF-8": (body_with_name(b"\xff"), 400),
    "UTF-16": ('{"name": "x"}'.encode("utf-16"), 400),
    "UTF-16 without BOM": ('{"name": "x"}'.encode("utf-16-le"), 400),
    "UTF-8 BOM": (b"\xef\xbb\xbf" + body_with_name(b"x"), 400),
    "surrogate as UTF-8": (body_with_name(b"\xed\xa0\x80"), 400),
    "raw NUL": (body_with_name(b"a\0b"), 400),
    "raw newline": (body_with_name(b"a\nb"), 400),
    "duplicate key": (b'{"name": "x", "name": "y"}', 400),
    "duplicate key inside": (b'{"name": "x", "attributes": {"a": {"b": 1, "b": 1}}}', 400),
    "NaN": (b'{"name": "x", "attributes": {"a": NaN}}', 400),
    "Infinity": (b'{"name": "x", "attributes": {"a": [Infinity]}}', 400),
    "-Infinity": (b'{"name": "x", "attributes": {"a": -Infinity}}', 400),
    "1e999": (b'{"name": "x", "attributes": {"a": 1e999}}', 400),
    "5000 digits": (b'{"name": "x", "attributes": {"a": ' + b"9" * 5000 + b"}}", 400),
    "30000 objects deep": (b'{"a":' * 30_000 + b"1" + b"}" * 30_000, 400),
    "30000 arrays deep": (b'{"attributes":' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400),
    "950 deep with an escape": (
        b'{"attributes":' + b"[" * 950 + b'"\\u0041"' + b"]" * 950 + b"}",
        400,
    ),
    "100000 open brackets": (b"[" * 100_000, 400),
    "1000 deep": (json.dumps(project_with_depth(700)).encode(), 400),
    "33 deep": (json.dumps(project_with_depth(33)).encode(), 400),
    "33 arrays deep": (b'{"name":"x","attributes":{"a":' + b"[" * 32 + b"]" * 32 + b"}}", 400),
    "NUL in name": (body_with_name(b"a\\u0000b"), 400),
    "NUL in description": (b'{"name": "x", "description": "\\u0000"}', 400),
    "NUL in a key": (b'{"name": "x", "attributes": {"a\\u0000": 1}}', 400),
    "NUL in a list": (b'{"name": "x", "attributes": {"a": [["\\u0000"]]}}', 400),
    "NUL in an unknown field": (b'{"name": "x", "a\\u0000": 1}', 400),
    "surrogate in name": (body_with_name(b"\\ud800"), 400),
    "surrogate in a key": (b'{"name": "x", "attributes": {"\\udfff": 1}}', 400),
    "surrogate in a value": (b'{"name": "x", "attributes": {"a": {"b": ["\\ud83d"]}}}', 400),
    "surrogates in the wrong order": (body_with_name(b"\\udc00\\ud800"), 400),
    "attributes too long": (json.dumps({"name": "x", "attributes": {"a": "b" * 16384}}), 400),
    "attributes long in UTF-8": (json.dumps({"name": "x", "attributes": {"a": "번" * 5500}}), 400),
    "over the limit": (body_with_name(b"x" * LIMIT), 413),
    "blank over the limit": (b'{"name": "x"}' + b" " * LIMIT, 413),
}
INVALID_VALUES = {
    "name null": {"name": None},
    "name empty": {"name": ""},
    "name number": {"name": 12},
    "name bool": {"name": True},
    "name list": {"name": ["x"]},
    "name object": {"name": {"x": 1}},
    "name of 201": {"name": "x" * 201},
    "name of 201 astral": {"name": "𝄞" * 201},
    "description number": {"name": "x", "description": 1},
    "description of 1001": {"name": "x", "description": "번" * 1001},
    "is_active null": {"name": "x", "is_active": None},
    "is_active 1": {"name": "x", "is_active": 1},
    "is_active 0": {"name": "x", "is_active": 0},
    "is_active string": {"name": "x", "is_active": "true"},
    "is_active float": {"name": "x", "is_active": 1.0},
    "attributes null": {"name": "x", "attributes": None},
    "attributes list": {"name": "x", "attributes": []},
    "attributes string": {"name": "x", "attributes": "{}"},
    "unknown field": {"name": "x", "status": "planning"},
    "prototype": {"name": "x", "__proto__": {}},
    "10000 unknown fields": {"name": "x", **{f"f{n}": n for n in range(10_000)}},
    "wrong case": {"name": "x", "Is_Active": True},
}
WRITE_METHODS = ["POST", "PUT", "PATCH"]


@pytest.fixture
def send(client, make_project, sql):
    """Send a body to the route of a method; afterwards check that nothing was stored."""
    project_path = f"{PROJECTS}/{make_project()['id']}"
    before = sql("SELECT * FROM projects")

    def send(method, data, **options):
        options.setdefault("content_type", "application/json")
        path = PROJECTS if method == "POST" else project_path
        return client.open(path, method=method, data=data, **options)

    yield send
    assert sql("SELECT * FROM projects") == before


@pytest.mark.parametrize("method", WRITE_METHODS)
@pytest.mark.parametrize(("body", "status"), INVALID_BODIES.values(), ids=INVALID_BODIES.keys())
def test_an_invalid_body_gets_a_problem_and_stores_nothing(send, problem, method, body, status):
    assert "The database" not in problem(send(method, body), status)["detail"]


@pytest.mark.parametrize("method", WRITE_METHODS)
@pytest.mark.parametrize("values", INVALID_VALUES.values(), ids=INVALID_VALUES.keys())
def test_an_invalid_value_gets_a_400_that_names_the_field(send, problem, method, values):
    document = problem(send(method, json.dumps(values)), 400, "validation_error")
    assert (values.keys() - {"name"} or {"name"}) >= document["details"].keys() > set()


def test_a_project_without_a_name_gets_a_400(send, problem):
    document = problem(send("POST", "{}"), 400, "validation_error")
    assert document["details"] == {"name": ["Missing data for required field."]}


def test_a_long_invalid_body_gets_a_short_problem(send):
    unknown_fields = {f"unknown {n}": n for n in range(10_000)}
    assert len(send("POST", json.dumps(unknown_fields)).data) < 10_000
    assert len(send("POST", json.dumps({"x" * 500_000: 1})).data) < 10_000


def test_an_unknown_field_gets_a_400_that_suggests_attributes(send, problem):
    document = problem(send("POST", '{"name": "x", "status": "planning"}'), 400)
    assert document["details"] == {
        "status": ["Unknown field; free-form data belongs in attributes."]
    }
    assert document["detail"].startswith("status: ")


@pytest.mark.parametrize("method", WRITE_METHODS)
@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/xml", "json", "*/*"],
)
def test_another_content_type_gets_a_415_with_the_accepted_types(
    send, problem, method, content_type
):
    response = send(method, b'{"name": "x"}', content_type=content_type)
    problem(response, 415, "unsupported_media_type")
    accepted = response.headers["Accept-Patch" if method == "PATCH" else "Accept"]
    assert (
        accepted
        == {
            "POST": "application/json, application/x-ndjson, text/csv",
            "PUT": "application/json",
            "PATCH": "application/merge-patch+json, application/json",
        }[method]
    )


def test_a_merge_patch_sent_with_put_gets_a_415(send, problem):
    problem(send("PUT", b"{}", content_type="application/merge-patch+json"), 415)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_content_type_with_parameters_or_upper_case_is_accepted(client, content_type):
    response = client.post(PROJECTS, data=b'{"name": "x"}', content_type=content_type)
    assert response.status_code == 201


@pytest.mark.parametrize("charset", ["euc-kr", "cp949", "utf-16", "latin1", "x"])
def test_csv_in_another_charset_than_utf_8_gets_a_415(send, client, problem, charset):
    document = problem(send("POST", b"name\nx\n", content_type=f"text/csv; charset={charset}"), 415)
    assert "UTF-8" in document["detail"]


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=UTF-8", '; charset="utf-8"'])
def test_csv_in_utf_8_is_accepted(client, charset):
    response = client.post(PROJECTS, data="name\n번역\n", content_type=f"text/csv{charset}")
    assert [row["name"] for row in response.json["items"]] == ["번역"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"[" + b"1," * (LIMIT // 2 - 2) + b"1]"),
        ("application/x-ndjson", b"1\n" * (LIMIT // 2)),
        ("text/csv", b"name\n" + b"1\n" * (LIMIT // 2 - 3)),
    ],
)
def test_half_a_million_items_get_a_400_without_being_validated(send, problem, content_type, body):
    detail = problem(send("POST", body, content_type=content_type), 400, "bad_request")["detail"]
    assert detail == "Send from 1 to 1000 items. The body has more."


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson", "text/csv"])
def test_a_body_with_many_items_over_the_limit_gets_a_413(send, problem, content_type):
    problem(send("POST", b"[" + b" " * LIMIT + b"]", content_type=content_type), 413)


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "text/csv"])
def test_a_compressed_body_with_many_items_gets_a_415(send, problem, content_type):
    headers = {"Content-Encoding": "gzip"}
    response = send("POST", gzip.compress(b"name"), content_type=content_type, headers=headers)
    problem(response, 415)


def test_a_compressed_body_gets_a_415_with_the_accepted_encoding(send, problem):
    response = send("POST", gzip.compress(b'{"name": "x"}'), headers={"Content-Encoding": "gzip"})
    problem(response, 415)
    assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "project_id",
    [
        *("1", "x" * 1000, "null", "0", "-1", "..%2f..", "%2e%2e%2fetc", "%00", "%ff", "%ed%a0%80"),
        *(
            "{" + SOME_ID + "}",
            SOME_ID.replace("-", ""),
            SOME_ID + "0",
            SOME_ID[:-1],
            f"urn:{SOME_ID}",
        ),
        *(
            SOME_ID + "%00",
            SOME_ID + ";a=1",
            SOME_ID + "%20",
            "번역",
            "a/b",
            SOME_ID.replace("0", "٠"),
        ),
    ],
)
def test_an_id_that_is_not_a_uuid_with_hyphens_gets_a_404(client, problem, method, project_id):
    body = {"json": {"name": "x"}} if method in ("PUT", "PATCH") else {}
    problem(client.open(f"{PROJECTS}/{project_id}", method=method, **body), 404, "not_found")


def test_every_404_has_the_same_body(client):
    responses = [client.get(f"{PROJECTS}/{i}").json for i in (SOME_ID, "1")] + [
        client.get("/x").json
    ]
    assert len({json.dumps({**response, "request_id": None}) for response in responses}) == 1


@pytest.mark.parametrize("levels", [1, 32])
def test_values_at_their_limits_are_accepted(client, levels):
    assert client.post(PROJECTS, json=project_with_depth(levels)).status_code == 201
    longest = {"name": "𝄞" * 200, "description": "번" * 1000, "attributes": {"a": "x" * 16374}}
    assert client.post(PROJECTS, json=longest).status_code == 201


# Only a raw socket can send the following requests.


@pytest.fixture
def send_raw(server, sql):
    """Send bytes to a server and return its response; afterwards check that nothing was stored."""

    def send(*parts):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            response = b""
            while part := connection.recv(65536):
                response += part
        return response

    yield send
    assert sql("SELECT * FROM projects") == []


def post(*headers: bytes) -> bytes:
    lines = [b"POST /api/v1/projects HTTP/1.1", b"Host: x", b"Content-Type: application/json"]
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n"


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


CHUNKED = post(b"Transfer-Encoding: chunked")
GOOD = b'{"name": "x"}'
MALFORMED_MESSAGES = {
    "announced over the limit": ([post(b"Content-Length: 1073741824"), b" " * 70_000], 413),
    "announced one byte over the limit": (
        [post(b"Content-Length: %d" % (LIMIT + 1)), GOOD, b" " * (LIMIT + 1 - len(GOOD))],
        413,
    ),
    "chunked over the limit": ([CHUNKED, chunks(GOOD, *[b" " * 65536] * 17), b"0\r\n\r\n"], 413),
    "chunked over the limit, garbage after it": (
        [CHUNKED, chunks(GOOD + b" " * (LIMIT - len(GOOD)), b"}garbage"), b"0\r\n\r\n"],
        413,
    ),
    "chunked without an end": ([CHUNKED, chunks(GOOD)], 400),
    "chunk cut": ([CHUNKED, b"20\r\n" + GOOD], 400),
    "chunk size no number": ([CHUNKED, b"zz\r\n" + GOOD + b"\r\n0\r\n\r\n"], 400),
    "chunk without its line end": ([CHUNKED, b"d\r\n" + GOOD + b"XX0\r\n\r\n"], 400),
    "shorter than announced": ([post(b"Content-Length: 50"), GOOD], 400),
    "announced but missing": ([post(b"Content-Length: 50")], 400),
    "no length at all": ([post(), GOOD], 400),
    "length negative": ([post(b"Content-Length: -1"), GOOD], 400),
    "length no number": ([post(b"Content-Length: 1e1"), GOOD], 400),
    "two lengths": ([post(b"Content-Length: 13", b"Content-Length: 14"), GOOD], 400),
    "length and chunks": (
        [post(b"Content-Length: 13", b"Transfer-Encoding: chunked"), chunks(GOOD), b"0\r\n\r\n"],
        400,
    ),
    "no HTTP": ([b"hello\r\n\r\n"], 400),
    "another version": ([post().replace(b"HTTP/1.1", b"HTTP/9.9")], 400),
    "header without a colon": ([post(b"broken")], 400),
    "NUL in a header": ([post(b"X-A: a\0b")], 400),
    "line too long": ([post().replace(b"projects", b"p" * 9000)], 414),
    "header too long": ([post(b"X-A: " + b"a" * 9000)], 431),
    "too many headers": ([post(*(b"X-%d: a" % n for n in range(101)))], 431),
}


@pytest.mark.parametrize(
    ("parts", "status"), MALFORMED_MESSAGES.values(), ids=MALFORMED_MESSAGES.keys()
)
def test_a_malformed_http_message_gets_a_problem(send_raw, parts, status):
    head, _, body = send_raw(*parts).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"content-type: application/problem+json" in head.lower()
    document, _ = json.JSONDecoder().raw_decode(body.decode())
    assert document["status"] == status
    assert document["detail"] == document["message"] != ""
    assert f"x-request-id: {document['request_id']}".encode() in head.lower()


def test_a_body_that_ends_before_its_content_length_gets_a_400_under_every_wsgi_server(
    client, problem
):
    # gunicorn's own workers end the stream without an error. One of them serves TLS.
    environ = {
        "CONTENT_LENGTH": "50",
        "wsgi.input": io.BytesIO(GOOD),
        "wsgi.input_terminated": True,
    }
    response = client.post(PROJECTS, content_type="application/json", environ_overrides=environ)
    assert "Content-Length" in problem(response, 400, "bad_request")["detail"]


def test_a_chunked_body_within_the_limit_is_accepted(server, sql):
    head = CHUNKED.replace(b"Host: x", b"Host: x\r\nConnection: close")
    body = chunks(*(GOOD[n : n + 1] for n in range(len(GOOD)))) + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    assert sql("SELECT name FROM projects") == [("x",)]


def test_a_content_length_over_the_limit_gets_a_413_before_the_body_is_sent(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        # If the server waited for the body, it would respond with a 408.
        connection.sendall(post(b"Content-Length: 1073741824"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
