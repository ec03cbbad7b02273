"""The console in a page of Chromium, with the actions of a user and a second client of its API."""

import base64
import json
import time
from contextlib import contextmanager

PROJECTS = "/api/v1/projects"
GRID = '[role="grid"]'
ROW = ".grid-body [role=row]"
NAME, DESCRIPTION, ATTRIBUTES = "#field-name", "#field-description", "#field-attributes"
SAVE = ".panel-actions .primary"
UNDO = ".toast.success .button.quiet"
FEED_IS_ON = ".live-dot.on"
WAIT_SECONDS = 60
CTRL, SHIFT = 2, 8  # modifiers of a key in the DevTools protocol
KEY_CODES = {
    **{"ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36, "PageDown": 34},
    **{"Enter": 13, "Escape": 27, "Backspace": 8, "Tab": 9, "?": 191, "/": 191},
}


def lose_next_answer(page):
    """Let the server do the next POST, but not the page see its answer."""
    # The page itself drops the answer: the DevTools protocol would need a second thread.
    page.run("""(() => {
      const original = globalThis.fetch;
      globalThis.fetch = async (...parameters) => {
        const response = await original(...parameters);
        if (parameters[1]?.method !== "POST") return response;
        globalThis.fetch = original;
        throw new TypeError("Failed to fetch");
      };
    })()""")


class Console:
    """The console of a server, in English. `headers` are those of the second client."""

    def __init__(self, page, server, headers=None):
        self.page, self.server, self.headers = page, server, headers or {}
        screen = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        page("Emulation.setDeviceMetricsOverride", **screen)
        page("Browser.setDownloadBehavior", behavior="deny", **page.context)
        self._handled_requests = set()

    @property
    def origin(self):
        return f"http://localhost:{self.server.port}"

    # The second client

    def api(self, method, path, body=None, **headers):
        """Return the status, the headers and the parsed body."""
        return self.server.request(method, path, body, **{**self.headers, **headers})

    def write(self, method, path="", body=None):
        """Send a write to projects, which must succeed, and return the row."""
        status, _, row = self.api(method, f"{PROJECTS}{path}", body)
        assert status in (200, 201, 204), row
        return row

    def create(self, name="A project", **values):
        return self.write("POST", "", {"name": name, **values})

    def change(self, row, **values):
        return self.write("PATCH", f"/{row['id']}", values)

    def delete(self, row):
        self.write("DELETE", f"/{row['id']}")

    def row(self, row_id):
        """Return the current values of a row; None if it does not exist."""
        status, _, row = self.api("GET", f"{PROJECTS}/{row_id}")
        return row if status == 200 else None

    def rows(self):
        """Return the first 100 rows by name."""
        return self.api("GET", f"{PROJECTS}?page_size=100&sort=name")[2]["items"]

    def wait_for_row(self, row_id, **values):
        """Wait until the stored row has these values."""
        end = time.monotonic() + WAIT_SECONDS
        while {name: (self.row(row_id) or {}).get(name) for name in values} != values:
            assert time.monotonic() < end, (self.row(row_id), values)
            time.sleep(0.05)

    # Pages

    def open(self, query="", wait_for=f"{ROW}, .list .empty"):
        """Load the console with this query, and wait until an element matches `wait_for`."""
        self.page.open(f"{self.origin}/console?lang=en&{query}")
        self.page.wait_for(wait_for)

    def open_row(self, row_id, query=""):
        """Load the console with the form of this row, which is "new" for a new row."""
        self.open(f"id={row_id}&{query}", f"{NAME}")

    def sign_in(self, headers, query="", wait_for=".list"):
        """End the sign-in, and load the console with the token of these headers in its URL."""
        self.headers = headers
        self.page("Network.clearBrowserCookies")
        token = headers["Authorization"].removeprefix("Bearer ")
        self.page("Network.clearBrowserCookies")
        self.page.open("about:blank")  # Otherwise another #fragment would load no page.
        self.page.open(f"{self.origin}/console?lang=en&{query}#token={token}")
        self.page.wait_until("location.hash === ''")
        self.page.wait_for(wait_for)

    def parameter(self, name):
        """Return a parameter of the URL."""
        return self.page.run(f"new URLSearchParams(location.search).get({json.dumps(name)})")

    def wait_for_id(self):
        """Wait until the URL has the id of a stored row, and return it."""
        self.page.wait_until("new URLSearchParams(location.search).get('id')?.length === 36")
        return self.parameter("id")

    # Actions

    def focus(self, selector=GRID):
        self.page.wait_for(selector, "focus()")

    def press(self, *keys, modifiers=0):
        """Press keys, each with these modifiers. A text is the key of its letter."""
        for key in keys:
            code = f"Key{key.upper()}" if key.isascii() and key.isalpha() and len(key) == 1 else key
            number = KEY_CODES.get(key) or (ord(key.upper()) if len(key) == 1 else 0)
            event = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            event["modifiers"] = modifiers
            text = {"Enter": "\r"}.get(key, key)
            has_text = len(text) == 1 and not modifiers & CTRL
            text = {"text": text} if has_text else {}
            self.page("Input.dispatchKeyEvent", type="keyDown", **event, **text)
            self.page("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, selector):
        """Click the element as soon as it can be clicked."""
        self.page.wait_for(f"{selector}:not(:disabled)", "click()")

    def click_text(self, text, within="body"):
        """Click the button with this text as soon as it can be clicked."""
        buttons = f"[...document.querySelectorAll({json.dumps(f'{within} button')})]"
        is_named = f"b.textContent.trim() === {json.dumps(text)}"
        button = f"{buttons}.find((b) => {is_named} && !b.disabled)"
        self.page.wait_until(f"!!{button}")
        self.page.run(f"{button}.click()")

    def type(self, selector, text):
        """Replace the text of a control as a user does."""
        control = f"document.querySelector({json.dumps(selector)})"
        # A dialog or a panel that has just opened may still move the focus.
        self.page.wait_until(
            f"{control} && ({control}.focus(), {control}.select(),"
            f" document.activeElement === {control})"
        )
        if text:
            self.page("Input.insertText", text=text)
        else:
            self.press("Backspace")

    def choose_file(self, path):
        self.click_text("Export/Import")
        self.click_text("Import a file")
        self.page.wait_for(".drop input")
        self.page("DOM.enable")
        root = self.page("DOM.getDocument")["root"]["nodeId"]
        node = self.page("DOM.querySelector", nodeId=root, selector=".drop input")
        self.page("DOM.setFileInputFiles", files=[str(path)], **node)

    def save(self):
        """Save with the button, and wait for the message that it is saved."""
        self.close_toasts()
        self.click(SAVE)
        self.page.wait_for(".toast.success")

    def close_toasts(self):
        self.page.run("document.querySelectorAll('.toast .icon-only').forEach((e) => e.click())")
        self.wait_until_gone(".toast")

    def reload_and_accept(self):
        """Reload the page, and accept the warning of unsaved text, which must come."""
        self.page.run("globalThis.isOld = true")
        self.page("Page.reload")
        end = time.monotonic() + WAIT_SECONDS
        while not any(e["method"] == "Page.javascriptDialogOpening" for e in self.page.events):
            assert time.monotonic() < end
            self.page.devtools.send("Target.getTargets", {})
        self.page("Page.handleJavaScriptDialog", accept=True)
        is_new = "globalThis.isOld === undefined && document.readyState === 'complete'"
        self.page.wait_until(is_new)

    # What the page shows

    def has(self, selector):
        return self.page.run(f"!!document.querySelector({json.dumps(selector)})")

    def wait_until_gone(self, selector):
        self.page.wait_until(f"!document.querySelector({json.dumps(selector)})")

    def value(self, selector):
        return self.page.wait_for(selector, "value")

    def wait_for_value(self, selector, value):
        element = f"document.querySelector({json.dumps(selector)})"
        self.page.wait_until(f"{element}?.value === {json.dumps(value)}")

    def texts(self, selector):
        """Return the texts of all elements that match."""
        script = f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)"
        return self.page.run(script)

    def wait_for_texts(self, selector, *texts):
        """Wait until these are the texts of all elements that match."""
        end = time.monotonic() + WAIT_SECONDS
        while (shown := self.texts(selector)) != [*texts]:
            assert time.monotonic() < end, shown
            time.sleep(0.05)

    def wait_for_text(self, text, within="body"):
        """Wait until the element, as it is seen, has this text in it."""
        element = f"document.querySelector({json.dumps(within)})"
        self.page.wait_until(f"{element}?.innerText.includes({json.dumps(text)})")

    def wait_for_names(self, *names):
        """Wait until the list has these names, without its marks of changes."""
        cells = f"document.querySelectorAll('{ROW} [role=gridcell]:nth-child(2)')"
        name = "e.textContent.slice(e.querySelector('.mark')?.textContent.length ?? 0)"
        shown = f"[...{cells}].map(e => {name}).join('|')"
        self.page.wait_until(f"{shown} === {json.dumps('|'.join(names))}")

    def stored_text(self, row_id):
        """Return a row as the server sends it to the page, with the digits of all numbers."""
        script = f"fetch('{PROJECTS}/{row_id}').then((response) => response.text())"
        return self.page.run(script)

    def storage(self):
        """Return what the page keeps in the browser: the unsaved texts and the settings."""
        return self.page.run("JSON.stringify([{...sessionStorage}, {...localStorage}])")

    def has_draft(self):
        return self.page.run("Object.keys(sessionStorage).length > 0")

    # Requests of the page

    @contextmanager
    def hold_requests(self, path):
        """Hold the requests whose URL contains `path`, until the block ends."""
        pattern = path.replace("?", "\\?")  # A question mark stands for any character.
        self.page("Fetch.enable", patterns=[{"urlPattern": f"*{pattern}*"}])
        yield
        self.page("Fetch.disable")

    def wait_for_held_request(self, method):
        """Wait until a request of this method is held, and return its id. Others pass."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            for event in self.page.events:
                request_id = event["params"].get("requestId")
                is_held = event["method"] == "Fetch.requestPaused"
                if not is_held or request_id in self._handled_requests:
                    continue
                if event["params"]["request"]["method"] == method:
                    return request_id
                self._handled_requests.add(request_id)
                self.page("Fetch.continueRequest", requestId=request_id)
            assert time.monotonic() < end, method
            self.page.devtools.send("Target.getTargets", {})  # It reads the next events.
            time.sleep(0.02)

    def answer(self, method, status, body=None, **headers):
        """Answer a held request, as the server or a proxy in front of it could."""
        request_id = self.wait_for_held_request(method)
        self._handled_requests.add(request_id)
        headers = {"X-Request-ID": "held-1", **headers}
        fields = [{"name": k.replace("_", "-"), "value": v} for k, v in headers.items()]
        text = base64.b64encode(json.dumps(body or {}).encode()).decode()
        response = {"responseCode": status, "responseHeaders": fields, "body": text}
        self.page("Fetch.fulfillRequest", requestId=request_id, **response)

    def let_pass(self, method):
        """Let a held request reach the server."""
        request_id = self.wait_for_held_request(method)
        self._handled_requests.add(request_id)
        self.page("Fetch.continueRequest", requestId=request_id)

    def requests(self, method):
        """Return the requests of this method, with lower-case headers."""
        events = [e for e in self.page.events if e["method"] == "Network.requestWillBeSent"]
        requests = [event["params"]["request"] for event in events]
        return [request for request in requests if request["method"] == method]

    def errors(self):
        """Return what the page wrote to its console, except for answers with an error status."""
        events = [event["params"].get("entry", event) for event in self.page.console_events()]
        return [event for event in events if event.get("source") != "network"]
