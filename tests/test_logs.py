"""Request ids, and the log lines of a server and of a command."""

import io
import json
import logging
import os
import re
import signal
import time
from contextlib import contextmanager, nullcontext

import click
import pytest

from faults.processes import free_port
from projectapp.http.log_lines import JsonFormatter, TextFormatter
from projectapp.http.request_log import CommandFormatter, add_request_ids, choose_formatter
from tests.conftest import PROJECTS
from tests.test_serving import children


@pytest.mark.parametrize(
    "request_id", ["a", "3f2a-9.B_c", "Root=1-67891233-abcdef012345678912345678"]
)
def test_a_valid_request_id_is_returned(client, request_id):
    response = client.get("/health", headers={"X-Request-ID": request_id})
    assert response.headers["X-Request-ID"] == request_id


@pytest.mark.parametrize("request_id", ["", " ", "a b", "<script>", "x" * 129, "a\x7f", "é", '"'])
def test_an_invalid_request_id_is_replaced(client, request_id):
    response = client.get("/health", headers={"X-Request-ID": request_id})
    new_id = response.headers["X-Request-ID"]
    assert new_id != request_id
    assert len(new_id) == 32


def test_a_request_logs_one_line_with_the_path_template(client, make_project, caplog):
    project = make_project()
    caplog.clear()
    with caplog.at_level(logging.INFO, "projectapp.access"):
        client.get(f"{PROJECTS}/{project['id']}?x=secret")
        client.get("/nowhere/secret")
    lines = [record for record in caplog.records if record.name == "projectapp.access"]
    assert [(line.method, line.path, line.status) for line in lines] == [
        ("GET", f"{PROJECTS}/<uuid:project_id>", 200),
        ("GET", "(unknown route)", 404),
    ]
    assert all(line.ms >= 0 for line in lines)
    assert "secret" not in caplog.text


def test_a_log_line_has_the_caller_the_credential_and_the_address(
    auth_client, auth_headers, caplog
):
    with caplog.at_level(logging.INFO, "projectapp.access"):
        auth_client.get(PROJECTS, headers=auth_headers())
        auth_client.get("/health")
    [with_token, without_token] = [
        json.loads(JsonFormatter().format(line))
        for line in caplog.records
        if line.name == "projectapp.access"
    ]
    assert with_token["caller"] == "alice"
    assert re.fullmatch("token [0-9a-f-]{36}", with_token["credential"])
    assert with_token["address"] == without_token["address"] == "127.0.0.1"
    assert "caller" not in without_token


@contextmanager
def json_log():
    """Log like a server with LOG_FORMAT=json: to one handler, without those of pytest."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    handler.addFilter(add_request_ids)
    handlers, level = logging.root.handlers, logging.root.level
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logging.root.handlers = handlers
        logging.root.setLevel(level)


def read_lines(handler):
    """Return the lines of a log without their times, and empty it."""
    lines = handler.stream.getvalue().splitlines()
    handler.setStream(io.StringIO())
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        entry["message"] = entry["message"].replace(str(entry.pop("ms")), "N")
    return [list(entry.items())[1:] for entry in entries]


NAME = 'a"b\\번역\n{}%s'


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("GET", PROJECTS), ("GET", "/\n"), ('"', "/health")]
)
def test_line_without_a_record_is_the_same_as_with_one(
    auth_client, auth_headers, method, path, request
):
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"X-Request-ID": "abc", "traceparent": traceparent, **auth_headers(owner=NAME)}
    address = {"REMOTE_ADDR": 'unix:"'}
    lines, records = [], []
    make_record = logging.getLogRecordFactory()
    request.addfinalizer(lambda: logging.setLogRecordFactory(make_record))
    logging.setLogRecordFactory(lambda *values: records.append(values) or make_record(*values))
    with json_log() as handler:
        for number_of_records in (0, 1):
            auth_client.open(path, method=method, headers=headers, environ_overrides=address)
            lines.append(read_lines(handler))
            assert len(records) == number_of_records
            logging.root.addHandler(logging.NullHandler())  # so the second request has a record
    assert len(lines[0]) == 1
    assert lines[0] == lines[1]


def test_handler_or_filter_of_a_user_gets_the_record_of_a_request(client):
    records = []

    def keep(record):
        records.append(record)
        return False

    class Keeper(logging.Handler):
        emit = staticmethod(keep)

    with json_log() as handler:
        for target, kind, addition in [
            (logging.root, "Handler", Keeper()),
            (logging.getLogger("projectapp"), "Handler", Keeper()),
            (logging.getLogger("projectapp.access"), "Filter", keep),
            (handler, "Filter", keep),
        ]:
            getattr(target, f"add{kind}")(addition)
            client.get("/health")
            getattr(target, f"remove{kind}")(addition)
            assert [(record.path, record.status) for record in records] == [("/health", 200)]
            records.clear()


def test_level_and_formatter_of_a_user_apply_to_the_line_of_a_request(client):
    with json_log() as handler:
        handler.setLevel(logging.WARNING)
        client.get("/health")
        handler.setLevel(logging.NOTSET)
        logging.root.setLevel(logging.WARNING)
        client.get("/health")
        logging.root.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter("%(path)s %(filename)s"))
        client.get("/health")
        assert handler.stream.getvalue() == "/health request_log.py\n"


def test_request_whose_line_cannot_be_written_succeeds(client, capsys):
    with json_log() as handler:
        handler.stream.close()
        assert client.get("/health").status_code == 200
    assert "I/O operation on closed file" in capsys.readouterr().err


def make_record(**attributes):
    record = logging.LogRecord("some.logger", logging.INFO, "", 1, "line %s\n2", ("1",), None)
    record.__dict__.update(attributes)
    assert add_request_ids(record)
    return record


def test_a_json_line_has_the_extra_fields_and_the_traceback(app):
    try:
        raise RuntimeError("why")
    except RuntimeError as error:
        exc_info = (type(error), error, error.__traceback__)
    with app.test_request_context(headers={"X-Request-ID": "abc"}):
        app.preprocess_request()
        text = JsonFormatter().format(make_record(method="GET", status=200, exc_info=exc_info))
    assert "\n" not in text
    line = json.loads(text)
    assert line["request_id"] == "abc"
    assert (line["level"], line["logger"], line["message"]) == ("info", "some.logger", "line 1\n2")
    assert (line["method"], line["status"]) == ("GET", 200)
    assert "RuntimeError: why" in line["trace"]


def test_a_text_line_ends_with_the_request_id(app):
    assert TextFormatter().format(make_record()).endswith("line 1\n2")
    with app.test_request_context(headers={"X-Request-ID": "abc"}):
        app.preprocess_request()
        assert TextFormatter().format(make_record()).endswith("[abc]")


@pytest.mark.parametrize(
    ("command", "log_format", "line"),
    [
        ("upgrade", "json", "line 1\n2"),
        ("upgrade", "text", "line 1\n2"),
        ("run", "json", '{"time": '),
        ("run", "text", "INFO    line 1"),
        (None, "json", '{"time": '),
        (None, "text", "INFO    line 1"),
    ],
)
def test_a_command_logs_plain_text_and_a_server_uses_log_format(command, log_format, line):
    context = click.Context(click.Command("flask"), info_name=command) if command else nullcontext()
    with context:
        text = choose_formatter(log_format).format(make_record())
    assert line in text
    assert text.startswith(line) or command != "upgrade"


def test_a_warning_of_a_command_begins_with_warning():
    warning = make_record(levelno=logging.WARNING)
    assert CommandFormatter().format(warning) == "Warning: line 1\n2"


PRODUCTION = {"APP_ENV": "production", "AUTH": "none", "HOST": "127.0.0.1", "DRAIN_TIMEOUT": "0"}
TEXT_LINE = re.compile(r"\d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\S")

FAILING_WORKER = """
import threading, warnings
exec(open("gunicorn.conf.py").read())
def post_worker_init(worker):
    warnings.warn("a warning")
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
    """Return the log of the server, each line parsed as JSON."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]


@pytest.mark.slow
def test_in_production_all_lines_are_json_including_those_of_gunicorn(serve):
    with serve("--timeout", "2", WEB_CONCURRENCY="1", **PRODUCTION) as server:
        server.request("GET", "/nowhere")
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGSTOP)
        wait_for_line(server, "SIGKILL")
        server.wait_until_serving()
        server.stop()
    lines = lines_of(server)
    gunicorn_lines = [line for line in lines if line["logger"] == "gunicorn.error"]
    messages = [line["message"] for line in gunicorn_lines]
    for start in ("Starting gunicorn", "Listening at", "Booting worker", "Worker exiting"):
        assert any(message.startswith(start) for message in messages), start
    timeout = ("critical", f"WORKER TIMEOUT (pid:{worker})")
    assert timeout in [(line["level"], line["message"]) for line in gunicorn_lines]
    assert len(messages) == len({*messages})
    [access] = [line for line in lines if line.get("status") == 404]
    assert (access["logger"], len(access["request_id"])) == ("projectapp.access", 32)


@pytest.mark.slow
def test_with_log_format_text_all_lines_have_the_same_form(serve):
    with serve(LOG_FORMAT="text") as server:
        server.request("GET", "/nowhere", **{"X-Request-ID": "abc"})
        server.stop()
    lines = server.log.read_text().splitlines()
    assert [line for line in lines if not TEXT_LINE.match(line)] == []
    assert len([line for line in lines if "Starting gunicorn" in line]) == 1
    [access] = [line for line in lines if " 404 " in line]
    assert access.endswith("  [abc]")


@pytest.mark.slow
def test_a_line_that_another_logger_writes_during_a_request_has_its_id(serve):
    unreachable_url = f"postgresql://someone@127.0.0.1:{free_port()}/test"
    with serve(LOG_FORMAT="json", READY_DETAILS="off", DATABASE_URL=unreachable_url) as server:
        server.request("GET", "/ready", **{"X-Request-ID": "abc"})
        server.stop()
    [line] = [line for line in lines_of(server) if line["logger"] == "projectapp.http.health"]
    assert (line["request_id"], line["message"][:9]) == ("abc", "not ready")


@pytest.mark.slow
def test_log_level_applies_to_the_lines_of_gunicorn(serve):
    with serve(LOG_LEVEL="warning", LOG_FORMAT="json", WEB_CONCURRENCY="1") as server:
        [worker] = children(server.process.pid)
        os.kill(worker, signal.SIGKILL)
        server.wait_until_serving()
        server.stop()
    assert [line["level"] for line in lines_of(server)] == ["error"]


@pytest.mark.slow
@pytest.mark.parametrize("error", ["RuntimeError('line 1\\nline 2')", "SystemExit('A sentence.')"])
def test_a_warning_and_an_error_that_ends_a_thread_or_worker_are_one_line_each(
    serve, tmp_path, error
):
    (tmp_path / "conf.py").write_text(FAILING_WORKER.format(error=error))
    arguments = ("-c", str(tmp_path / "conf.py"))
    with serve(*arguments, wait=False, LOG_FORMAT="json", WEB_CONCURRENCY="1") as server:
        wait_for_line(server, "Worker exiting")
        if "SystemExit" in error:
            server.stop()
        server.process.wait(timeout=30)
    lines = lines_of(server)
    assert any(line["logger"] == "py.warnings" and "a warning" in line["message"] for line in lines)
    assert any("ZeroDivisionError" in line.get("trace", "") for line in lines)
    if "SystemExit" in error:
        assert ("error", "A sentence.") in [(line["level"], line["message"]) for line in lines]
    else:
        [end] = [line for line in lines if "RuntimeError" in line.get("trace", "")]
        assert (end["level"], server.process.returncode) == ("error", 3)
        assert "line 1\nline 2" in end["trace"]
