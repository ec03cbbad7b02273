"""Measure the console in Chromium with 100 000 rows: first load, key press, scrolling, memory.

A first load has an empty cache, and a network that adds LATENCY_MS to each request. All other times
are those of the page's main thread, without waiting.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psycopg2  # noqa: E402 - the path comes first

from bench.workers import PORT, migrate, start_gunicorn, stop  # noqa: E402
from projectapp.devdb import DevPostgres  # noqa: E402
from tests.browser import DevTools, Page, open_browser, open_page  # noqa: E402

LOADS, LATENCY_MS, KEYS = 5, 40, 50
URL = f"http://localhost:{PORT}/console?lang=en"
FILL = """
INSERT INTO projects (id, name, description, is_active)
SELECT gen_random_uuid(), 'Project ' || n, 'Row ' || n, n % 5 > 0
FROM generate_series(1, 100000) AS n
"""
ROW = ".grid-body [role=row]"
# Notes when there is a row, and when a key does something.
NOTE_TIMES = f"""
const timer = setInterval(() => {{
  const row = document.querySelector("{ROW}");
  if (!row) return;
  globalThis.firstRowMs ??= performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", {{ key: "j", bubbles: true }}));
  if (!document.querySelector("{ROW}.active")) return;
  globalThis.firstKeyMs = performance.now();
  clearInterval(timer);
}}, 2);
"""
SCROLL = """(async (lastRow, step) => {
  const body = document.querySelector(".grid-body");
  for (let row = 0; row < lastRow; ) {
    body.scrollTop += body.clientHeight * step;
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const element = document.querySelector(".grid-window").lastElementChild;
    row = Number(element?.getAttribute("aria-rowindex"));
  }
})"""


def measure_load(devtools: DevTools) -> tuple[float, float, int, float]:
    """Return the ms to the first row and to the first key, the requests, and their KiB."""
    with open_page(devtools) as page:
        page("Page.addScriptToEvaluateOnNewDocument", source=NOTE_TIMES)
        conditions = {"downloadThroughput": -1, "uploadThroughput": -1, "offline": False}
        page("Network.emulateNetworkConditions", latency=LATENCY_MS, **conditions)
        page.open(URL)
        page.wait_until("globalThis.firstKeyMs")
        first_row, first_key = page.run("[firstRowMs, firstKeyMs]")
        entries = "[...performance.getEntriesByType('navigation'), ...performance.getEntries()]"
        sizes = page.run(
            f"[...new Set({entries})].filter(e => e.startTime < firstRowMs)"
            ".map(e => e.transferSize).filter(size => size !== undefined)"
        )
        return first_row, first_key, len(sizes), sum(sizes) / 1024


def task_seconds(page: Page, act: Callable[[], object]) -> float:
    """Return the seconds that the main thread of the page works while `act` runs."""

    def total() -> Any:
        values = page("Performance.getMetrics")["metrics"]
        return {item["name"]: item["value"] for item in values}["TaskDuration"]

    before = total()
    act()
    return total() - before


def press(page: Page, key: str, code: int) -> None:
    event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    page("Input.dispatchKeyEvent", type="keyDown", **event)
    page("Input.dispatchKeyEvent", type="keyUp", **event)


def measure_page(devtools: DevTools) -> tuple[float, float, float, float]:
    """Return the ms of a key press, two times to scroll 5 000 rows in s, the MiB after 10 000."""
    with open_page(devtools) as page:
        size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        page("Emulation.setDeviceMetricsOverride", **size)
        page("Performance.enable", timeDomain="threadTicks")
        page.open(URL)
        page.wait_for(ROW)
        by_pages = task_seconds(page, lambda: page.run(f"{SCROLL}(5000, 1)"))
        page.run("document.querySelector('.grid-body').scrollTop = 0")
        by_quarters = task_seconds(page, lambda: page.run(f"{SCROLL}(5000, 0.25)"))
        page.run(f"{SCROLL}(10000, 1)")
        page("HeapProfiler.collectGarbage")
        heap = page.run("performance.memory.usedJSHeapSize") / 2**20
        press(page, "ArrowDown", 40)
        keys = task_seconds(page, lambda: [press(page, "ArrowDown", 40) for _ in range(KEYS)])
        return keys / KEYS * 1000, by_pages, by_quarters, heap


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = DevPostgres(Path(folder))
        server.start()
        settings = {"PORT": str(PORT), "CONSOLE": "on", "WEB_CONCURRENCY": "1"}
        environ = migrate(server, APP_ENV="development", AUTH="none", **settings)
        connection = psycopg2.connect(**server.parameters)
        with connection, connection.cursor() as cursor:
            cursor.execute(FILL)
            cursor.execute("ANALYZE projects")
        connection.close()
        gunicorn = start_gunicorn(environ)
        try:
            with open_browser(Path(folder) / "chromium") as devtools:
                loads = [measure_load(devtools) for _ in range(LOADS)]
                pages = [measure_page(devtools) for _ in range(LOADS)]
        finally:
            stop(gunicorn)
            server.release()
    values = [*zip(*loads, strict=True), *zip(*pages, strict=True)]
    names = (
        *("first row, ms", "first key, ms", "requests to the first row", "their KiB"),
        *("a key press, ms", "5 000 rows by pages, s", "5 000 rows by quarters of a page, s"),
        "heap after 10 000 rows, MiB",
    )
    print("| Console | median | range |")
    print("|---|---|---|")
    for name, numbers in zip(names, values, strict=True):
        median = statistics.median(numbers)
        print(f"| {name} | {median:.4g} | {min(numbers):.4g}..{max(numbers):.4g} |")


if __name__ == "__main__":
    main()
