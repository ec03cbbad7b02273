"""The console's live changes and charts in Chromium."""

import signal

import pytest

from tests import conftest
from tests.conftest import PROJECTS
from tests.console import FEED_IS_ON, NAME, SAVE, Console
from tests.prometheus import Scrape, until_sample
from tests.test_serving import until
from tests.test_worker import WITHOUT_EPOLL

pytestmark = pytest.mark.slow

TABS = 8
# Keeps the last text of GET /metrics that the page read.
KEEP_METRICS = """
const fetchNow = window.fetch;
window.fetch = async (url, options) => {
  const response = await fetchNow(url, options);
  if (url.endsWith("/metrics")) window.metricsText = await response.clone().text();
  return response;
};
"""


def wait_for_titles(console, *titles):
    """Wait until the live view has these entries, the newest first."""
    console.wait_for_texts(".live-title", *titles)


def metric_rows(page):
    """Return the shown numbers by name, and those of the text from which they come."""
    rows = "[...document.querySelectorAll('.chart tr[data-name]')]"
    cell = "row.querySelector('.chart-value').innerText"
    shown = f"Object.fromEntries({rows}.map((row) => [row.dataset.name, {cell}]))"
    shown, text = page.run(f"[{shown}, window.metricsText]")
    return shown, Scrape(text or "")


# The list and an open form


def test_changes_by_another_client_mark_rows_in_the_list_and_keep_its_order(console):
    rows = [console.create(name) for name in ("a", "b", "c")]
    console.open("sort=name", FEED_IS_ON)
    console.page.wait_for(f"#row-{rows[2]['id']}")
    console.change(rows[0], name="z")
    console.delete(rows[1])
    console.page.wait_for(f"#row-{rows[0]['id']}.mark-changed")
    console.page.wait_for(f"#row-{rows[1]['id']}.mark-deleted")
    ids = "[...document.querySelectorAll('.grid-body [role=row]')].map((row) => row.id)"
    assert console.page.run(ids) == [f"row-{row['id']}" for row in rows]
    assert "z" in console.page.run(f"document.getElementById('row-{rows[0]['id']}').innerText")
    assert not console.page.run(f"!!document.querySelector('#row-{rows[2]['id']} .mark')")


def test_a_save_in_this_page_does_not_mark_the_row(console):
    row = console.create("before")
    console.open(f"id={row['id']}", FEED_IS_ON)
    console.type(NAME, "after")
    console.page.wait_for(".panel-actions .primary", "click()")
    console.page.wait_for(".toast.success")
    other = console.create("other")  # When it is in the live view, the save is in it, too.
    console.page.run("document.querySelector('.views a:nth-child(2)').click()")
    console.page.wait_for(".live-title")
    wait_for_titles(console, "other", "after")
    console.page.run("document.querySelector('.views a:nth-child(1)').click()")
    console.page.wait_for(f"#row-{row['id']}")
    assert not console.page.run("!!document.querySelector('.grid-row .mark')")
    console.change(row, name="by another client")
    console.page.wait_for(f"#row-{row['id']}.mark-changed")
    assert console.write("GET", f"/{other['id']}")["version"] == 1


def test_a_change_by_another_client_is_reported_to_an_open_form_and_does_not_alter_it(console):
    row = console.create("base")
    console.open(f"id={row['id']}", FEED_IS_ON)
    console.type(NAME, "mine")
    console.change(row, name="theirs", description="their text")
    console.wait_for_text("Changed", ".panel-notices")
    assert console.page.wait_for(NAME, "value") == "mine"
    assert console.page.wait_for("#field-description", "value") == ""


# The live view


def test_the_live_view_shows_the_newest_change_first_and_opens_its_row(console):
    console.open("view=live", FEED_IS_ON)
    console.wait_for_text("No changes yet", ".live")
    row = console.create("first")
    console.create("a\u2028b")
    console.change(row, name="renamed")
    console.delete(row)
    wait_for_titles(console, "renamed", "renamed", "a⟦U+2028⟧b", "first")
    chips = console.texts(".live-entry .chip")
    assert chips == ["Deleted", "Changed", "Created", "Created"]
    console.page.run("document.querySelectorAll('.live-title')[2].click()")
    console.page.wait_for(NAME)


def test_paused_changes_wait_behind_a_button_that_counts_them(console):
    console.open("view=live", FEED_IS_ON)
    console.create("a")
    wait_for_titles(console, "a")
    console.page.run("document.querySelector('.live [aria-pressed]').click()")
    console.page.wait_for(".live [aria-pressed=true]")
    console.create("b")
    console.create("c")
    console.wait_for_texts(".live-new button", "2 new changes")
    assert console.texts(".live-title") == ["a"]
    console.page.run("document.querySelector('.live-new button').click()")
    wait_for_titles(console, "c", "b", "a")


def test_the_filter_mine_shows_only_changes_of_the_caller(signed_in, auth_headers):
    scopes = "projects:read,projects:write,projects:all"
    bob = Console(signed_in.page, signed_in.server, auth_headers("bob", scopes))
    signed_in.sign_in(auth_headers("alice", scopes), "view=live", FEED_IS_ON)
    signed_in.create("by alice")
    bob.create("by bob")
    wait_for_titles(signed_in, "by bob", "by alice")
    signed_in.click(".live-filter input")
    wait_for_titles(signed_in, "by alice")


# The connection


def test_a_restart_of_the_server_keeps_the_form_and_loses_no_change(
    browser, serve, sql, monkeypatch
):
    with serve() as first:
        console = Console(browser, first)
        row = console.create("before")
        console.open(f"id={row['id']}&view=live", FEED_IS_ON)
        console.type(NAME, "mine")
        console.change(row, description="theirs")
        wait_for_titles(console, "before")
    browser.wait_for(".live-dot.lost")
    for name in ("b", "c"):
        sql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), %s)", name)
    console.click(SAVE)
    console.wait_for_text("The server cannot be reached", ".panel-notices")
    assert console.value(NAME) == "mine"
    monkeypatch.setattr(conftest, "free_port", lambda: first.port)
    with serve() as console.server:
        browser.wait_for(FEED_IS_ON)
        wait_for_titles(console, "c", "b", "before")
        assert console.value(NAME) == "mine"
        console.save()
        console.wait_for_row(row["id"], name="mine", description="theirs", version=3)
        wait_for_titles(console, "mine", "c", "b", "before")
    assert console.errors() == []


def test_a_feed_that_lost_changes_reads_the_list_again_and_says_so(console):
    row = console.create("before")
    cursor_gone = {"error": "cursor_gone"}
    with console.hold_requests(f"{PROJECTS}/changes"):
        console.open("", ".live-dot")
        console.let_pass("GET")
        console.page.wait_for(FEED_IS_ON)
        console.page.wait_for(f"#row-{row['id']}")
        console.change(row, name="changed")
        console.page.wait_for(".mark-changed")
        # The stream of the old workers ends, and the server does not keep the changes since then.
        console.server.process.send_signal(signal.SIGHUP)
        console.answer("GET", 410, cursor_gone)
        console.wait_until_gone(".mark-changed")
        console.let_pass("GET")
        console.page.wait_for(FEED_IS_ON)
    console.click(".views a:nth-child(2)")
    console.wait_for_text("not kept any more", ".live-gap")
    console.create("after")
    until(lambda: "after" in console.texts(".live-title"))


@pytest.fixture(scope="module")
def small_server(serve, tmp_path_factory):
    """A server that keeps no streams open and has no metrics."""
    path = tmp_path_factory.mktemp("small") / "conf.py"
    path.write_text(WITHOUT_EPOLL)
    with serve("-c", str(path), METRICS="off") as server:
        yield server


def test_a_server_without_streams_is_asked_every_few_seconds(browser, small_server, sql):
    console = Console(browser, small_server)
    console.open("view=live", FEED_IS_ON)
    console.create("a")
    wait_for_titles(console, "a")
    console.create("b")
    wait_for_titles(console, "b", "a")


def test_eight_tabs_share_one_stream_and_go_on_when_its_tab_closes(console):
    tabs = [console, *(Console(console.page.new_page(), console.server) for _ in range(TABS - 1))]
    for tab in tabs:
        tab.open("view=live", FEED_IS_ON)
    streams = ("projectapp_streams", {"kind": "event_stream"})
    until_sample(console.server, lambda n: n == 1, streams[0], **streams[1])
    console.create("to all")
    for tab in tabs:
        wait_for_titles(tab, "to all")
    console.page("Page.close")  # The first tab was the first to ask for the lock.
    console.create("to the others")
    for tab in tabs[1:]:
        wait_for_titles(tab, "to the others", "to all")
        row_count = f"fetch('{PROJECTS}').then((r) => r.json()).then((page) => page.total)"
        assert tab.page.run(row_count) == 2
    until_sample(console.server, lambda n: n == 1, streams[0], **streams[1])


# Charts


def test_the_tables_of_the_charts_have_the_numbers_of_metrics(console):
    page = console.page
    page("Page.addScriptToEvaluateOnNewDocument", source=KEEP_METRICS)
    console.create("a")
    console.api("GET", "/missing")
    console.open("view=charts", '.chart tr[data-name="404"] .chart-value')

    def is_equal():
        shown, metrics = metric_rows(page)
        requests = "projectapp_http_request_duration_seconds_count"
        expected = {
            "in_use": metrics.sum("projectapp_database_connections", state="in_use"),
            "idle": metrics.sum("projectapp_database_connections", state="idle"),
            "max": metrics.sum("projectapp_database_connections_max"),
            "event_stream": metrics.sum("projectapp_streams", kind="event_stream"),
            "streams_max": metrics.sum("projectapp_streams_max"),
            **{status: metrics.sum(requests, status=status) for status in ("200", "201", "404")},
        }
        numbers = {name: shown.get(name, "").replace(",", "") for name in expected}
        is_right = numbers == {name: f"{value:.0f}" for name, value in expected.items()}
        return is_right and expected["404"] >= 1 and shown["projects"] == "1"

    until(is_equal)
    page.wait_for(".chart-plot path[d^=M]")
    rate_rows = ".chart:first-child tbody td:nth-child(2)"
    page.wait_until(f"document.querySelectorAll('{rate_rows}').length >= 2")


def test_charts_without_metrics_say_so_and_show_the_rows(browser, small_server, sql):
    console = Console(browser, small_server)
    console.create("a")
    console.open("view=charts", FEED_IS_ON)
    console.wait_for_text("METRICS=off", ".charts")
    console.wait_for_texts('tr[data-name="projects"] .chart-value', "1")


def test_charts_of_a_token_without_the_scope_name_the_scope(signed_in):
    signed_in.open("view=charts", ".charts")
    signed_in.wait_for_text("metrics:read", ".charts")
    signed_in.wait_for_texts('tr[data-name="projects"] .chart-value', "0")
