"""Request ids and the line that each request leaves."""

import json
import logging
import re
from contextlib import nullcontext

import click
import pytest

from projectapp.logs import CommandFormatter, JsonFormatter, TextFormatter, _formatter
from tests.conftest import PROJECTS


@pytest.mark.parametrize(
    "request_id", ["a", "3f2a-9.B_c", "Root=1-67891233-abcdef012345678912345678"]
)
def test_a_sane_request_id_is_kept(client, request_id):
    answer = client.get("/health", headers={"X-Request-ID": request_id})
    assert answer.headers["X-Request-ID"] == request_id


@pytest.mark.parametrize("request_id", ["", " ", "a b", "<script>", "x" * 129, "a\x7f", "é", '"'])
def test_any_other_is_replaced(client, request_id):
    made = client.get("/health", headers={"X-Request-ID": request_id}).headers["X-Request-ID"]
    assert made != request_id
    assert len(made) == 32


def test_a_request_leaves_one_line_with_the_path_template(client, make_project, caplog):
    project = make_project()
    caplog.clear()
    with caplog.at_level(logging.INFO, "projectapp.access"):
        client.get(f"{PROJECTS}/{project['id']}?x=secret")
        client.get("/nowhere/secret")
    lines = [record for record in caplog.records if record.name == "projectapp.access"]
    shown = [(line.method, line.path, line.status) for line in lines]
    assert shown == [
        ("GET", f"{PROJECTS}/<uuid:project_id>", 200),
        ("GET", "(unknown route)", 404),
    ]
    assert all(line.ms >= 0 for line in lines)
    assert "secret" not in caplog.text


def test_a_line_says_who_called_and_from_where(guarded, bearer, caplog):
    with caplog.at_level(logging.INFO, "projectapp.access"):
        guarded.get(PROJECTS, headers=bearer())
        guarded.get("/health")
    [known, unknown] = [
        json.loads(JsonFormatter().format(line))
        for line in caplog.records
        if line.name == "projectapp.access"
    ]
    assert known["caller"] == "alice"
    assert re.fullmatch("token [0-9a-f-]{36}", known["credential"])
    assert known["address"] == unknown["address"] == "127.0.0.1"
    assert "caller" not in unknown


def record(**more):
    made = logging.LogRecord("some.logger", logging.INFO, "", 1, "line %s\n2", ("1",), None)
    made.__dict__.update(more)
    return made


def test_json_lines_hold_the_fields_and_the_trace(app):
    try:
        raise RuntimeError("why")
    except RuntimeError as error:
        exc_info = (type(error), error, error.__traceback__)
    with app.test_request_context(headers={"X-Request-ID": "abc"}):
        app.preprocess_request()
        text = JsonFormatter().format(record(method="GET", status=200, exc_info=exc_info))
    assert "\n" not in text
    line = json.loads(text)
    assert line["request_id"] == "abc"
    assert (line["level"], line["logger"], line["message"]) == ("info", "some.logger", "line 1\n2")
    assert (line["method"], line["status"]) == ("GET", 200)
    assert "RuntimeError: why" in line["trace"]


def test_text_lines_end_in_the_request_id(app):
    assert TextFormatter().format(record()).endswith("line 1\n2")
    with app.test_request_context(headers={"X-Request-ID": "abc"}):
        app.preprocess_request()
        assert TextFormatter().format(record()).endswith("[abc]")


@pytest.mark.parametrize(
    ("command", "form", "line"),
    [
        ("upgrade", "json", "line 1\n2"),
        ("upgrade", "text", "line 1\n2"),
        ("run", "json", '{"time": '),
        ("run", "text", "INFO    line 1"),
        (None, "json", '{"time": '),
        (None, "text", "INFO    line 1"),
    ],
)
def test_a_command_logs_plain_text_and_a_server_what_log_format_says(command, form, line):
    context = click.Context(click.Command("flask"), info_name=command) if command else nullcontext()
    with context:
        text = _formatter(form).format(record())
    assert line in text
    assert text.startswith(line) or command != "upgrade"


def test_a_command_marks_its_warnings():
    made = record(levelno=logging.WARNING)
    assert CommandFormatter().format(made) == "Warning: line 1\n2"


def test_production_logs_json_and_development_text(serve, database_url):
    for environ, is_json in (
        ({"APP_ENV": "production", "AUTH": "none"}, True),
        ({"APP_ENV": "development"}, False),
    ):
        with serve(HOST="127.0.0.1", DRAIN_SECONDS="0", **environ) as server:
            server.request("GET", "/nowhere")
            server.stop()
            [line] = [text for text in server.log.read_text().splitlines() if " 404 " in text]
        assert line.startswith("{") == is_json
        if is_json:
            assert json.loads(line)["status"] == 404
