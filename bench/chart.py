"""Draw the results of the benchmark as a bar chart (SVG)."""

import statistics
from collections.abc import Mapping
from html import escape
from pathlib import Path

_COLOURS = (
    *("#1f6feb", "#79b8ff", "#9a6700", "#bf8700", "#d4a72c", "#1a7f37", "#8250df"),
    *("#b6c8e0", "#58a6ff", "#8c959f"),
)
_COLUMNS = 3  # of panels
_PANEL_WIDTH, _BAR_HEIGHT, _LABEL_WIDTH, _NUMBER_WIDTH = 360, 16, 130, 50


def draw(
    path: Path, rates: Mapping[str, Mapping[str, list[float]]], titles: Mapping[str, str]
) -> None:
    """Draw a panel for each workload, with a bar for each competitor's median.

    `rates` are requests a second by workload and competitor; `titles` are those of the workloads.
    """
    panel_height = 40 + _BAR_HEIGHT * len(next(iter(rates.values())))
    rows = -(-len(rates) // _COLUMNS)
    size = f'width="{_COLUMNS * _PANEL_WIDTH}" height="{rows * panel_height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (workload, by_competitor) in enumerate(rates.items()):
        left, top = number % _COLUMNS * _PANEL_WIDTH, number // _COLUMNS * panel_height
        parts.append(f'<g transform="translate({left + 8} {top + 20})">')
        parts.append(f'<text font-weight="bold">{escape(titles[workload])}, requests/s</text>')
        medians = {name: statistics.median(values) for name, values in by_competitor.items()}
        longest = max(medians.values())
        for line, ((name, median), colour) in enumerate(
            zip(medians.items(), _COLOURS, strict=True)
        ):
            y = 8 + line * _BAR_HEIGHT
            width = (_PANEL_WIDTH - _LABEL_WIDTH - _NUMBER_WIDTH - 16) * median / longest
            parts += [
                f'<text x="{_LABEL_WIDTH - 6}" y="{y + 12}" text-anchor="end">'
                f"{escape(name)}</text>",
                f'<rect x="{_LABEL_WIDTH}" y="{y + 2}" width="{width:.1f}"'
                f' height="{_BAR_HEIGHT - 4}" fill="{colour}"/>',
                f'<text x="{_LABEL_WIDTH + width + 4:.1f}" y="{y + 12}">{median:.0f}</text>',
            ]
        parts.append("</g>")
    path.write_text("\n".join([*parts, "</svg>", ""]))
