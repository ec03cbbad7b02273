"""The console's panel in Chromium: edits, exact numbers, conflicts, history and undo."""

import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.conftest import PROJECTS
from tests.console import (
    ATTRIBUTES,
    CTRL,
    DESCRIPTION,
    FEED_IS_ON,
    NAME,
    SAVE,
    UNDO,
    lose_next_answer,
)
from tests.test_serving import until

pytestmark = pytest.mark.slow

EXACT = '{"big":12345678901234567890,"one":1.0,"small":1e-7,"null":null}'
SPECIAL_NAMES = [
    "a\r\nb\r\nc",
    "\u202eabc\u202c",
    "   ",
    "👨‍👩‍👧‍👦" * 20,
    "👍" * 200,
    "x\u0301\u200b",
]


# Edits


def test_an_edit_sends_only_the_changed_field_with_if_match(console):
    row = console.create(description="first", attributes={"a": None})
    console.open_row(row["id"])
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
    console.open_row("new")
    console.type(NAME, "새 프로젝트")
    console.type(ATTRIBUTES, EXACT)
    console.press("Enter", modifiers=CTRL)
    row_id = console.wait_for_id()
    row = console.row(row_id)
    assert (row["name"], row["description"], row["is_active"]) == ("새 프로젝트", None, True)
    assert '"big": 12345678901234567890' in console.stored_text(row_id)
    assert '"one": 1.0,' in console.stored_text(row_id)


def test_null_and_the_empty_text_are_different_and_can_both_be_set(console):
    row = console.create(description="text")
    console.open_row(row["id"])
    console.click("[data-field=description] .null-switch input")
    console.save()
    assert console.row(row["id"])["description"] is None
    console.type(DESCRIPTION, "x")
    console.type(DESCRIPTION, "")
    console.wait_for_text("empty text", "[data-field=description] .chip")
    console.save()
    assert console.row(row["id"])["description"] == ""
    console.click("[data-field=description] .null-switch input")
    console.click("[data-field=description] .null-switch input")
    assert console.value(DESCRIPTION) == ""


def test_a_field_that_the_server_refuses_shows_why_and_keeps_its_text(console):
    row = console.create()
    console.open_row(row["id"])
    console.type(NAME, "👍" * 201)
    console.wait_for_text("201 / 200 characters", "[data-field=name]")
    console.click(SAVE)
    console.wait_for_text("Length must be between 1 and 200.", "[data-field=name] .field-error")
    console.page.wait_until("document.activeElement.id === 'field-name'")
    assert console.value(NAME) == "👍" * 201
    console.type(NAME, "👍" * 200)
    console.save()
    assert console.row(row["id"])["name"] == "👍" * 200


def test_a_special_name_is_not_changed_by_an_edit_of_another_field(console):
    rows = [console.create(name=name) for name in SPECIAL_NAMES]
    console.open()
    for row in rows:
        console.click(f"#row-{row['id']}")
        console.wait_for_text(row["id"], ".row-facts")
        console.type(DESCRIPTION, "line 1\nline 2")
        console.save()
        stored = console.row(row["id"])
        assert (stored["name"], stored["description"]) == (row["name"], "line 1\nline 2")
        assert json.loads(console.requests("PUT")[-1]["postData"]).keys() == {"description"}


def test_an_edited_name_keeps_the_line_breaks_that_were_not_edited(console):
    row = console.create(name="a\r\nb\rc\nd")
    console.open_row(row["id"])
    console.type(NAME, "a\nb\nc\nd and more")
    console.save()
    assert console.row(row["id"])["name"] == "a\r\nb\rc\nd and more"


def test_a_reader_without_the_write_scope_cannot_edit(signed_in, auth_headers):
    row = signed_in.create()
    signed_in.sign_in(auth_headers(scopes="projects:read"), f"id={row['id']}", NAME)
    signed_in.wait_for_text("projects:write", ".panel-notices")
    assert signed_in.page.wait_for(f"{NAME}:disabled")
    assert not signed_in.page.run(f"!!document.querySelector('{SAVE}')")


def test_an_administrator_with_projects_all_edits_the_row_of_another_caller(
    signed_in, auth_headers
):
    row = signed_in.create(name="base")
    signed_in.sign_in(auth_headers("root", "projects:all"), f"id={row['id']}", NAME)
    signed_in.type(NAME, "edited")
    signed_in.save()
    history = signed_in.api("GET", f"{PROJECTS}/{row['id']}/history")[2]["items"]
    assert [change["caller"] for change in history] == ["root", "alice"]
    assert signed_in.page.run("!!document.querySelector('.toolbar-actions .primary')")


# Attributes


def test_attributes_keep_their_digits_whether_they_are_edited_or_not(console):
    row = console.create()
    console.open_row(row["id"])
    console.type(ATTRIBUTES, EXACT)
    console.save()
    stored = console.stored_text(row["id"])
    assert '"big": 12345678901234567890' in stored
    console.open_row(row["id"])
    console.type(NAME, "Another name")
    console.save()
    assert "attributes" not in console.requests("PUT")[-1]["postData"]
    assert json.loads(stored)["attributes"] == console.row(row["id"])["attributes"]
    text = console.value(ATTRIBUTES)
    assert "1.0" in text
    console.type(ATTRIBUTES, text.replace("{", '{"added": 2,', 1))
    console.save()
    stored = console.stored_text(row["id"])
    for part in ('"big": 12345678901234567890', '"one": 1.0', '"null": null', '"added": 2'):
        assert part in stored


INVALID_ATTRIBUTES = {
    '{"a": 1,\n "b": tru}': "Line 2, column 7",
    '{"a": 1, "a": 2}': "this name comes twice",
    '{"a": [1, 2': "a closing bracket or quote is missing",
    "[1]": "It must be a JSON object",
}


def test_with_invalid_attributes_nothing_is_sent_and_their_line_is_shown(console):
    row = console.create()
    console.open_row(row["id"])
    console.type(NAME, "a valid change")
    for text, message in INVALID_ATTRIBUTES.items():
        console.type(ATTRIBUTES, text)
        console.click(SAVE)
        console.wait_for_text(message, "[data-field=attributes] .field-error")
        assert console.value(ATTRIBUTES) == text
    assert console.requests("PUT") == []


def test_attributes_show_their_stored_bytes_and_levels(console):
    row = console.create()
    console.open_row(row["id"])
    console.type(ATTRIBUTES, '{"한":[1,2],"b":{}}')
    console.wait_for_text("24 / 16,384 bytes", "[data-field=attributes]")
    console.wait_for_text("2 / 32 levels", "[data-field=attributes]")
    too_deep = '{"a":' * 32 + "{}" + "}" * 32
    too_long = json.dumps({"a": "x" * 16384})
    for text, limit in ((too_deep, "33 / 32 levels (too many)"), (too_long, "(too many)")):
        console.type(ATTRIBUTES, text)
        console.wait_for_text(limit, "[data-field=attributes]")
        console.click(SAVE)
        console.page.wait_for("[data-field=attributes] .field-error")
        assert console.value(ATTRIBUTES) == text
    assert console.row(row["id"])["version"] == 1
    console.type(ATTRIBUTES, '{"a":' * 31 + "{}" + "}" * 31)
    console.save()


# Conflicts


def make_conflict(console, **theirs):
    """Open a row, type a name, change the row elsewhere, and save."""
    row = console.create(name="base", description="base text")
    console.open_row(row["id"])
    console.type(NAME, "mine")
    console.change(row, **theirs)
    console.click(SAVE)
    return row


def test_save_mine_in_a_conflict_saves_my_field_and_keeps_the_other_fields(console):
    row = make_conflict(console, name="theirs", description="their text")
    console.wait_for_text("base", "dialog.conflict")
    console.wait_for_text("theirs", "dialog.conflict")
    console.wait_for_text("mine", "dialog.conflict")
    console.click("dialog .save-mine")
    console.wait_for_row(row["id"], name="mine", description="their text", version=3)


def test_a_field_can_keep_the_other_value_in_a_conflict(console):
    row = make_conflict(console, name="theirs")
    console.page.wait_for("dialog.conflict")
    console.click("dialog input[value=theirs]")
    console.wait_for_text("Save my choice", "dialog .save-mine")
    console.click("dialog .save-mine")
    console.wait_until_gone("dialog")
    assert console.value(NAME) == "theirs"
    console.wait_for_row(row["id"], name="theirs", version=2)


def test_take_theirs_in_a_conflict_shows_the_other_values_and_undo_brings_mine_back(console):
    row = make_conflict(console, name="theirs")
    console.click("dialog .take-theirs")
    console.wait_for_value(NAME, "theirs")
    assert console.row(row["id"])["version"] == 2
    console.click(UNDO)
    console.wait_for_value(NAME, "mine")


def test_keep_editing_in_a_conflict_keeps_the_text_and_the_next_save_asks_again(console):
    row = make_conflict(console, name="theirs")
    console.click("dialog .keep-editing")
    console.wait_until_gone("dialog")
    assert console.value(NAME) == "mine"
    console.click(SAVE)
    console.page.wait_for("dialog.conflict")
    assert console.row(row["id"])["name"] == "theirs"


def test_changes_of_different_fields_are_merged_without_a_question(console):
    row = make_conflict(console, description="their text")
    console.wait_for_row(row["id"], name="mine", description="their text", version=3)
    console.wait_for_value(DESCRIPTION, "their text")
    assert not console.page.run("!!document.querySelector('dialog')")


def test_a_row_that_was_deleted_can_be_created_again_with_what_was_typed(console):
    row = console.create(name="base", attributes={"kept": 1})
    console.open_row(row["id"])
    console.page.wait_for(FEED_IS_ON)
    console.type(NAME, "mine")
    console.delete(row)
    console.page.wait_for(".mark-deleted")
    console.page.wait_for(SAVE, "click()")  # The feed may have switched it off already.
    console.wait_for_text("Deleted since you opened it", ".panel-notices")
    assert console.value(NAME) == "mine"
    console.page.wait_until(f"!document.querySelector('{SAVE}[aria-disabled=true]')")
    with console.hold_requests(f"{PROJECTS}/{row['id']}"):
        console.click_text("Create again", ".panel-notices")
        console.wait_for_text("Saving…", ".panel-notices [aria-disabled=true]")
    console.wait_for_row(row["id"], name="mine", attributes={"kept": 1})
    console.wait_until_gone(".mark-deleted")


# No lost text


def test_an_expired_sign_in_keeps_the_form_and_saves_it_after_the_sign_in(
    signed_in, auth_headers, sql
):
    row = signed_in.create(name="base")
    signed_in.open_row(row["id"])
    signed_in.type(NAME, "mine")
    sql("UPDATE api_tokens SET revoked_at = now()")
    signed_in.click(SAVE)
    signed_in.page.wait_for("dialog.sign-in")
    assert signed_in.value(NAME) == "mine"
    signed_in.headers = auth_headers()
    signed_in.type("dialog input[type=password]", signed_in.headers["Authorization"][7:])
    signed_in.click("dialog button[type=submit]")
    signed_in.wait_for_row(row["id"], name="mine")
    signed_in.wait_until_gone("dialog")
    assert not signed_in.has_draft()


def test_a_reload_warns_and_brings_the_unsaved_text_back_without_a_token(signed_in):
    row = signed_in.create(name="base", attributes={"n": 1})
    page = signed_in.page
    signed_in.open_row(row["id"])
    signed_in.type(NAME, "mine")
    signed_in.type(ATTRIBUTES, '{"n": 1.0')
    draft = page.run("JSON.stringify(sessionStorage)")
    assert "mine" in draft
    assert signed_in.headers["Authorization"][7:] not in draft
    signed_in.reload_and_accept()
    signed_in.wait_for_text("Your unsaved changes are back", ".panel-notices")
    assert (signed_in.value(NAME), signed_in.value(ATTRIBUTES)) == ("mine", '{"n": 1.0')
    signed_in.type(ATTRIBUTES, '{"n": 1.0}')
    signed_in.save()
    assert '"n": 1.0}' in signed_in.stored_text(row["id"])
    assert not signed_in.has_draft()


def test_closing_a_form_with_unsaved_text_asks(console):
    row = console.create(name="base")
    console.open_row(row["id"])
    console.type(NAME, "mine")
    console.press("Escape")
    console.wait_for_text("You have unsaved changes", "dialog")
    console.click_text("Keep editing", "dialog")
    assert console.value(NAME) == "mine"
    console.press("Escape")
    console.click_text("Save", "dialog")
    console.wait_until_gone(".panel")
    console.wait_for_row(row["id"], name="mine")


def test_a_create_whose_answer_was_lost_is_repeated_with_the_same_key(console):
    page = console.page
    console.open_row("new")
    console.type(NAME, "once")
    lose_next_answer(page)
    console.click(SAVE)
    console.wait_for_text("The server cannot be reached", ".panel-notices")
    assert console.value(NAME) == "once"
    console.type(DESCRIPTION, "typed later")
    console.click(SAVE)
    console.wait_for_text("An earlier attempt had already been saved", ".toast")
    console.wait_for_value(DESCRIPTION, "typed later")
    console.close_toasts()
    console.save()
    [row] = console.api("GET", PROJECTS)[2]["items"]
    assert (row["name"], row["description"]) == ("once", "typed later")
    keys = {request["headers"]["idempotency-key"] for request in console.requests("POST")}
    assert len(keys) == 1
    console.open_row("new")
    console.type(NAME, "another")
    console.save()
    assert console.requests("POST")[-1]["headers"]["idempotency-key"] not in keys


def test_the_repetition_of_an_unchanged_create_stores_one_row(console):
    console.open_row("new")
    console.type(NAME, "once")
    lose_next_answer(console.page)
    console.click(SAVE)
    console.wait_for_text("The server cannot be reached", ".panel-notices")
    console.click(SAVE)
    console.wait_for_text("Created: once", ".toast.success")
    console.wait_for_id()
    [row] = console.api("GET", PROJECTS)[2]["items"]
    assert (row["name"], row["version"]) == ("once", 1)
    first, second = console.requests("POST")
    assert first["postData"] == second["postData"]
    assert first["headers"]["idempotency-key"] == second["headers"]["idempotency-key"]
    console.wait_for_value(NAME, "once")
    assert not console.has_draft()


# History and undo


def test_the_history_shows_each_change_against_the_one_before_and_restores(console):
    row = console.create(name="first", attributes={"team": "core", "big": 1})
    console.change(row, name="second")
    console.change(row, name="third", attributes={"team": "web"})
    console.open_row(row["id"], "view=history")
    console.page.wait_until("document.querySelectorAll('.change').length === 3")
    texts = console.texts(".change")
    for part in ("second", "third", "team", "core", "web"):
        assert part in texts[0]
    for part in ("first", "big"):
        assert part not in texts[0]
    for part in ("first", "second"):
        assert part in texts[1]
    assert "third" not in texts[1]
    assert len(console.texts(".change .restore")) == 2
    console.wait_for_text("Same as now", ".change")
    console.click(".change:nth-child(3) .restore")
    console.wait_for_row(row["id"], name="first", attributes={"team": "core", "big": 1}, version=4)
    console.page.wait_until("document.querySelectorAll('.change').length === 4")
    console.click(UNDO)
    console.wait_for_row(row["id"], name="third", attributes={"team": "web", "big": 1}, version=5)


def test_the_history_shows_the_row_as_it_was_at_a_time_in_the_chosen_zone(console, sql):
    console.page("Emulation.setTimezoneOverride", timezoneId="Asia/Seoul")
    row = console.create(name="first", description=None)
    # The input has whole seconds: change the row after the next one has begun.
    at = datetime.fromisoformat(row["created_at"]).replace(microsecond=0) + timedelta(seconds=1)
    until(lambda: sql("SELECT now() > %s", at)[0][0])
    console.change(row, name="second", description="later")
    console.open_row(row["id"], "view=history")
    for number, zone in enumerate((ZoneInfo("Asia/Seoul"), UTC)):
        console.page.run(f"document.querySelectorAll('.menu [name=zone]')[{number}].click()")
        show_row_as_of(console.page, at.astimezone(zone))
        console.wait_for_text("first", ".as-of-row")
        [text] = console.texts(".as-of-row")
        assert "second" not in text
        assert "later" not in text
        console.click(".as-of-row .icon-only")
        console.wait_until_gone(".as-of-row")


def test_the_history_says_that_there_was_no_row_at_a_time(console, sql):
    sql("UPDATE histories SET starts_at = '2000-01-01'")  # before that a 410
    row = console.create(name="first")
    console.open_row(row["id"], "view=history")
    show_row_as_of(console.page, datetime(2001, 1, 1))
    console.wait_for_text("The row did not exist at that time.", ".as-of .field-error")
    console.page.run("document.querySelector('.change button').click()")
    console.wait_for_text("first", ".change .row-facts")


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
    console.delete(row)
    console.page.open(f"{console.origin}/console?lang=en&id={row['id']}")
    console.wait_for_text("It was deleted", ".panel .empty")
    console.click(".panel .empty .primary")
    console.wait_for_row(row["id"], name="gone")
    assert console.value(NAME) == "gone"


def test_ctrl_z_outside_of_text_fields_undoes_a_save_and_then_a_create(console):
    console.open_row("new")
    console.type(NAME, "first")
    console.save()
    row_id = console.wait_for_id()
    console.wait_for_value(NAME, "first")
    console.type(NAME, "second")
    console.save()
    console.page.run("document.querySelector('.panel').focus()")
    console.press("z", modifiers=CTRL)
    console.wait_for_row(row_id, name="first", version=3)
    console.wait_for_value(NAME, "first")


def test_a_delete_is_undone_from_its_message_with_all_values(console):
    row = console.create(name="base", description="text", attributes={"n": 1})
    console.open_row(row["id"])
    console.click(".panel-actions .danger")
    console.wait_until_gone(".panel")
    assert console.row(row["id"]) is None
    console.click(UNDO)
    console.wait_for_row(row["id"], name="base", description="text", attributes={"n": 1})


def test_an_undo_does_not_overwrite_a_later_change(console):
    row = console.create(name="base")
    console.open_row(row["id"])
    console.type(NAME, "mine")
    console.save()
    console.change(row, name="theirs")
    console.click(UNDO)
    console.wait_for_text("It has changed since", ".toast.error")
    assert console.row(row["id"])["name"] == "theirs"


def test_a_delete_of_a_row_that_has_changed_since_is_refused(console):
    row = console.create(name="base")
    console.open_row(row["id"])
    console.change(row, name="theirs")
    console.click(".panel-actions .danger")
    console.wait_for_text("It was not deleted", ".toast.error")
    assert console.value(NAME) == "theirs"
    assert console.row(row["id"])["version"] == 2


# Keys


def test_the_keys_of_the_panel_open_edit_show_the_history_and_return_to_the_row(console):
    row = console.create(name="base")
    page = console.page
    page.open(f"{console.origin}/console?lang=en")
    page.wait_for("[role=grid] [role=row][aria-rowindex='2']")
    console.press("j")
    page.wait_for("[role=grid][aria-activedescendant]")
    console.press("Enter")
    page.wait_for(NAME)
    page.wait_until("document.activeElement.className === 'panel'")
    console.press("h")
    page.wait_for(".change")
    console.press("e")
    page.wait_until("document.activeElement.id === 'field-name'")
    page("Input.insertText", text="h")
    assert "h" in console.value(NAME)
    console.press("s", modifiers=CTRL)
    page.wait_for(".toast.success")
    assert "h" in console.row(row["id"])["name"]
    console.press("Escape")
    console.wait_until_gone(".panel")
    page.wait_until("document.activeElement.getAttribute('role') === 'grid'")
