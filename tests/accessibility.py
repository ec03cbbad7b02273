"""axe-core in a page of Chromium, and the checks of a narrow screen that axe does not have."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.browser import Page

AXE = Path(__file__).with_name("axe.min.js")  # axe-core 4.14.1 of npm; axe.LICENSE is its licence
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOR_RULES = ["color-contrast", "link-in-text-block"]
MIN_TARGET_PX = 24  # WCAG 2.2, 2.5.8

# axe cannot see which colour is behind the text of a dialog or a popover, because it knows no top
# layer. So what is under them is hidden, if `hidesPage` is true.
RUN_AXE = """
((options, hidesPage) => {{
  const sheet = new CSSStyleSheet();
  const top = ":modal, :popover-open";
  if (hidesPage && document.querySelector(top)) {{
    sheet.replaceSync(`body {{ visibility: hidden }} ${{top}} {{ visibility: visible }}`);
  }}
  document.adoptedStyleSheets.push(sheet);
  return axe.run(options).finally(() => document.adoptedStyleSheets.pop());
}})({options}, {hides_page}).then(({{ violations }}) =>
  violations.flatMap(({{ id, nodes }}) =>
    nodes.map(({{ target, failureSummary: summary }}) => `${{id}}: ${{target}}: ${{summary}}`),
  ),
)
"""
# Returns what is wrong with the screen: an array of texts. A dialog or a popover hides the controls
# of the page from the user, so only its own controls are checked while it is open.
CHECK_NARROW = """
(() => {
  const root = document.querySelector("dialog:modal, :popover-open") ?? document;
  const isVisible = (element) =>
    element.checkVisibility({ visibilityProperty: true }) && !element.closest(".hidden");
  const controls = [...root.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex='0'], [role=option]",
  )].filter((element) => isVisible(element) && !element.disabled);
  const wrong = [];
  const note = (text, element) => wrong.push(`${text}: ${element.outerHTML.slice(0, 200)}`);

  if (document.documentElement.scrollWidth > innerWidth) {
    wrong.push(`${document.documentElement.scrollWidth} px wide`);
  }
  for (const element of controls) {
    // A click on the label, or on the cell of a row, clicks the control.
    const box = (element.closest("label, .cell.select") ?? element).getBoundingClientRect();
    const isInText = getComputedStyle(element).display === "inline" && element.closest("p");
    if (Math.min(box.width, box.height) < MIN_TARGET_PX && !isInText) note("small target", element);
    if (box.left < -1 || box.right > innerWidth + 1) note("outside of the screen", element);
  }

  const previous = document.activeElement;
  const hasOutline = (element, pseudo) => {
    const style = getComputedStyle(element, pseudo);
    const hasBorder = pseudo && style.content !== "none" && style.borderTopStyle === "solid";
    return hasBorder || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
  };
  // 2.4.11: no other content covers all of it. A message goes away, or can be closed.
  const isCovered = (element) => {
    const { left, right, top, bottom } = element.getBoundingClientRect();
    const area = element.closest("label, .cell") ?? element;
    return ![0.1, 0.5, 0.9].some((part) => {
      const x = left + part * (right - left);
      const hit = document.elementFromPoint(x, top + part * (bottom - top));
      return hit && (area.contains(hit) || hit.closest(".toast"));
    });
  };
  for (const element of controls.filter(({ tabIndex }) => tabIndex >= 0)) {
    element.focus({ focusVisible: true });
    if (document.activeElement !== element) {
      note("no focus", element);
      continue;
    }
    // The control itself, what it draws instead, or the header or the active row of the list.
    const active = document.getElementById(element.getAttribute("aria-activedescendant") ?? "");
    const { firstElementChild, nextElementSibling, parentElement } = element;
    const shown = [element, firstElementChild, nextElementSibling, parentElement, active];
    if (!shown.some((item) => item && hasOutline(item)) && !hasOutline(element, "::after")) {
      note("focus is invisible", element);
    }
    if (isCovered(element)) note("focus is covered", element);
  }
  if (previous === document.body) document.activeElement.blur();
  else previous.focus();
  return wrong;
})()
""".replace("MIN_TARGET_PX", str(MIN_TARGET_PX))


def run_axe(page: Page) -> list[str]:
    """Return the violations of all rules with TAGS that do not depend on colours."""
    rules = {name: {"enabled": False} for name in COLOR_RULES}
    return _run(page, hides_page=False, runOnly={"type": "tag", "values": TAGS}, rules=rules)


def run_axe_on_colors(page: Page) -> list[str]:
    """Return the violations of the rules that depend on colours."""
    return _run(page, hides_page=True, runOnly={"type": "rule", "values": COLOR_RULES})


def _run(page: Page, *, hides_page: bool, **options: Any) -> list[str]:
    if not page.run("'axe' in window"):
        page.run(read_axe())
    options |= {"resultTypes": ["violations"], "preload": False}
    script = RUN_AXE.format(options=json.dumps(options), hides_page=json.dumps(hides_page))
    result: list[str] = page.run(script)
    return result


def read_axe() -> str:
    content = AXE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == AXE_SHA256
    return content.decode() + "; null"


def check_narrow(page: Page) -> list[str]:
    """Return what is wrong on a narrow screen: scrolling sideways, small targets, lost focus."""
    result: list[str] = page.run(CHECK_NARROW)
    return result
