"""Chromium for tests, controlled by the DevTools protocol over a pipe.

The tests of a file share one Chromium. Each test has a browser context of its own, with its own
cookies and storage; the fixture `browser` of conftest.py is its first page. Hosts in the domain
`test` are this computer, for tests of origins that are not localhost.
"""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DEADLINE_SECONDS = 300  # of a whole test
WAIT_SECONDS = 60


class DevTools:
    """The connection to a Chromium process: commands, their results, and the events so far."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.events: list[Any] = []
        self._message_id = 0
        self._received = b""

    def send(self, method: str, session: dict[str, str], **params: Any) -> Any:
        """Send a command and return its result. Raises AssertionError if Chromium refuses it."""
        self._message_id += 1
        message = {"id": self._message_id, "method": method, "params": params, **session}
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while True:
            while b"\0" not in self._received:
                data = self.process.stdout.read1(1 << 20)
                assert data, "Chromium has exited."
                self._received += data
            message_text, _, self._received = self._received.partition(b"\0")
            answer = json.loads(message_text)
            if answer.get("id") == self._message_id:
                assert "error" not in answer, (method, params, answer)
                return answer["result"]
            self.events.append(answer)


class Page:
    """A tab. Calling it sends a command of the DevTools protocol."""

    def __init__(self, devtools: DevTools, context: dict[str, str]) -> None:
        self.devtools, self.context = devtools, context
        target = devtools.send("Target.createTarget", {}, url="about:blank", **context)
        result = devtools.send("Target.attachToTarget", {}, flatten=True, **target)
        self._session = {"sessionId": result["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> Any:
        return self.devtools.send(method, self._session, **params)

    def new_page(self) -> "Page":
        """Open another tab of the same browser: it has the same cookies."""
        return Page(self.devtools, self.context)

    @property
    def events(self) -> list[Any]:
        """The events of this page so far."""
        return [e for e in self.devtools.events if e.get("sessionId") == self._session["sessionId"]]

    def open(self, url: str) -> None:
        """Load a page. If it replaces no document, such as another #fragment, this returns."""
        self("Page.navigate", url=url)
        self.wait_until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of an expression; if it is a promise, the value that it resolves to."""
        result = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_until(self, script: str) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + WAIT_SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < end, (script, self.console_events())
            time.sleep(0.05)
        return value

    def wait_for(self, selector: str, then: str = "tagName") -> Any:
        """Wait until an element matches the selector, then return the value of element.`then`."""
        # One script, because the page may replace the element between two of them.
        script = (
            f"(() => {{ const element = document.querySelector({json.dumps(selector)});"
            f" if (!element) return null; const value = element.{then};"
            " return [value ?? null]; })()"
        )
        [value] = self.wait_until(script)
        return value

    def console_events(self) -> list[Any]:
        """Return what the page wrote to its console, with its errors and CSP violations."""
        names = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event for event in self.events if event["method"] in names]


@contextmanager
def open_browser(user_data_dir: Path) -> Iterator[DevTools]:
    """Start Chromium, and end it after the block. Without Chromium the test is skipped."""
    program = shutil.which("chromium") or pytest.skip("Chromium is not installed.")
    command = [
        *("sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null', program),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", f"--user-data-dir={user_data_dir}"),
        "--host-resolver-rules=MAP *.test 127.0.0.1",
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            yield DevTools(process)
        finally:
            process.kill()


@contextmanager
def open_page(devtools: DevTools) -> Iterator[Page]:
    """Open a page in a new browser context, and close the context after the block.

    A test that Chromium does not answer for DEADLINE_SECONDS fails: Chromium is ended.
    """
    devtools.events.clear()
    timeout = threading.Timer(DEADLINE_SECONDS, devtools.process.kill)
    timeout.start()
    try:
        context = devtools.send("Target.createBrowserContext", {})
        yield Page(devtools, context)
        devtools.send("Target.disposeBrowserContext", {}, **context)
    finally:
        timeout.cancel()
