"""The console's sign-in in Chromium: which pages can make the browser use its cookie."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from faults.processes import free_port
from projectapp.auth import session_cookie
from tests.conftest import PROJECTS

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


@pytest.fixture
def other_port():
    """The port of a server of empty pages."""
    with ThreadingHTTPServer(("127.0.0.1", free_port()), EmptyPage) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def other_origins(other_port):
    """The origins of these pages: the first is the same site as the service, the second is not."""
    return [f"http://localhost:{other_port}", f"http://127.0.0.1:{other_port}"]


@pytest.fixture
def service(serve, other_origins, sql):
    """The service, which allows these origins (CORS), and its origin."""
    settings = {"AUTH": "tokens", "LOG_FORMAT": "json", "WEB_CONCURRENCY": "1"}
    with serve(ALLOWED_ORIGINS=",".join(other_origins), **settings) as server:
        yield server, f"http://localhost:{server.port}"


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


def logged(server, **values):
    """The log lines of requests with these values."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if values.items() <= line.items() and "status" in line]


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
    service, other_origins, browser, token, sql
):
    server, origin = service
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
    assert len(logged(server, status=401, method="POST")) == 2
    assert not logged(server, status=401, token_source="cookie")  # noqa: S106


def test_a_page_whose_origin_cors_does_not_allow_reads_nothing(
    serve, other_origins, browser, token, sql
):
    with serve(AUTH="tokens") as server:
        origin = f"http://localhost:{server.port}"
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


def test_another_page_cannot_show_the_console_in_a_frame(service, other_origins, browser, token):
    server, origin = service
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
    assert not logged(server, path=PROJECTS, status=200)


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


@pytest.mark.parametrize("prefix", ["", "/backend"])
def test_the_page_loads_under_its_policy_and_only_versioned_files(serve, browser, prefix, sql):
    with serve(SCRIPT_NAME=prefix) as server:
        browser.open(f"http://localhost:{server.port}{prefix}{CONSOLE}")
        scripts = "performance.getEntriesByType('resource').map(e => new URL(e.name).pathname)"
        browser.wait_until("!document.querySelector('#app > p')")  # It says that it is loading.
        paths = browser.run(scripts)
    assert any(path.endswith("/console.js") for path in paths)
    files = [path for path in paths if "/api/" not in path and not path.endswith(SESSION)]
    assert [path for path in files if not path.startswith(f"{prefix}/console/files/")] == []
    assert len({path.split("/")[-2] for path in files}) == 1
    assert browser.console_events() == []
