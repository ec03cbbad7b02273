"""CORS (Fetch standard): which web pages of other origins may use the API (ALLOWED_ORIGINS)."""

import re

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
    everyone = "*" in allowed
    pattern = re.compile("|".join(map(_pattern, allowed)), re.IGNORECASE | re.ASCII)

    @app.before_request
    def answer_preflight() -> Response | None:
        # On a path that is not there too: only then does the page get to see the 404.
        unknown = request.method == "OPTIONS" and request.routing_exception
        return Response(status=204) if unknown and _is_preflight() else None

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers = response.headers
        if not everyone:
            headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin and (everyone or pattern.fullmatch(origin)):
            headers["Access-Control-Allow-Origin"] = "*" if everyone else origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED
            if not everyone:
                headers["Access-Control-Allow-Credentials"] = "true"
            if _is_preflight():
                headers["Access-Control-Allow-Methods"] = _METHODS
                headers["Access-Control-Allow-Headers"] = _ALLOWED
                headers["Access-Control-Max-Age"] = "600"
        return response


def _pattern(origin: str) -> str:
    return re.escape(origin).replace(r"\*\.", r"(?:[\w-]+\.)+")


def _is_preflight() -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
