"""Links between the pages of a list (RFC 8288), for any list."""

from urllib.parse import urlencode

from flask import request


def link_header(page: int, page_size: int, total: int) -> str:
    """The Link header of a page: `first`, and `prev` and `next` if any; other parameters stay."""
    pages = {"first": 1}
    if page > 1:
        pages["prev"] = page - 1
    if page * page_size < total:
        pages["next"] = page + 1
    return ", ".join(f'<{_url(number)}>; rel="{name}"' for name, number in pages.items())


def _url(page: int) -> str:
    return f"{request.path}?{urlencode({**request.args, 'page': page})}"
