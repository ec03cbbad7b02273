"""The pages in a real browser: their policies let them work, by day, by night and on a phone."""

import json
import shutil
import subprocess
import threading
import time

import pytest

from tests.conftest import PROJECTS

pytestmark = pytest.mark.slow

PAGE = ".scheme-container .authorize"
DIALOG = ".modal-ux"
LIST = "#operations-projects-list_projects"


class Browser:
    """A page of Chromium, by the DevTools protocol over its pipe."""

    def __init__(self, process):
        self.process = process
        self.events = []
        self.number = 0
        self.session = {}
        target = self("Target.createTarget", url="about:blank")
        self.session = self("Target.attachToTarget", flatten=True, **target)
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.session}
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while True:
            data = b""
            while not data.endswith(b"\0"):
                byte = self.process.stdout.read(1)
                assert byte, "the browser has ended"
                data += byte
            answer = json.loads(data[:-1])
            if answer.get("id") == self.number:
                return answer["result"]
            self.events.append(answer)

    def run(self, script):
        return self("Runtime.evaluate", expression=script)["result"].get("value")

    def wait_for(self, selector, then=""):
        """Wait until there is such an element, and run what is to be done with it."""
        end = time.monotonic() + 60
        while not self.run(f"!!document.querySelector('{selector}')"):
            assert time.monotonic() < end, (selector, self.complaints())
            time.sleep(0.05)
        return self.run(f"document.querySelector('{selector}').{then}")

    def complaints(self):
        told = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event for event in self.events if event["method"] in told]


@pytest.fixture
def browser(tmp_path):
    program = shutil.which("chromium") or pytest.skip("there is no chromium")
    command = [
        *("sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null', program),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", f"--user-data-dir={tmp_path}"),
    ]
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet) as process:
        last = threading.Timer(300, process.kill)
        last.start()
        try:
            yield Browser(process)
        finally:
            process.kill()
            last.cancel()


@pytest.mark.parametrize("prefix", ["", "/backend"])
def test_the_page_keeps_to_its_policy_and_sends_the_token_it_was_given(
    serve, bearer, browser, prefix
):
    token = bearer(scopes="projects:read")["Authorization"].removeprefix("Bearer ")
    with serve(AUTH="tokens", SCRIPT_NAME=prefix) as server:
        browser("Page.navigate", url=f"http://127.0.0.1:{server.port}{prefix}/docs")
        browser.wait_for(PAGE, "click()")
        browser.wait_for(f"{DIALOG} input", "focus()")
        browser("Input.insertText", text=token)
        browser.wait_for(f"{DIALOG} .authorize", "click()")
        browser.wait_for(f"{DIALOG} .btn-done", "click()")
        browser.wait_for(f"{LIST} .opblock-summary-control", "click()")
        browser.wait_for(f"{LIST} .try-out__btn", "click()")
        browser.wait_for(f"{LIST} .execute", "click()")
        status = browser.wait_for(
            f"{LIST} .live-responses-table .response .response-col_status", "innerText"
        )
    assert status.strip() == "200"
    loaded = "performance.getEntriesByType('resource').map(e => new URL(e.name).pathname).join()"
    paths = browser.run(loaded).split(",")
    assert f"{prefix}{PROJECTS}" in paths
    assert [path for path in paths if not path.startswith(f"{prefix}/")] == []
    assert browser.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert browser.complaints() == []


@pytest.mark.parametrize(("path", "landmark"), [("/", "main ul"), ("/docs", LIST)])
def test_a_page_fits_a_phone_and_is_dark_by_night(server, browser, path, landmark):
    phone = {"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    browser("Emulation.setDeviceMetricsOverride", **phone)
    texts = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser("Emulation.setEmulatedMedia", features=[feature])
        browser("Page.navigate", url=f"http://127.0.0.1:{server.port}{path}")
        browser.wait_for(landmark, "textContent")
        assert browser.run("document.documentElement.scrollWidth") <= 320
        assert browser.run(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
        texts.add(browser.run(f"getComputedStyle(document.querySelector('{landmark}')).color"))
    assert len(texts) == 2
    assert browser.complaints() == []


def test_the_docs_page_begins_with_what_the_api_is_and_shows_projects_first(server, browser):
    browser("Page.navigate", url=f"http://127.0.0.1:{server.port}/docs")
    browser.wait_for(LIST, "textContent")
    about = browser.run("document.querySelector('.info .description').innerText")
    assert about.startswith("An API for the projects of a team")
    tags = browser.run("[...document.querySelectorAll('.opblock-tag')].map(e => e.id).join()")
    assert tags.split(",")[0] == "operations-tag-projects"
