"""The bar chart of a benchmark, as SVG."""

import statistics
from collections.abc import Mapping
from html import escape
from pathlib import Path

_COLOURS = ("#1f6feb", "#79b8ff", "#9a6700", "#d4a72c", "#1a7f37", "#8250df", "#8c959f")
_COLUMNS, _WIDTH, _BAR, _LABEL, _NUMBER = 3, 360, 16, 130, 50


def draw(
    path: Path, rates: Mapping[str, Mapping[str, list[float]]], titles: Mapping[str, str]
) -> None:
    """Write one panel for each work: the median requests a second of each contender as a bar."""
    height = 40 + _BAR * len(next(iter(rates.values())))
    rows = -(-len(rates) // _COLUMNS)
    size = f'width="{_COLUMNS * _WIDTH}" height="{rows * height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (work, found) in enumerate(rates.items()):
        left, top = number % _COLUMNS * _WIDTH, number // _COLUMNS * height
        parts.append(f'<g transform="translate({left + 8} {top + 20})">')
        parts.append(f'<text font-weight="bold">{escape(titles[work])}, requests/s</text>')
        medians = {name: statistics.median(values) for name, values in found.items()}
        most = max(medians.values())
        for line, ((name, median), colour) in enumerate(
            zip(medians.items(), _COLOURS, strict=True)
        ):
            y = 8 + line * _BAR
            width = (_WIDTH - _LABEL - _NUMBER - 16) * median / most
            parts += [
                f'<text x="{_LABEL - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{_LABEL}" y="{y + 2}" width="{width:.1f}" height="{_BAR - 4}"'
                f' fill="{colour}"/>',
                f'<text x="{_LABEL + width + 4:.1f}" y="{y + 12}">{median:.0f}</text>',
            ]
        parts.append("</g>")
    path.write_text("\n".join([*parts, "</svg>", ""]))
