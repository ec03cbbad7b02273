"""The pages / and /docs in Chromium: their content security policies allow what they need."""

import pytest

from tests.conftest import PROJECTS

pytestmark = pytest.mark.slow

AUTHORIZE_BUTTON = ".scheme-container .authorize"
DIALOG = ".modal-ux"
LIST_OPERATION = "#operations-projects-list_projects"


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
