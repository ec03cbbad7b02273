"""Formats log lines, and sends all log records of a server process to one handler.

gunicorn.conf.py runs this file by its path, in the master process. So it imports neither Flask nor
projectapp.
"""

import json
import logging
import threading
from datetime import UTC, datetime
from typing import Any

FIELDS = ("request_id", "method", "path", "status", "ms")
_TRACE_FIELDS = ("trace_id", "span_id")
_EVENT_FIELDS = ("event", "reason", "caller", "credential", "token_source", "address")
_EXTRA_FIELDS = (*FIELDS, *_TRACE_FIELDS, *_EVENT_FIELDS)


class JsonFormatter(logging.Formatter):
    """One JSON object per line. `time` is RFC 3339 in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        values = record.__dict__
        fields = {name: values[name] for name in _EXTRA_FIELDS if name in values}
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        message = record.getMessage()
        return self.format_line(record.created, record.levelname, record.name, message, **fields)

    @staticmethod
    def format_line(created: float, level: str, logger: str, message: str, **fields: Any) -> str:
        """Return the line of a record. `created` is the Unix time in seconds."""
        entry = {
            "time": datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds"),
            "level": level.lower(),
            "logger": logger,
            "message": message,
            "request_id": None,
        }
        return json.dumps(entry | fields)


class TextFormatter(logging.Formatter):
    """One line of text, for a person at a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s%(request)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        values = record.__dict__
        request_id, trace_id = values.get("request_id"), values.get("trace_id")
        trace = f" trace_id={trace_id}" if trace_id else ""
        record.request = f"  [{request_id}{trace}]" if request_id else ""
        return super().format(record)


def make_formatter(log_format: str) -> logging.Formatter:
    return JsonFormatter() if log_format == "json" else TextFormatter()


def configure_logging(level: str, log_format: str) -> None:
    """Send all log records to one handler, with Python's warnings and the errors of threads."""
    handler = logging.StreamHandler()
    handler.setFormatter(make_formatter(log_format))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_error


def _log_thread_error(arguments: threading.ExceptHookArgs) -> None:
    error, kind = arguments.exc_value, arguments.exc_type
    if error and kind is not SystemExit:
        exc_info = (kind, error, arguments.exc_traceback)
        logging.getLogger("threading").error("An error ended a thread.", exc_info=exc_info)
