"""Flask with less work for each request. Hooks, views, signals and extensions notice no difference.

- Routing: a table has the routes of paths that werkzeug has matched before.
- Responses: a complete response is passed on as it is.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast
from uuid import UUID

import flask
from werkzeug.routing import Rule

_UUID = re.compile("([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})")
_MAX_ROUTES = 256  # then the table is emptied: clients choose the Host header, and may send many
_PLAIN_PATH = re.compile(r"/[\w.~/-]*", re.ASCII)  # needs no percent-encoding

# Maps the host, the method and the path without its UUIDs to the rule and the names of the UUIDs.
# The host is in the key because an invalid one gets a 400.
_Routes = dict[tuple[str | None, ...], tuple[Rule, tuple[str, ...]]]


class Response(flask.Response):
    def get_wsgi_response(
        self, environ: dict[str, Any]
    ) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        """Return the body, the status and the headers for the WSGI server.

        werkzeug copies the headers, because it may have to correct some of them, and wraps the
        body, because functions may have to run at its end. Most responses need neither.
        """
        headers = list(self.headers)
        values = {name.lower(): value for name, value in headers}
        if (
            self.is_sequence
            and "content-length" in values
            and "content-location" not in values
            and _PLAIN_PATH.fullmatch(values.get("location", "/"))
            and environ["REQUEST_METHOD"] != "HEAD"
            and self.status_code >= 200
            and self.status_code not in (204, 304)
            and not self._on_close
        ):
            return list(self.iter_encoded()), self.status, headers
        return super().get_wsgi_response(environ)


class Application(flask.Flask):
    response_class = Response

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._routes: _Routes = {}

    def create_url_adapter(self, request: flask.Request | None) -> Any:
        if request is None or "HTTP_UPGRADE" in request.environ:  # WebSockets have other rules
            return super().create_url_adapter(request)
        create_adapter = partial(super().create_url_adapter, request)
        return _LazyURLAdapter(create_adapter, request.environ, self._routes)

    def make_default_options_response(self) -> Response:
        response = cast(Response, super().make_default_options_response())
        if "PATCH" in response.allow:
            adapter: Any = flask.globals.request_ctx.url_adapter
            name, _ = adapter.match(method="PATCH")
            view: Any = self.view_functions[name]
            response.headers["Accept-Patch"] = ", ".join(view.endpoint.accepted_types)  # RFC 5789
        return response


@dataclass
class _LazyURLAdapter:
    """Matches a path by the table if possible. For everything else it creates werkzeug's adapter.

    The table is only for rules whose variable parts are all UUIDs.
    """

    create_adapter: Callable[[], Any]
    environ: dict[str, Any]
    routes: _Routes

    @cached_property
    def _adapter(self) -> Any:
        return self.create_adapter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def match(self, *arguments: Any, **options: Any) -> Any:
        if arguments or options != {"return_rule": True}:  # this is not Flask's own call
            return self._adapter.match(*arguments, **options)
        environ = self.environ
        parts = _UUID.split(environ.get("PATH_INFO", ""))
        key = (environ.get("HTTP_HOST"), environ["REQUEST_METHOD"], *parts[::2])
        ids = [UUID(part) for part in parts[1::2]]
        if route := self.routes.get(key):
            rule, names = route
            return rule, dict(zip(names, ids, strict=True))
        rule, values = self._adapter.match(return_rule=True)
        if [*values.values()] == ids:
            if len(self.routes) >= _MAX_ROUTES:
                self.routes.clear()
            self.routes[key] = rule, tuple(values)
        return rule, values
