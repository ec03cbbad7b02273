"""Deliberate bugs: each function puts one into the product, and the scenarios must detect it.

A function replaces other functions of the product. It raises AttributeError if one of them no
longer exists under its name. If a function exists but is no longer called, the bug has no effect,
and `python -m faults --mutations` reports that it was missed.
"""

import functools
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2.extras import register_uuid
from sqlalchemy.sql import visitors

from projectapp import database
from projectapp.auth import access, tokens
from projectapp.bulk import export_pages, imports
from projectapp.bulk import views as bulk_views
from projectapp.bulk.export_pages import Export
from projectapp.database import errors, execution
from projectapp.database.connection import Connection
from projectapp.http import request_data
from projectapp.problems import ServiceUnavailable
from projectapp.resources import inserts, views
from projectapp.resources.feed_cursor import FeedCursor

COMMIT_SECONDS = 0.6  # from the response to the commit, or between two parts of a request


def acknowledge_before_commit() -> None:
    """Answer a create before its commit, so that a crash in between loses the row."""
    state = threading.local()

    def insert_row(original: Callable[..., Any], *arguments: Any) -> Any:
        state.is_create = True
        try:
            return original(*arguments)
        finally:
            state.is_create = False

    def run(original: Callable[..., Any], used: Any, prepared: Any, parameters: Any) -> Any:
        if not getattr(state, "is_create", False):
            return original(used, prepared, parameters)
        try:
            connection = used.connector.connect_for_migrations()
            register_uuid(None, connection)  # the service does this for its own connections
            cursor = connection.cursor()
            cursor.execute(*prepared.bind_parameters(parameters))
            row = prepared.fetch_row(cursor)
        except psycopg2.Error as error:
            raise errors.classify(error, True) from error
        timer = threading.Timer(COMMIT_SECONDS, _commit, [connection])
        timer.daemon = True
        timer.start()
        return row

    _replace(views, "insert_row", insert_row)
    _replace(execution, "_run", run)


def ignore_idempotency_key() -> None:
    for module in (views, bulk_views):
        _replace(module, "read_claim", lambda original: None)


def retry_lost_create_with_new_id() -> None:
    """If the answer to a create is lost, repeat it with a new id: so it can be stored twice."""
    insert_of = {}

    def insert_statements(original: Callable[..., Any], *arguments: Any) -> Any:
        insert, repeat = original(*arguments)
        insert_of[repeat] = insert
        return insert, repeat

    def execute(original: Callable[..., Any], statement: Any, *arguments: Any) -> Any:
        if statement in insert_of:
            parameters, *arguments = arguments
            statement, arguments = insert_of[statement], [{**parameters, "id": database.uuid7()}]
        return original(statement, *arguments)

    _replace(inserts, "_insert_statements", insert_statements)
    _replace(database, "execute", execute)


def report_lost_write_as_refused() -> None:
    """Answer 503, which means "no effect", to a write whose answer was lost."""

    def resolve(original: Callable[..., Any], *_: Any) -> None:
        raise ServiceUnavailable("Try again shortly.", 1)

    _replace(execution, "_resolve_lost_answer", resolve)


def ignore_if_match() -> None:
    _replace(views, "allowed_versions", lambda original: None)


def parse_json_like_python() -> None:
    """Accept all that Python's json module accepts, such as NaN and repeated names."""
    _replace(request_data, "parse_json", lambda original, raw: json.loads(raw))


def skip_token_check() -> None:
    """Accept a token that the worker has in its cache, although it may have been revoked."""
    _replace(tokens, "token_check_sql", lambda original, caller: "")


def show_rows_of_all_owners() -> None:
    _replace(access, "visible_owner", lambda original, resource: None)


def forget_running_transactions() -> None:
    """Let a cursor count everything before the newest change as seen, as an order by `seq` does."""
    encode = FeedCursor.encode

    def forget(cursor: FeedCursor, resource: str) -> str:
        next_xid = cursor.seen_next_xid
        return encode(cursor._replace(seen=f"{next_xid}:{next_xid}:"), resource)

    FeedCursor.encode = forget  # type: ignore[method-assign]


def send_caller_of_previous_write() -> None:
    """Write the caller and the request of the worker's previous write into the history."""
    sources: list[str] = []

    def change_source(original: Callable[..., Any], *arguments: Any) -> Any:
        sources.append(original(*arguments))
        return sources.pop(0) if len(sources) > 1 else sources[0]

    _replace(execution, "_change_source", change_source)


def create_many_in_parts() -> None:
    """Commit the two halves of a request for many rows one after the other."""

    def insert_items(original: Callable[..., Any], resource: Any, items: Any, *rest: Any) -> Any:
        half = len(items) // 2
        first, is_replayed = original(resource, items[:half], *rest)
        time.sleep(COMMIT_SECONDS)
        second, _ = original(resource, items[half:], None, *rest[1:])
        return SimpleNamespace(body=f"{first.body},{second.body}"), is_replayed

    _replace(bulk_views, "insert_items", insert_items)


def change_many_in_parts() -> None:
    """The same for a request that changes many rows: a part may be refused."""

    def update_items(original: Callable[..., Any], resource: Any, items: Any) -> str:
        return ",".join(original(resource, [item]) for item in items)

    _replace(bulk_views, "update_items", update_items)


def import_batches_without_claim() -> None:
    """Insert a batch without the check that the import has come as far as its first item."""

    def is_first(element: Any) -> bool:
        return isinstance(getattr(element, "right", None), sa.BindParameter) and (
            element.right.key == "first"
        )

    def batch_statement(original: Callable[..., Any], *arguments: Any) -> Any:
        def replace(element: Any, **_: Any) -> Any:
            return sa.true() if is_first(element) else None

        return visitors.replacement_traverse(original(*arguments), {}, replace)

    _replace(imports, "_batch_statement", batch_statement)


def skip_equal_times_in_exports() -> None:
    """Begin the next page of an export after all rows that have the time of the last row."""
    highest_id = "ffffffff-ffff-ffff-ffff-ffffffffffff"

    def position(original: Callable[..., Any], sort_values: list[Any]) -> Any:
        return original([*sort_values[:-1], highest_id])

    _replace(export_pages, "Position", position)


def end_exports_after_errors() -> None:
    """Send the last chunk of an export when the database fails, as if the export were complete."""
    read_page = Export.read_page

    def read_page_or_end(export: Export, max_bytes: int) -> bytes:
        try:
            return read_page(export, max_bytes)
        except ServiceUnavailable:
            export.is_complete = True
            return b""

    Export.read_page = read_page_or_end  # type: ignore[method-assign]


_ALL = (
    acknowledge_before_commit,
    ignore_idempotency_key,
    retry_lost_create_with_new_id,
    report_lost_write_as_refused,
    ignore_if_match,
    parse_json_like_python,
    skip_token_check,
    show_rows_of_all_owners,
    forget_running_transactions,
    send_caller_of_previous_write,
    create_many_in_parts,
    change_many_in_parts,
    import_batches_without_claim,
    skip_equal_times_in_exports,
    end_exports_after_errors,
)
MUTATIONS = {mutation.__name__: mutation for mutation in _ALL}


def _replace(module: ModuleType, name: str, replacement: Callable[..., Any]) -> None:
    """Replace a function of the module; the replacement gets the original as its first argument."""
    original = getattr(module, name)
    setattr(module, name, functools.partial(replacement, original))


def _commit(connection: Connection) -> None:
    with suppress(psycopg2.Error), closing(connection):
        connection.commit()
