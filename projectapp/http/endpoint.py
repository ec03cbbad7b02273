"""What a view says of itself beyond its docstring: who may call it, what it takes and returns.

What it declares it also enforces, so that the OpenAPI document and behaviour cannot part.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response
from marshmallow import Schema

from projectapp.auth import admitted
from projectapp.inputs import JSON, read_body, read_query

HTML = "text/html"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Decorates a view with what it takes and returns.

    `scope` is what a caller must have, None lets anybody in. `returns` maps a status to the schema
    of its body. A `query` or `body` schema is loaded before the view and passed to it under that
    name. `content_types` are those of the body or, where none is taken, of the answer.
    `request_headers` are those the view heeds, `headers` are those it answers with, `errors` the
    statuses of its problems.
    """

    scope: str | None
    returns: dict[int, Schema | None]
    query: Schema | None = None
    body: Schema | None = None
    content_types: tuple[str, ...] = (JSON,)
    request_headers: Sequence[str] = ()
    headers: Sequence[str] = ()
    errors: Sequence[int] = ()

    def __call__(self, view: Callable[..., Response]) -> Callable[..., Response]:
        @functools.wraps(view)
        def call(**arguments: Any) -> Response:
            with admitted(self.scope) if self.scope else nullcontext():
                if self.query:
                    arguments["query"] = read_query(self.query)
                if self.body:
                    arguments["body"] = read_body(self.body, self.content_types)
                return view(**arguments)

        call.operation = self  # type: ignore[attr-defined]
        return call


def check_routes(app: Flask) -> None:
    """Raise TypeError for a view that is no Operation: nothing would ask who calls it."""
    for endpoint, view in app.view_functions.items():
        if endpoint != "static" and not hasattr(view, "operation"):
            raise TypeError(f"The view {endpoint} has no @Operation, which says who may call it.")


def scopes(app: Flask) -> set[str]:
    """All scopes that a caller may have: those of the operations, and all of what they are on."""
    operations = (getattr(view, "operation", None) for view in app.view_functions.values())
    found = {operation.scope for operation in operations if operation and operation.scope}
    return found | {f"{scope.partition(':')[0]}:all" for scope in found}
