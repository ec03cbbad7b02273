"""Trace ids in the log, and the spans that a small OpenTelemetry collector receives."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import closing

import psycopg2
import pytest

import config
from faults.processes import free_port
from projectapp.tracing import parse_traceparent
from tests.collector import Collector
from tests.conftest import PROJECTS, parameters_of
from tests.test_logs import json_log, lines_of

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(autouse=True)
def _without_otel_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def access_lines(server):
    return [line for line in lines_of(server) if line["logger"] == "projectapp.access"]


# Trace ids in the log.


@pytest.mark.parametrize(
    "header",
    [TRACEPARENT, TRACEPARENT[:-1] + "0", f"cc{TRACEPARENT[2:]}", f"01{TRACEPARENT[2:]}-x"],
)
def test_valid_traceparent_has_a_trace_id(header):
    assert parse_traceparent(header) == TRACE_ID


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        f"{TRACEPARENT}1",
        f"{TRACEPARENT}-x",
        f"{TRACEPARENT}-",
        f"{TRACEPARENT}\n",
        f" {TRACEPARENT}",
        f"{TRACEPARENT},{TRACEPARENT}",
        f"ff{TRACEPARENT[2:]}",
        f"01{TRACEPARENT[2:]}x",
        f"0g{TRACEPARENT[2:]}",
        TRACEPARENT.replace("-", "_"),
        TRACEPARENT.replace(TRACE_ID, "0" * 32),
        TRACEPARENT.replace(PARENT_ID, "0" * 16),
        TRACEPARENT.replace("4bf", "４bf"),
    ],
)
def test_invalid_traceparent_has_no_trace_id(header):
    assert parse_traceparent(header) is None


def test_line_of_a_request_has_the_trace_id_of_its_traceparent_only(client):
    with json_log() as handler:
        for header in (TRACEPARENT, f"{TRACEPARENT}1", None):
            client.get("/health", headers={"traceparent": header} if header else {})
        lines = [json.loads(line) for line in handler.stream.getvalue().splitlines()]
    assert [line.get("trace_id") for line in lines] == [TRACE_ID, None, None]
    assert not any("span_id" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_all_lines_of_a_request_have_its_trace_id_also_if_gunicorn_refuses_it(serve, log_format):
    unreachable_url = f"postgresql://someone@127.0.0.1:{free_port()}/test"
    settings = {"LOG_FORMAT": log_format, "READY_DETAILS": "off", "DATABASE_URL": unreachable_url}
    with serve(**settings) as server:
        headers = {"X-Request-ID": "abc", "traceparent": TRACEPARENT}
        assert server.request("GET", "/ready", **headers)[0] == 503
        with closing(socket.create_connection(("127.0.0.1", server.port), 60)) as connection:
            lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
            head = "GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n" + "".join(lines)
            connection.sendall(f"{head}\r\n".encode())
            assert b" 417 " in connection.recv(1000)
        server.stop()
    text = server.log.read_text()
    if log_format == "text":
        ids = re.findall(r"  \[(abc.*)\]\n", text)
        assert len(ids) >= 3
        assert {*ids} == {f"abc trace_id={TRACE_ID}"}
    else:
        lines = [line for line in lines_of(server) if line["request_id"] == "abc"]
        assert {line.get("trace_id") for line in lines} == {TRACE_ID}
        assert {(line["logger"], line.get("status")) for line in lines} >= {
            ("projectapp.http.health", None),
            ("projectapp.access", 503),
            ("projectapp.access", 417),
        }


# Spans.


@pytest.mark.slow
def test_request_and_its_statement_are_spans_of_the_trace_of_the_client(serve, sql, collector):
    settings = {"LOG_FORMAT": "json", "SCRIPT_NAME": "/backend", "WEB_CONCURRENCY": "1"}
    with serve(**collector.settings, **settings) as server:
        headers = {"traceparent": TRACEPARENT, "X-Request-ID": "abc", "User-Agent": "me"}
        _, _, project = server.request("POST", PROJECTS, {"name": "s3cret"}, **headers)
        assert server.request("GET", f"{PROJECTS}?q=s3cret", **headers)[0] == 200
        assert server.request("GET", f"{PROJECTS}/{project['id']}", **headers)[0] == 200
        assert server.stop() == 0
    own_spans = [span for span in collector.spans if span.trace_id == TRACE_ID]
    requests = [span for span in own_spans if span.kind == "SERVER"]
    statements = [span for span in own_spans if span.kind == "CLIENT"]
    route = f"/backend{PROJECTS}"
    names = [f"POST {route}", f"GET {route}", f"GET {route}/<uuid:project_id>"]
    assert [span.name for span in requests] == names
    assert [span.name for span in statements] == [
        "INSERT projects",
        *["SELECT projects"] * 2,
    ]
    assert {span.parent_id for span in requests} == {PARENT_ID}
    assert [span.parent_id for span in statements] == [span.span_id for span in requests]
    assert requests[2].attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": f"{route}/<uuid:project_id>",
        "url.path": f"{route}/{project['id']}",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "user_agent.original": "me",
        "projectapp.request_id": "abc",
    }
    attributes = statements[0].attributes
    assert attributes["db.system.name"] == "postgresql"
    assert attributes["db.query.summary"] == "INSERT projects"
    assert "INSERT INTO projects" in attributes["db.query.text"]
    for request, statement in zip(requests, statements, strict=True):
        assert 0 < statement.seconds < request.seconds
    assert not any(span.is_error or "s3cret" in span.text for span in own_spans)
    assert {span.service["service.name"] for span in own_spans} == {"projectapp"}
    logged = [line for line in access_lines(server) if line["request_id"] == "abc"]
    assert [(line["trace_id"], line["span_id"]) for line in logged] == [
        (TRACE_ID, span.span_id) for span in requests
    ]


@pytest.mark.slow
def test_request_without_a_valid_traceparent_gets_a_trace_of_its_own(serve, collector):
    """The service logs no part of a path or of a `tracestate`, whatever a client sends."""
    with serve(**collector.settings, LOG_FORMAT="json") as server:
        for tracestate in ("s3cret", "a=1,s3cret=\x1b[2J", "s3cret=1," * 900):
            server.request("GET", "/health", traceparent=TRACEPARENT, tracestate=tracestate)
        server.request("GET", "/s3cret?s3cret", traceparent=f"{TRACEPARENT}1")
        server.stop()
    [span] = [s for s in collector.spans if s.attributes["http.response.status_code"] == 404]
    assert (span.name, span.parent_id, span.is_error) == ("GET", "", False)
    assert span.attributes["http.response.status_code"] == 404
    assert "s3cret" not in span.text
    assert span.trace_id not in (TRACE_ID, "0" * 32)
    line = access_lines(server)[-1]
    assert (line["trace_id"], line["span_id"]) == (span.trace_id, span.span_id)
    assert "s3cret" not in server.log.read_text()


@pytest.mark.slow
def test_spans_of_a_failed_statement_and_its_503_are_marked_as_errors(
    serve, make_project, direct_url, collector
):
    project = make_project()
    settings = {**collector.settings, "DATABASE_LOCK_TIMEOUT": "1"}
    with (
        serve(**settings) as server,
        closing(psycopg2.connect(**parameters_of(direct_url))) as connection,
    ):
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM projects FOR UPDATE")
        path = f"{PROJECTS}/{project['id']}"
        status, _, _ = server.request("PATCH", path, {"name": "s3cret"}, **{"If-Match": "*"})
        assert status == 503
        connection.rollback()
        server.stop()
    errors = [span for span in collector.spans if span.is_error]
    assert {(span.name.partition(" ")[0], span.attributes["error.type"]) for span in errors} == {
        ("PATCH", "503"),
        ("UPDATE", "55P03"),
    }
    assert not any("s3cret" in span.text for span in errors)


@pytest.mark.slow
def test_long_poll_has_a_span_for_each_of_its_two_runs(serve, sql, collector):
    with serve(**collector.settings, WEB_CONCURRENCY="1") as server:
        _, _, page = server.request("GET", f"{PROJECTS}/changes")
        path = f"{PROJECTS}/changes?wait=1&since={page['next_cursor']}"
        assert server.request("GET", path, traceparent=TRACEPARENT)[0] == 200
        server.stop()
    spans = [s for s in collector.spans if s.trace_id == TRACE_ID and s.kind == "SERVER"]
    runs = [
        (s.attributes.get("projectapp.is_parked"), s.attributes.get("http.response.status_code"))
        for s in spans
    ]
    assert runs == [(True, None), (None, 200)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "flags", "expected"),
    [
        ({}, "00", set()),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "01", set()),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, "00", {"SERVER", "CLIENT"}),
        ({"OTEL_SDK_DISABLED": "true"}, "01", set()),
    ],
)
def test_otel_variables_and_the_client_decide_which_traces_are_sent(
    serve, sql, collector, variables, flags, expected
):
    with serve(**collector.settings, **variables, LOG_FORMAT="json") as server:
        assert server.request("GET", PROJECTS, traceparent=TRACEPARENT[:-2] + flags)[0] == 200
        server.stop()
    spans = [span for span in collector.spans if span.trace_id == TRACE_ID]
    assert {span.kind for span in spans} == expected
    [line] = [line for line in access_lines(server) if line["path"] == PROJECTS]
    assert line["trace_id"] == TRACE_ID
    assert ("span_id" in line) == ("OTEL_SDK_DISABLED" not in variables)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--preload",)])
def test_each_worker_sends_its_spans_at_the_stop(serve, sql, collector, arguments):
    settings = {**collector.settings, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    resource = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=other,zone=a"}
    with serve(*arguments, **settings, **resource, WEB_CONCURRENCY="2") as server:
        for number in range(50):
            headers = {"Connection": "close", "X-Request-ID": str(number)}
            assert server.request("GET", PROJECTS, **headers)[0] == 200
        assert collector.spans == []
        assert server.stop() == 0
    ids = [span.attributes.get("projectapp.request_id") for span in collector.spans]
    assert {str(number) for number in range(50)} <= {*ids}
    assert len([number for number in ids if number and number.isdigit()]) == 50
    assert {(s.service["service.name"], s.service["zone"]) for s in collector.spans} == {
        ("other", "a")
    }


@pytest.mark.slow
def test_collector_that_does_not_answer_delays_neither_requests_nor_the_stop(serve, sql, collector):
    collector.is_silent = True
    variables = {"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
    with serve(**collector.settings, **variables) as server:
        for _ in range(10):
            assert server.request("GET", PROJECTS)[0] == 200
        assert server.stop() == 0  # within 30 s, although an export may take 60 s
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("command", ["routes", "run"])
def test_server_loads_opentelemetry_and_a_command_does_not(command):
    url = f"postgresql://someone@127.0.0.1:{free_port()}/test"
    environ = {**os.environ, "APP_ENV": "testing", "DATABASE_URL": url, "TRACES": "on"}
    arguments = [sys.executable, "-X", "importtime", "-m", "flask", "--app", "wsgi", command]
    if command == "run":
        arguments += [
            "--host",
            "203.0.113.1",
        ]  # of RFC 5737: it ends after it has loaded the application
    output = subprocess.run(arguments, env=environ, cwd=config.ROOT, capture_output=True, text=True)
    assert "projectapp.tracing" in output.stderr
    assert ("opentelemetry.sdk.trace" in output.stderr) == (command == "run")


def test_traces_without_the_opentelemetry_packages_are_refused(monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(config.ConfigError, match="pip install 'opentelemetry"):
        config.Testing({"TRACES": "on"})
    assert not config.Testing({}).TRACES


def test_traces_in_an_environment_without_any_package_of_opentelemetry_are_refused(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(config.ConfigError, match="TRACES needs"):
        config.Testing({"TRACES": "on"})


def test_pinned_packages_in_the_message_are_those_that_the_tests_use():
    [pin] = re.findall(
        r"(?m)^opentelemetry\S+$", (config.ROOT / "requirements-dev.txt").read_text()
    )
    assert (config.ROOT / "config.py").read_text().count(f"'{pin}'") == 2
