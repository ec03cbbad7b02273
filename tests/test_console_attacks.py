"""Attacks on the console in Chromium: hostile data, links, other callers, lost or double text."""

import json
import time
from contextlib import contextmanager

import pytest

from tests.conftest import PROJECTS
from tests.console import ATTRIBUTES, NAME, SAVE, lose_next_answer
from tests.test_serving import until

pytestmark = pytest.mark.slow

HOSTILE_NAMES = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)//\u2028\u2029",
    "\u202e\u2066abc",
    "👩‍👩‍👧‍👦" * 18,
    "{count} ${t} {{7*7}}",
]
# Names that every object of JavaScript inherits.
INHERITED = (
    '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"toString":null}'
)


def token_of(headers):
    return headers["Authorization"].removeprefix("Bearer ")


def type_into(page, selector, text):
    page.wait_for(selector, "focus()")
    page.run("document.activeElement.select()")
    page("Input.insertText", text=text)


def click(page, selector):
    page.wait_for(f"{selector}:not(:disabled)", "click()")


def click_text(page, selector, text):
    elements = f"[...document.querySelectorAll({json.dumps(selector)})]"
    found = f"{elements}.find((e) => e.innerText.trim().startsWith({json.dumps(text)}))"
    page.wait_until(f"!!{found}")
    page.run(f"{found}.click()")


def wait_for_text(page, selector, text):
    found = f"document.querySelector({json.dumps(selector)})?.innerText"
    page.wait_until(f"{found}?.includes({json.dumps(text)})")


@contextmanager
def navigation(page):
    """Wait until the page has loaded another document, which the block makes it do."""

    def navigations():
        page.devtools.send("Target.getTargets", {})  # a script would fail while the page changes
        return sum(event["method"] == "Page.frameNavigated" for event in page.events)

    before = navigations()
    yield
    until(lambda: navigations() > before)


def import_file(page, path):
    click_text(page, "button", "Export/Import")
    click_text(page, "button", "Import a file")
    page.wait_for("dialog input[type=file]")
    root = page("DOM.getDocument")["root"]["nodeId"]
    node = page("DOM.querySelector", nodeId=root, selector="dialog input[type=file]")
    page("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])
    click(page, "dialog .primary")


def caller_of(page):
    return page.run("fetch('/console/session').then((r) => r.json()).then((s) => s.caller)")


@pytest.fixture
def protected(serve, sql):
    """A service with tokens, and the URL of its console."""
    with serve(AUTH="tokens") as server:
        yield server, f"http://localhost:{server.port}/console?lang=en"


def open_signed_in(page, url, headers, parameters=""):
    page.open(f"{url}{parameters}#token={token_of(headers)}")
    page.wait_until("!!document.querySelector('.list')")


# Hostile data


def test_hostile_names_are_shown_as_text_and_stay_what_they_are(browser, server, sql):
    for name in HOSTILE_NAMES:
        status, _, row = server.request("POST", PROJECTS, {"name": name, "description": name})
        assert status == 201
    url = f"http://localhost:{server.port}/console?lang=en"
    browser.open(f"{url}&id={row['id']}&q=%3Cscript%3E&__proto__=x")
    browser.open(f"{url}&id={row['id']}")
    browser.wait_for(NAME)
    browser.wait_until(f"document.querySelectorAll('[role=row]').length > {len(HOSTILE_NAMES)}")
    type_into(browser, ATTRIBUTES, INHERITED)
    click(browser, SAVE)
    wait_for_text(browser, ".toast.success", "Saved")
    browser.open(f"{url}&id={row['id']}&view=history")
    wait_for_text(browser, ".change .diff", "__proto__")
    stored = server.request("GET", f"{PROJECTS}/{row['id']}")[2]
    assert stored["attributes"] == json.loads(INHERITED)
    assert [name for (name,) in sql("SELECT name FROM projects ORDER BY id")] == HOSTILE_NAMES
    assert browser.run("({}).polluted === undefined && !document.querySelector('.grid img')")
    assert [e for e in browser.console_events() if e["method"] != "Log.entryAdded"] == []
    violations = [e for e in browser.console_events() if "Content Security" in json.dumps(e)]
    assert violations == []


def test_a_change_below_an_inherited_name_keeps_all_others_and_is_in_the_history(
    browser, server, sql
):
    body = {"name": "x", "attributes": {"a": 1}}
    row = server.request("POST", PROJECTS, body)[2]
    path = f"{PROJECTS}/{row['id']}"
    for attributes in ({"__proto__": {}}, {"toString": 2}):
        assert server.request("PATCH", path, {"attributes": attributes})[0] == 200
    browser.open(f"http://localhost:{server.port}/console?lang=en&id={row['id']}&view=history")
    browser.wait_until("document.querySelectorAll('.change').length === 3")
    parts = browser.run("[...document.querySelectorAll('.diff-part')].map((e) => e.innerText)")
    assert len(parts) == 2
    assert "toString" in parts[0]
    assert "native code" not in parts[0]
    assert "__proto__" in parts[1]


# Links and other callers


def test_a_link_does_not_change_who_is_signed_in_without_a_click(browser, protected, auth_headers):
    _, url = protected
    alice, mallory = auth_headers("alice"), auth_headers("mallory")
    open_signed_in(browser, url, alice)
    browser.open(f"{url}&view=live#token={token_of(mallory)}")
    wait_for_text(browser, "dialog", "You are signed in as alice. This link signs in as mallory.")
    assert browser.run("location.hash") == ""
    assert caller_of(browser) == "alice"
    browser.run("document.activeElement.click()")  # the default: Stay alice
    browser.wait_until("!document.querySelector('dialog')")
    assert caller_of(browser) == "alice"
    browser.run(f"location.hash = 'token={token_of(mallory)}'")
    click(browser, "dialog .accept")
    wait_for_text(browser, ".menu-button", "mallory")
    assert caller_of(browser) == "mallory"
    open_signed_in(browser, url, mallory, "&id=new")  # the same caller: no question
    browser.wait_for(NAME)
    assert browser.run("document.querySelector('dialog')") is None


def test_the_path_of_the_page_with_two_slashes_makes_no_link_to_another_host(browser, server, sql):
    browser.open(f"http://localhost:{server.port}//console?lang=en")
    link = browser.wait_for(".views a[href*=live]", "href")
    assert link == f"http://localhost:{server.port}/console?lang=en&view=live"
    click(browser, ".views a[href*=live]")
    browser.wait_until("location.pathname === '/console' && location.search.includes('live')")


def test_a_link_with_something_else_than_a_token_says_so(browser, protected):
    _, url = protected
    for number, fragment in enumerate(("%", "%EB%B2%88%EC%97%AD", "a%0Ab")):
        browser.open(f"{url}&n={number}#token={fragment}")
        wait_for_text(browser, ".toast.error", "This is no token.")
        assert browser.run("location.hash") == ""
    browser.open(f"{url}#token=pja_x")
    wait_for_text(browser, ".toast.error", "Signing in failed.")
    field = "dialog.sign-in input[type=password]"
    browser.wait_until(f"document.activeElement === document.querySelector('{field}')")
    type_into(browser, field, "번역")
    click(browser, "dialog button[type=submit]")
    wait_for_text(browser, "dialog [role=alert]", "does not accept this token")


def test_after_a_sign_out_no_tab_shows_another_caller_what_was_typed(
    browser, protected, auth_headers
):
    server, url = protected
    alice, bob = auth_headers("alice"), auth_headers("bob", "projects:all")
    row = server.request("POST", PROJECTS, {"name": "base"}, **alice)[2]
    open_signed_in(browser, url, alice, f"&id={row['id']}")
    other_tab = browser.new_page()
    other_tab.open(f"{url}&id={row['id']}")
    for page in (browser, other_tab):
        type_into(page, NAME, "a secret")
    # Signing out asks first what becomes of the text in this tab.
    click(browser, ".menu-button")
    click_text(browser, ".account button", "Sign out")
    wait_for_text(browser, "dialog[open]", "unsaved changes")
    assert caller_of(browser) == "alice"
    click(browser, "dialog .danger")
    browser.wait_until("!document.querySelector('.panel')")
    click(browser, ".menu-button")
    with navigation(browser):
        click_text(browser, ".account button", "Sign out")
    for page in (browser, other_tab):
        page.wait_for("dialog.sign-in")
        page.wait_until("!document.querySelector('.panel, .list')")
    assert browser.run("JSON.stringify(sessionStorage)") == "{}"
    with navigation(browser):
        browser.run("void setTimeout(() => history.back())")
    browser.wait_for("dialog.sign-in")
    assert "base" not in browser.run("document.body.innerText")
    # Another caller, who can see the row, types nothing over alice's text and does not see it.
    browser.open(f"{url}#token={token_of(bob)}")
    other_tab.wait_until("document.querySelector('#field-name')?.value === 'base'")
    type_into(other_tab, NAME, "by bob")
    other_tab.run("document.querySelector('.menu-button').click()")
    assert "secret" not in other_tab.run("document.body.innerText")
    browser.open(f"{url}&view=live#token={token_of(alice)}")
    click(browser, "dialog .accept")
    other_tab.wait_until("document.querySelector('#field-name')?.value === 'a secret'")
    wait_for_text(other_tab, ".panel-notices", "Your unsaved changes are back")


def test_rows_are_not_cached_and_end_with_the_imports_when_another_caller_signs_in(
    browser, protected, auth_headers, sql, tmp_path
):
    server, url = protected
    alice, bob = auth_headers("alice"), auth_headers("bob")
    row = server.request("POST", PROJECTS, {"name": "of alice alone"}, **alice)[2]
    open_signed_in(browser, url, alice, f"&id={row['id']}")
    wait_for_text(browser, "[role=grid]", "of alice alone")
    browser.wait_for(NAME)
    cached = "fetch('PATH', {cache: 'only-if-cached', mode: 'same-origin'}).then(() => 1, () => 0)"
    assert browser.run(cached.replace("PATH", f"{PROJECTS}/{row['id']}")) == 0
    click(browser, ".panel-head .icon-only")
    # The server answers neither the first part of an import nor, after that, the list of bob.
    browser.run(
        """(() => {
          const original = globalThis.fetch;
          globalThis.posts = 0;
          globalThis.fetch = async (url, options) => {
            if (!url.startsWith("/api/")) return original(url, options);
            if (options.method === "POST") globalThis.posts++;
            await new Promise((resolve) => (globalThis.answer = resolve));
            return original(url, options);
          };
        })()"""
    )
    file = tmp_path / "projects.ndjson"
    file.write_text("".join(f'{{"name": "{n}"}}\n' for n in range(1500)))
    import_file(browser, file)
    browser.wait_until("globalThis.posts === 1")
    browser.run(f"globalThis.first = answer; location.hash = 'token={token_of(bob)}'")
    click(browser, "dialog .accept")
    wait_for_text(browser, ".menu-button", "bob")
    assert "of alice alone" not in browser.run("document.body.innerText")
    browser.run("first()")
    until(lambda: sql("SELECT count(*) FROM projects") == [(1001,)])
    time.sleep(1)
    assert browser.run("globalThis.posts") == 1


# Nothing is lost, and nothing is double


def test_a_copied_tab_creates_its_own_row(browser, server, sql):
    url = f"http://localhost:{server.port}/console?lang=en&id=new"
    browser.open(url)
    type_into(browser, NAME, "draft")
    copied = browser.run("JSON.stringify(sessionStorage)")
    tab = browser.new_page()
    tab.open(f"http://localhost:{server.port}/health")
    tab.run(f"Object.assign(sessionStorage, {copied})")
    tab.open(url)
    tab.wait_until(f"document.querySelector('{NAME}')?.value === 'draft'")
    click(browser, SAVE)
    wait_for_text(browser, ".toast.success", "Created: draft")
    type_into(tab, NAME, "another text")
    click(tab, SAVE)
    wait_for_text(tab, ".toast.success", "Created: another text")
    assert sql("SELECT name FROM projects ORDER BY id") == [("draft",), ("another text",)]


def test_on_plain_http_a_file_is_imported(browser, serve, sql, tmp_path):
    file = tmp_path / "projects.ndjson"
    file.write_text('{"name": "a"}\n{"name": "b"}\n')
    with serve() as server:
        browser.open(f"http://console.test:{server.port}/console?lang=en")
        assert browser.run("isSecureContext") is False
        browser.wait_until("!!document.querySelector('.list')")
        import_file(browser, file)
        until(lambda: sql("SELECT count(*) FROM projects") == [(2,)])


def test_a_row_whose_delete_failed_stays_if_it_cannot_be_read(browser, server, sql):
    row = server.request("POST", PROJECTS, {"name": "x"})[2]
    browser.open(f"http://localhost:{server.port}/console?lang=en")
    wait_for_text(browser, "[role=grid]", "x")
    browser.run("document.querySelector('[role=grid]').focus()")
    for key in "jx":
        browser(
            "Input.dispatchKeyEvent", type="keyDown", key=key, code=f"Key{key.upper()}", text=key
        )
    wait_for_text(browser, ".selection", "1 selected")
    server.request("PATCH", f"{PROJECTS}/{row['id']}", {"name": "changed"})
    browser.run(
        """(() => {
          const original = globalThis.fetch;
          globalThis.fetch = (url, options) => options.method === "GET" && url.includes("ID")
            ? Promise.resolve(new Response("{}", { status: 500 })) : original(url, options);
        })()""".replace("ID", row["id"])
    )
    click_text(browser, ".selection button", "Delete")
    click_text(browser, "dialog button", "Delete 1 row")
    wait_for_text(browser, "dialog", "0 of 1 done, 1 failed")
    wait_for_text(browser, "[role=grid]", "x")
    assert sql("SELECT name FROM projects") == [("changed",)]


def test_a_row_is_created_again_once_although_the_answer_was_lost(browser, server, sql):
    row = server.request("POST", PROJECTS, {"name": "base"})[2]
    # A resource that cannot restore rows, and a network that loses an answer.
    browser(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
          const parse = JSON.parse;
          JSON.parse = (...parameters) => {
            const value = parse(...parameters);
            if (value?.resources) value.resources[0].has.restore = false;
            return value;
          };""",
    )
    browser.open(f"http://localhost:{server.port}/console?lang=en&id={row['id']}")
    type_into(browser, NAME, "mine")
    lose_next_answer(browser)
    assert server.request("DELETE", f"{PROJECTS}/{row['id']}")[0] == 204
    # The feed may have reported the delete, and then this button is disabled.
    browser.run(f"document.querySelector('{SAVE}').click()")
    recreate = ".panel-notices .banner .primary"
    browser.wait_for(recreate)
    browser.wait_until("!document.querySelector('.panel-actions .primary[aria-disabled=true]')")
    click(browser, recreate)
    wait_for_text(browser, ".panel-notices", "The server cannot be reached")
    type_into(browser, NAME, "mine, and more")
    click(browser, recreate)
    browser.wait_until(f"!location.search.includes('{row['id']}')")
    browser.wait_until(f"document.querySelector('{NAME}')?.value === 'mine, and more'")
    assert sql("SELECT name FROM projects") == [("mine",)]


def test_a_row_is_saved_behind_a_proxy_that_makes_tags_weak(browser, server, sql):
    row = server.request("POST", PROJECTS, {"name": "base"})[2]
    url = f"http://localhost:{server.port}/console?lang=en"
    browser.open(url)
    browser.run(
        """(() => {
          const original = globalThis.fetch;
          globalThis.fetch = async (...parameters) => {
            const response = await original(...parameters);
            const headers = new Headers(response.headers);
            if (headers.has("ETag")) headers.set("ETag", `W/${headers.get("ETag")}`);
            return new Response(response.status === 204 ? null : response.body,
              { status: response.status, headers });
          };
        })()"""
    )
    browser.wait_until("document.querySelectorAll('[role=row]').length > 1")
    browser.run(f"history.pushState(null, '', '{url}&id={row['id']}'); history.back()")
    browser.run("history.forward()")
    type_into(browser, NAME, "mine")
    click(browser, SAVE)
    wait_for_text(browser, ".toast.success", "Saved: mine")
    assert sql("SELECT name, version FROM projects") == [("mine", 2)]


def test_text_that_was_discarded_on_leaving_comes_back_with_undo(browser, server, sql):
    rows = [server.request("POST", PROJECTS, {"name": name})[2] for name in ("first", "second")]
    url = f"http://localhost:{server.port}/console?lang=en&id="
    browser.open(url + rows[0]["id"])
    undo = ".toast.success .button.quiet:not(.icon-only)"
    for is_open_again in (False, True):
        type_into(browser, NAME, "typed")
        click(browser, ".panel-head .icon-only")
        click(browser, "dialog .danger")
        browser.wait_until("!document.querySelector('.panel')")
        if is_open_again:
            browser.run("history.back()")
            browser.wait_until(f"document.querySelector('{NAME}')?.value === 'first'")
        click(browser, undo)
        browser.wait_until(f"document.querySelector('{NAME}')?.value === 'typed'")
        assert rows[0]["id"] in browser.run("location.search")
    click(browser, SAVE)
    wait_for_text(browser, ".toast.success", "typed")
    browser.wait_until("Object.keys(sessionStorage).length === 0")
    assert sql("SELECT name FROM projects ORDER BY id") == [("typed",), ("second",)]
