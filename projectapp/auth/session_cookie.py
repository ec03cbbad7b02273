"""The cookie with which the console signs in: it contains the token itself.

The browser keeps it from every script (HttpOnly), sends it only over HTTPS (Secure), and only to
the host that set it, never to one of its subdomains (the prefix `__Host-`, RFC 6265bis, section
4.1.3.2). So the service needs no session of its own: the token is checked at each request, as if it
were in the Authorization header.

SameSite=Strict alone is not enough. Two ports of a host, and two subdomains of a domain, are the
same site: a page on one of them can make the browser send the cookie to the other. So the cookie
counts only if the browser says that the request comes from our own pages (`Sec-Fetch-Site:
same-origin`, Fetch Metadata; a script cannot set this header).
"""

import re

from flask import Response

from projectapp.request_state import current_request

NAME = "__Host-projectapp"
MAX_AGE_SECONDS = 12 * 3600
MAX_TOKEN_LENGTH = 3800  # browsers drop a cookie of more than 4096 bytes with its name

# werkzeug's parser also removes other white space around a name. So a subdomain could set a cookie
# that it reads as ours, although browsers do not let it use the prefix __Host-.
_COOKIE = re.compile(rf"(?:^|; ?){NAME}=([A-Za-z0-9\-._~+/]+=*)(?=;|$)")


def is_same_origin() -> bool:
    """Whether a browser sent this request for a page of this service."""
    return current_request().environ.get("HTTP_SEC_FETCH_SITE") == "same-origin"


def read_token() -> str | None:
    """Return the token in the cookie, or None if the request must not be authenticated by it."""
    environ = current_request().environ
    if "HTTP_COOKIE" not in environ or "HTTP_AUTHORIZATION" in environ or not is_same_origin():
        return None
    tokens: list[str] = _COOKIE.findall(environ["HTTP_COOKIE"])
    return tokens[0] if len(tokens) == 1 else None


def set_token(response: Response, token: str, max_age_seconds: int) -> None:
    """Make the browser keep the token; with an age of 0 it forgets the token."""
    response.set_cookie(
        NAME, token, max_age_seconds, secure=True, httponly=True, samesite="Strict", path="/"
    )
