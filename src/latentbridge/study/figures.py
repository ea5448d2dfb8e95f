"""Small figures as SVG files that stand alone, light and dark; they look like the charts of `evaluation/pages/page.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

_COLOURS = (
    "#3257a8",
    "#b3402f",
    "#2c7a4b",
    "#b8860b",
    "#7b4fa3",
    "#1d8a99",
    "#c2578f",
    "#6d6a64",
    "#d9722e",
    "#8fa31e",
)
_WIDTH_PX, _PLOT_PX, _HEIGHT_PX, _ROW_PX, _TOP_PX, _LEFT_PX = 720, 500, 300, 22, 30, 58
_STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #6d6a64; } .title { font-size: 14px; fill: #1d1c1a; }
.frame { fill: none; stroke: #e4e1db; } .line { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) { text { fill: #9b988f; } .title { fill: #e8e6e1; } .frame { stroke: #303336; } }
</style>"""


def draw_lines(title: str, series: Mapping[str, Sequence[float | None]]) -> str:
    """Shares hop by hop, from hop 0; a None is passed over. The scale ends at 100 % and begins below the lowest."""
    known = [value for values in series.values() for value in values if value is not None]
    low = float(np.floor(min(known) * 10) / 10) if min(known) < 1 else 0.0
    hops = max(len(values) for values in series.values())
    points = {
        name: [(hop, value) for hop, value in enumerate(values) if value is not None] for name, values in series.items()
    }
    shares = {value: f"{100 * value:.0f} %" for value in (low, (1 + low) / 2, 1.0)}
    return _plot(title, points, {hop: f"hop {hop}" for hop in range(hops)}, shares)


def draw_curves(title: str, series: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Numbers over steps, as (step, number); the scale spans what there is."""
    steps, values = zip(*(point for points in series.values() for point in points), strict=True)
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    numbers = {value: f"{value:.3g}" for value in (low, (low + high) / 2, high)}
    ends = dict.fromkeys((min(steps), (min(steps) + max(steps)) // 2, max(steps)))
    return _plot(title, series, {step: f"step {step}" for step in ends}, numbers)


def _plot(
    title: str,
    series: Mapping[str, Sequence[Sequence[float]]],
    across: Mapping[float, str],
    up: Mapping[float, str],
) -> str:
    """Lines through (x, y) points in a frame that spans the named places of both axes; equal ones are one line, one colour."""
    right, bottom = _PLOT_PX, _HEIGHT_PX - 30
    first, last = min(across), max(max(across), min(across) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            float(np.interp(x, [first, last], [_LEFT_PX, right])),
            float(np.interp(y, [min(up), max(up)], [bottom, _TOP_PX])),
        )

    body = [
        f'<rect class="frame" x="{_LEFT_PX}" y="{_TOP_PX}" width="{right - _LEFT_PX}" height="{bottom - _TOP_PX}"/>'
    ]
    for y, label in up.items():
        body.append(f'<text x="{_LEFT_PX - 6}" y="{place(first, y)[1] + 4:.1f}" text-anchor="end">{label}</text>')
    for x, label in across.items():
        body.append(f'<text x="{place(x, min(up))[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    lines = list(series.values())
    looks = {name: lines.index(points) for name, points in series.items()}
    for index in sorted(set(looks.values())):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in lines[index]))
        body.append(f'<polyline class="line" {_stroke(index)} points="{path}"/>')
    body += _legend(looks, lines=True)
    return _svg(title, body, max(_HEIGHT_PX, _TOP_PX + _ROW_PX * len(series)))


def draw_shares(title: str, bars: Mapping[str, Mapping[str, float]]) -> str:
    """One bar a name, cut into named shares that add up to at most 1."""
    parts = list(dict.fromkeys(part for shares in bars.values() for part in shares))
    left = 165
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
    body += _legend({part: index for index, part in enumerate(parts)}, lines=False)
    return _svg(title, body, _TOP_PX + _ROW_PX * max(len(bars), len(parts)) + 8)


def _legend(looks: Mapping[str, int], lines: bool) -> list[str]:
    """Names beside the number of their colour."""
    found: list[str] = []
    x = _PLOT_PX + 20
    for row, (name, index) in enumerate(looks.items()):
        y = _TOP_PX + 10 + row * _ROW_PX
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
