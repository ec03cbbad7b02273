"""Request ids, trace ids, and one structured log line for each request.

The request id is the client's `X-Request-ID` if it is valid, otherwise a new one. Every response
contains it. The trace id is that of a valid `traceparent`, or of the request's span.
"""

import logging
import re
import secrets
import time
from contextlib import suppress
from typing import Any, cast

import click
from flask import Flask, Response, current_app, has_request_context

from projectapp.http.log_lines import FIELDS, make_formatter
from projectapp.metrics.definitions import REQUEST_DURATION, THREAD_WAIT
from projectapp.request_state import (
    RequestState,
    current_request,
    request_state,
    set_request_state,
)
from projectapp.tracing import parse_traceparent

access_log = logging.getLogger("projectapp.access")

_MESSAGE = "%s %s %s %s ms"
_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class CommandFormatter(logging.Formatter):
    """Only the message, for a person who runs a command."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return f"Warning: {message}" if record.levelno == logging.WARNING else message


def init_app(app: Flask) -> None:
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(choose_formatter(app.config["LOG_FORMAT"]))
    level = app.config["LOG_LEVEL"].upper()
    # Under gunicorn this changes nothing: gunicorn.conf.py has installed a handler already.
    logging.basicConfig(handlers=[handler], level=level)
    for handler in logging.root.handlers:
        handler.addFilter(add_request_ids)
    # Otherwise Alembic logs its SQL dialect at each start.
    logging.getLogger("alembic.runtime").setLevel(level if level == "DEBUG" else "WARNING")
    app.before_request(_start_request)
    app.after_request(_finish_request)


def choose_formatter(log_format: str) -> logging.Formatter:
    """Return the formatter for LOG_FORMAT, or in a command CommandFormatter."""
    return CommandFormatter() if is_command() else make_formatter(log_format)


def is_command() -> bool:
    """Whether this process runs a command of `flask`, and is not a server."""
    context = click.get_current_context(silent=True)
    return context is not None and context.info_name != "run"  # `flask run` is a server


def add_request_ids(record: logging.LogRecord) -> bool:
    """Add the ids of the current request to a log record: a logging filter that drops no record."""
    if "request_id" not in record.__dict__:
        state = request_state() if has_request_context() else RequestState()
        record.request_id = state.request_id
        record.__dict__.update(state.trace_fields())
    return True


def log_refusal(status: int, client_request_id: str, traceparent: str) -> str:
    """Log a request that gunicorn refused before the application got it; return its request id."""
    state = RequestState(
        request_id=_choose_request_id(client_request_id), trace_id=parse_traceparent(traceparent)
    )
    _log_request(state.request_id, "-", "(unread)", status, 0, **state.trace_fields())
    return cast(str, state.request_id)


def _start_request() -> None:
    # Our gunicorn worker sets this before a request waits for a thread, so the wait counts, too.
    environ = current_request().environ
    now = time.monotonic()
    started_at = environ.get("projectapp.received_at") or now
    THREAD_WAIT.observe(now - started_at)
    set_request_state(
        RequestState(
            request_id=_choose_request_id(environ.get("HTTP_X_REQUEST_ID", "")),
            trace_id=parse_traceparent(environ.get("HTTP_TRACEPARENT", "")),
            address=environ.get("REMOTE_ADDR"),
            started_at=started_at,
            deadline=started_at + current_app.config["REQUEST_TIMEOUT"],
        )
    )


def _finish_request(response: Response) -> Response:
    state, request = request_state(), current_request()
    response.headers.add("X-Request-ID", state.request_id)
    seconds = time.monotonic() - state.started_at
    # The rule of the route, because the path itself may contain a secret.
    path = request.url_rule.rule if request.url_rule else "(unknown route)"
    status = response.status_code
    if not request.environ.get("projectapp.is_parked"):  # it will run again
        REQUEST_DURATION.observe(seconds, request.method, path, str(status))
        values = (state.request_id, request.method, path, status, round(seconds * 1000, 1))
        _log_request(*values, **state.trace_fields(), **state.caller_fields())
    return response


def _log_request(*values: Any, **more_fields: Any) -> None:
    """Log the values of FIELDS, if possible without a LogRecord, which would cost 20 us."""
    if not access_log.isEnabledFor(logging.INFO):
        return
    fields = dict(zip(FIELDS, values, strict=True), **more_fields)
    if handler := _find_json_handler():
        message = _MESSAGE % values[1:]
        line = handler.formatter.format_line(
            time.time(), "INFO", access_log.name, message, **fields
        )
        with suppress(Exception), handler.lock:
            handler.stream.write(line + handler.terminator)
            handler.flush()
            return
    access_log.info(_MESSAGE, *values[1:], extra=fields)


def _find_json_handler() -> Any:
    """Return the only handler of the log if it writes JSON and is unchanged, else None."""
    handlers: list[logging.Handler] = []
    logger: logging.Logger | None = access_log
    while logger:
        handlers += logger.handlers
        logger = logger.parent if logger.propagate else None
    is_plain = (
        [type(handler) for handler in handlers] == [logging.StreamHandler]
        and handlers[0].filters == [add_request_ids]
        and handlers[0].level <= logging.INFO
        and hasattr(handlers[0].formatter, "format_line")
        and not access_log.filters
    )
    return handlers[0] if is_plain else None


def _choose_request_id(client_request_id: str) -> str:
    is_valid = _VALID_REQUEST_ID.fullmatch(client_request_id)
    return client_request_id if is_valid else secrets.token_hex(16)
