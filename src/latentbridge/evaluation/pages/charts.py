"""Charts of a page as inline SVG: lines over each other, and shares on top of each other. Colours are classes of `report.css`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH_PX, _HEIGHT_PX = 360, 172
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 44, 352, 8, 150
_POINTS = 300
_LOG_SPAN = 20.0
"""Charts whose values span more than this factor are logarithmic."""
_SMOOTHED = 40
"""Curves of at least so many points are drawn faintly, with their running median over a twentieth of them on top; a mean would
make a plateau of every spike."""
COLOURS = 8
"""How many `c0`, `c1` and so on there are; after the last they begin again."""


@dataclass(frozen=True)
class Line:
    """A curve of n points over a rising axis."""

    xs: Sequence[float]
    ys: Sequence[float]
    """What is not finite is left out."""
    colour: int = 0


@dataclass(frozen=True)
class _Scale:
    """From values to pixels along one axis."""

    low: float
    high: float
    start_px: float
    end_px: float
    logarithmic: bool = False

    def place(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        span = np.asarray([self.low, self.high], dtype=float)
        found = np.asarray(values, dtype=float)
        if self.logarithmic:
            span, found = np.log(span), np.log(np.maximum(found, self.low))
        return self.start_px + (found - span[0]) / (span[1] - span[0]) * (self.end_px - self.start_px)

    def ticks(self) -> list[float]:
        """Two to five round values."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) < 4 else (1,)
            found = [
                step * 10.0**power for power in powers for step in steps if self.low <= step * 10.0**power <= self.high
            ]
            return found[:: math.ceil(len(found) / 5)] if found else [self.low, self.high]
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)
        return [step * index for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def in_samples(value: float) -> str:
    """A count in three digits: 960, 48k, 1.2M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:g}"


def in_time(seconds: float) -> str:
    """A duration by its two largest units: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def show_lines(
    title: str, lines: Sequence[Line], along: Callable[[float], str] = in_samples, unit: str = "", linear: bool = False
) -> str:
    """Lines in one frame, with where they end; nothing where none has two points. `along` words the ticks of the axis.

    Values of a wide range are drawn by their logarithms, unless `linear`.
    """
    drawn = [line for line in map(_finite, lines) if len(line.xs) > 1]
    if not drawn:
        return ""
    values = np.concatenate([line.ys for line in drawn])
    low, high = float(values.min()), float(values.max())
    logarithmic = not linear and low > 0 and high / low > _LOG_SPAN
    if low == high:
        low, high = low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2
    down = _Scale(low, high, _BOTTOM_PX - 4, _TOP_PX + 4, logarithmic)
    across = _across(max(line.xs[-1] for line in drawn))
    body = _ground(across, along) + "".join(_tick_down(down, value, f"{value:.4g}{unit}") for value in down.ticks())
    for line in drawn:
        colour = f"c{line.colour % COLOURS}"
        smooth = len(line.xs) >= _SMOOTHED
        body += _polyline(f"line {colour}{' is-faint' if smooth else ''}", line.xs, line.ys, across, down)
        if smooth:
            body += _polyline(f"line {colour}", line.xs, _running_median(line.ys), across, down)
    title = f"{title} (log scale)" if logarithmic else title
    ends = [(line.colour, f"{line.ys[-1]:.4g}{unit}") for line in drawn]
    if len(ends) == 1:
        return _card(title, f"{title}: {ends[0][1]} at the end", body)
    return _card(title, f"{title}, at the end", body, show_legend(ends))


def show_stack(
    title: str, xs: Sequence[float], shares: Mapping[str, Sequence[float]], along: Callable[[float], str] = in_samples
) -> str:
    """Shares that add up to at most 1 over a rising axis, one on top of the other; nothing for fewer than two points."""
    if len(xs) < 2:
        return ""
    down, across = _Scale(0.0, 1.0, _BOTTOM_PX, _TOP_PX), _across(xs[-1])
    keep = _thinned(len(xs))
    tops = np.cumsum([np.asarray(values, dtype=float)[keep] for values in shares.values()], axis=0)
    places = across.place(np.asarray(xs, dtype=float)[keep])
    body, below = _ground(across, along), np.zeros(len(keep))
    for index, top in enumerate(tops):
        edge = [*zip(places, down.place(top), strict=True), *zip(places[::-1], down.place(below)[::-1], strict=True)]
        body += f'<polygon class="area c{index % COLOURS}" points="{_points(edge)}"/>'
        below = top
    body += "".join(_tick_down(down, value, f"{value:.0%}") for value in (0.0, 0.5, 1.0))
    ends = enumerate(f"{name} {values[-1]:.0%}" for name, values in shares.items())
    return _card(title, f"{title}, at the end", body, show_legend(ends))


def show_legend(words: Iterable[tuple[int, str]]) -> str:
    """Words behind the colours they stand for."""
    chips = "".join(f'<span class="chip c{colour % COLOURS}">{escape(said)}</span>' for colour, said in words)
    return f'<div class="legend">{chips}</div>'


def _finite(line: Line) -> Line:
    points = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
    return Line([x for x, _ in points], [y for _, y in points], line.colour)


def _thinned(count: int) -> np.ndarray:
    """At most so many indices as can be told apart, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _running_median(ys: Sequence[float]) -> np.ndarray:
    """[n] medians over a twentieth of the points around each, over those that there are at the ends."""
    reach = len(ys) // 40
    return np.array([np.median(ys[max(0, i - reach) : i + reach + 1]) for i in range(len(ys))])


def _across(end: float) -> _Scale:
    return _Scale(0.0, end or 1.0, _LEFT_PX, _RIGHT_PX)


def _ground(across: _Scale, along: Callable[[float], str]) -> str:
    frame = f'<rect class="frame" x="{_LEFT_PX}" y="{_TOP_PX}" width="{_RIGHT_PX - _LEFT_PX}" height="{_BOTTOM_PX - _TOP_PX}"/>'
    places = ((across.low, "start"), ((across.low + across.high) / 2, "middle"), (across.high, "end"))
    ticks = "".join(
        f'<text x="{across.place([value])[0]:.1f}" y="{_BOTTOM_PX + 14}" text-anchor="{anchor}">{escape(along(value))}</text>'
        for value, anchor in places
    )
    return frame + ticks


def _tick_down(down: _Scale, value: float, words: str) -> str:
    y = down.place([value])[0]
    return (
        f'<line class="grid" x1="{_LEFT_PX}" x2="{_RIGHT_PX}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT_PX - 5}" y="{y + 3.5:.1f}" text-anchor="end">{escape(words)}</text>'
    )


def _polyline(kind: str, xs: Sequence[float], ys: Sequence[float] | np.ndarray, across: _Scale, down: _Scale) -> str:
    keep = _thinned(len(xs))
    places = zip(across.place(np.asarray(xs)[keep]), down.place(np.asarray(ys)[keep]), strict=True)
    return f'<polyline class="{kind}" points="{_points([*places])}"/>'


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _card(title: str, caption: str, body: str, legend: str = "") -> str:
    return (
        f'<figure class="card"><svg class="chart" viewBox="0 0 {_WIDTH_PX} {_HEIGHT_PX}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg><figcaption>{escape(caption)}</figcaption>{legend}</figure>'
    )
