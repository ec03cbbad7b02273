"""The console while it waits, after each error of the server, and without the server."""

import pytest

from tests.conftest import PROJECTS
from tests.console import FEED_IS_ON, NAME, SAVE, Console
from tests.test_console_files import TEXT_FILES, texts_of

pytestmark = pytest.mark.slow

TEXTS = {key: text for path in TEXT_FILES for key, text in texts_of(path)["en"].items()}
LATER = {"Retry_After": "600"}
SCOPE = 'Bearer error="insufficient_scope", scope="projects:write"'
BAD_REQUEST = {"error": "bad_request", "detail": "Why.", "request_id": "the-id"}
# What the server answers to a save, and what the panel then says.
REFUSALS = [
    (400, BAD_REQUEST, {}, [TEXTS["error.bad_request"], "Why.", "the-id"]),
    (403, {}, {"WWW_Authenticate": SCOPE}, [TEXTS["error.403"], "Required scope: projects:write"]),
    (409, {}, {}, [TEXTS["error.409"]]),
    (413, {}, {}, [TEXTS["error.413"]]),
    (415, {}, {}, [TEXTS["error.415"]]),
    (422, {}, {}, [TEXTS["error.422"]]),
    (429, {}, LATER, [TEXTS["error.429"]]),
    (500, {}, {}, [TEXTS["error.500"], "held-1"]),
    (502, {}, {}, ["The server answered with the error 502."]),
    (503, {}, LATER, [TEXTS["error.503"]]),
    (503, {"error": "outcome_unknown"}, {}, [TEXTS["error.outcome_unknown"]]),
]


def test_a_refused_save_says_why_keeps_the_text_and_is_not_repeated_by_itself(console):
    row = console.create("base")
    console.open_row(row["id"])
    console.type(NAME, "mine")
    with console.hold_requests(f"{PROJECTS}/{row['id']}"):
        console.click(SAVE)
        console.wait_for_held_request("PUT")
        console.wait_for_text("Saving…", f"{SAVE}[aria-disabled=true]")
        for status, body, headers, texts in REFUSALS:
            console.answer("PUT", status, body, **headers)
            for text in texts:
                console.wait_for_text(text, ".panel-notices [role=alert]")
            assert console.value(NAME) == "mine"
            console.click(SAVE)
        console.let_pass("PUT")
        console.wait_for_row(row["id"], name="mine")
    assert len(console.requests("PUT")) == len(REFUSALS) + 1
    console.wait_until_gone(".panel-notices .banner")


@pytest.mark.parametrize("status", [429, 503])
def test_a_read_that_the_server_postpones_counts_down_and_repeats_itself(console, status):
    text = TEXTS[f"waiting.{status}"].partition("{")[0]
    console.create("a")
    with console.hold_requests(f"{PROJECTS}?"):
        console.open("", ".grid[aria-busy=true]")
        console.wait_for_text("Loading…", ".load-state")
        console.answer("GET", status, **LATER)
        console.wait_for_text(text, ".notices")
        seconds = int(console.texts(".countdown")[0])
        assert 590 <= seconds <= 750
        console.page.wait_until(
            f"Number(document.querySelector('.countdown').innerText) < {seconds}"
        )
        console.click_text("Try now")
        console.answer("GET", status, Retry_After="1")
        console.wait_for_text(text, ".notices")
        console.let_pass("GET")
        console.wait_for_names("a")
        console.wait_until_gone(".countdown")


def test_a_create_that_the_server_postpones_counts_down_and_is_stored_once(console):
    console.open_row("new")
    console.type(NAME, "once")
    with console.hold_requests(PROJECTS):
        console.click(SAVE)
        console.answer("POST", 429, **LATER)
        console.wait_for_text(TEXTS["waiting.429"].partition("{")[0], ".notices")
        console.click_text("Try now")
        console.answer("POST", 409, Retry_After="1")
        console.wait_for_text(TEXTS["waiting.409"].partition("{")[0], ".notices")
        console.let_pass("POST")
        console.wait_for_id()
    assert [row["name"] for row in console.rows()] == ["once"]
    [key] = {request["headers"]["idempotency-key"] for request in console.requests("POST")}
    assert len(key) == 32


def test_a_row_that_loads_slowly_says_so_and_one_that_fails_can_be_tried_again(console):
    row = console.create("a")
    with console.hold_requests(f"{PROJECTS}/{row['id']}"):
        console.open(f"id={row['id']}")
        console.wait_for_text("Loading…", ".panel [role=status]")
        console.answer("GET", 500)
        console.wait_for_text(TEXTS["error.500"], ".panel-notices")
        console.click_text("Try again", ".panel-notices")
        console.let_pass("GET")
        console.wait_for_value(NAME, "a")


def test_a_list_that_fails_can_be_tried_again(console):
    console.create("a")
    with console.hold_requests(f"{PROJECTS}?"):
        console.open("", ".grid")
        console.answer("GET", 500)
        console.wait_for_text(TEXTS["error.500"], ".list .empty")
        console.click_text("Try again", ".list .empty")
        console.let_pass("GET")
        console.wait_for_names("a")


def test_without_a_network_the_list_and_the_form_stay_and_go_on_when_it_is_back(console):
    row = console.create("a")
    console.open_row(row["id"])
    console.type(NAME, "mine")
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    console.page("Network.emulateNetworkConditions", offline=True, **network)
    console.click(SAVE)
    console.wait_for_text(TEXTS["offline"], ".notices")
    console.wait_for_text(TEXTS["error.offline"], ".panel-notices")
    console.wait_for_names("a")
    assert console.value(NAME) == "mine"
    console.page("Network.emulateNetworkConditions", offline=False, **network)
    console.page.wait_until(
        "!document.querySelector('.notices').innerText.includes('cannot be reached')"
    )
    console.save()
    assert console.row(row["id"])["name"] == "mine"


def test_a_lost_feed_says_so_at_its_dot_and_in_the_live_view(console):
    with console.hold_requests(f"{PROJECTS}/changes"):
        console.open("view=live", ".live")
        console.answer("GET", 503, Retry_After="1")
        label = console.page.wait_for(".live-dot.lost", "getAttribute('aria-label')")
        assert label == TEXTS["live.lost"]
        console.wait_for_text(TEXTS["live.lost_text"], ".live .banner")
        console.let_pass("GET")
        console.page.wait_for(FEED_IS_ON)
    console.wait_until_gone(".live .banner")


def test_a_server_with_another_version_asks_to_reload(console):
    console.open()
    with console.hold_requests("/health"):
        console.page.run("document.dispatchEvent(new Event('visibilitychange'))")
        console.answer("GET", 200, {"version": "another"})
    console.wait_for_text(TEXTS["stale"], ".notices")
    console.page.run("globalThis.isOld = true")
    console.click_text("Reload", ".notices")
    console.page.wait_until("globalThis.isOld === undefined")


# Callers


def test_a_row_that_does_not_exist_and_the_row_of_another_caller_are_not_found(
    signed_in, auth_headers
):
    bob = Console(signed_in.page, signed_in.server, auth_headers("bob"))
    for row_id in (bob.create("bob's")["id"], "01900000-0000-7000-8000-000000000000"):
        signed_in.open(f"id={row_id}")
        signed_in.wait_for_text("Not found", ".panel .empty")
        signed_in.wait_for_text("or you may not see it", ".panel .empty")
        assert "bob" not in signed_in.page.run("document.querySelector('main').innerText")


def test_a_caller_without_the_read_scope_sees_which_scope_is_missing(signed_in, auth_headers):
    signed_in.sign_in(auth_headers(scopes="metrics:read"), wait_for=".empty")
    signed_in.wait_for_text(TEXTS["error.403"], "main")
    signed_in.wait_for_text("Required scope: projects:read", "main")


def test_a_save_is_not_sent_in_the_name_of_another_caller(signed_in, auth_headers, sql):
    row = signed_in.create("base")
    signed_in.open_row(row["id"])
    signed_in.type(NAME, "mine")
    sql("UPDATE api_tokens SET revoked_at = now()")
    signed_in.click(SAVE)
    token = auth_headers("bob", "projects:read,projects:write,projects:all")["Authorization"][7:]
    signed_in.type("dialog.sign-in input[type=password]", token)
    signed_in.click("dialog.sign-in [type=submit]")
    signed_in.wait_for_text("you signed in as somebody else: bob", ".panel-notices")
    assert signed_in.value(NAME) == "mine"
    assert len(signed_in.requests("PUT")) == 1
    signed_in.save()
    assert sql("SELECT name FROM projects") == [("mine",)]


def test_a_token_that_is_refused_says_so_and_a_right_one_opens_the_list(
    browser, tokens_server, sql, auth_headers
):
    console = Console(browser, tokens_server)
    console.open("", "dialog.sign-in")
    console.wait_for_text(TEXTS["sign_in_title"], "dialog")
    for token, text in (
        ("", TEXTS["token_empty"]),
        ("wrong", TEXTS["token_refused"]),
    ):
        console.type("dialog input[type=password]", token)
        console.press("Enter")
        console.wait_for_text(text, "dialog [role=alert]")
    console.type("dialog input[type=password]", auth_headers()["Authorization"][7:])
    console.press("Enter")
    console.page.wait_for(".list .empty")
    assert not console.has("dialog")
    assert console.errors() == []
