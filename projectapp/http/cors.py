"""CORS (Fetch standard): which web pages of other origins may use the API (ALLOWED_ORIGINS)."""

import re
from functools import lru_cache

from flask import Flask, Response, request

_EXPOSED = (
    "ETag, Location, Link, Retry-After, X-Request-ID, Idempotency-Replayed, WWW-Authenticate,"
    " Changes-Cursor, Read-After, RateLimit, RateLimit-Policy"
)
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_ALLOWED = (
    "Content-Type, Authorization, If-Match, If-None-Match, Idempotency-Key, X-Request-ID,"
    " Last-Event-ID, Read-After"
)


def init_app(app: Flask) -> None:
    allowed = app.config["ALLOWED_ORIGINS"]

    @app.before_request
    def answer_preflight() -> Response | None:
        # On a path that is not there too: only then does the page get to see the 404.
        unknown = request.method == "OPTIONS" and request.routing_exception
        return Response(status=204) if unknown and _is_preflight() else None

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers = response_headers(allowed, request.headers.get("Origin"))
        if _is_preflight() and "Access-Control-Allow-Origin" in headers:
            headers["Access-Control-Allow-Methods"] = _METHODS
            headers["Access-Control-Allow-Headers"] = _ALLOWED
            headers["Access-Control-Max-Age"] = "600"
        for name, value in headers.items():
            response.headers.add(name, value)
        return response


def response_headers(allowed: tuple[str, ...], origin: str | None) -> dict[str, str]:
    """The headers of any answer to `origin`, where pages of the `allowed` origins may read it."""
    everyone = "*" in allowed
    headers = {} if everyone else {"Vary": "Origin"}
    if origin and (everyone or _matcher(allowed).fullmatch(origin)):
        headers["Access-Control-Allow-Origin"] = "*" if everyone else origin
        headers["Access-Control-Expose-Headers"] = _EXPOSED
        if not everyone:
            headers["Access-Control-Allow-Credentials"] = "true"
    return headers


@lru_cache(maxsize=8)
def _matcher(allowed: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_pattern, allowed)), re.IGNORECASE | re.ASCII)


def _pattern(origin: str) -> str:
    return re.escape(origin).replace(r"\*\.", r"(?:[\w-]+\.)+")


def _is_preflight() -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
