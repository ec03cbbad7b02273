"""Security and caching headers on every response."""

from flask import Flask, Response

from projectapp.request_state import current_request

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def content_security_policy(**sources: str) -> dict[str, str]:
    """Return the header for a page that may load only `sources`, such as style="'self'"."""
    allowed = "".join(f"{kind}-src {source}; " for kind, source in sources.items())
    return {
        "Content-Security-Policy": f"default-src 'none'; {allowed}img-src data:; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    }


def init_app(app: Flask) -> None:
    auth_enabled = bool(app.config["AUTH"])
    # The request headers that decide who the caller is.
    caller_headers = "Authorization"
    if app.config["CONSOLE"]:
        caller_headers += ", Cookie, Sec-Fetch-Site"

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers, request = response.headers, current_request()
        names = {name.lower() for name, _ in headers}
        for name, value in HEADERS.items():
            if name.lower() not in names:
                headers.add(name, value)
        # Without this, werkzeug's server sends its version and Python's. gunicorn overwrites it.
        headers.add("Server", app.name)
        if request.is_secure:
            # Without includeSubDomains: the other hosts of the domain are not ours.
            headers["Strict-Transport-Security"] = "max-age=31536000"
        # This includes the errors of an endpoint with a scope: they depend on the caller, too.
        endpoint = getattr(app.view_functions.get(request.endpoint or ""), "endpoint", None)
        if endpoint and endpoint.scope:
            if "cache-control" not in names:
                headers.add("Cache-Control", "private, no-cache" if auth_enabled else "no-cache")
            if auth_enabled:
                headers.add("Vary", caller_headers)
        return response
