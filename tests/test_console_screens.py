"""Every screen of the console in Chromium: axe-core, narrow screens, and pictures.

A walk shows the screens one after the other, with the data of a small company. At each screen it
switches the language, the theme and the width in place. It makes the pictures that the
documentation shows, in a temporary folder. Two settings of the environment keep them:

    CONSOLE_PICTURES=docs/console   these pictures
    CONSOLE_PICTURES=FOLDER         all screens in both languages, both themes and both widths
"""

import base64
import json
import os
import re
from pathlib import Path

import pytest

import config
from tests import browser as browser_module
from tests.accessibility import AXE, check_narrow, read_axe, run_axe, run_axe_on_colors
from tests.console import ATTRIBUTES, CTRL, DESCRIPTION, FEED_IS_ON, NAME, PROJECTS, SAVE, Console

ROOT = config.ROOT
PICTURES = ROOT / "docs" / "console"
# A picture in a document: the screen, the language, the theme and the width.
PICTURE = re.compile(r"console/([\w-]+-(?:ko|en)-(?:light|dark)-\d+\.webp)")
DOCUMENTS = ("README.md", "README.ko.md", "docs/console.md")
DOCUMENT_WIDTH = 1200  # wide pictures in documents, whose text stays readable there
HEIGHTS = {1440: 900, DOCUMENT_WIDTH: 750, 360: 740}  # of pictures, by their width
WIDE, NARROW = (1440, 900), (320, 640)
WEBP_QUALITY = 70
LANGUAGES, THEMES = ("en", "ko"), ("light", "dark")
POPOVER = ".popover:popover-open"

WRITER = "projects:read,projects:write,projects:all,metrics:read"
LONG_NAME = (
    "Quarterly compliance report for the European subsidiaries, including the annexes of the "
    "external auditors and the translations into Korean, German and Polish (번역본 포함)"
)
# (caller, name, description, is_active, team)
ROWS = [
    (
        "haneul.kim",
        "서울시 공공데이터 포털 개편",
        "검색과 지도 화면을 새로 만듭니다.",
        True,
        "core",
    ),
    ("haneul.kim", "모바일 결제 연동", None, True, "payments"),
    ("minjun.lee", "Data warehouse migration", "Move 14 TB to the new region.", True, "data"),
    ("sofia.rossi", "Website relaunch", "New design, same URLs.", True, "web"),
    ("sofia.rossi", "Newsletter 2025", "", False, "web"),
    ("minjun.lee", "번역 메모리 서버", "한국어와 영어 문장 300만 쌍", True, "core"),
    ("ci-import", LONG_NAME, "Every year in March.", True, "finance"),
    ("haneul.kim", "고객센터 챗봇 시범 운영", None, False, "support"),
    ("minjun.lee", "Search quality", "Measure it before anything is changed.", True, "core"),
    ("sofia.rossi", "접근성 점검", "WCAG 2.2 AA", True, "web"),
    ("ci-import", "Inventory sync", None, True, "finance"),
    ("haneul.kim", "사내 위키 이전", "문서 4,200개", False, "support"),
    ("minjun.lee", "Load tests", None, True, "core"),
    ("sofia.rossi", "Photo archive", "Originals from 1998 on.", False, "web"),
    ("haneul.kim", "개인정보 처리방침 개정", "2027년 1월 시행", True, "legal"),
    ("ci-import", "Partner price lists", None, True, "finance"),
    ("minjun.lee", "Backup drill", "Restore into an empty server.", True, "core"),
    ("sofia.rossi", "봄 캠페인", "배너 12종, 영상 2편", True, "web"),
    ("haneul.kim", "Office move", None, False, "support"),
    ("minjun.lee", "로그 보관 기간 단축", "90일에서 30일로", True, "data"),
    ("ci-import", "Currency rates", "ECB, every day at 16:00 CET.", True, "finance"),
    ("sofia.rossi", "Design tokens", None, True, "web"),
    ("haneul.kim", "신입 교육 자료", "첫 2주 일정", True, "support"),
    ("minjun.lee", "Query plans", "Watch the slowest ten.", True, "data"),
    ("sofia.rossi", "브랜드 가이드라인 3.0", None, True, "web"),
    ("ci-import", "Warehouse Busan", "Opens in May.", True, "finance"),
]
BUDGET = {"amount": 125000000, "currency": "KRW", "approved": True}

# The rows are those of the last weeks before a fixed day, so that the pictures show the same times.
SET_TIMES = """
SET session_replication_role = replica;
UPDATE projects SET created_at = times.at, updated_at = times.at + interval '50 minutes'
FROM (
  SELECT id, timestamptz '2026-11-27 08:10+00' - interval '29 hours 17 minutes'
    * row_number() OVER (ORDER BY created_at DESC) AS at
  FROM projects
) AS times
WHERE times.id = projects.id;
RESET session_replication_role
"""

# Requests whose URL has one of these parts get this answer: {part: [status, headers, body]}.
FAKE_ANSWERS = """
window.answers = {};
const fetchNow = window.fetch;
window.fetch = (url, options) => {
  const part = Object.keys(window.answers).find((part) => String(url).includes(part));
  if (!part) return fetchNow(url, options);
  const [status, headers, body] = window.answers[part];
  return Promise.resolve(new Response(JSON.stringify(body), { status, headers }));
};
"""
BUSY = [503, {"Retry-After": "600"}, {"error": "database_unavailable"}]
NO_FEED = json.dumps({f"{PROJECTS}/changes": BUSY})
# The charts read the metrics every five seconds.
FAST_CHARTS = """
const setTimeoutNow = window.setTimeout;
window.setTimeout = (run, delay, ...rest) =>
  setTimeoutNow(run, delay === 5000 ? 60 : delay, ...rest);
"""
SETTLED = """
new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve(true))))
"""
CLICK_LANGUAGE = "document.querySelector('#menu [lang={}]').click()"


class Walk(Console):
    """A console whose screens are checked one after the other."""

    def __init__(self, page, server, folder, *, takes_all):
        super().__init__(page, server)
        self.folder, self.takes_all = folder, takes_all
        self.documented = documented_pictures()
        self.failures, self.names, self.screens = [], set(), []
        page("Emulation.setTimezoneOverride", timezoneId="Asia/Seoul")
        page("Page.addScriptToEvaluateOnNewDocument", source=FAKE_ANSWERS)
        self.set_theme("light")

    def resize(self, width, height):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.page("Emulation.setDeviceMetricsOverride", **size)

    def set_theme(self, theme):
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.page("Emulation.setEmulatedMedia", features=features)

    def set_language(self, language):
        self.page.run(CLICK_LANGUAGE.format(language))
        self.page.wait_until(f"document.documentElement.lang === '{language}'")

    def click_row(self, row_id):
        """Load the list, and click a row: the panel gets no visible focus as it does by a key."""
        self.open(wait_for=f"#row-{row_id}")
        box = self.page.wait_for(f"#row-{row_id} .text", "getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + 8, "y": box["y"] + 8, "button": "left", "clickCount": 1}
        for event in ("mousePressed", "mouseReleased"):
            self.page("Input.dispatchMouseEvent", type=event, **at)
        self.page.wait_for(NAME)

    def visit(self, screen):
        """Check the screen that is shown, in all languages, themes and widths."""
        assert screen not in self.screens
        # A dialog opens after it is in the document.
        overlays = "[...document.querySelectorAll('dialog, :popover-open')]"
        self.page.wait_until(f"{overlays}.every((element) => element.checkVisibility())")
        self.screens.append(screen)
        for language in LANGUAGES:
            if language != LANGUAGES[0]:
                self.set_language(language)
            self.note(f"{screen}, {language}", run_axe(self.page))
            for theme in THEMES:
                self.set_theme(theme)
                self.page.run(SETTLED)
                self.note(f"{screen}, {language}, {theme}", run_axe_on_colors(self.page))
                for width in HEIGHTS:
                    self.take_picture(f"{screen}-{language}-{theme}-{width}.webp", width)
        # These checks move the focus and scroll, so they come after all pictures.
        self.resize(*NARROW)
        for language in reversed(LANGUAGES):
            self.set_language(language)
            self.page.run(SETTLED)
            self.note(f"{screen}, {language}, narrow", check_narrow(self.page))
        self.set_theme("light")
        self.resize(*WIDE)
        self.page.run(SETTLED)

    def note(self, where, problems):
        self.failures += [f"{where}: {problem}" for problem in problems]

    def take_picture(self, name, width):
        """Take a picture of the screen if it is wanted."""
        self.names.add(name)
        if name not in self.documented and (not self.takes_all or width == DOCUMENT_WIDTH):
            return
        self.resize(width, HEIGHTS[width])
        self.page.run(SETTLED)
        picture = self.page("Page.captureScreenshot", format="webp", quality=WEBP_QUALITY)
        (self.folder / name).write_bytes(base64.b64decode(picture["data"]))
        self.resize(*WIDE)

    # The actions of a user

    def type_token(self, headers):
        token = headers["Authorization"].removeprefix("Bearer ")
        self.type("dialog input[type=password]", token)
        self.click("dialog button[type=submit]")
        self.wait_until_gone("dialog.sign-in")

    def close_popover(self):
        self.page.run("document.querySelector(':popover-open').hidePopover()")

    def close_dialog(self):
        self.page.wait_for("dialog:modal")
        self.press("Escape")
        self.wait_until_gone("dialog")

    def select_rows(self, *numbers):
        for number in numbers:
            self.click(f".grid-body [aria-rowindex='{number + 1}'] .cell.select")
        self.wait_for_text(f"{len(numbers)} selected", ".selection")

    def open_menu(self, within, text):
        self.click_text(text, within)
        self.page.wait_for(f"{POPOVER} button")


class Company:
    """The callers and their rows."""

    def __init__(self, server, auth_headers):
        self.server, self.auth_headers = server, auth_headers
        self.headers = {caller: self.new_headers(caller) for caller in {row[0] for row in ROWS}}
        self.rows = {}

    def new_headers(self, caller, scopes=WRITER):
        return self.auth_headers(caller, scopes)

    def write(self, caller, method, row_id="", body=None):
        path = f"{PROJECTS}/{row_id}" if row_id else PROJECTS
        status, _, row = self.server.request(method, path, body, **self.headers[caller])
        assert status in (200, 201, 204), row
        return row

    def create_rows(self):
        for caller, name, description, is_active, team in ROWS:
            body = {"name": name, "description": description, "is_active": is_active}
            body["attributes"] = {"team": team, "budget": BUDGET} if is_active else {}
            self.rows[name] = self.write(caller, "POST", body=body)["id"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the pictures. All pictures take minutes on a busy computer."""
    monkeypatch.setattr(browser_module, "DEADLINE_SECONDS", 900)
    folder = Path(os.environ.get("CONSOLE_PICTURES", tmp_path)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def documented_pictures():
    """Return the names of the pictures that the documents show."""
    texts = [(ROOT / document).read_text() for document in DOCUMENTS]
    return {name for text in texts for name in PICTURE.findall(text)}


def test_the_documents_show_each_picture_that_exists_and_no_other():
    assert documented_pictures() == {path.name for path in PICTURES.iterdir()}


def test_axe_is_the_published_file_and_has_its_licence():
    read_axe()  # compares its SHA-256
    licence = AXE.with_name("axe.LICENSE").read_text()
    assert licence.startswith("Mozilla Public License, version 2.0")


@pytest.mark.slow
def test_no_screen_has_a_violation_and_the_documented_pictures_are_of_these_screens(
    folder, browser, serve, sql, auth_headers, tmp_path
):
    takes_all = folder not in (tmp_path, PICTURES)
    with serve(AUTH="tokens", WEB_CONCURRENCY="1") as server:
        company = Company(server, auth_headers)
        walk = Walk(browser, server, folder, takes_all=takes_all)
        walk.headers = company.headers["haneul.kim"]
        show_sign_in(walk)
        company.create_rows()
        sql(SET_TIMES)
        show_list(walk, company, tmp_path)
        sql("DELETE FROM projects WHERE name LIKE 'Shop %%'")
        show_panel(walk, company)
        show_history(walk, company)
        show_live_and_charts(walk, company)
        show_frame(walk)
        show_interruptions(walk, company, sql)
        show_other_callers(walk, company)
        assert walk.errors() == []
    assert "\n".join(walk.failures) == ""
    assert walk.documented - walk.names == set()


def show_sign_in(walk):
    walk.open(wait_for="dialog.sign-in")
    walk.visit("sign-in")
    walk.type("dialog input[type=password]", "not-a-token")
    walk.click("dialog button[type=submit]")
    walk.page.wait_for("dialog .field-error:not(:empty)")
    walk.visit("sign-in-refused")
    walk.type_token(walk.headers)
    walk.page.wait_for(".list .empty")
    walk.visit("list-empty")


def show_list(walk, company, tmp_path):
    page, rows = walk.page, company.rows
    walk.open(wait_for=FEED_IS_ON)
    page.wait_for(f"#row-{rows['Warehouse Busan']}")
    walk.visit("list")
    walk.click(".toolbar-actions .icon-only")
    page.wait_for(f"{POPOVER} input")
    walk.visit("list-columns")
    walk.close_popover()

    walk.select_rows(2, 3, 4, 6)
    company.write("minjun.lee", "PATCH", rows["브랜드 가이드라인 3.0"], {"description": "초안"})
    company.write("sofia.rossi", "DELETE", rows["Warehouse Busan"])
    page.wait_for(".mark-deleted")
    page.wait_for(".mark-changed")
    walk.visit("list-selection")
    walk.click(".selection .danger")
    page.wait_for("dialog")
    walk.visit("bulk-delete")
    walk.close_dialog()
    walk.click_text("Archive", ".selection")
    page.wait_for("dialog .failures")
    walk.visit("bulk-failures")
    walk.click("dialog .dialog-foot .primary")
    walk.click(".selection .quiet")
    walk.close_toasts()

    walk.open_menu(".toolbar-actions", "Export/Import")
    walk.visit("files-menu")
    walk.click_text("Export as CSV (Excel)", POPOVER)
    walk.wait_for_text("rows were saved", "dialog")
    walk.visit("export")
    walk.close_dialog()
    path = tmp_path / "projects.csv"
    lines = [f"Shop {number},true" for number in range(40)]
    lines[6] = ",true"
    lines[18] = "Shop 18,perhaps"
    path.write_text("name,is_active\n" + "\n".join(lines) + "\n")
    walk.choose_file(path)
    walk.wait_for_text("40 rows", "dialog")
    walk.visit("import-file")
    walk.click("dialog .primary")
    page.wait_for("dialog .failures textarea:not([readonly])")
    walk.visit("import-errors")
    walk.close_dialog()

    walk.open_menu(".filters", "Add filter")
    walk.visit("filter-menu")
    walk.click_text("Created", POPOVER)
    page.wait_for(".filter-form input", "value = '2026-01-31T00:00'")
    walk.visit("filter-form")
    walk.click(".filter-form .primary")
    walk.open_menu(".filters", "Add filter")
    walk.click_text("Attributes", POPOVER)
    page.wait_for(".filter-form textarea", "value = '{\"team\"'")
    walk.click(".filter-form .primary")
    page.wait_for(".filter-form .field-error")
    walk.visit("filter-error")
    page.wait_for(".filter-form textarea", 'value = \'{"team": "core"}\'')
    walk.click(".filter-form .primary")
    page.wait_for(f".grid:not(.stale) #row-{rows['Search quality']}")
    walk.visit("list-filtered")
    walk.open("q=nothing+like+this&is_active=true")
    page.wait_for(".list .empty")
    walk.visit("nothing-found")
    walk.open("colour=red")
    page.wait_for(".list .empty .detail")
    walk.visit("list-error")


def show_panel(walk, company):
    page, rows = walk.page, company.rows
    walk.click_row(rows["Data warehouse migration"])
    walk.visit("panel")
    walk.type(DESCRIPTION, "Move 14 TB to the new region until the end of March.\nNo downtime.")
    company.write("minjun.lee", "PATCH", rows["Data warehouse migration"], {"is_active": False})
    walk.wait_for_text("minjun.lee", ".panel-notices")
    walk.visit("panel-edit")
    walk.press("Escape")
    page.wait_for("dialog")
    walk.visit("panel-leaving")
    walk.close_dialog()
    walk.type(NAME, "x" * 201)
    walk.click(SAVE)
    page.wait_for("[data-field=name] .field-error")
    walk.visit("panel-field-error")
    walk.type(NAME, "Data warehouse migration")
    walk.type(ATTRIBUTES, '{\n  "team": "data",\n  "budget": tru\n}')
    walk.click(SAVE)
    page.wait_for("[data-field=attributes] .field-error")
    walk.visit("panel-json-error")
    walk.click_text("Discard changes", ".panel-actions")
    walk.type(NAME, "Data warehouse migration 2027")
    walk.save()
    walk.visit("panel-saved")
    walk.close_toasts()

    walk.click(".toolbar-actions .primary")
    page.wait_until(f"document.querySelector('{NAME}')?.value === ''")
    walk.visit("panel-new")

    walk.open_row(rows["모바일 결제 연동"])
    page.wait_for(FEED_IS_ON)
    walk.type(NAME, "모바일 결제 연동 (2차)")
    walk.type(ATTRIBUTES, '{"team": "payments", "partners": ["Kakao", "Naver"]}')
    theirs = {
        "name": "Mobile payments",
        "description": "계약 검토 중",
        "attributes": {"team": "legal"},
    }
    company.write("sofia.rossi", "PATCH", rows["모바일 결제 연동"], theirs)
    walk.click(SAVE)
    page.wait_for("dialog.conflict")
    page.wait_until("!!document.querySelector('dialog.conflict time')")
    walk.visit("conflict")
    walk.close_dialog()
    company.write("sofia.rossi", "DELETE", rows["모바일 결제 연동"])
    walk.wait_for_text("Deleted since you opened it", ".panel-notices")
    walk.visit("panel-deleted")
    walk.click_text("Discard changes", ".panel-actions")
    walk.open(f"id={rows['모바일 결제 연동']}")
    walk.wait_for_text("It was deleted", ".panel .empty")
    walk.visit("panel-missing")


def show_history(walk, company):
    page, row_id = walk.page, company.rows["번역 메모리 서버"]
    changes = [
        ("haneul.kim", {"description": "한국어와 영어 문장 310만 쌍"}),
        ("sofia.rossi", {"attributes": {"budget": {"amount": 98000000}, "reviewed": True}}),
        ("ci-import", {"is_active": False}),
    ]
    for caller, change in changes:
        company.write(caller, "PATCH", row_id, change)
    walk.click_row(row_id)
    walk.click(".panel-views button:nth-child(2)")
    page.wait_until("document.querySelectorAll('.change').length === 4")
    walk.visit("history")
    walk.click(".change .change-actions .button")
    page.wait_for(".change .row-facts")
    page.wait_for(
        ".as-of input",
        "value = '2001-01-01T00:00:00';"
        " document.querySelector('.as-of input')"
        ".dispatchEvent(new Event('input', {bubbles: true}))",
    )
    walk.click(".as-of .button")
    page.wait_for(".as-of .field-error")
    walk.visit("history-as-of")


def show_live_and_charts(walk, company):
    page, rows = walk.page, company.rows
    walk.open(wait_for=FEED_IS_ON)  # The live view has the names of deleted rows from the list.
    page.wait_for(f"#row-{rows['Load tests']}")
    walk.click(".views a:nth-child(2)")
    page.wait_for(".live .empty")
    walk.visit("live-empty")
    changes = [
        ("haneul.kim", "POST", "", {"name": "가을 학회 발표"}),
        ("sofia.rossi", "PATCH", "봄 캠페인", {"name": "봄 캠페인 2027", "description": None}),
        ("ci-import", "PATCH", LONG_NAME, {"attributes": {"pages": 412}}),
        ("ci-import", "PATCH", "Currency rates", {"description": "ECB, every day at 17:00 CET."}),
        ("minjun.lee", "DELETE", "Load tests", None),
        ("sofia.rossi", "POST", "", {"name": "Trade fair Seoul"}),
        ("minjun.lee", "PATCH", "로그 보관 기간 단축", {"attributes": {"days": 14}}),
        ("haneul.kim", "PATCH", "개인정보 처리방침 개정", {"is_active": False}),
        ("minjun.lee", "PATCH", "Query plans", {"name": "Query plans, part 2"}),
    ]
    for caller, method, name, body in changes:
        company.write(caller, method, rows.get(name, ""), body)
    company.write("haneul.kim", "POST", f"{rows['Load tests']}/restore", {"version": 1})
    page.wait_until("document.querySelectorAll('.live-entry').length === 10")
    walk.click(".live [aria-pressed]")
    company.write("haneul.kim", "PATCH", rows["Office move"], {"is_active": True})
    page.wait_for(".live-new button")
    walk.visit("live")

    page.run(FAST_CHARTS)
    page.run("document.querySelector('.views a:nth-child(3)').click()")
    page.wait_for(".chart-plot")
    for number in range(1, 25):
        status = 404 if number % 6 == 0 else 200
        path = f"{PROJECTS}?page_size={number}" if status == 200 else "/missing"
        assert walk.api("GET", path)[0] == status
    page.wait_until("document.querySelectorAll('.chart:first-child tbody tr').length > 20")
    walk.visit("charts")
    page.wait_for(".chart details", "open = true")
    walk.visit("charts-table")


def show_frame(walk):
    page = walk.page
    walk.open()
    page.wait_for("[role=grid]")
    walk.click(".menu-button")
    page.wait_for("#menu:popover-open")
    walk.visit("menu")
    walk.close_popover()
    walk.press("k", modifiers=CTRL)
    page.wait_for("dialog.palette [role=option]")
    walk.visit("palette")
    walk.close_dialog()
    walk.press("?")
    page.wait_for("dialog.help")
    walk.visit("help")
    walk.close_dialog()


def show_interruptions(walk, company, sql):
    page, row_id = walk.page, company.rows["접근성 점검"]
    sort = ".grid-head [role=columnheader]:nth-child(2) button"
    walk.click(sort)
    page.wait_for("[aria-sort=ascending]")
    page.run(f"answers['{PROJECTS}?'] = {json.dumps(BUSY)}; answers['/health'] = [200, {{}}, {{}}]")
    walk.click(sort)
    page.wait_until("!!document.querySelector('.notices .countdown')")
    page.run("dispatchEvent(new Event('online'))")
    page.wait_until("document.querySelectorAll('.notices .banner').length === 2")
    walk.visit("busy")
    page.run("for (const part of Object.keys(answers)) delete answers[part]")
    walk.click(".notices .button")
    page.wait_until("!document.querySelector('.notices .countdown')")

    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page("Network.emulateNetworkConditions", offline=True, **conditions)
    walk.click(sort)
    page.wait_until("document.querySelectorAll('.notices .banner').length === 2")
    walk.visit("offline")
    page("Network.emulateNetworkConditions", offline=False, **conditions)

    walk.open_row(row_id)
    walk.type(DESCRIPTION, "WCAG 2.2 AA, all screens")
    sql("UPDATE api_tokens SET revoked_at = now() WHERE owner = 'haneul.kim'")
    walk.click(SAVE)
    page.wait_for("dialog.sign-in")
    walk.visit("sign-in-expired")
    walk.type_token(company.new_headers("haneul.kim"))
    page.wait_for(".toast.success")

    script = page("Page.addScriptToEvaluateOnNewDocument", source=f"window.answers = {NO_FEED}")
    walk.open("view=live", ".live-dot.lost")
    page.wait_for(".live .banner")
    walk.visit("feed-lost")
    page("Page.removeScriptToEvaluateOnNewDocument", **script)


def show_other_callers(walk, company):
    """Show a link with the token of another caller, and what a caller may not do."""
    page, row_id = walk.page, company.rows["Website relaunch"]
    token = company.headers["minjun.lee"]["Authorization"].removeprefix("Bearer ")
    page.open("about:blank")
    page.open(f"{walk.origin}/console?lang=en#token={token}")
    page.wait_for("dialog .accept")
    page.wait_for(".grid:not(.stale) .grid-body [role=row]")
    walk.visit("sign-in-offered")
    for scopes, selector, screen in (
        ("projects:read", ".panel-notices .banner", "panel-read-only"),
        ("metrics:read", "main > .empty", "list-forbidden"),
    ):
        walk.sign_in(company.new_headers("sofia.rossi", scopes), f"id={row_id}", selector)
        walk.visit(screen)
