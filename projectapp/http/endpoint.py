"""Declares a view's scope, input and output.

The same declaration is enforced at run time and shown in the OpenAPI document, so the two agree.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response
from marshmallow import Schema

from projectapp.auth import authorize
from projectapp.http.request_data import JSON_TYPE, read_body, read_query

HTML = "text/html"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Decorates a view with what it takes and returns.

    `scope` is what the caller must have; None admits everyone. `responses` maps a status to the
    schema of its body. A `query` or `body` schema validates the request before the view, which gets
    the result under that name. `content_types` are those of the request body or, without one, of
    the response. `request_headers` are those that the view reads, `response_headers` those that it
    sets, and `error_statuses` those of its problems.
    """

    scope: str | None
    responses: dict[int, Schema | None]
    query: Schema | None = None
    body: Schema | None = None
    content_types: tuple[str, ...] = (JSON_TYPE,)
    request_headers: Sequence[str] = ()
    response_headers: Sequence[str] = ()
    error_statuses: Sequence[int] = ()

    def __call__(self, view: Callable[..., Response]) -> Callable[..., Response]:
        @functools.wraps(view)
        def call(**arguments: Any) -> Response:
            with authorize(self.scope) if self.scope else nullcontext():
                if self.query:
                    arguments["query"] = read_query(self.query)
                if self.body:
                    arguments["body"] = read_body(self.body, self.content_types)
                return view(**arguments)

        call.endpoint = self  # type: ignore[attr-defined]
        return call


def require_endpoint_declarations(app: Flask) -> None:
    """Raise TypeError for a view that is no Endpoint: nothing would ask who calls it."""
    for endpoint, view in app.view_functions.items():
        if endpoint != "static" and not hasattr(view, "endpoint"):
            raise TypeError(f"The view {endpoint} has no @Endpoint, which says who may call it.")
