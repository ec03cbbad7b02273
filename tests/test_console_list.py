"""The list of the console in Chromium: search, filters, scrolling, selection, export and import."""

import csv
import io
import json
import re

import pytest

from tests.conftest import PROJECTS
from tests.console import CTRL, FEED_IS_ON, NAME, ROW, SHIFT
from tests.test_serving import until

pytestmark = pytest.mark.slow

MAX_ROWS = 60
MANY_ROWS = 100_000
FIRST_LOAD_BYTES = 120 * 1024
# "번역" on a Korean keyboard: the texts that the input method composes, one after the other.
COMPOSED_TEXTS = ["ㅂ", "버", "번", "버녀", "번여", "번역"]
# Without its triggers an insert takes a tenth of the time.
INSERT_MANY = """
SET session_replication_role = replica;
INSERT INTO projects (id, name, is_active)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'Project ' || n, n %% 5 > 0
FROM generate_series(1, %s) AS n;
SET session_replication_role = origin;
"""
# Scrolls by pages, and waits until the rows there are shown and the rows near them are loaded.
SCROLL = """
const body = document.querySelector(".grid-body");
const isBusy = () => document.querySelector(".load-state").textContent !== "";
function isShown() {
  const { left, top, bottom } = body.getBoundingClientRect();
  return [top + 5, bottom - 25].every((y) =>
    document.elementFromPoint(left + 50, y)?.closest("[data-index], .gap"),
  );
}
async function scroll(pages) {
  body.scrollTop += pages * body.clientHeight;
  do await new Promise(requestAnimationFrame);
  while (isBusy() || !isShown());
}
"""


def test_an_empty_list_says_how_to_create_the_first_row(console):
    console.open()
    assert "There are no Projects yet" in console.texts(".empty")[0]
    command = console.texts(".empty pre")[0]
    assert command.startswith(f"curl '{console.origin}{PROJECTS}' ")
    console.click_text("New", ".empty")
    assert console.page.run("location.search") == "?lang=en&id=new"


def test_names_with_characters_that_nobody_would_see_are_visible_and_so_is_null(console):
    names = {"   ": "␣␣␣", "a\nb\tc": "a↵b⇥c", "<b>bold</b>": "<b>bold</b>", "x" * 200: "x" * 200}
    names |= {"\u202ecba": "⟦U+202E⟧cba", "abc\u200b": "abc⟦U+200B⟧", "\u3164": "⟦U+3164⟧"}
    names |= {"👩🏽\u200d💻": "👩🏽\u200d💻"}  # one emoji
    for name in names:
        console.create(name)
    console.open("sort=name&fields=name,description")
    assert sorted(console.texts(f"{ROW} [role=gridcell]:nth-child(2)")) == sorted(names.values())
    assert set(console.texts(f"{ROW} [role=gridcell]:nth-child(3)")) == {"none"}
    assert console.page.run("document.documentElement.scrollWidth") == 1440


def compose(page, texts):
    """Compose a text with an input method, without the key that ends its last syllable."""
    for text in texts:
        end = len(text)
        page("Input.imeSetComposition", text=text, selectionStart=end, selectionEnd=end)


def test_search_finds_korean_text_while_its_last_syllable_is_composed(console):
    console.create("번역")
    console.create("Other")
    console.open()
    console.focus(".search input")
    compose(console.page, COMPOSED_TEXTS)
    console.wait_for_names("번역")
    assert console.page.run("location.search").endswith("q=%EB%B2%88%EC%97%AD")
    console.page("Input.insertText", text="번역")
    console.press("Enter")
    assert console.value(".search input") == "번역"
    console.wait_for_texts(".count", "1 row")
    urls = [request["url"] for request in console.requests("GET") if "q=" in request["url"]]
    assert len([url for url in urls if "q=%EB%B2%88%EC%97%AD" in url]) == 1


def test_keys_do_nothing_while_a_syllable_is_composed_and_a_hangul_letter_is_the_key_of_its_place(
    console,
):
    row = console.create("base")
    console.open()
    console.focus()
    for key, number in (("Process", 229), ("j", 229), ("ㅓ", 74)):
        assert not console.texts(f"{ROW}.active")
        event = {"key": key, "code": "KeyJ", "windowsVirtualKeyCode": number}
        console.page("Input.dispatchKeyEvent", type="keyDown", **event)
        console.page("Input.dispatchKeyEvent", type="keyUp", **event)
    console.page.wait_for(f"{ROW}.active")
    console.press("Enter")
    console.type(NAME, "")
    compose(console.page, COMPOSED_TEXTS)
    console.press("Enter", "s", modifiers=CTRL)
    console.press("Escape")
    assert console.value(NAME) == "번역"
    assert not console.has("dialog")
    assert console.requests("PUT") == []
    console.page("Input.insertText", text="번역")
    console.press("s", modifiers=CTRL)
    console.wait_for_row(row["id"], name="번역", version=2)
    assert len(console.requests("PUT")) == 1


def test_typing_a_search_makes_one_entry_in_the_history(console):
    console.create("Alpha")
    console.create("Beta")
    console.open("sort=name")
    entries = console.page.run("history.length")
    console.focus(".search input")
    for letters in ("al", "alp", "alph"):
        console.press(*letters[-1 if letters != "al" else 0 :])
        console.page.wait_until(f"new URLSearchParams(location.search).get('q') === '{letters}'")
    assert console.page.run("history.length") == entries + 1
    console.page.run("history.back()")
    console.wait_for_names("Alpha", "Beta")
    assert console.page.run("document.querySelector('.search input').value") == ""


def test_a_search_without_a_match_offers_to_clear_it(console):
    console.create("Alpha")
    console.open("q=nothing&is_active=true")
    assert "Nothing matches" in console.texts(".empty")[0]
    console.click_text("Clear search and filters")
    console.wait_for_names("Alpha")
    assert console.page.run("location.search") == "?lang=en"


def test_an_unknown_filter_in_the_url_is_an_error_with_a_way_out(console):
    console.create("Alpha")
    console.open("colour=red")
    assert "colour" in console.texts(".empty .detail")[0]
    console.click_text("Clear search and filters")
    console.wait_for_names("Alpha")


def test_filters_of_each_type_are_in_the_url_and_in_the_request(console):
    console.create("Core", attributes={"team": "core"})
    console.create("Web", attributes={"team": "web"}, is_active=False)
    console.open("sort=name")
    console.click_text("Add filter", ".filters")
    console.click_text("Attributes", ".menu-list")
    console.page.wait_for(".filter-form textarea", 'value = \'{"team": "web"}\'')
    console.click_text("Apply")
    console.wait_for_names("Web")
    console.click_text("Add filter", ".filters")
    console.click_text("Created", ".menu-list")
    console.page.wait_for(".filter-form input", "value = '2020-01-31T00:00'")
    console.click_text("Apply")
    console.page.wait_until("location.search.includes('created_at')")
    console.click_text("Add filter", ".filters")
    console.click_text("Active", ".menu-list")
    console.page.wait_for(".filter-form select", "value = 'true'")
    console.click_text("Apply")
    console.page.wait_for(".empty")
    parameters = console.page.run("[...new URLSearchParams(location.search)].map(p => p.join('='))")
    assert {'attributes={"team":"web"}', "is_active=true"} < {*parameters}
    assert any(re.fullmatch(r"created_at\[gte\]=2020-01-\d\dT.*Z", p) for p in parameters)
    console.page.wait_for('[aria-label="Remove the filter Active"]', "click()")
    console.wait_for_names("Web")


def test_an_invalid_json_filter_is_not_sent(console):
    console.create()
    console.open()
    console.click_text("Add filter", ".filters")
    console.click_text("Attributes", ".menu-list")
    messages = {"{": "Line 1, column 2: a closing bracket", "[1]": "It must be a JSON object"}
    for text, message in messages.items():
        console.page.wait_for(".filter-form textarea", f"value = '{text}'")
        console.click_text("Apply")
        console.wait_for_text(message, ".filter-form [role=alert]")
    assert "attributes" not in console.page.run("location.search")


def test_a_header_sorts_the_list_and_says_so(console):
    for name in ("Beta", "Alpha"):
        console.create(name)
    console.open()
    console.wait_for_names("Alpha", "Beta")  # the newest first
    header = ".grid-head [role=columnheader]:nth-child(2)"
    for direction, names in (("ascending", ["Alpha", "Beta"]), ("descending", ["Beta", "Alpha"])):
        console.page.wait_for(f"{header} button", "click()")
        console.wait_for_names(*names)
        assert console.page.wait_for(header, "getAttribute('aria-sort')") == direction


def test_100_000_rows_are_searched_and_scrolled_with_at_most_60_rows_in_the_document(console, sql):
    sql(INSERT_MANY, MANY_ROWS)
    sql("ANALYZE projects")
    console.open("sort=created_at")
    assert re.fullmatch(r"about 1?[09]\d,\d{3} rows", console.texts(".count")[0])
    most_rows = console.page.run(
        f"""(async () => {{
          {SCROLL}
          let most = 0;
          let last = 0;
          while (last < 2000) {{
            await scroll(1);
            const rows = document.querySelectorAll("[role=row]");
            most = Math.max(most, rows.length);
            last = Number([...rows].at(-1).getAttribute("aria-rowindex"));
          }}
          return most;
        }})()"""
    )
    assert 20 < most_rows <= MAX_ROWS
    console.type(".search input", "99999")
    console.wait_for_names("Project 99999")
    console.wait_for_texts(".count", "1 row")


def test_end_and_home_jump_over_the_rows_that_are_not_loaded(console, sql):
    sql(INSERT_MANY, 1000)
    console.open("sort=name")
    console.focus()
    console.press("End")
    last = sql("SELECT name FROM projects ORDER BY name DESC, id DESC LIMIT 1")[0][0]
    console.wait_for_text(last, ".active")
    assert console.page.wait_for(".active", "getAttribute('aria-rowindex')") == "1001"
    # Up from the end, through the gap, to the first row: every row comes once.
    names = console.page.run(
        f"""(async () => {{
          {SCROLL}
          const names = new Map();
          for (let isFirst = false; !isFirst; await scroll(-0.5)) {{
            isFirst = body.scrollTop === 0;
            for (const row of document.querySelectorAll(".grid-body [data-index]")) {{
              const name = row.querySelector("[role=gridcell]:nth-child(2)").textContent;
              names.set(Number(row.getAttribute("aria-rowindex")), name);
            }}
          }}
          return [...names].sort((a, b) => a[0] - b[0]).map((pair) => pair[1]);
        }})()"""
    )
    assert names == [row[0] for row in sql("SELECT name FROM projects ORDER BY name, id")]


def test_the_first_load_with_100_rows_transfers_at_most_120_kib(console):
    row = {"name": "번역 Translation " * 3, "description": "Every page in Korean and English"}
    console.api("POST", PROJECTS, [row] * 100)
    console.open("", FEED_IS_ON)
    console.page.wait_for(ROW)
    urls, sizes = {}, {}
    for event in console.page.events:
        parameters = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            urls[parameters["requestId"]] = parameters["request"]["url"]
        elif event["method"] == "Network.loadingFinished":
            sizes[urls[parameters["requestId"]]] = parameters["encodedDataLength"]
    assert [url for url in sizes if "page_size=100" in url]
    assert sum(sizes.values()) <= FIRST_LOAD_BYTES, sizes  # with the headers
    assert len(console.texts("[role=row]")) <= MAX_ROWS


def test_the_keys_move_select_and_open(console):
    for name in ("C", "B", "A"):
        console.create(name)
    console.open("sort=name")
    console.focus()
    console.press("j", "j", "k", "x", "ArrowDown", " ")
    assert console.texts(f"{ROW}[aria-selected=true] bdi") == ["A", "B"]
    console.press("ArrowDown", modifiers=SHIFT)
    console.wait_for_text("3 selected", ".selection")
    console.press("Escape")
    console.page.wait_until("document.querySelectorAll('[aria-selected=true]').length === 0")
    console.press("Home", "Enter")
    console.page.wait_until("new URLSearchParams(location.search).get('id')")
    assert console.texts(f"{ROW}[aria-current] bdi") == ["A"]


def test_archiving_selected_rows_changes_these_and_can_be_undone(console):
    for name in ("A", "B", "C"):
        console.create(name)
    console.open("sort=name")
    console.focus()
    console.press("j", "x", "j", "x")
    console.wait_for_text("2 selected", ".selection")
    console.click_text("Archive")
    console.wait_for_text("2 rows were changed.")
    projects = console.rows()
    assert [(p["is_active"], p["version"]) for p in projects] == [(False, 2), (False, 2), (True, 1)]
    console.click_text("Undo")
    console.wait_for_text("Undone: 2 rows were changed.")
    assert [p["is_active"] for p in console.rows()] == [True] * 3


def test_a_row_that_somebody_changed_is_not_archived_and_the_others_are(console):
    rows = [console.create(f"P{n:02}") for n in range(50)]
    console.open("sort=name")
    console.focus()
    console.page.wait_for(".grid-head input", "click()")
    console.wait_for_text("50 selected", ".selection")
    console.change(rows[7], name="P07 changed")
    console.click_text("Archive")
    console.wait_for_text("49 of 50 done, 1 failed")
    assert console.texts(".failures bdi") == ["P07 changed"]
    assert [p["id"] for p in console.rows() if p["is_active"]] == [rows[7]["id"]]
    console.click_text("Close", ".dialog-foot")
    console.wait_for_text("1 selected", ".selection")
    console.click_text("Archive")  # now with the version that the list shows
    console.wait_for_text("1 row was changed.")
    assert not any(p["is_active"] for p in console.rows())


def test_deleting_selected_rows_asks_first_and_keeps_a_changed_row(console):
    rows = [console.create(name) for name in ("A", "B", "C")]
    console.open("sort=name")
    console.focus()
    console.press("j", "x", "j", "x")
    console.wait_for_text("2 selected", ".selection")
    console.change(rows[1], name="B2")
    console.click_text("Delete", ".selection")
    console.click_text("Delete 2 rows")
    console.wait_for_text("1 of 2 done, 1 failed")
    assert [p["name"] for p in console.rows()] == ["B2", "C"]
    console.click_text("Close", ".dialog-foot")
    console.wait_for_names("B2", "C")
    console.page.run("document.activeElement.blur()")
    console.press("z", modifiers=CTRL)
    console.wait_for_names("A", "B2", "C")


def test_a_search_clears_the_selection(console):
    for name in ("Alpha", "Beta"):
        console.create(name)
    console.open("sort=name")
    console.focus()
    console.press("j", "x")
    console.wait_for_text("1 selected", ".selection")
    console.focus(".search input")
    console.press(*"Beta")
    console.wait_for_names("Beta")
    assert console.page.run("document.querySelector('.selection').hidden")


def test_export_saves_what_the_list_shows(console, tmp_path):
    for name in ("한글, 쉼표", "b 한글", "Other"):
        console.create(name)
    console.create("Archived 한글", is_active=False)
    folder = {"downloadPath": str(tmp_path), **console.page.context}
    console.page("Browser.setDownloadBehavior", behavior="allow", **folder)
    console.open("q=한글&is_active=true&sort=-name")
    console.wait_for_names("한글, 쉼표", "b 한글")
    console.click_text("Export/Import")
    console.click_text("Export as CSV (Excel)")
    console.wait_for_text("2 rows were saved")
    until(lambda: [*tmp_path.glob("projects-*.csv")])
    [path] = tmp_path.glob("projects-*.csv")
    text = path.read_bytes().decode()
    assert text.startswith("\ufeffid,name,")
    assert [row["name"] for row in csv.DictReader(io.StringIO(text))] == ["한글, 쉼표", "b 한글"]


def test_an_export_that_ends_too_early_is_no_file(console):
    console.create()
    console.open()
    # The body of the answer breaks off after its first bytes.
    console.page.run(
        """(() => {
          const fetchNow = window.fetch;
          window.fetch = async (url, options) => {
            if (!String(url).includes("/export")) return fetchNow(url, options);
            let isFirst = true;
            const body = new ReadableStream({
              pull(controller) {
                if (isFirst) controller.enqueue(new TextEncoder().encode("id,name\\r\\n"));
                else controller.error(new TypeError("network error"));
                isFirst = false;
              },
            });
            return new Response(body, { status: 200 });
          };
        })()"""
    )
    console.click_text("Export/Import")
    console.click_text("Export as NDJSON")
    console.wait_for_text("The download ended too early, so no file was saved.")


def test_import_reports_errors_by_line_and_imports_the_corrected_lines_alone(
    console, sql, tmp_path
):
    lines = [json.dumps({"name": f"P{n:04}"}) for n in range(2500)]
    lines[1500] = '{"name": ""}'
    lines[1501] = '{"name": "no end'
    path = tmp_path / "projects.ndjson"
    path.write_text("\n".join(lines) + "\n")
    console.open()
    console.choose_file(path)
    console.click_text("Import 2,500 rows")
    console.wait_for_text("2,498 of 2,500 rows were imported, 2 have errors.")
    assert console.texts(".failures label") == ["Row 1501", "Row 1502"]
    assert sql("SELECT count(*) FROM projects") == [(2498,)]
    script = (
        'value = \'{"name": "Corrected"}\';'
        " document.querySelector('.failures textarea')"
        ".dispatchEvent(new Event('input', {bubbles: true}))"
    )
    console.page.wait_for(".failures textarea", script)
    console.click_text("Import 1 corrected row")
    console.wait_for_text("1 of 1 rows were imported, 0 have errors.")
    assert sql("SELECT count(*) FROM projects") == [(2499,)]
    assert console.api("GET", f"{PROJECTS}?name=Corrected")[2]["total"] == 1


def test_import_that_the_page_did_not_finish_stores_no_row_twice(console, sql, tmp_path):
    path = tmp_path / "projects.csv"
    rows = [f'"Name ""{n}""\nsecond line",true\r\n' for n in range(1500)]
    path.write_text("name,is_active\r\n" + "".join(rows), newline="")
    console.open()
    # The server has stored the first part, but its answer is lost, and then the page closes.
    console.page.run(
        """(() => {
          const fetchNow = window.fetch;
          window.fetch = async (url, options) => {
            const answer = await fetchNow(url, options);
            if (options?.method === "POST") throw new TypeError("network error");
            return answer;
          };
        })()"""
    )
    console.choose_file(path)
    console.click_text("Import 1,500 rows")
    console.wait_for_text("Continue sends this part again.")
    assert sql("SELECT count(*) FROM projects") == [(1000,)]
    console.open()
    console.choose_file(path)
    console.click_text("Import 1,500 rows")
    console.wait_for_text("1,500 of 1,500 rows were imported, 0 have errors.")
    assert "1,000 of them were stored by an earlier, interrupted import." in (
        console.page.wait_for("dialog", "innerText")
    )
    names = {name for (name,) in sql("SELECT name FROM projects")}
    assert names == {f'Name "{n}"\nsecond line' for n in range(1500)}
    assert sql("SELECT count(*) FROM projects") == [(1500,)]
    # A complete import can be repeated on purpose.
    console.click_text("Close", ".dialog-foot")
    console.choose_file(path)
    console.click_text("Import 1,500 rows")
    console.wait_for_text("1,500 of 1,500 rows were imported, 0 have errors.")
    assert sql("SELECT count(*) FROM projects") == [(3000,)]


def test_import_of_a_json_array_keeps_all_digits(console, sql, tmp_path):
    path = tmp_path / "projects.json"
    path.write_text('[{"name": "Big",\n "attributes": {"n": 12345678901234567890, "f": 1.0}}]')
    console.open()
    console.choose_file(path)
    console.click_text("Import 1 row")
    console.wait_for_text("1 of 1 rows were imported")
    [(text,)] = sql("SELECT attributes::text FROM projects")
    assert "12345678901234567890" in text
    assert "1.0" in text


def test_import_reads_korean_csv_that_is_not_utf_8(console, sql, tmp_path):
    path = tmp_path / "projects.csv"
    path.write_bytes("name\r\n번역\r\n".encode("cp949"))
    console.open()
    console.choose_file(path)
    console.wait_for_text("EUC-KR")
    console.click_text("Import 1 row")
    console.wait_for_text("1 of 1 rows were imported")
    assert sql("SELECT name FROM projects") == [("번역",)]
