"""Bugs to plant in the product, from outside its code: the harness must catch each of them.

Each function plants one. It raises an AttributeError where the product no longer has what it
changes; where it has it and does not use it, the bug will not be caught, which is told as well.
"""

import functools
import json
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from types import ModuleType
from typing import Any

import psycopg2
from psycopg2.extras import register_uuid

from projectapp import database
from projectapp.auth import access, tokens
from projectapp.database import errors, execution
from projectapp.database.connection import Connection
from projectapp.http import request_data
from projectapp.problems import ServiceUnavailable
from projectapp.resources import views, writes

LATE = 0.3  # seconds from the answer to the commit


def early() -> None:
    """A create is answered before its commit, which is lost if something dies meanwhile."""
    adding = threading.local()

    def add(old: Callable[..., Any], *given: Any) -> Any:
        adding.now = True
        try:
            return old(*given)
        finally:
            adding.now = False

    def run(old: Callable[..., Any], used: Any, prepared: Any, parameters: Any) -> Any:
        if not getattr(adding, "now", False):
            return old(used, prepared, parameters)
        try:
            link = used.connector.connect_for_migrations()
            register_uuid(None, link)  # as SQLAlchemy does where it connects
            cursor = link.cursor()
            cursor.execute(*prepared.bind_parameters(parameters))
            row = prepared.fetch_row(cursor)
        except psycopg2.Error as error:
            raise errors.classify(error, True) from error
        later = threading.Timer(LATE, _commit, [link])
        later.daemon = True
        later.start()
        return row

    _wrap(views, "insert_row", add)
    _wrap(execution, "_run", run)


def keyless() -> None:
    """Idempotency-Key is ignored."""
    _wrap(views, "read_claim", lambda old: None)


def renamed() -> None:
    """A create whose answer was lost is made again under another id."""

    def repeat(old: Callable[..., Any], function: Any, statement: Any, parameters: Any) -> Any:
        return old(function, statement, {**parameters, "id": database.uuid7()})

    _wrap(writes, "partial", repeat)


def denied() -> None:
    """A write whose answer was lost is called refused, whatever became of it."""

    def resolve(old: Callable[..., Any], *_: Any) -> None:
        raise ServiceUnavailable("Try again shortly.", 1)

    _wrap(execution, "_resolve_lost_answer", resolve)


def careless() -> None:
    """If-Match is not checked."""
    _wrap(views, "allowed_versions", lambda old: None)


def gullible() -> None:
    """A body is what Python's own parser takes for JSON."""
    _wrap(request_data, "parse_json", lambda old, raw: json.loads(raw))


def trusting() -> None:
    """A worker takes a token that it remembers, without asking whether it is still good."""
    _wrap(tokens, "token_check_sql", lambda old, caller: "")


def communal() -> None:
    """Everybody sees everybody's rows."""
    _wrap(access, "visible_owner", lambda old, resource: None)


_ALL = (early, keyless, renamed, denied, careless, gullible, trusting, communal)
BUGS = {bug.__name__: bug for bug in _ALL}


def _wrap(module: ModuleType, name: str, by: Callable[..., Any]) -> None:
    """Put `by` in the place of the module's function, which becomes its first argument."""
    old = getattr(module, name)
    setattr(module, name, functools.partial(by, old))


def _commit(link: Connection) -> None:
    with suppress(psycopg2.Error), closing(link):
        link.commit()
