"""Declares the scope, the input and the output of a view.

The same declaration is enforced for each request and shown in the OpenAPI document.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response
from marshmallow import Schema

from projectapp.auth import METRICS_SCOPE, authorize
from projectapp.http.request_data import JSON_TYPE, ItemsBody, read_body, read_query

HTML = "text/html"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Decorates a view with a declaration.

    - `scope`: the scope that the caller needs. None admits every request, even without a token.
    - `responses`: maps each status of a success to the schema of the body, or to a tuple if there
      are several. None means that there is no body, or that it has no schema. A schema with `many`
      means an object whose `items` are an array.
    - `query`, `body`: schemas that validate the request before the view runs. The view gets the
      validated values as arguments with the same names.
    - `items_body`: how a body with many items is read. The view gets them as the argument `body`.
      If the view also has a `body`, the client chooses: it sends one object, or many items.
    - `content_types`: of a body that is one object if there is a `body`, otherwise of the response.
    - `request_headers` are read by the view, `response_headers` are set by it. The module `headers`
      describes them.
    - `error_statuses`: of the problems that do not follow from the rest of the declaration, as 413
      follows from a `body` (`openapi.py` has them all).

    In the OpenAPI document the first line of the view's docstring is its summary, and the rest is
    its description.
    """

    scope: str | None
    responses: dict[int, Schema | tuple[Schema, ...] | None]
    query: Schema | None = None
    body: Schema | None = None
    items_body: ItemsBody | None = None
    content_types: tuple[str, ...] = (JSON_TYPE,)
    request_headers: Sequence[str] = ()
    response_headers: Sequence[str] = ()
    error_statuses: Sequence[int] = ()

    def __call__(self, view: Callable[..., Response]) -> Callable[..., Response]:
        @functools.wraps(view)
        def wrapper(**arguments: Any) -> Response:
            with authorize(self.scope) if self.scope else nullcontext():
                if self.query:
                    arguments["query"] = read_query(self.query)
                if self.has_body:
                    arguments["body"] = read_body(self.body, self.content_types, self.items_body)
                return view(**arguments)

        wrapper.endpoint = self  # type: ignore[attr-defined]
        return wrapper

    @property
    def has_body(self) -> bool:
        return bool(self.body or self.items_body)

    @property
    def accepted_types(self) -> list[str]:
        """The content types of request bodies."""
        object_types = self.content_types if self.body else ()
        items_types = self.items_body.readers if self.items_body else ()
        return [*dict.fromkeys((*object_types, *items_types))]

    @property
    def resource(self) -> str | None:
        """The resource that the scope is for, such as projects. None if it is for no resource."""
        if not self.scope or self.scope == METRICS_SCOPE:
            return None
        return self.scope.partition(":")[0]


def is_static(view_name: str) -> bool:
    """Whether a view, such as `static` or `console.static`, only sends files."""
    return view_name.rpartition(".")[2] == "static"


def require_endpoint_declarations(app: Flask) -> None:
    """Raise TypeError for a view without @Endpoint: it would be served without authorization."""
    for name, view in app.view_functions.items():
        if not is_static(name) and not hasattr(view, "endpoint"):
            raise TypeError(f"The view {name} needs an @Endpoint with the scope of its callers.")
