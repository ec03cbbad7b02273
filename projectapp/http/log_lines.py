"""Formats log lines, and configures logging for a server process.

gunicorn.conf.py runs this file by its path, like worker.py, so it imports neither projectapp nor
Flask.
"""

import json
import logging
import threading
from datetime import UTC, datetime

FIELDS = ("method", "path", "status", "ms")
_EVENT_FIELDS = ("event", "reason", "caller", "credential", "address")


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line: time (RFC 3339, UTC), level, logger, message, request_id.

    A line of a request or of a security event has more fields.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": record.__dict__.get("request_id"),
            **{
                name: record.__dict__[name]
                for name in (*FIELDS, *_EVENT_FIELDS)
                if name in record.__dict__
            },
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class TextFormatter(logging.Formatter):
    """Writes a line for a person at a terminal: time, level, message, request id."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s%(request)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        request_id = record.__dict__.get("request_id")
        record.request = f"  [{request_id}]" if request_id else ""
        return super().format(record)


def make_formatter(log_format: str) -> logging.Formatter:
    """Return the formatter for a value of LOG_FORMAT."""
    return JsonFormatter() if log_format == "json" else TextFormatter()


def configure_logging(level: str, log_format: str) -> None:
    """Log everything with one handler, including warnings and uncaught exceptions of threads."""
    handler = logging.StreamHandler()
    handler.setFormatter(make_formatter(log_format))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    threading.excepthook = _log_uncaught_exception


def _log_uncaught_exception(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_value and uncaught.exc_type is not SystemExit:
        exc_info = (uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)
        logging.getLogger("threading").error("A thread ended with an error.", exc_info=exc_info)
