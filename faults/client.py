"""One HTTP client with a ledger: every request is written down before it is sent."""

import http.client
import itertools
import json
import re
import select
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from faults.ledger import Attempt, Ledger
from faults.processes import ADDRESS

TIMEOUT = 12.0  # seconds: more than the service's longest answer
PROJECTS = "/api/v1/projects"
PROBLEM = "application/problem+json"
_LEAKS = re.compile(
    rb"Traceback|File \\?\"|psycopg2|sqlalchemy|\bSELECT \b|\bINSERT INTO\b|\bDELETE FROM\b"
    rb"|\bUPDATE \w+ SET\b|\bFROM projects\b|127\.0\.0\.1|localhost|gunicorn/"
)


class Caller(NamedTuple):
    """Who asks: the owner of what they make, and their tokens; nobody, where there is no AUTH."""

    name: str | None = None
    tokens: Sequence[str] = ("",)


NOBODY = Caller()


class Client:
    """A keep-alive connection to 127.0.0.1; not for several threads.

    It shows the tokens of its caller in turn, whether they are any good or not.
    """

    def __init__(self, port: int, ledger: Ledger, caller: Caller = NOBODY) -> None:
        self.ledger, self.caller = ledger, caller
        self._tokens = itertools.cycle(caller.tokens)
        self._link = http.client.HTTPConnection(ADDRESS, port, timeout=TIMEOUT)
        self.body: Any = None  # the JSON of the last answer

    def send(
        self, kind: str, op: str, method: str, path: str, content: Any = None, **more: Any
    ) -> Attempt:
        """Ask and wait; what came of it is in the attempt, the answer's JSON in `body`."""
        attempt = self.begin(kind, op, method, path, content, **more)
        self.finish(attempt)
        return attempt

    def begin(
        self,
        kind: str,
        op: str,
        method: str,
        path: str,
        content: Any = None,
        key: str | None = None,
        if_match: str | None = None,
        content_type: str = "application/json",
    ) -> Attempt:
        """Send without waiting for the answer; `finish` must follow."""
        headers = {"Content-Type": content_type} if content is not None else {}
        headers |= {"Idempotency-Key": key} if key else {}
        headers |= {"If-Match": if_match} if if_match else {}
        token = next(self._tokens)
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        body = json.dumps(content) if content is not None else None
        self._drop_if_closed()
        attempt = self.ledger.before(
            op=op,
            kind=kind,
            method=method,
            path=path,
            key=key,
            if_match=if_match,
            caller=self.caller.name,
            token=token,
            sent=time.monotonic(),
        )
        try:
            self._link.request(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._failed(attempt, error)
        return attempt

    def finish(self, attempt: Attempt) -> None:
        """Wait for the answer to `begin` and write it down."""
        self.body = None
        if attempt.done:
            return
        try:
            answer = self._link.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._failed(attempt, error)
            return
        done = time.monotonic()
        with suppress(ValueError):
            self.body = json.loads(text)
        said = self.body if isinstance(self.body, dict) else {}
        wait = answer.headers.get("Retry-After", "")
        self.ledger.after(
            attempt,
            status=answer.status,
            id=said.get("id"),
            etag=answer.headers.get("ETag"),
            code=said.get("error"),
            wait=float(wait) if wait.isdigit() else 0.0,
            replayed=answer.headers.get("Idempotency-Replayed") == "true",
            done=done,
            flaws=[*_flaws(answer, text, wait), *self._foreign(said)],
        )

    def close(self) -> None:
        self._link.close()

    def _foreign(self, said: dict[str, Any]) -> list[str]:
        own = self.caller.name
        others = {one.get("owner", own) for one in said.get("items", [said])} - {own}
        return [f"{own} was shown what is {other}'s" for other in others]

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        self._link.close()
        self.ledger.after(attempt, done=time.monotonic(), failure=type(error).__name__)

    def _drop_if_closed(self) -> None:
        """Leave a connection that the server has closed meanwhile, as every good client does."""
        if self._link.sock and select.select([self._link.sock], [], [], 0)[0]:
            self._link.close()


def _flaws(answer: http.client.HTTPResponse, text: bytes, wait: str) -> list[str]:
    """What no answer may be, whatever is broken behind it."""
    found = []
    if answer.status >= 400 and answer.headers.get_content_type() != PROBLEM:
        found.append(f"a {answer.status} that is no problem document")
    if answer.status == 503 and not wait.isdigit():
        found.append(f"a 503 whose Retry-After is {wait!r}")
    if leak := _LEAKS.search(text):
        found.append(f"a {answer.status} that tells {leak[0].decode()!r}")
    return found
