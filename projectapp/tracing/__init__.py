"""Trace context of other services (W3C), and the spans of OpenTelemetry.

Only `spans` imports OpenTelemetry, whose packages are optional.
"""

import re
import threading
from collections.abc import Callable

STOP_SECONDS = 2.0  # a collector that does not answer must not delay the stop for longer

# W3C Trace Context, section 3.2: the version is not ff, the ids are not zero, and only a later
# version than 00 may have more fields.
_TRACEPARENT = re.compile(
    r"(?!ff)(?!00.{53}.)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)

_shutdowns: list[Callable[[], None]] = []


def parse_traceparent(header: str) -> str | None:
    """Return the trace id of a `traceparent` header, or None if the header is not valid."""
    match = _TRACEPARENT.fullmatch(header) if header else None
    return match[1] if match else None


def shut_down_at_stop(shutdown: Callable[[], None]) -> None:
    """Call a function in `stop`, before the process ends."""
    _shutdowns.append(shutdown)


def stop() -> None:
    """Send the spans that remain, for at most STOP_SECONDS. Later spans are dropped."""
    for shutdown in _shutdowns:
        thread = threading.Thread(target=shutdown, name="stop tracing", daemon=True)
        thread.start()
        thread.join(STOP_SECONDS)
