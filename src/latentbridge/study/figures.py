"""Small figures as SVG files that stand alone, light and dark; they look like the charts of `evaluation/page.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

_COLOURS = ("#3257a8", "#b3402f", "#2c7a4b", "#b8860b", "#7b4fa3", "#1d8a99", "#c2578f", "#6d6a64")
_WIDTH_PX, _PLOT_PX, _HEIGHT_PX, _ROW_PX, _TOP_PX, _LEFT_PX = 720, 500, 300, 22, 30, 48
_STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #6d6a64; } .title { font-size: 14px; fill: #1d1c1a; }
.frame { fill: none; stroke: #e4e1db; } .line { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) { text { fill: #9b988f; } .title { fill: #e8e6e1; } .frame { stroke: #303336; } }
</style>"""


def draw_lines(title: str, series: Mapping[str, Sequence[float | None]]) -> str:
    """Shares step by step, from step 0; a None is passed over. The scale ends at 100 % and begins below the lowest."""
    known = [value for values in series.values() for value in values if value is not None]
    low = np.floor(min(known) * 10) / 10 if min(known) < 1 else 0.0
    steps = max(len(values) for values in series.values()) - 1
    right, bottom = _PLOT_PX, _HEIGHT_PX - 30

    def place(step: float, value: float) -> tuple[float, float]:
        x = np.interp(step, [0, max(1, steps)], [_LEFT_PX, right])
        return float(x), float(np.interp(value, [low, 1], [bottom, _TOP_PX]))

    body = [
        f'<rect class="frame" x="{_LEFT_PX}" y="{_TOP_PX}" width="{right - _LEFT_PX}" height="{bottom - _TOP_PX}"/>'
    ]
    for value in (low, (1 + low) / 2, 1.0):
        body.append(
            f'<text x="{_LEFT_PX - 6}" y="{place(0, value)[1] + 4:.1f}" text-anchor="end">{100 * value:.0f} %</text>'
        )
    for step in range(steps + 1):
        body.append(f'<text x="{place(step, low)[0]:.1f}" y="{bottom + 18}" text-anchor="middle">hop {step}</text>')
    for index, values in enumerate(series.values()):
        points = (place(step, value) for step, value in enumerate(values) if value is not None)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        body.append(f'<polyline class="line" {_stroke(index)} points="{path}"/>')
    body += _legend(series, lines=True)
    return _svg(title, body, max(_HEIGHT_PX, _TOP_PX + _ROW_PX * len(series)))


def draw_shares(title: str, bars: Mapping[str, Mapping[str, float]]) -> str:
    """One bar a name, cut into named shares that add up to at most 1."""
    parts = list(dict.fromkeys(part for shares in bars.values() for part in shares))
    left = 130
    body: list[str] = []
    for row, (name, shares) in enumerate(bars.items()):
        y, x = _TOP_PX + row * _ROW_PX, float(left)
        body.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        for part, share in shares.items():
            width = share * (_PLOT_PX - left)
            colour = _COLOURS[parts.index(part) % len(_COLOURS)]
            body.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW_PX - 5}" fill="{colour}">'
                f"<title>{escape(part)} {share:.1%}</title></rect>"
            )
            x += width
    body += _legend(parts, lines=False)
    return _svg(title, body, _TOP_PX + _ROW_PX * max(len(bars), len(parts)) + 8)


def _legend(names: Iterable[str], lines: bool) -> list[str]:
    found: list[str] = []
    x = _PLOT_PX + 20
    for index, name in enumerate(names):
        y = _TOP_PX + 10 + index * _ROW_PX
        width = "" if lines else ' stroke-width="10"'
        stroke = _stroke(index) if lines else f'stroke="{_COLOURS[index % len(_COLOURS)]}"'
        found.append(f'<path class="{"line" if lines else "part"}" {stroke}{width} d="M{x} {y}h18"/>')
        found.append(f'<text x="{x + 26}" y="{y + 4}">{escape(name)}</text>')
    return found


def _stroke(index: int) -> str:
    """A colour of its own; once all are used, dashed."""
    dashes = ' stroke-dasharray="5 3"' if index >= len(_COLOURS) else ""
    return f'stroke="{_COLOURS[index % len(_COLOURS)]}"{dashes}'


def _svg(title: str, body: Sequence[str], height: int) -> str:
    lines = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {height}" width="{_WIDTH_PX}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">\n{_STYLE}\n<text class="title" x="{_LEFT_PX}" y="18">{escape(title)}</text>\n'
        f"{lines}\n</svg>\n"
    )
