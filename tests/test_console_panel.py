"""The console's panel in Chromium: edits, exact numbers, conflicts, history and undo."""

import json
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests import conftest
from tests.conftest import PROJECTS

pytestmark = pytest.mark.slow

NAME, DESCRIPTION, ATTRIBUTES = "#field-name", "#field-description", "#field-attributes"
SAVE = ".panel-actions .primary"
UNDO = ".toast.success .button.quiet"
EXACT = '{"big":12345678901234567890,"one":1.0,"small":1e-7,"null":null}'
SPECIAL_NAMES = [
    "a\r\nb\r\nc",
    "\u202eabc\u202c",
    "   ",
    "👨‍👩‍👧‍👦" * 20,
    "👍" * 200,
    "x\u0301\u200b",
]


class Console:
    """The console of a server, in English, with the actions of a user."""

    def __init__(self, page, server):
        self.page = page
        self.server = server
        self.headers = {}

    @property
    def origin(self):
        return f"http://localhost:{self.server.port}"

    def api(self, method, path, body=None, **headers):
        return self.server.request(method, path, body, **self.headers, **headers)

    def create(self, **values):
        status, _, row = self.api("POST", PROJECTS, {"name": "A project", **values})
        assert status == 201, row
        return row

    def row(self, row_id):
        """Return the current values of a row; None if it does not exist."""
        status, _, row = self.api("GET", f"{PROJECTS}/{row_id}")
        return row if status == 200 else None

    def text(self, row_id):
        """Return the body of a row as the server sends it, with the digits of all numbers."""
        script = f"fetch('{PROJECTS}/{row_id}').then((response) => response.text())"
        return self.page.run(script)

    def open(self, row_id, view=""):
        self.page.open(f"{self.origin}/console?lang=en&id={row_id}{view}")
        if not view:
            self.page.wait_for(NAME)

    def click(self, selector):
        self.page.wait_for(f"{selector}:not(:disabled)", "click()")

    def click_text(self, scope, text):
        """Click the button that has this text."""
        found = f"[...document.querySelectorAll('{scope} button')]"
        found += f".find((element) => element.innerText.trim() === {json.dumps(text)})"
        self.page.wait_until(f"!!{found}")
        self.page.run(f"{found}.click()")

    def press(self, key, code, *, ctrl=False):
        number = {"Escape": 27, "Enter": 13, "Backspace": 8}.get(key) or ord(key.upper())
        event = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        event["modifiers"] = 2 if ctrl else 0
        typed = {"Enter": "\r"}.get(key, key)
        text = {} if ctrl or len(typed) > 1 else {"text": typed}
        self.page("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.page("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, selector, text):
        """Replace the text of a control as a user does."""
        self.page.wait_for(selector, "focus()")
        self.page.run("document.activeElement.select()")
        if text:
            self.page("Input.insertText", text=text)
        else:
            self.press("Backspace", "Backspace")

    def value(self, selector):
        return self.page.wait_for(selector, "value")

    def sees(self, selector, text):
        """Wait until the element has this text in it."""
        found = f"document.querySelector({json.dumps(selector)})?.innerText"
        self.page.wait_until(f"{found}?.includes({json.dumps(text)})")

    def save(self):
        """Save with the button, and wait for the message that it is saved."""
        self.close_toasts()
        self.click(SAVE)
        self.page.wait_for(".toast.success")

    def close_toasts(self):
        self.page.run("document.querySelectorAll('.toast .icon-only').forEach((e) => e.click())")
        self.page.wait_until("!document.querySelector('.toast')")

    def wait_for_row(self, row_id, **values):
        end = time.monotonic() + 60
        while {name: (self.row(row_id) or {}).get(name) for name in values} != values:
            assert time.monotonic() < end, (self.row(row_id), values)
            time.sleep(0.05)

    def requests(self, method):
        """Return the requests of this method that the page has sent, with lower-case headers."""
        events = [e for e in self.page.events if e["method"] == "Network.requestWillBeSent"]
        requests = [event["params"]["request"] for event in events]
        return [request for request in requests if request["method"] == method]


@pytest.fixture
def console(browser, server, sql):
    return Console(browser, server)


@pytest.fixture
def signed_in(browser, serve, auth_headers):
    """A console whose user has signed in as alice."""
    with serve(AUTH="tokens") as running:
        console = Console(browser, running)
        console.headers = auth_headers()
        token = console.headers["Authorization"].removeprefix("Bearer ")
        browser.open(f"{console.origin}/console?lang=en#token={token}")
        browser.wait_for(".list")
        yield console


# Edits


def test_an_edit_sends_only_the_changed_field_with_if_match(console):
    row = console.create(description="first", attributes={"a": None})
    console.open(row["id"])
    console.type(NAME, "번역 Translation")
    console.save()
    assert console.row(row["id"]) == {
        **console.row(row["id"]),
        "name": "번역 Translation",
        "description": "first",
        "attributes": {"a": None},
        "version": 2,
    }
    [put] = console.requests("PUT")
    assert json.loads(put["postData"]) == {"name": "번역 Translation"}
    assert put["headers"]["if-match"] == '"1"'


def test_a_create_with_ctrl_enter_sends_the_values_that_were_entered(console):
    console.open("new")
    console.type(NAME, "새 프로젝트")
    console.type(ATTRIBUTES, EXACT)
    console.press("Enter", "Enter", ctrl=True)
    console.page.wait_until("new URLSearchParams(location.search).get('id').length === 36")
    row_id = console.page.run("new URLSearchParams(location.search).get('id')")
    row = console.row(row_id)
    assert (row["name"], row["description"], row["is_active"]) == ("새 프로젝트", None, True)
    assert '"big": 12345678901234567890' in console.text(row_id)
    assert '"one": 1.0,' in console.text(row_id)


def test_null_and_the_empty_text_are_different_and_can_both_be_set(console):
    row = console.create(description="text")
    console.open(row["id"])
    console.click("[data-field=description] .null-switch input")
    console.save()
    assert console.row(row["id"])["description"] is None
    console.type(DESCRIPTION, "x")
    console.type(DESCRIPTION, "")
    console.sees("[data-field=description] .chip", "empty text")
    console.save()
    assert console.row(row["id"])["description"] == ""
    console.click("[data-field=description] .null-switch input")
    console.click("[data-field=description] .null-switch input")
    assert console.value(DESCRIPTION) == ""


def test_a_field_that_the_server_refuses_shows_why_and_keeps_its_text(console):
    row = console.create()
    console.open(row["id"])
    console.type(NAME, "👍" * 201)
    console.sees("[data-field=name]", "201 / 200 characters")
    console.click(SAVE)
    console.sees("[data-field=name] .field-error", "Length must be between 1 and 200.")
    console.page.wait_until("document.activeElement.id === 'field-name'")
    assert console.value(NAME) == "👍" * 201
    console.type(NAME, "👍" * 200)
    console.save()
    assert console.row(row["id"])["name"] == "👍" * 200


@pytest.mark.parametrize("name", SPECIAL_NAMES)
def test_a_special_name_is_not_changed_by_an_edit_of_another_field(console, name):
    row = console.create(name=name)
    console.open(row["id"])
    console.type(DESCRIPTION, "line 1\nline 2")
    console.save()
    row = console.row(row["id"])
    assert (row["name"], row["description"]) == (name, "line 1\nline 2")


def test_an_edited_name_keeps_the_line_breaks_that_were_not_edited(console):
    row = console.create(name="a\r\nb\rc\nd")
    console.open(row["id"])
    console.type(NAME, "a\nb\nc\nd and more")
    console.save()
    assert console.row(row["id"])["name"] == "a\r\nb\rc\nd and more"


def test_a_reader_without_the_write_scope_cannot_edit(signed_in, auth_headers):
    row = signed_in.create()
    token = auth_headers(scopes="projects:read")["Authorization"].removeprefix("Bearer ")
    signed_in.page.open(f"{signed_in.origin}/console?lang=en&id={row['id']}#token={token}")
    signed_in.sees(".panel-notices", "projects:write")
    signed_in.page("Page.reload")
    signed_in.sees(".panel-notices", "projects:write")
    assert signed_in.page.wait_for(f"{NAME}:disabled")
    assert not signed_in.page.run(f"!!document.querySelector('{SAVE}')")


def test_an_administrator_with_projects_all_edits_the_row_of_another_caller(
    signed_in, auth_headers
):
    row = signed_in.create(name="base")
    token = auth_headers("root", "projects:all")["Authorization"].removeprefix("Bearer ")
    signed_in.page.open(f"{signed_in.origin}/console?lang=en&id={row['id']}#token={token}")
    signed_in.type(NAME, "edited")
    signed_in.save()
    history = signed_in.api("GET", f"{PROJECTS}/{row['id']}/history")[2]["items"]
    assert [change["caller"] for change in history] == ["root", "alice"]
    assert signed_in.page.run("!!document.querySelector('.toolbar-actions .primary')")


# Attributes


def test_attributes_keep_their_digits_whether_they_are_edited_or_not(console):
    row = console.create()
    console.open(row["id"])
    console.type(ATTRIBUTES, EXACT)
    console.save()
    stored = console.text(row["id"])
    assert '"big": 12345678901234567890' in stored
    console.open(row["id"])
    console.type(NAME, "Another name")
    console.save()
    assert "attributes" not in console.requests("PUT")[-1]["postData"]
    assert json.loads(stored)["attributes"] == console.row(row["id"])["attributes"]
    text = console.value(ATTRIBUTES)
    assert "1.0" in text
    console.type(ATTRIBUTES, text.replace("{", '{"added": 2,', 1))
    console.save()
    stored = console.text(row["id"])
    for part in ('"big": 12345678901234567890', '"one": 1.0', '"null": null', '"added": 2'):
        assert part in stored


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b": tru}', "Line 2, column 7"),
        ('{"a": 1, "a": 2}', "this name comes twice"),
        ('{"a": [1, 2', "a closing bracket or quote is missing"),
        ("[1]", "It must be a JSON object"),
    ],
)
def test_invalid_attributes_show_the_line_and_are_not_sent(console, text, message):
    row = console.create()
    console.open(row["id"])
    console.type(ATTRIBUTES, text)
    console.click(SAVE)
    console.sees("[data-field=attributes] .field-error", message)
    assert console.value(ATTRIBUTES) == text
    assert console.requests("PUT") == []


def test_attributes_show_their_stored_bytes_and_levels(console):
    row = console.create()
    console.open(row["id"])
    console.type(ATTRIBUTES, '{"한":[1,2],"b":{}}')
    console.sees("[data-field=attributes]", "24 / 16,384 bytes")
    console.sees("[data-field=attributes]", "2 / 32 levels")
    console.type(ATTRIBUTES, json.dumps({"a": "x" * 16384}))
    console.sees("[data-field=attributes]", "(too many)")
    console.click(SAVE)
    console.sees("[data-field=attributes] .field-error", "16384")


# Conflicts


def make_conflict(console, **theirs):
    """Open a row, type a name, change the row elsewhere, and save."""
    row = console.create(name="base", description="base text")
    console.open(row["id"])
    console.type(NAME, "mine")
    assert console.api("PATCH", f"{PROJECTS}/{row['id']}", theirs)[0] == 200
    console.click(SAVE)
    return row


def test_save_mine_in_a_conflict_saves_my_field_and_keeps_the_other_fields(console):
    row = make_conflict(console, name="theirs", description="their text")
    console.sees("dialog.conflict", "base")
    console.sees("dialog.conflict", "theirs")
    console.sees("dialog.conflict", "mine")
    console.click("dialog .save-mine")
    console.wait_for_row(row["id"], name="mine", description="their text", version=3)


def test_a_field_can_keep_the_other_value_in_a_conflict(console):
    row = make_conflict(console, name="theirs")
    console.page.wait_for("dialog.conflict")
    console.click("dialog input[value=theirs]")
    console.sees("dialog .save-mine", "Save my choice")
    console.click("dialog .save-mine")
    console.page.wait_until("!document.querySelector('dialog')")
    assert console.value(NAME) == "theirs"
    console.wait_for_row(row["id"], name="theirs", version=2)


def test_take_theirs_in_a_conflict_shows_the_other_values_and_undo_brings_mine_back(console):
    row = make_conflict(console, name="theirs")
    console.click("dialog .take-theirs")
    console.page.wait_until(f"document.querySelector('{NAME}').value === 'theirs'")
    assert console.row(row["id"])["version"] == 2
    console.click(UNDO)
    console.page.wait_until(f"document.querySelector('{NAME}').value === 'mine'")


def test_keep_editing_in_a_conflict_keeps_the_text_and_the_next_save_asks_again(console):
    row = make_conflict(console, name="theirs")
    console.click("dialog .keep-editing")
    console.page.wait_until("!document.querySelector('dialog')")
    assert console.value(NAME) == "mine"
    console.click(SAVE)
    console.page.wait_for("dialog.conflict")
    assert console.row(row["id"])["name"] == "theirs"


def test_changes_of_different_fields_are_merged_without_a_question(console):
    row = make_conflict(console, description="their text")
    console.wait_for_row(row["id"], name="mine", description="their text", version=3)
    console.page.wait_until(f"document.querySelector('{DESCRIPTION}').value === 'their text'")
    assert not console.page.run("!!document.querySelector('dialog')")


def test_a_row_that_was_deleted_can_be_created_again_with_what_was_typed(console):
    row = console.create(name="base", attributes={"kept": 1})
    console.open(row["id"])
    console.type(NAME, "mine")
    assert console.api("DELETE", f"{PROJECTS}/{row['id']}")[0] == 204
    console.page.wait_for(SAVE, "click()")  # The feed may have switched it off already.
    console.sees(".panel-notices", "Deleted since you opened it")
    assert console.value(NAME) == "mine"
    console.page.wait_until(f"!document.querySelector('{SAVE}[aria-disabled=true]')")
    console.click_text(".panel-notices", "Create again")
    console.wait_for_row(row["id"], name="mine", attributes={"kept": 1})


# No lost text


def test_an_expired_sign_in_keeps_the_form_and_saves_it_after_the_sign_in(
    signed_in, auth_headers, sql
):
    row = signed_in.create(name="base")
    signed_in.open(row["id"])
    signed_in.type(NAME, "mine")
    sql("UPDATE api_tokens SET revoked_at = now()")
    signed_in.click(SAVE)
    signed_in.page.wait_for("dialog.sign-in")
    assert signed_in.value(NAME) == "mine"
    signed_in.headers = auth_headers()
    signed_in.type("dialog input[type=password]", signed_in.headers["Authorization"][7:])
    signed_in.click("dialog button[type=submit]")
    signed_in.wait_for_row(row["id"], name="mine")
    signed_in.page.wait_until("!document.querySelector('dialog')")
    assert signed_in.page.run("JSON.stringify(sessionStorage)") == "{}"


def test_a_restart_of_the_server_keeps_the_form(browser, serve, sql, monkeypatch):
    with serve() as first:
        console = Console(browser, first)
        row = console.create(name="base")
        console.open(row["id"])
        console.type(NAME, "mine")
    console.click(SAVE)
    console.sees(".panel-notices", "The server cannot be reached")
    assert console.value(NAME) == "mine"
    monkeypatch.setattr(conftest, "free_port", lambda: first.port)
    with serve() as console.server:
        console.save()
        console.wait_for_row(row["id"], name="mine")


def test_a_reload_warns_and_brings_the_unsaved_text_back_without_a_token(signed_in):
    row = signed_in.create(name="base", attributes={"n": 1})
    page = signed_in.page
    signed_in.open(row["id"])
    signed_in.type(NAME, "mine")
    signed_in.type(ATTRIBUTES, '{"n": 1.0')
    draft = page.run("JSON.stringify(sessionStorage)")
    assert "mine" in draft
    assert signed_in.headers["Authorization"][7:] not in draft
    reload_and_accept(page)
    signed_in.sees(".panel-notices", "Your unsaved changes are back")
    assert (signed_in.value(NAME), signed_in.value(ATTRIBUTES)) == ("mine", '{"n": 1.0')
    signed_in.type(ATTRIBUTES, '{"n": 1.0}')
    signed_in.save()
    assert '"n": 1.0}' in signed_in.text(row["id"])
    assert page.run("JSON.stringify(sessionStorage)") == "{}"


def reload_and_accept(page):
    """Reload the page, and accept the warning, which must come."""
    page.run("globalThis.isOld = true")
    page("Page.reload")
    end = time.monotonic() + 60
    while not any(e["method"] == "Page.javascriptDialogOpening" for e in page.events):
        assert time.monotonic() < end
        page.devtools.send("Target.getTargets", {})
    page("Page.handleJavaScriptDialog", accept=True)
    page.wait_until("globalThis.isOld === undefined && document.readyState === 'complete'")


def test_closing_a_form_with_unsaved_text_asks(console):
    row = console.create(name="base")
    console.open(row["id"])
    console.type(NAME, "mine")
    console.press("Escape", "Escape")
    console.sees("dialog", "You have unsaved changes")
    console.click_text("dialog", "Keep editing")
    assert console.value(NAME) == "mine"
    console.press("Escape", "Escape")
    console.click_text("dialog", "Save")
    console.page.wait_until("!document.querySelector('.panel')")
    console.wait_for_row(row["id"], name="mine")


def test_a_create_whose_answer_was_lost_is_repeated_with_the_same_key(console):
    page = console.page
    console.open("new")
    console.type(NAME, "once")
    lose_next_answer(page)
    console.click(SAVE)
    console.sees(".panel-notices", "The server cannot be reached")
    assert console.value(NAME) == "once"
    console.type(DESCRIPTION, "typed later")
    console.click(SAVE)
    console.sees(".toast", "An earlier attempt had already been saved")
    page.wait_until(f"document.querySelector('{DESCRIPTION}')?.value === 'typed later'")
    console.close_toasts()
    console.save()
    [row] = console.api("GET", PROJECTS)[2]["items"]
    assert (row["name"], row["description"]) == ("once", "typed later")
    keys = {request["headers"]["idempotency-key"] for request in console.requests("POST")}
    assert len(keys) == 1
    console.open("new")
    console.type(NAME, "another")
    console.save()
    assert console.requests("POST")[-1]["headers"]["idempotency-key"] not in keys


def test_the_repetition_of_an_unchanged_create_stores_one_row(console):
    console.open("new")
    console.type(NAME, "once")
    lose_next_answer(console.page)
    console.click(SAVE)
    console.sees(".panel-notices", "The server cannot be reached")
    console.click(SAVE)
    console.sees(".toast.success", "Created: once")
    console.page.wait_until("new URLSearchParams(location.search).get('id').length === 36")
    [row] = console.api("GET", PROJECTS)[2]["items"]
    assert (row["name"], row["version"]) == ("once", 1)
    first, second = console.requests("POST")
    assert first["postData"] == second["postData"]
    assert first["headers"]["idempotency-key"] == second["headers"]["idempotency-key"]
    console.page.wait_until(f"document.querySelector('{NAME}')?.value === 'once'")
    assert console.page.run("JSON.stringify(sessionStorage)") == "{}"


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


# History and undo


def test_the_history_shows_each_change_against_the_one_before_and_restores(console):
    row = console.create(name="first", attributes={"team": "core", "big": 1})
    path = f"{PROJECTS}/{row['id']}"
    console.api("PATCH", path, {"name": "second"})
    console.api("PATCH", path, {"attributes": {"team": "web"}})
    console.open(row["id"], "&view=history")
    console.page.wait_until("document.querySelectorAll('.change').length === 3")
    texts = console.page.run("[...document.querySelectorAll('.change')].map((e) => e.innerText)")
    for part in ("team", "core", "web"):
        assert part in texts[0]
    for part in ("big", "second"):
        assert part not in texts[0]
    for part in ("first", "second"):
        assert part in texts[1]
    assert console.page.run("document.querySelectorAll('.change .restore').length") == 2
    console.sees(".change", "Same as now")
    console.click(".change:nth-child(3) .restore")
    console.wait_for_row(row["id"], name="first", attributes={"team": "core", "big": 1}, version=4)
    console.page.wait_until("document.querySelectorAll('.change').length === 4")
    console.click(UNDO)
    console.wait_for_row(row["id"], name="second", attributes={"team": "web", "big": 1}, version=5)


@pytest.mark.parametrize("zone", ["local", "utc"])
def test_the_history_shows_the_row_as_it_was_at_a_time(console, sql, zone):
    console.page("Emulation.setTimezoneOverride", timezoneId="Asia/Seoul")
    row = console.create(name="first", description=None)
    # The input has whole seconds: change the row after the next one has begun.
    at = datetime.fromisoformat(row["created_at"]).replace(microsecond=0) + timedelta(seconds=1)
    while not sql("SELECT now() > %s", at)[0][0]:
        time.sleep(0.05)
    console.api("PATCH", f"{PROJECTS}/{row['id']}", {"name": "second", "description": "later"})
    console.open(row["id"], "&view=history")
    settings = json.dumps({"language": "en", "zone": zone})
    console.page.run(f"localStorage.setItem('projectapp.console', {json.dumps(settings)})")
    console.open(row["id"], "&view=history")
    shown_zone = UTC if zone == "utc" else ZoneInfo("Asia/Seoul")
    show_row_as_of(console.page, at.astimezone(shown_zone))
    console.sees(".as-of-row", "first")
    text = console.page.run("document.querySelector('.as-of-row').innerText")
    assert "second" not in text
    assert "later" not in text


def test_the_history_says_that_there_was_no_row_at_a_time(console, sql):
    sql("UPDATE histories SET starts_at = '2000-01-01'")  # before that a 410
    row = console.create(name="first")
    console.open(row["id"], "&view=history")
    show_row_as_of(console.page, datetime(2001, 1, 1))
    console.sees(".as-of .field-error", "The row did not exist at that time.")
    console.page.run("document.querySelector('.change button').click()")
    console.sees(".change .row-facts", "first")


def show_row_as_of(page, at):
    page.wait_for(".as-of input")
    page.run(f"""(() => {{
      const input = document.querySelector(".as-of input");
      input.value = "{at:%Y-%m-%dT%H:%M:%S}";
      input.dispatchEvent(new Event("input", {{ bubbles: true }}));
    }})()""")
    page.wait_for(".as-of .button", "click()")


def test_a_deleted_row_says_so_and_can_be_restored(console):
    row = console.create(name="gone")
    assert console.api("DELETE", f"{PROJECTS}/{row['id']}")[0] == 204
    console.page.open(f"{console.origin}/console?lang=en&id={row['id']}")
    console.sees(".panel .empty", "It was deleted")
    console.click(".panel .empty .primary")
    console.wait_for_row(row["id"], name="gone")
    assert console.value(NAME) == "gone"


def test_ctrl_z_outside_of_text_fields_undoes_a_save_and_then_a_create(console):
    console.open("new")
    console.type(NAME, "first")
    console.save()
    console.page.wait_until("new URLSearchParams(location.search).get('id').length === 36")
    row_id = console.page.run("new URLSearchParams(location.search).get('id')")
    console.page.wait_until(f"document.querySelector('{NAME}')?.value === 'first'")
    console.type(NAME, "second")
    console.save()
    console.page.run("document.querySelector('.panel').focus()")
    console.press("z", "KeyZ", ctrl=True)
    console.wait_for_row(row_id, name="first", version=3)
    console.page.wait_until(f"document.querySelector('{NAME}').value === 'first'")


def test_a_delete_is_undone_from_its_message_with_all_values(console):
    row = console.create(name="base", description="text", attributes={"n": 1})
    console.open(row["id"])
    console.click(".panel-actions .danger")
    console.page.wait_until("!document.querySelector('.panel')")
    assert console.row(row["id"]) is None
    console.click(UNDO)
    console.wait_for_row(row["id"], name="base", description="text", attributes={"n": 1})


def test_an_undo_does_not_overwrite_a_later_change(console):
    row = console.create(name="base")
    console.open(row["id"])
    console.type(NAME, "mine")
    console.save()
    console.api("PATCH", f"{PROJECTS}/{row['id']}", {"name": "theirs"})
    console.click(UNDO)
    console.sees(".toast.error", "It has changed since")
    assert console.row(row["id"])["name"] == "theirs"


def test_a_delete_of_a_row_that_has_changed_since_is_refused(console):
    row = console.create(name="base")
    console.open(row["id"])
    console.api("PATCH", f"{PROJECTS}/{row['id']}", {"name": "theirs"})
    console.click(".panel-actions .danger")
    console.sees(".toast.error", "It was not deleted")
    assert console.value(NAME) == "theirs"
    assert console.row(row["id"])["version"] == 2


# Keys


def test_the_keys_of_the_panel_open_edit_show_the_history_and_return_to_the_row(console):
    row = console.create(name="base")
    page = console.page
    page.open(f"{console.origin}/console?lang=en")
    page.wait_for("[role=grid] [role=row][aria-rowindex='2']")
    console.press("j", "KeyJ")
    page.wait_for("[role=grid][aria-activedescendant]")
    console.press("Enter", "Enter")
    page.wait_for(NAME)
    page.wait_until("document.activeElement.className === 'panel'")
    console.press("h", "KeyH")
    page.wait_for(".change")
    console.press("e", "KeyE")
    page.wait_until("document.activeElement.id === 'field-name'")
    page("Input.insertText", text="h")
    assert "h" in console.value(NAME)
    console.press("s", "KeyS", ctrl=True)
    page.wait_for(".toast.success")
    assert "h" in console.row(row["id"])["name"]
    console.press("Escape", "Escape")
    page.wait_until("!document.querySelector('.panel')")
    page.wait_until("document.activeElement.getAttribute('role') === 'grid'")


def test_another_caller_who_signs_in_does_not_see_the_rows_of_the_first_one(
    signed_in, auth_headers
):
    signed_in.create(name="of alice")
    page = signed_in.page
    page.wait_for(".grid-body [role=row]")
    authorization = auth_headers("bob")["Authorization"]
    page.run(
        "fetch('/console/session', {method: 'POST',"
        f" headers: {{Authorization: {authorization!r}}}}})"
        ".then(() => new BroadcastChannel('projectapp').postMessage('session'))"
    )
    page.wait_for(".list .empty")
    assert "of alice" not in page.run("document.body.textContent")


def test_signing_out_removes_the_drafts(signed_in):
    row = signed_in.create(name="base")
    page = signed_in.page
    signed_in.open(row["id"])
    signed_in.type(NAME, "mine")
    assert "mine" in page.run("JSON.stringify(sessionStorage)")
    page.wait_for(".account button", "click()")
    while not any(e["method"] == "Page.javascriptDialogOpening" for e in page.events):
        page("Browser.getVersion")
    page("Page.handleJavaScriptDialog", accept=False)  # The form has unsaved text.
    page.wait_for("dialog.sign-in")
    assert page.run("JSON.stringify(sessionStorage)") == "{}"
