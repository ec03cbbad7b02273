"""Clients that follow the change feed: `poll`, `wait` for changes (long polling) and `stream`.

After every error a reader goes on from its last cursor. It keeps no copy itself: feed_records.py
has what it received, and feed_checker.py makes the copy from it.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote

from faults.client import Client
from faults.feed_records import SINCE_START, FeedWriter, read_record
from faults.ledger import Attempt
from faults.processes import NotReady

_LIMITS = (5, 100, 500)  # changes in a page
_POLL_SECONDS = 0.1  # from a page without changes to the next request
_WAIT_SECONDS = 1  # of a long poll
_PAGE_SIZE = 100  # rows of a list
_LONGEST_RETRY_SECONDS = 1.0  # a longer Retry-After is shortened to this
_FOLLOW_SECONDS = 60  # until a reader has all changes after the load
_GONE, _NO_FEED = 410, 404


class FeedReader:
    """Follows the feed of its client's caller until `stop` is set; it continues the file `path`."""

    def __init__(self, client: Client, path: Path, stop: Event) -> None:
        self.client, self.name, self.stop = client, path.stem, stop
        self._writer = FeedWriter(path, client.caller.name, client.resource)
        self.cursor = self.first_cursor = read_record(path).cursor
        self._random = random.Random(path.stem)  # noqa: S311 - no secret
        self._path = f"{client.resource.path}/changes"

    def run(self, read: Callable[["FeedReader"], None], since_start: bool) -> None:
        """Follow the feed with `read`, one of READERS, from its start or from now."""
        if since_start:
            self._begin(SINCE_START, "start", [])
        while not self.stop.is_set():
            if self.cursor:
                read(self)
            else:
                self.read_all()
        self._writer.close()
        self.client.close()

    def follow_to_end(self) -> None:
        """Read until the feed has nothing more, which must be soon."""
        deadline = time.monotonic() + _FOLLOW_SECONDS
        while time.monotonic() < deadline:
            if not self.cursor:
                self.read_all()
            elif (page := self.read_page()) and not page["has_more"]:
                self._writer.close()
                return
        raise NotReady(f"the end of the feed: {self.name}")

    def read_all(self) -> None:
        """Begin a reading: first the cursor, then all rows. Without an answer, do nothing."""
        stand = self._request("")
        if not stand or stand.status != 200:
            return
        cursor, rows, list_cursor = self.client.body["next_cursor"], [], ""
        while list_cursor is not None and not self.stop.is_set():
            query = f"?page_size={_PAGE_SIZE}&count=none"
            query += f"&cursor={quote(list_cursor)}" if list_cursor else ""
            page = self.client.send("walk", self.name, "GET", self.client.resource.path + query)
            if page.outcome == "ok":
                rows += self.client.body["items"]
                list_cursor = self.client.body["next_cursor"]
            else:
                self._pause(page)
        if list_cursor is None:
            self._begin(stand.done_at or 0.0, cursor, rows)

    def read_page(self, wait_seconds: int = 0) -> Any:
        """Read and record the next page; return it, or None without one."""
        limit = self._random.choice(_LIMITS)
        query = f"?since={quote(self.cursor)}&limit={limit}"
        query += f"&wait={wait_seconds}" if wait_seconds else ""
        attempt = self._request(query, wait_seconds=wait_seconds)
        if attempt.status != 200:
            return None
        page = self.client.body
        self._add(page["next_cursor"], page["items"])
        return page

    def read_stream(self) -> None:
        """Read and record events until the stream ends. The header counts, not `since`."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self.cursor}
        path = f"{self._path}?since={quote(self.first_cursor)}"
        attempt = self.client.begin("feed", self.name, "GET", path, headers=headers)
        event: dict[str, str] = {}
        for line in self.client.read_lines(attempt):
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                event[name] = value
            elif "data" in event:
                self._add(event["id"], [json.loads(event["data"])])
                event = {}
            if self.stop.is_set():
                break
        self._handle_status(attempt)

    def _request(self, query: str, **options: Any) -> Attempt:
        path = self._path + query
        attempt = self.client.send("feed", self.name, "GET", path, **options)
        self._handle_status(attempt)
        return attempt

    def _handle_status(self, attempt: Attempt) -> None:
        """Forget the cursor if it is refused, or if this release has no feed yet; else wait."""
        if attempt.status in (_GONE, _NO_FEED):
            self.cursor = ""
        if attempt.status not in (200, _GONE):
            self._pause(attempt)

    def _pause(self, attempt: Attempt) -> None:
        self.stop.wait(min(attempt.retry_after_seconds, _LONGEST_RETRY_SECONDS) or 0.2)

    def _begin(self, started_at: float, cursor: str, rows: list[Any]) -> None:
        self.cursor = self.first_cursor = cursor
        self._writer.begin(started_at, cursor, rows)

    def _add(self, cursor: str, items: list[Any]) -> None:
        self.cursor = cursor
        if items:
            self._writer.add(cursor, items)


def poll(reader: FeedReader) -> None:
    page = reader.read_page()
    if page and not page["has_more"]:
        reader.stop.wait(_POLL_SECONDS)


def wait(reader: FeedReader) -> None:
    reader.read_page(_WAIT_SECONDS)


def stream(reader: FeedReader) -> None:
    reader.read_stream()


READERS = (poll, wait, stream)
