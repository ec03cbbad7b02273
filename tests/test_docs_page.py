"""The pages / and /docs in Chromium: their content security policies allow what they need."""

import json
import shutil
import subprocess
import threading
import time

import pytest

from tests.conftest import PROJECTS

pytestmark = pytest.mark.slow

AUTHORIZE_BUTTON = ".scheme-container .authorize"
DIALOG = ".modal-ux"
LIST_OPERATION = "#operations-projects-list_projects"


class Browser:
    """A page of Chromium, controlled by the DevTools protocol over a pipe."""

    def __init__(self, process):
        self.process = process
        self.events = []
        self.message_id = 0
        self.session = {}
        target = self("Target.createTarget", url="about:blank")
        self.session = self("Target.attachToTarget", flatten=True, **target)
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        self.message_id += 1
        message = {"id": self.message_id, "method": method, "params": params, **self.session}
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while True:
            data = b""
            while not data.endswith(b"\0"):
                byte = self.process.stdout.read(1)
                assert byte, "Chromium has exited."
                data += byte
            answer = json.loads(data[:-1])
            if answer.get("id") == self.message_id:
                return answer["result"]
            self.events.append(answer)

    def run(self, script):
        return self("Runtime.evaluate", expression=script)["result"].get("value")

    def wait_for(self, selector, then=""):
        """Wait until an element matches the selector, then run `element.{then}`."""
        end = time.monotonic() + 60
        while not self.run(f"!!document.querySelector('{selector}')"):
            assert time.monotonic() < end, (selector, self.console_events())
            time.sleep(0.05)
        return self.run(f"document.querySelector('{selector}').{then}")

    def console_events(self):
        names = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event for event in self.events if event["method"] in names]


@pytest.fixture
def browser(tmp_path):
    program = shutil.which("chromium") or pytest.skip("Chromium is not installed.")
    command = [
        *("sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null', program),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", f"--user-data-dir={tmp_path}"),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        timeout = threading.Timer(300, process.kill)
        timeout.start()
        try:
            yield Browser(process)
        finally:
            process.kill()
            timeout.cancel()


@pytest.mark.parametrize("prefix", ["", "/backend"])
def test_the_docs_page_sends_the_entered_token_and_loads_only_from_this_server(
    serve, auth_headers, browser, prefix
):
    token = auth_headers(scopes="projects:read")["Authorization"].removeprefix("Bearer ")
    with serve(AUTH="tokens", SCRIPT_NAME=prefix) as server:
        browser("Page.navigate", url=f"http://127.0.0.1:{server.port}{prefix}/docs")
        browser.wait_for(AUTHORIZE_BUTTON, "click()")
        browser.wait_for(f"{DIALOG} input", "focus()")
        browser("Input.insertText", text=token)
        browser.wait_for(f"{DIALOG} .authorize", "click()")
        browser.wait_for(f"{DIALOG} .btn-done", "click()")
        browser.wait_for(f"{LIST_OPERATION} .opblock-summary-control", "click()")
        browser.wait_for(f"{LIST_OPERATION} .try-out__btn", "click()")
        browser.wait_for(f"{LIST_OPERATION} .execute", "click()")
        status = browser.wait_for(
            f"{LIST_OPERATION} .live-responses-table .response .response-col_status", "innerText"
        )
    assert status.strip() == "200"
    script = "performance.getEntriesByType('resource').map(e => new URL(e.name).pathname).join()"
    paths = browser.run(script).split(",")
    assert f"{prefix}{PROJECTS}" in paths
    assert [path for path in paths if not path.startswith(f"{prefix}/")] == []
    assert browser.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert browser.console_events() == []


@pytest.mark.parametrize(("path", "landmark"), [("/", "main ul"), ("/docs", LIST_OPERATION)])
def test_a_page_fits_a_phone_and_has_a_dark_mode(server, browser, path, landmark):
    phone = {"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    browser("Emulation.setDeviceMetricsOverride", **phone)
    colors = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser("Emulation.setEmulatedMedia", features=[feature])
        browser("Page.navigate", url=f"http://127.0.0.1:{server.port}{path}")
        browser.wait_for(landmark, "textContent")
        assert browser.run("document.documentElement.scrollWidth") <= 320
        assert browser.run(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
        colors.add(browser.run(f"getComputedStyle(document.querySelector('{landmark}')).color"))
    assert len(colors) == 2
    assert browser.console_events() == []


def test_the_docs_page_shows_the_description_and_lists_projects_first(server, browser):
    browser("Page.navigate", url=f"http://127.0.0.1:{server.port}/docs")
    browser.wait_for(LIST_OPERATION, "textContent")
    description = browser.run("document.querySelector('.info .description').innerText")
    assert description.startswith("A JSON API for projects.")
    tags = browser.run("[...document.querySelectorAll('.opblock-tag')].map(e => e.id).join()")
    assert tags.split(",")[0] == "operations-tag-projects"
