"""The console's sign-in in Chromium: which pages can make the browser use its cookie."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import config
from faults.processes import free_port
from projectapp.auth import session_cookie
from tests.conftest import PROJECTS
from tests.issuer import EC

pytestmark = pytest.mark.slow

CONSOLE, SESSION = "/console", "/console/session"


class EmptyPage(BaseHTTPRequestHandler):
    """A page without a policy, on which a test runs the scripts of an attacker."""

    def do_GET(self):
        body = b"<!doctype html><title>Another page</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def other_origins():
    """The origins of empty pages: the first is the same site as the service, the second is not."""
    with ThreadingHTTPServer(("127.0.0.1", free_port()), EmptyPage) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield [f"http://localhost:{server.server_port}", f"http://127.0.0.1:{server.server_port}"]
        server.shutdown()


@pytest.fixture(scope="module")
def service(serve, other_origins):
    """The service, which allows these origins (CORS), and its origin."""
    settings = {"AUTH": "tokens", "LOG_FORMAT": "json", "WEB_CONCURRENCY": "1"}
    with serve(ALLOWED_ORIGINS=",".join(other_origins), **settings) as server:
        yield server, f"http://localhost:{server.port}"


@pytest.fixture
def logged(service):
    """Return the log lines of requests since the test began that have these values."""
    server, _ = service
    start = len(server.log.read_text())

    def select(**values):
        text = server.log.read_text()[start:]
        lines = [json.loads(line) for line in text.splitlines() if line[:1] == "{"]
        return [line for line in lines if values.items() <= line.items() and "status" in line]

    return select


@pytest.fixture
def token(auth_headers):
    return auth_headers()["Authorization"][7:]


def fetch(page, url, method="GET", body=None, **headers):
    """Send a request from a page with all its credentials; return its status, 0 if it failed."""
    options = {"method": method, "headers": headers, "credentials": "include"}
    if body is not None:
        options |= {"body": json.dumps(body)}
        options["headers"] = {"Content-Type": "application/json", **headers}
    options = json.dumps(options)
    return page.run(f"fetch({json.dumps(url)}, {options}).then(r => r.status, () => 0)")


def sign_in(page, origin, token):
    """Open the console and sign in there as the page itself does."""
    page.open(f"{origin}{CONSOLE}")
    assert fetch(page, SESSION, "POST", Authorization=f"Bearer {token}") == 204
    assert fetch(page, SESSION) == 200


def names(sql):
    return [name for (name,) in sql("SELECT name FROM projects ORDER BY id")]


def test_the_console_itself_reads_and_writes_by_the_cookie_which_no_script_can_read(
    service, browser, token, sql
):
    _, origin = service
    browser.open(f"{origin}{CONSOLE}")
    assert fetch(browser, PROJECTS) == 401
    sign_in(browser, origin, token)
    assert fetch(browser, PROJECTS, "POST", {"name": "By the console"}) == 201
    [project_id] = [str(row[0]) for row in sql("SELECT id FROM projects")]
    assert fetch(browser, f"{PROJECTS}/{project_id}", "PATCH", {"name": "Changed"}) == 200
    assert names(sql) == ["Changed"]
    [cookie] = browser("Network.getCookies", urls=[origin])["cookies"]
    assert (cookie["name"], cookie["value"]) == (session_cookie.NAME, token)
    assert cookie["httpOnly"]
    assert cookie["secure"]
    assert (cookie["sameSite"], cookie["path"], cookie["domain"]) == ("Strict", "/", "localhost")
    assert browser.run("document.cookie") == ""
    browser("Page.reload")
    browser.wait_until("document.readyState === 'complete'")
    assert fetch(browser, PROJECTS) == 200
    second = browser.new_page()
    second.open(f"{origin}{CONSOLE}?id={project_id}")
    assert fetch(second, f"{PROJECTS}/{project_id}", "DELETE") == 204


def test_a_sign_in_whose_cookie_the_browser_drops_shows_a_message(service, browser, token):
    _, origin = service
    browser.open(f"{origin}{CONSOLE}?lang=en")
    browser.wait_for("dialog input[type=password]", f"value = '{token}'")
    # The server's response, whose cookie the browser drops.
    browser.run(
        "{ const send = fetch; window.fetch = (url, options) => options.method === 'POST'"
        " ? Promise.resolve(new Response(null, {status: 204})) : send(url, options); }"
    )
    browser.run("document.querySelector('dialog button[type=submit]').click()")
    message = "document.querySelector('#sign-in-message').textContent"
    browser.wait_until(f"{message}.includes('did not keep the cookie')")


def test_signing_out_works_in_all_tabs(service, browser, token):
    _, origin = service
    sign_in(browser, origin, token)
    second = browser.new_page()
    second.open(f"{origin}{CONSOLE}")
    assert fetch(second, PROJECTS) == 200
    assert fetch(second, SESSION, "DELETE") == 204
    assert fetch(browser, PROJECTS) == 401
    assert browser("Network.getCookies", urls=[origin])["cookies"] == []


def test_a_page_on_another_port_or_site_cannot_use_the_cookie_although_cors_allows_its_origin(
    service, other_origins, browser, token, sql, logged
):
    _, origin = service
    sign_in(browser, origin, token)
    other = browser.new_page()
    for number, other_origin in enumerate(other_origins):
        other.open(other_origin)
        assert fetch(other, f"{origin}{PROJECTS}") == 401
        assert fetch(other, f"{origin}{PROJECTS}", "POST", {"name": "Forged"}) == 401
        assert fetch(other, f"{origin}{SESSION}") == 401
        # Nor can it sign the user out, or in as somebody else.
        assert fetch(other, f"{origin}{SESSION}", "DELETE") == 403
        assert fetch(other, f"{origin}{SESSION}", "POST", Authorization=f"Bearer {token}") == 403
        # With a token of its own it uses the API as before.
        headers = {"Authorization": f"Bearer {token}"}
        assert fetch(other, f"{origin}{PROJECTS}", "POST", {"name": "Own"}, **headers) == 201
        assert names(sql) == ["Own"] * (number + 1)
    assert fetch(browser, SESSION) == 200
    # The same site got the cookie, and the service did not count it.
    assert len(logged(status=401, method="POST")) == 2
    assert not logged(status=401, token_source="cookie")  # noqa: S106


def test_a_page_whose_origin_cors_does_not_allow_reads_nothing(
    tokens_server, other_origins, browser, token, sql
):
    origin = f"http://localhost:{tokens_server.port}"
    sign_in(browser, origin, token)
    other = browser.new_page()
    for other_origin in other_origins:
        other.open(other_origin)
        assert fetch(other, f"{origin}{PROJECTS}") == 0
        assert fetch(other, f"{origin}{PROJECTS}", "POST", {"name": "Forged"}) == 0
        assert fetch(other, f"{origin}{SESSION}", "DELETE") == 0
    assert fetch(browser, SESSION) == 200
    assert names(sql) == []


FORM = """
const form = document.createElement("form");
form.method = "post";
form.enctype = "text/plain";
form.action = {action};
form.innerHTML = '<input name=\\'{{"name":"Forged","description":"\\' value=\\'"}}\\'>';
document.body.append(form);
form.submit();
"""


@pytest.mark.parametrize(("path", "status"), [(PROJECTS, 401), (SESSION, 403)])
def test_a_form_on_another_page_cannot_use_the_cookie(
    service, other_origins, browser, token, sql, path, status
):
    _, origin = service
    sign_in(browser, origin, token)
    other = browser.new_page()
    for other_origin in other_origins:
        other.open(other_origin)
        other.run(FORM.format(action=json.dumps(f"{origin}{path}")))
        other.wait_until(f"location.href === {json.dumps(origin + path)} && !!document.body")
        other.wait_until("document.readyState === 'complete'")
        assert json.loads(other.run("document.body.innerText"))["status"] == status
    assert names(sql) == []
    assert fetch(browser, SESSION) == 200


def test_another_page_cannot_show_the_console_in_a_frame(
    service, other_origins, browser, token, logged
):
    _, origin = service
    sign_in(browser, origin, token)
    other = browser.new_page()
    frame = """new Promise(done => {{
      const frame = document.createElement("iframe");
      frame.onload = () => done("loaded");
      frame.src = {url};
      document.body.append(frame);
    }})"""
    for other_origin in other_origins:
        for path in (CONSOLE, PROJECTS):
            other.open(f"{other_origin}/?{path}")
            other.run(frame.format(url=json.dumps(f"{origin}{path}")))
            other.wait_until("frames.length === 1")
            blocked = [
                event
                for event in other.console_events()
                if "frame-ancestors" in json.dumps(event) or "Framing" in json.dumps(event)
            ]
            assert blocked, (other_origin, path, other.console_events())
            other.devtools.events.clear()
    assert not logged(path=PROJECTS, status=200)


def test_a_link_reads_data_from_the_console_and_from_no_other_page(
    service, other_origins, browser, token
):
    _, origin = service
    sign_in(browser, origin, token)

    def status_of_link(page):
        page.run(f"location.href = {json.dumps(origin + PROJECTS)}")
        page.wait_until(f"location.pathname === {json.dumps(PROJECTS)} && !!document.body")
        page.wait_until("document.readyState === 'complete'")
        return json.loads(page.run("document.body.innerText")).get("status", 200)

    other = browser.new_page()
    for other_origin in other_origins:
        other.open(other_origin)
        assert status_of_link(other) == 401
    typed = browser.new_page()
    typed.open(f"{origin}{PROJECTS}")  # as by the address bar: Sec-Fetch-Site is none
    assert json.loads(typed.run("document.body.innerText"))["status"] == 401
    assert status_of_link(browser) == 200


def test_on_plain_http_off_localhost_nobody_can_sign_in(service, browser, token):
    server, _ = service
    origin = f"http://service.test:{server.port}"
    browser.open(f"{origin}{CONSOLE}")
    assert not browser.run("isSecureContext")
    assert fetch(browser, SESSION, "POST", Authorization=f"Bearer {token}") == 403
    assert browser("Network.getCookies", urls=[origin])["cookies"] == []


def test_a_front_end_signs_its_user_in_as_the_page_of_identity_providers_says(
    serve, issuer, other_origins, browser, sql
):
    guide = (config.ROOT / "docs" / "identity-providers.md").read_text()
    blocks = re.findall(r"```js\n(.*?)```", guide, re.S)
    [code] = [block for block in blocks if "/console" in block]
    issuer.published_keys = {"signing-key": EC}
    settings = {"JWT_ISSUER": f"{issuer.url}/auth/v1", "JWT_AUDIENCE": "authenticated"}
    user = {"sub": "ann", "iss": settings["JWT_ISSUER"], "aud": settings["JWT_AUDIENCE"]}

    def press_button():
        """Run the code of the guide on the front end, and return the URL that it opens."""
        user["exp"] = int(time.time()) + 3600
        token = issuer.token("signing-key", "ES256", **user)
        session = json.dumps({"data": {"session": {"access_token": token}}})
        return browser.run(
            f"(async () => {{ let opened; const open = (url) => {{ opened = url; }};"
            f" const supabase = {{auth: {{getSession: async () => ({session})}}}};"
            f" {code} return opened; }})()"
        ).replace("https://YOUR_API", f"http://localhost:{server.port}")

    with serve(**{**issuer.settings, **settings}) as server:
        browser.open(other_origins[0])
        console = browser.new_page()
        console.open(press_button().replace("/console#", "/console?lang=en&id=new#"))
        console.wait_for("#field-name", "focus()")
        assert "token" not in console.run("location.href")
        console("Input.insertText", text="Typed before the sign-in expired")
        console("Network.clearBrowserCookies")  # as the browser does at the token's `exp`
        console.run("document.querySelector('.panel-actions .primary').click()")
        console.wait_for("dialog.sign-in")
        browser.new_page().open(press_button())
        console.wait_for(".toast.success")
    rows = sql("SELECT name, owner FROM projects")
    assert rows == [("Typed before the sign-in expired", "ann")]


def test_under_a_prefix_the_page_loads_under_its_policy_and_only_versioned_files(
    serve, browser, sql
):
    with serve(SCRIPT_NAME="/backend") as server:
        browser.open(f"http://localhost:{server.port}/backend{CONSOLE}")
        browser.wait_for(".list .empty")
        scripts = "performance.getEntriesByType('resource').map(e => new URL(e.name).pathname)"
        browser.wait_until("!document.querySelector('#app > p')")  # It says that it is loading.
        paths = browser.run(scripts)
    assert any(path.endswith("/console.js") for path in paths)
    files = [path for path in paths if "/api/" not in path and not path.endswith(SESSION)]
    assert [path for path in files if not path.startswith("/backend/console/files/")] == []
    assert len({path.split("/")[-2] for path in files}) == 1
    assert browser.console_events() == []
