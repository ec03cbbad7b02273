"""Request ids, and one structured log line for each request.

The request id is the client's `X-Request-ID` if it is valid, otherwise a new one. Every response
contains it.
"""

import logging
import re
import secrets
import time

import click
from flask import Flask, Response, current_app, has_request_context, request

from projectapp.http.log_lines import FIELDS, make_formatter
from projectapp.request_state import RequestState, caller_fields, request_state, set_request_state

access_log = logging.getLogger("projectapp.access")

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
        handler.addFilter(add_request_id)
    # Otherwise Alembic logs its SQL dialect at each start.
    logging.getLogger("alembic.runtime").setLevel(level if level == "DEBUG" else "WARNING")
    app.before_request(_start_request)
    app.after_request(_finish_request)


def choose_formatter(log_format: str) -> logging.Formatter:
    """Return the formatter for LOG_FORMAT, or in a command CommandFormatter."""
    context = click.get_current_context(silent=True)
    if context and context.info_name != "run":  # `flask run` is a server
        return CommandFormatter()
    return make_formatter(log_format)


def add_request_id(record: logging.LogRecord) -> bool:
    """Add the id of the current request to a log record: a logging filter that drops no record."""
    if "request_id" not in record.__dict__:
        record.request_id = request_state().request_id if has_request_context() else None
    return True


def log_refusal(status: int, client_request_id: str) -> str:
    """Log a request that gunicorn refused before the application got it; return its request id."""
    request_id = _choose_request_id(client_request_id)
    _log_request("-", "(unread)", status, 0, request_id=request_id)
    return request_id


def _start_request() -> None:
    # Our gunicorn worker sets this before a request waits for a thread, so the wait counts, too.
    started_at = request.environ.get("projectapp.received_at", time.monotonic())
    set_request_state(
        RequestState(
            request_id=_choose_request_id(request.headers.get("X-Request-ID", "")),
            started_at=started_at,
            deadline=started_at + current_app.config["REQUEST_TIMEOUT"],
        )
    )


def _finish_request(response: Response) -> Response:
    state = request_state()
    response.headers.add("X-Request-ID", state.request_id)
    milliseconds = round((time.monotonic() - state.started_at) * 1000, 1)
    # The rule of the route, because the path itself may contain a secret.
    path = request.url_rule.rule if request.url_rule else "(unknown route)"
    extra = {"request_id": state.request_id, **caller_fields()}
    _log_request(request.method, path, response.status_code, milliseconds, **extra)
    return response


def _log_request(method: str, path: str, status: int, milliseconds: float, **extra: object) -> None:
    values = (method, path, status, milliseconds)
    extra |= zip(FIELDS, values, strict=True)
    access_log.info("%s %s %s %s ms", *values, extra=extra)


def _choose_request_id(client_request_id: str) -> str:
    is_valid = _VALID_REQUEST_ID.fullmatch(client_request_id)
    return client_request_id if is_valid else secrets.token_hex(16)
