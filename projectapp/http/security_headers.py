"""The headers of every answer: what a browser may do with it, and who may keep it."""

from flask import Flask, Response, request

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def content_security_policy(**sources: str) -> dict[str, str]:
    """The header of a page that may load nothing but these `sources`, such as style="'self'"."""
    allowed = "".join(f"{kind}-src {source}; " for kind, source in sources.items())
    return {
        "Content-Security-Policy": f"default-src 'none'; {allowed}img-src data:; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    }


def init_app(app: Flask) -> None:
    has_callers = bool(app.config["AUTH"])

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers, view_name = response.headers, request.endpoint or ""
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        # Without it werkzeug tells its version and Python's; gunicorn replaces it by its name.
        headers.add("Server", app.name)
        if request.is_secure:
            # Of this host alone: what stands beside it is not ours to decide.
            headers["Strict-Transport-Security"] = "max-age=31536000"
        # The answer is, or would have been, that of an operation with a scope.
        endpoint = getattr(app.view_functions.get(view_name), "endpoint", None)
        if endpoint and endpoint.scope:
            headers.add("Cache-Control", "private, no-cache" if has_callers else "no-cache")
            if has_callers:
                headers.add("Vary", "Authorization")
        return response
