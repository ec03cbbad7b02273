"""The spans of requests and statements, and their export to a collector by OTLP/HTTP.

Names and attributes follow OpenTelemetry's stable semantic conventions for HTTP servers and
database clients. The SDK reads the environment variables OTEL_*. A span has no value of a statement
and no error message of the database, which may quote values.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NoOpTracer,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from projectapp.tracing import parse_traceparent, shut_down_at_stop

Attributes = Mapping[str, str | int | bool]

_UNKNOWN_SERVICE = "unknown_service"  # the SDK's name of a service without OTEL_SERVICE_NAME


class Statement(Protocol):
    """A statement of the database package, which is a layer above this one."""

    summary: str
    sql: str


class RequestSpan:
    """The span of a request. The spans of its statements are its children.

    `log_fields` has the ids of the trace and the span, in hexadecimal.
    """

    def __init__(self, tracer: Tracer, span: Span, database: Attributes) -> None:
        self._tracer, self._span, self._database = tracer, span, database
        self._context = set_span_in_context(span)
        ids = span.get_span_context()
        self.log_fields = {
            "trace_id": format_trace_id(ids.trace_id),
            "span_id": format_span_id(ids.span_id),
        }

    @contextmanager
    def trace_statement(self, statement: Statement) -> Iterator[None]:
        """Measure the `with` block, which executes the statement, as a span."""
        attributes = {
            **self._database,
            "db.query.summary": statement.summary,
            "db.query.text": statement.sql,
        }
        span = self._tracer.start_span(
            statement.summary, self._context, SpanKind.CLIENT, attributes=attributes
        )
        try:
            yield
        except Exception as error:
            cause = error.__cause__ or error
            sqlstate = getattr(cause, "pgcode", None)
            if sqlstate:
                span.set_attribute("db.response.status_code", sqlstate)
            _mark_error(span, sqlstate or type(cause).__name__)
            raise
        finally:
            span.end()

    def end(self, status: int) -> None:
        """End the span of a request whose response has this status."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            _mark_error(self._span, str(status))
        self._span.end()

    def end_without_response(self) -> None:
        """End the span of a request that has been parked: it will run again, with a new span."""
        self._span.set_attribute("projectapp.is_parked", True)
        self._span.end()


class RequestSpans:
    """Creates the spans of requests, and sends them in a background thread.

    `database` has the attributes of all statements.
    """

    def __init__(self, version: str, database: Attributes) -> None:
        resource = Resource.create({"service.version": version})
        if str(resource.attributes["service.name"]).startswith(_UNKNOWN_SERVICE):
            resource = resource.merge(Resource({"service.name": "projectapp"}))
        # The provider restarts its thread after a fork, and ends at the exit of the process.
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        # Its warnings quote the tracestate, so a client could write into the log.
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
        shut_down_at_stop(provider.shutdown)
        self._tracer = provider.get_tracer("projectapp", version)
        self._database: Attributes = {"db.system.name": "postgresql", **database}

    def start(
        self, name: str, traceparent: str, tracestate: str, start_time: int, attributes: Attributes
    ) -> RequestSpan | None:
        """Start the span of a request. `start_time` is the Unix time in nanoseconds.

        A valid `traceparent` names its parent. Return None if OTEL_SDK_DISABLED is true.
        """
        if isinstance(self._tracer, NoOpTracer):
            return None
        carrier = {}
        if parse_traceparent(traceparent):
            carrier = {"traceparent": traceparent, "tracestate": tracestate}
        parent = TraceContextTextMapPropagator().extract(carrier)
        span = self._tracer.start_span(
            name, parent, SpanKind.SERVER, attributes=attributes, start_time=start_time
        )
        return RequestSpan(self._tracer, span, self._database)


def _mark_error(span: Span, error_type: str) -> None:
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", error_type)
