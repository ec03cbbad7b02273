"""Formats log lines, and sends all that a server process logs through one handler.

gunicorn.conf.py runs this file by its path, as it does worker.py: nothing of projectapp, and no
Flask, is imported here.
"""

import json
import logging
import threading
from datetime import UTC, datetime

FIELDS = ("method", "path", "status", "ms")
_EVENT = ("event", "reason", "caller", "credential", "address")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, request_id, extras."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": record.__dict__.get("request_id"),
            **{
                name: record.__dict__[name]
                for name in (*FIELDS, *_EVENT)
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
        request_id = record.__dict__.get("request_id")
        record.request = f"  [{request_id}]" if request_id else ""
        return super().format(record)


def make_formatter(form: str) -> logging.Formatter:
    """The formatter for what LOG_FORMAT names."""
    return JsonFormatter() if form == "json" else TextFormatter()


def log_everything(level: str, form: str) -> None:
    """Log what a server says through one handler: also warnings, and what ends a thread."""
    handler = logging.StreamHandler()
    handler.setFormatter(make_formatter(form))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    threading.excepthook = _log_end_of_thread


def _log_end_of_thread(end: threading.ExceptHookArgs) -> None:
    if end.exc_value and end.exc_type is not SystemExit:
        error = (end.exc_type, end.exc_value, end.exc_traceback)
        logging.getLogger("threading").error("A thread ended.", exc_info=error)
