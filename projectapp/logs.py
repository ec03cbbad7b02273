"""Logging: a request id on every request, and one structured line for each.

`X-Request-ID` is taken from the client where it is sane, else made, and always returned.
"""

import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Any

import click
from flask import Flask, Response, g, has_request_context, request

access = logging.getLogger("projectapp.access")

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_FIELDS = ("method", "path", "status", "ms")
_EVENT = ("event", "reason", "caller", "credential", "address")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, request_id, extras."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": record.__dict__.get("request_id") or _request_id(),
            **{
                name: record.__dict__[name]
                for name in (*_FIELDS, *_EVENT)
                if name in record.__dict__
            },
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class TextFormatter(logging.Formatter):
    """The same for a person at a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s%(request)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        request_id = record.__dict__.get("request_id") or _request_id()
        record.request = f"  [{request_id}]" if request_id else ""
        return super().format(record)


class CommandFormatter(logging.Formatter):
    """The message alone, for a person who typed a command."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return f"Warning: {message}" if record.levelno == logging.WARNING else message


def init_app(app: Flask) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(app.config["LOG_FORMAT"]))
    level = app.config["LOG_LEVEL"].upper()
    logging.basicConfig(handlers=[handler], level=level)
    # It says at each start what its dialect is.
    logging.getLogger("alembic.runtime").setLevel(level if level == "DEBUG" else "WARNING")
    app.before_request(_begin)
    app.after_request(_end)


def _formatter(form: str) -> logging.Formatter:
    command = click.get_current_context(silent=True)
    if command and command.info_name != "run":  # which serves
        return CommandFormatter()
    return JsonFormatter() if form == "json" else TextFormatter()


def refused(status: int) -> str:
    """Log a message that never reached the application, and return the id it is logged under."""
    request_id = secrets.token_hex(16)
    values = ("-", "(unread)", status, 0)
    extra = dict(zip(_FIELDS, values, strict=True)) | {"request_id": request_id}
    access.info("%s %s %s %s ms", *values, extra=extra)
    return request_id


def who() -> dict[str, Any]:
    """Where the current request comes from and, where that is known, who makes it: for `extra`."""
    caller = g.get("caller")
    known = {"caller": caller.subject, "credential": caller.credential} if caller else {}
    return {"address": request.remote_addr, **known}


def _request_id() -> str | None:
    return g.get("request_id") if has_request_context() else None


def _begin() -> None:
    # Where our worker serves, what waited for a thread is told by when it came.
    g.started = request.environ.get("projectapp.arrived", time.monotonic())
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(16)


def _end(response: Response) -> Response:
    request_id, rule = g.request_id, request.url_rule
    response.headers.add("X-Request-ID", request_id)
    milliseconds = round((time.monotonic() - g.started) * 1000, 1)
    path = rule.rule if rule else "(unknown route)"
    values = (request.method, path, response.status_code, milliseconds)
    extra = dict(zip(_FIELDS, values, strict=True)) | {"request_id": request_id} | who()
    access.info("%s %s %s %s ms", *values, extra=extra)
    return response
