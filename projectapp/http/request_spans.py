"""One span for each request of a server, if the setting TRACES is on."""

import time
from typing import TYPE_CHECKING

from flask import Flask, Response

from projectapp.http.request_log import is_command
from projectapp.request_state import current_request, request_state

if TYPE_CHECKING:
    from projectapp.tracing.spans import Attributes, RequestSpans

# Another method of a client becomes _OTHER: each name is a group of spans in the user interface.
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}


def init_app(app: Flask) -> None:
    """Trace the requests of `app`. The caller registers this after the request log."""
    if not app.config["TRACES"] or is_command():
        return
    # Imported here, because the packages are optional.
    from projectapp.tracing.spans import RequestSpans

    spans = RequestSpans(app.config["VERSION"], _database_attributes(app))
    app.before_request(lambda: _start_span(spans))
    app.after_request(_end_span)


def _database_attributes(app: Flask) -> "Attributes":
    server = app.config["DATABASE_URL"] or {}
    names = {"db.namespace": "dbname", "server.address": "host"}
    return {name: server[key] for name, key in names.items() if server.get(key)}


def _start_span(spans: "RequestSpans") -> None:
    state, request = request_state(), current_request()
    environ, rule = request.environ, request.url_rule
    method = request.method if request.method in _METHODS else "_OTHER"
    attributes: dict[str, str | int | bool] = {
        "http.request.method": method,
        "url.scheme": request.scheme,
        "network.protocol.version": environ.get("SERVER_PROTOCOL", "").removeprefix("HTTP/"),
        "projectapp.request_id": state.request_id or "",
    }
    name = "HTTP" if method == "_OTHER" else method
    if rule:
        # Without a route neither the log nor the span has the path, which may contain a secret.
        attributes["http.route"] = request.root_path.rstrip("/") + rule.rule
        attributes["url.path"] = request.root_path.rstrip("/") + request.path
        name = f"{name} {attributes['http.route']}"
    if state.address:
        attributes["client.address"] = state.address
    if user_agent := environ.get("HTTP_USER_AGENT"):
        attributes["user_agent.original"] = user_agent
    traceparent, tracestate = (
        environ.get(f"HTTP_{header}", "") for header in ("TRACEPARENT", "TRACESTATE")
    )
    # The time for which the request has waited for a thread belongs to it.
    seconds = time.monotonic() - state.started_at
    start_time = time.time_ns() - int(seconds * 1e9)
    state.span = spans.start(name, traceparent, tracestate, start_time, attributes)


def _end_span(response: Response) -> Response:
    span = request_state().span
    if span and current_request().environ.get("projectapp.is_parked"):
        span.end_without_response()
    elif span:
        span.end(response.status_code)
    return response
