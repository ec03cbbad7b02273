"""Reads the list of a running backend, such as one of the tutorial. It sends only GET requests.

The backend may send anything: each response has a limit of time and size, and each list an end.
"""

import json
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import click

from projectapp import http_client

PAGE_SIZE = 100  # the maximum of the tutorial's backends
READ_TIMEOUT_SECONDS = 10.0  # to connect, and for each read
RESPONSE_DEADLINE_SECONDS = 60.0  # for a whole response
MAX_RESPONSE_BYTES = 64 * 2**20
MAX_LIST_BYTES = 2**29  # of all responses in a pass: the rows are in memory
MAX_ROWS = 1_000_000

_HEADERS = {"Accept": "application/json", "User-Agent": "projectapp-pull"}


class PullError(click.ClickException):
    """The pull cannot go on. The text says why, and what to do."""


class IncompleteList(PullError):
    """A part of the list is missing. Perhaps it changed at this moment: read it again."""


class PullSource:
    """The list of the rows of a running backend. `url` is the list's address."""

    def __init__(self, url: str, path: str) -> None:
        """`url` is an address that a user wrote; `path` is the path of the list below it.

        Raises PullError.
        """
        self.url = _list_url(url, path)

    def read_rows(self, count: Callable[[int], Any]) -> list[Any]:
        """Return all rows, as the backend sends them: a bare array, or the items of all pages.

        A row that moves to the next page while the pages are read comes twice. Calls `count` with
        the number of rows of each page. Raises PullError, or IncompleteList.
        """
        rows: list[Any] = []
        number = offset = size_bytes = 0
        page: list[Any] = []
        while True:
            number += 1
            body, body_bytes = self._get(f"{self.url}?page={number}&page_size={PAGE_SIZE}")
            size_bytes += body_bytes
            if size_bytes > MAX_LIST_BYTES:
                raise PullError(f"The list has more than {MAX_LIST_BYTES} bytes.")
            if isinstance(body, list):
                count(len(body))
                return _check_row_count(body)
            previous_page, (page, total, page_size) = page, self._read_page(body)
            if len(page) < min(max(total - offset, 0), page_size):
                raise IncompleteList(
                    f"The list ends early: {self.url} says that it has {total} rows, but page"
                    f" {number} has only {len(page)}."
                )
            if page and page == previous_page:
                raise PullError(
                    f"The pages {number - 1} and {number} of {self.url} are the same, so the list"
                    " does not end. Does the backend ignore the parameter page?"
                )
            count(len(page))
            rows += page
            offset += page_size
            if offset >= total:
                return _check_row_count(rows)
            _check_row_count(rows)

    def _read_page(self, body: Any) -> tuple[list[Any], int, int]:
        """Return the rows of a page, the number of rows in the list, and the size of a page."""
        if isinstance(body, dict) and "next_cursor" in body:
            raise PullError(
                f"{self.url} is the service projectapp itself, not a backend of the tutorial."
                " To copy from it, use the commands export and import."
            )
        page, total, page_size = (
            body.get(name) if isinstance(body, dict) else None
            for name in ("items", "total", "page_size")
        )
        if not isinstance(page, list) or type(total) is not int:
            raise PullError(
                f"{self.url} sends no list. Expected is an array, or an object with items and"
                " total."
            )
        if type(page_size) is not int or page_size < 1:
            page_size = PAGE_SIZE
        return page, total, max(page_size, len(page))

    def _get(self, url: str) -> tuple[Any, int]:
        """Return the JSON value that the backend sends, and the number of its bytes."""
        try:
            status, headers, body = http_client.get(
                url,
                _HEADERS,
                read_timeout_seconds=READ_TIMEOUT_SECONDS,
                deadline_seconds=RESPONSE_DEADLINE_SECONDS,
                max_bytes=MAX_RESPONSE_BYTES,
            )
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", "") or str(error) or type(error).__name__
            raise PullError(
                f"{self.url} cannot be read: {reason}. Check that the old backend runs."
            ) from error
        if 300 <= status < 400:
            raise PullError(
                f"{self.url} redirects to {headers.get('Location', 'another address')}. Use that"
                " address."
            )
        if status != 200:
            raise PullError(
                f"{self.url} answers with status {status}."
                " Check that it is the address of the backend, such as http://localhost:8000."
            )
        try:
            return json.loads(body), len(body)
        except (ValueError, RecursionError):
            form = "an HTML page" if body.lstrip()[:1] == b"<" else "no valid JSON"
            raise PullError(
                f"{self.url} sends {form}."
                " Check that it is the address of the backend, and not of the front end."
            ) from None


def _list_url(url: str, path: str) -> str:
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise PullError("The URL must begin with http:// or https://, as in http://localhost:8000.")
    if parts.query or parts.fragment or parts.username is not None:
        raise PullError("The URL must have no user name, no password, no ? and no #.")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise PullError("The URL must have only ASCII characters and no spaces.")
    base = parts.path.rstrip("/").removesuffix(path)
    return f"{parts.scheme}://{parts.netloc.lower()}{base}{path}"


def _check_row_count(rows: list[Any]) -> list[Any]:
    if len(rows) > MAX_ROWS:
        raise PullError(f"The list has more than {MAX_ROWS} rows, or it does not end.")
    return rows
