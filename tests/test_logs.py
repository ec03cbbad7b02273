"""Request ids and the line that each request leaves."""

import json
import logging
import os
import re
import signal
import time
from contextlib import nullcontext

import click
import pytest

from faults.processes import free_port
from projectapp.http.log_lines import JsonFormatter, TextFormatter
from projectapp.http.request_log import CommandFormatter, _formatter, add_request_id
from tests.conftest import PROJECTS
from tests.test_serving import children


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
    assert add_request_id(made)
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


PRODUCTION = {"APP_ENV": "production", "AUTH": "none", "HOST": "127.0.0.1", "DRAIN_TIMEOUT": "0"}
TEXT = re.compile(r"\d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\S")

UNABLE = """
import threading, warnings
exec(open("gunicorn.conf.py").read())
def post_worker_init(worker):
    warnings.warn("something is old")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    raise {error}
"""


def wait_for_line(server, text):
    end = time.monotonic() + 30
    while text not in server.log.read_text():
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.05)


def lines_of(server):
    """All that the server has said, each line as JSON."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]


@pytest.mark.slow
def test_in_production_all_lines_are_json_gunicorns_own_among_them(serve):
    with serve("--timeout", "2", WEB_CONCURRENCY="1", **PRODUCTION) as server:
        server.request("GET", "/nowhere")
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGSTOP)
        wait_for_line(server, "SIGKILL")
        server.wait_until_serving()
        server.stop()
    lines = lines_of(server)
    own = [line for line in lines if line["logger"] == "gunicorn.error"]
    said = [line["message"] for line in own]
    for start in ("Starting gunicorn", "Listening at", "Booting worker", "Worker exiting"):
        assert any(message.startswith(start) for message in said), start
    timeout = ("critical", f"WORKER TIMEOUT (pid:{worker})")
    assert timeout in [(line["level"], line["message"]) for line in own]
    assert len(said) == len({*said})
    [access] = [line for line in lines if line.get("status") == 404]
    assert (access["logger"], len(access["request_id"])) == ("projectapp.access", 32)


@pytest.mark.slow
def test_in_development_all_lines_are_text_of_one_form(serve):
    with serve(LOG_FORMAT="text") as server:
        server.request("GET", "/nowhere", **{"X-Request-ID": "abc"})
        server.stop()
    lines = server.log.read_text().splitlines()
    assert [line for line in lines if not TEXT.match(line)] == []
    assert len([line for line in lines if "Starting gunicorn" in line]) == 1
    [access] = [line for line in lines if " 404 " in line]
    assert access.endswith("  [abc]")


@pytest.mark.slow
def test_a_line_of_a_request_has_its_id_whoever_writes_it(serve):
    away = f"postgresql://someone@127.0.0.1:{free_port()}/test"
    with serve(LOG_FORMAT="json", READY_DETAILS="off", DATABASE_URL=away) as server:
        server.request("GET", "/ready", **{"X-Request-ID": "abc"})
        server.stop()
    [line] = [line for line in lines_of(server) if line["logger"] == "projectapp.health"]
    assert (line["request_id"], line["message"][:9]) == ("abc", "not ready")


@pytest.mark.slow
def test_a_log_level_is_that_of_gunicorns_lines_too(serve):
    with serve(LOG_LEVEL="warning", LOG_FORMAT="json", WEB_CONCURRENCY="1") as server:
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGKILL)
        server.wait_until_serving()
        server.stop()
    assert [line["level"] for line in lines_of(server)] == ["error"]


@pytest.mark.slow
@pytest.mark.parametrize("error", ["RuntimeError('line 1\\nline 2')", "SystemExit('A sentence.')"])
def test_warnings_and_what_ends_a_worker_or_a_thread_are_one_line_each(serve, tmp_path, error):
    (tmp_path / "conf.py").write_text(UNABLE.format(error=error))
    arguments = ("-c", str(tmp_path / "conf.py"))
    with serve(*arguments, wait=False, LOG_FORMAT="json", WEB_CONCURRENCY="1") as server:
        wait_for_line(server, "Worker exiting")
        if "SystemExit" in error:
            server.stop()
        server.process.wait(timeout=30)
    lines = lines_of(server)
    assert any(
        line["logger"] == "py.warnings" and "something is old" in line["message"] for line in lines
    )
    assert any("ZeroDivisionError" in line.get("trace", "") for line in lines)
    if "SystemExit" in error:
        assert ("error", "A sentence.") in [(line["level"], line["message"]) for line in lines]
    else:
        [end] = [line for line in lines if "RuntimeError" in line.get("trace", "")]
        assert (end["level"], server.process.returncode) == ("error", 3)
        assert "line 1\nline 2" in end["trace"]
