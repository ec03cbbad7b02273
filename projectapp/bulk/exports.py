"""What the view of an export uses: its declaration, and a function for its response."""

from collections.abc import Iterator
from typing import Any, cast

from flask import current_app, request
from marshmallow import RAISE, Schema, fields
from marshmallow.validate import OneOf

from projectapp.bulk.export_downloads import ExportDownload, ExportThread, max_page_bytes
from projectapp.bulk.export_pages import Export, Format
from projectapp.http.application import Response
from projectapp.http.endpoint import Endpoint
from projectapp.http.fields import QueryBoolean
from projectapp.problems import ServiceUnavailable, ValidationFailed
from projectapp.resources.resource import Resource
from projectapp.resources.schemas import doc

CONTENT_TYPES = {Format.NDJSON: "application/x-ndjson", Format.CSV: "text/csv"}
RETRY_AFTER_SECONDS = 5

_FIRST_PAGE_BYTES = 2**16  # each request thread may have one
_LIST_PARAMETERS = {"page", "page_size", "cursor", "count", "sort", "selected_fields"}


class FilterQuery(Schema):
    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "Unknown parameter."}


class _ExportQuery(FilterQuery):
    format = fields.String(
        validate=OneOf([file_format.value for file_format in Format]),
        metadata=doc("The format of the file. The default follows from the Accept header."),
    )
    bom = QueryBoolean(
        load_default=False,
        metadata=doc("Begin a CSV file with a byte order mark: Excel needs it to read UTF-8."),
    )


def filters_of(list_query: Schema, base: type[FilterQuery] = FilterQuery) -> Schema:
    """Return the schema of a query that has only the filters and the search of a list."""
    filters = {k: v for k, v in list_query.load_fields.items() if k not in _LIST_PARAMETERS}
    name = type(list_query).__name__.replace("Query", "ExportQuery")
    return base.from_dict(cast(Any, filters), name=name)()


def export(scope: str, list_query: Schema) -> Endpoint:
    """Declare the export of a resource whose list has the query `list_query`."""
    return Endpoint(
        scope=scope,
        responses={200: None},
        query=filters_of(list_query, _ExportQuery),
        content_types=tuple(CONTENT_TYPES.values()),
        response_headers=["Changes-Cursor"],
    )


def export_response(resource: Resource, query: dict[str, Any]) -> Response:
    """Return all rows that match the validated `query`, as a file.

    The response has the first page. If there are more, the connection stays open, and a thread of
    the worker sends them (export_downloads.py). Another server reads them in its own thread.
    Raises ValidationFailed and ServiceUnavailable.
    """
    filters = dict(query)
    has_bom, file_format = filters.pop("bom"), _choose_format(filters.pop("format", None))
    if has_bom and file_format is not Format.CSV:
        raise ValidationFailed({"bom": ["Only a CSV file may have a byte order mark."]})
    app = cast(Any, current_app)._get_current_object()
    export = Export(app, resource, filters, file_format)
    streams = request.environ.get("projectapp.streams")
    max_bytes = min(_FIRST_PAGE_BYTES, max_page_bytes(streams)) if streams else _FIRST_PAGE_BYTES
    first_page = export.header(has_bom) + export.read_page(max_bytes)
    body: bytes | Iterator[bytes] = first_page
    if not export.is_complete:
        # An iterator: a sequence would get a Content-Length.
        body = iter([first_page])
        if request.method == "GET" and streams:
            _open_download(app, streams, export)
        elif request.method == "GET":
            body = _all_pages(first_page, export)
    headers = {
        "Cache-Control": "no-store",
        "Changes-Cursor": export.changes_cursor,
        "Content-Disposition": f'attachment; filename="{resource.name}.{file_format.value}"',
        "X-Accel-Buffering": "no",  # nginx would write what the client has not read to its disk
    }
    charset = "; charset=utf-8" if file_format is Format.CSV else ""
    return Response(body, headers=headers, content_type=CONTENT_TYPES[file_format] + charset)


def _choose_format(name: str | None) -> Format:
    """Return the format with this name, or else the one that the Accept header prefers."""
    if name:
        return Format(name)
    ndjson, csv = CONTENT_TYPES.values()
    is_csv = request.accept_mimetypes.best_match([ndjson, csv], ndjson) == csv
    return Format.CSV if is_csv else Format.NDJSON


def _open_download(app: Any, streams: Any, export: Export) -> None:
    thread = app.extensions.get("export_thread")
    if not thread:  # several requests may be the first one
        thread = app.extensions.setdefault("export_thread", ExportThread(streams))
    if not streams.open_download(request.environ, ExportDownload(thread, export)):
        message = "This server process holds the maximum number of streams and exports."
        detail = f"{message} Try again later."
        raise ServiceUnavailable(detail, RETRY_AFTER_SECONDS, "downloads_full")


def _all_pages(first_page: bytes, export: Export) -> Iterator[bytes]:
    yield first_page
    yield from export.read_next_pages()
