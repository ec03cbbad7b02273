"""Walks through all screens of the console: its policy, its URL, and its keys."""

import pytest

from projectapp.auth import session_cookie
from tests.console import ATTRIBUTES, CTRL, DESCRIPTION, FEED_IS_ON, NAME, ROW, Console

pytestmark = pytest.mark.slow

ALL_STORED = """(async () => {
  const databases = await indexedDB.databases();
  const names = [...(await caches.keys()), ...databases.map(({ name }) => name)];
  return JSON.stringify([names, { ...sessionStorage }, { ...localStorage }, document.cookie]);
})()"""


def test_a_walk_breaks_no_policy_asks_no_other_host_and_stores_no_token(
    signed_in, auth_headers, tmp_path
):
    console, page = signed_in, signed_in.page
    token = signed_in.headers["Authorization"][7:]
    row = console.create("<img src=x onerror=alert(1)>", attributes={"<b>": "<script>"})
    console.change(row, description="<iframe srcdoc='<script>alert(1)</script>'>")
    path = tmp_path / "projects.ndjson"
    path.write_text('{"name": "<u>imported</u>"}\n')
    # The sign-in, the list, the form, the history, a conflict and the other views
    console.open("", FEED_IS_ON)
    console.page.wait_for(f"#row-{row['id']}", "click()")
    console.type(NAME, "<i>mine</i>")
    console.change(row, name="<i>theirs</i>")
    console.press("s", modifiers=CTRL)
    console.page.wait_for("dialog.conflict")
    stored = page.run(ALL_STORED)
    console.click("dialog .save-mine")
    console.wait_until_gone("dialog")
    console.click_text("History", ".panel-views")
    console.page.wait_for(".change .restore")
    for view in ("live", "charts", "list"):
        console.click(f".views a[href*={view}]" if view != "list" else ".views a")
        console.page.wait_for(f".{view}")
    console.press("k", modifiers=CTRL)
    console.page.wait_for("dialog.palette")
    console.press("Escape")
    console.wait_until_gone("dialog")
    console.press("?")
    console.page.wait_for("dialog.help")
    console.press("Escape")
    console.wait_until_gone("dialog")
    console.choose_file(path)
    console.click_text("Import 1 row")
    console.wait_for_text("1 of 1 rows were imported")
    console.click_text("Close", ".dialog-foot")
    console.click(".menu-button")
    page.wait_for(".menu:popover-open")
    stored += page.run(ALL_STORED)
    console.click_text("Sign out")
    page.wait_for("dialog.sign-in.first")
    stored += page.run(ALL_STORED)
    urls = [
        e["params"]["request"]["url"]
        for e in page.events
        if "WillBeSent" in e["method"] and "request" in e["params"]
    ]
    assert {url.split("/")[2] for url in urls if not url.startswith("data:")} == {
        f"localhost:{console.server.port}"
    }
    assert "mine" in stored
    for text in (stored, *urls):
        assert token not in text
        assert session_cookie.NAME not in text
    entries = page("Page.getNavigationHistory")["entries"]
    assert not [entry for entry in entries if token in entry["url"] and "#" not in entry["url"]]
    assert console.errors() == []  # Chromium reports there what the policy blocks.


# The URL


def test_the_url_shows_the_same_after_a_reload_in_another_tab_and_with_back_and_forward(console):
    rows = [console.create(name, is_active=name != "Alpha") for name in ("Alpha", "Alps", "Beta")]

    def is_shown(tab):
        tab.wait_for_names("Alps")
        tab.wait_for_value(NAME, "Alps")
        tab.wait_for_texts(".change strong", "Created")
        assert tab.has('.grid-head [aria-sort="descending"]')

    console.open("sort=name")
    console.wait_for_names("Alpha", "Alps", "Beta")
    console.click(".grid-head [role=columnheader]:nth-child(2) button")
    console.wait_for_names("Beta", "Alps", "Alpha")
    console.type(".search input", "Alp")
    console.wait_for_names("Alps", "Alpha")
    console.click_text("Add filter", ".filters")
    console.click_text("Active", ".menu-list")
    console.page.wait_for(".filter-form select", "value = 'true'")
    console.click_text("Apply")
    console.wait_for_names("Alps")
    console.click(f"#row-{rows[1]['id']}")
    console.page.wait_for(NAME)
    console.click_text("History", ".panel-views")
    is_shown(console)
    console.page.run("globalThis.isOld = true")
    console.page("Page.reload")
    console.page.wait_until("globalThis.isOld === undefined")
    is_shown(console)
    tab = Console(console.page.new_page(), console.server)
    tab.page.open(console.page.run("location.href"))
    is_shown(tab)
    for element in (".change", ".panel"):
        console.page.run("history.back()")
        console.wait_until_gone(element)
    console.wait_for_names("Alps")
    console.page.run("history.back()")
    console.wait_for_names("Alps", "Alpha")
    assert console.value(".search input") == "Alp"
    console.page.run("history.back()")
    console.wait_for_names("Beta", "Alps", "Alpha")
    assert console.value(".search input") == ""
    for names in (("Alps", "Alpha"), ("Alps",)):
        console.page.run("history.forward()")
        console.wait_for_names(*names)
    for element in (NAME, ".change"):
        console.page.run("history.forward()")
        console.page.wait_for(element)
    is_shown(console)


# The keys


def tab_to(console, selector):
    """Press Tab until the focus is on an element that matches."""
    for _ in range(80):
        if console.page.run(f"document.activeElement.matches({selector!r})"):
            return
        console.press("Tab")
    raise AssertionError((selector, console.page.run("document.activeElement.outerHTML")))


def test_a_row_is_created_changed_restored_and_deleted_by_keys_alone(console):
    console.create("Other")
    console.open()
    console.press("n")
    console.wait_for_value(NAME, "")
    console.page.wait_until(f"document.activeElement.matches('{NAME}')")
    console.page("Input.insertText", text="first")
    console.press("Enter", modifiers=CTRL)
    row_id = console.wait_for_id()
    console.wait_for_value(NAME, "first")
    console.press("Escape")
    console.wait_until_gone(".panel")
    # Search it, open it, and change each kind of field
    console.press("/")
    console.page("Input.insertText", text="first")
    console.wait_for_names("first")
    console.press("ArrowDown", "j", "Enter")
    console.page.wait_for(NAME)
    console.press("e")
    console.page.wait_until(f"document.activeElement.matches('{NAME}')")
    console.press("a", modifiers=CTRL)
    console.page("Input.insertText", text="second")
    tab_to(console, DESCRIPTION)
    console.page("Input.insertText", text="text")
    tab_to(console, "#field-is_active")
    console.press(" ")
    tab_to(console, ATTRIBUTES)
    console.press("s", modifiers=CTRL)
    console.wait_for_row(row_id, name="second", description="text", is_active=False, version=2)
    console.page.wait_for(".toast.success")
    console.press("Escape")
    console.wait_until_gone(".panel")
    # Another user changes the row while it is open: settle the conflict
    console.press("Home", "Enter")
    console.page.wait_for(NAME)
    console.press("e")
    console.page.wait_until(f"document.activeElement.matches('{NAME}')")
    console.page("Input.insertText", text="!")
    console.change({"id": row_id}, name="theirs")
    console.press("Enter", modifiers=CTRL)
    console.page.wait_for("dialog.conflict")
    tab_to(console, "dialog .save-mine")
    console.press("Enter")
    console.wait_until_gone("dialog")
    console.wait_for_row(row_id, name="second!", version=4)
    # Restore the first version, undo that, and delete the row
    console.press("Escape")
    console.wait_until_gone(".panel")
    console.press("Enter")
    console.page.wait_for(NAME)
    console.press("h")
    console.page.wait_for(".change:last-child .restore")
    tab_to(console, ".change:last-child .restore")
    console.press("Enter")
    console.wait_for_row(row_id, name="first", version=5)
    console.page.wait_until("document.querySelectorAll('.change').length === 5")
    console.press("z", modifiers=CTRL)
    console.wait_for_row(row_id, name="second!", version=6)
    console.press("h")
    tab_to(console, ".panel-actions .danger")
    console.press("Enter")
    console.wait_until_gone(".panel")
    assert console.row(row_id) is None
    console.press("z", modifiers=CTRL)
    console.wait_for_row(row_id, name="second!")


def test_views_dialogs_filters_and_bulk_actions_are_used_by_keys_alone(console):
    for name in ("A", "B", "C"):
        console.create(name)
    console.open("sort=name")
    for keys, selector in (("gv", ".live"), ("gc", ".charts"), ("gl", ".list")):
        console.press(*keys)
        console.page.wait_for(selector)
    console.wait_for_names("A", "B", "C")
    for key, modifiers, dialog in (("?", 0, "help"), ("k", CTRL, "palette")):
        console.press(key, modifiers=modifiers)
        console.page.wait_for(f"dialog.{dialog}")
        console.press("Escape")
        console.wait_until_gone("dialog")
    console.press("j", "x", "j", "x")
    console.wait_for_text("2 selected", ".selection")
    tab_to(console, ".selection button")
    while console.page.run("document.activeElement.textContent.trim()") != "Archive":
        console.press("Tab")
    console.press("Enter")
    console.wait_for_text("2 rows were changed.")
    console.press("k", modifiers=CTRL)
    console.page.wait_for("dialog.palette")
    console.page("Input.insertText", text="dark")
    console.wait_for_text("Appearance: Dark", "dialog [aria-selected=true]")
    console.press("Enter")
    console.page.wait_until("document.documentElement.dataset.theme === 'dark'")
    console.wait_until_gone("dialog")
    tab_to(console, ".filters button")
    console.press("Enter")
    console.page.wait_for(".menu-list")
    while console.page.run("document.activeElement.textContent.trim()") != "Active":
        console.press("Tab")
    console.press("Enter")
    tab_to(console, ".filter-form select")
    console.press("ArrowDown")
    assert console.value(".filter-form select") == "false"
    tab_to(console, ".filter-form .primary")
    console.press("Enter")
    console.wait_for_names("A", "B")


def test_keys_of_letters_can_be_switched_off(console):
    console.create("A")
    console.open()
    console.click(".menu-button")
    console.click("[role=switch]")
    console.press("Escape")
    console.focus()
    console.press("n", "j", "?")
    assert console.parameter("id") is None
    assert not console.texts(f"{ROW}.active")
    assert not console.has("dialog")
    console.press("ArrowDown", "Enter")
    console.wait_for_value(NAME, "A")
