"""Logging: a request id on every request, and one structured line for each.

`X-Request-ID` is taken from the client where it is sane, else made, and always returned.
"""

import logging
import re
import secrets
import time

import click
from flask import Flask, Response, current_app, g, has_request_context, request

from projectapp.http.log_lines import FIELDS, make_formatter
from projectapp.request_state import RequestState, caller_fields, request_state

access = logging.getLogger("projectapp.access")

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class CommandFormatter(logging.Formatter):
    """The message alone, for a person who typed a command."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return f"Warning: {message}" if record.levelno == logging.WARNING else message


def init_app(app: Flask) -> None:
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(_formatter(app.config["LOG_FORMAT"]))
    level = app.config["LOG_LEVEL"].upper()
    # gunicorn.conf.py has made a handler already, and that one stays.
    logging.basicConfig(handlers=[handler], level=level)
    for handler in logging.root.handlers:
        handler.addFilter(add_request_id)
    # It says at each start what its dialect is.
    logging.getLogger("alembic.runtime").setLevel(level if level == "DEBUG" else "WARNING")
    app.before_request(_begin)
    app.after_request(_end)


def _formatter(form: str) -> logging.Formatter:
    command = click.get_current_context(silent=True)
    if command and command.info_name != "run":  # which serves
        return CommandFormatter()
    return make_formatter(form)


def add_request_id(record: logging.LogRecord) -> bool:
    """Have a record know the request that it comes from; a filter that lets all pass."""
    if "request_id" not in record.__dict__:
        record.request_id = request_state().request_id if has_request_context() else None
    return True


def log_refusal(status: int, sent_id: str) -> str:
    """Log a request that never reached the application; return the id that it is logged under."""
    request_id = _sane_id(sent_id)
    values = ("-", "(unread)", status, 0)
    extra = dict(zip(FIELDS, values, strict=True)) | {"request_id": request_id}
    access.info("%s %s %s %s ms", *values, extra=extra)
    return request_id


def _sane_id(request_id: str) -> str:
    return request_id if _SANE_ID.fullmatch(request_id) else secrets.token_hex(16)


def _begin() -> None:
    # With our worker the time that a request waited for a thread counts.
    started_at = request.environ.get("projectapp.received_at", time.monotonic())
    g.state = RequestState(
        request_id=_sane_id(request.headers.get("X-Request-ID", "")),
        started_at=started_at,
        deadline=started_at + current_app.config["REQUEST_TIMEOUT"],
    )


def _end(response: Response) -> Response:
    state, rule = request_state(), request.url_rule
    response.headers.add("X-Request-ID", state.request_id)
    milliseconds = round((time.monotonic() - state.started_at) * 1000, 1)
    path = rule.rule if rule else "(unknown route)"
    values = (request.method, path, response.status_code, milliseconds)
    extra = (
        dict(zip(FIELDS, values, strict=True)) | {"request_id": state.request_id} | caller_fields()
    )
    access.info("%s %s %s %s ms", *values, extra=extra)
    return response
