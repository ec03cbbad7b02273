"""CORS (Fetch standard): web pages of the ALLOWED_ORIGINS may use the API."""

import re
from functools import lru_cache

from flask import Flask, Response

from projectapp.http.headers import REQUEST_HEADERS, RESPONSE_HEADERS
from projectapp.request_state import current_request

# Read-After is in the contract, but no route uses it yet.
_EXPOSED_HEADERS = ", ".join(
    [name for name in RESPONSE_HEADERS if not name.startswith("Accept")] + ["Read-After"]
)
_ALLOWED_HEADERS = ", ".join(["Content-Type", "Authorization", *REQUEST_HEADERS, "Read-After"])
_ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"


def init_app(app: Flask) -> None:
    allowed_origins = app.config["ALLOWED_ORIGINS"]

    @app.before_request
    def answer_preflight_for_unknown_path() -> Response | None:
        # With a 404 here, the page would get a CORS error, and not the 404 of its own request.
        is_unknown_path = current_request().routing_exception is not None
        return Response(status=204) if is_unknown_path and _is_preflight() else None

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers = response_headers(allowed_origins, current_request().environ.get("HTTP_ORIGIN"))
        if "Access-Control-Allow-Origin" in headers and _is_preflight():
            headers["Access-Control-Allow-Methods"] = _ALLOWED_METHODS
            headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            headers["Access-Control-Max-Age"] = "600"
        for name, value in headers.items():
            response.headers.add(name, value)
        return response


def response_headers(allowed_origins: tuple[str, ...], origin: str | None) -> dict[str, str]:
    """Return the CORS headers of a response to a request with this Origin header."""
    any_origin = "*" in allowed_origins
    headers = {} if any_origin else {"Vary": "Origin"}
    if origin and (any_origin or _origins_regex(allowed_origins).fullmatch(origin)):
        headers["Access-Control-Allow-Origin"] = "*" if any_origin else origin
        headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        if not any_origin:
            headers["Access-Control-Allow-Credentials"] = "true"
    return headers


@lru_cache(maxsize=8)
def _origins_regex(allowed_origins: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of the origins. In an origin `*.` means one or more subdomains."""
    patterns = (re.escape(o).replace(r"\*\.", r"(?:[\w-]+\.)+") for o in allowed_origins)
    return re.compile("|".join(patterns), re.IGNORECASE | re.ASCII)


def _is_preflight() -> bool:
    environ = current_request().environ
    is_options = environ["REQUEST_METHOD"] == "OPTIONS"
    return is_options and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
