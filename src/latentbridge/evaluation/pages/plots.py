"""Charts drawn by matplotlib as SVG: cards inside a page, and figures as files.

Colours are CSS variables, so charts follow light and dark mode. matplotlib is imported when the first chart is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import median_filter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 300
_LOG_SPAN = 20.0
"""The ratio of largest to smallest value above which an axis is logarithmic."""
_MIN_SMOOTHED = 40
"""Lines of at least as many points are drawn faintly below their running median over a twentieth of the points; a mean would
turn each spike into a plateau."""
_CARD_PX, _FIGURE_WIDTH_PX = (360, 172), 720
_INK, _SOFT, _GRID = "#1d1c1a", "#6d6a64", "#e4e1db"
_PALETTE = (
    "#3257a8", "#d0632f", "#3f9464", "#c2951b", "#8d66b5", "#2797a6", "#c75f93", "#85827a", "#b3402f", "#8fa31e",
)  # fmt: skip
_VARIABLES = {_INK: "ink", _SOFT: "soft", _GRID: "line", _PALETTE[0]: "accent"}
_FILE_STYLE = """text { font-family: system-ui, sans-serif }
@media (prefers-color-scheme: dark) { svg { --ink: #e8e6e1; --soft: #9b988f; --line: #303336; --accent: #8fb0f2 } }"""
"""The variables' values in `assets/report.css`, for figures outside a page."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "latentbridge",
    "text.parse_math": False,
    "text.color": _SOFT,
    "figure.frameon": False,
    "axes.facecolor": "none",
    "axes.edgecolor": _GRID,
    "axes.xmargin": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "xtick.bottom": False,
    "xtick.labelcolor": _SOFT,
    "ytick.left": False,
    "ytick.labelcolor": _SOFT,
}


@dataclass(frozen=True)
class Line:
    """A curve of n points over a rising axis; points with a y that is not finite are left out."""

    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0


def format_count(value: float) -> str:
    """Return a count in three digits: 960, 48k, 1.2M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:g}"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // 1440
    parts = ((days, "d"), (hours % 24, "h")) if days else ((hours, "h"), (minutes % 60, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


# --- cards ---------------------------------------------------------------------------------------


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_format: Callable[[float], str] = format_count,
    unit: str = "",
    linear: bool = False,
) -> str:
    """Return a card with lines over a shared x axis from 0 and their last values; "" if no line has two points.

    The y axis is logarithmic for values that span more than a factor of 20, unless `linear`.
    """
    arrays = [(np.asarray(line.xs), np.asarray(line.ys), np.isfinite(line.ys), line.colour) for line in lines]
    finite = [(xs[keep], ys[keep], colour) for xs, ys, keep, colour in arrays if keep.sum() > 1]
    if not finite:
        return ""
    values = np.concatenate([ys for _, ys, _ in finite])
    logarithmic = not linear and values.min() > 0 and values.max() / values.min() > _LOG_SPAN

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
            steps = (1, 2, 5) if values.max() / values.min() < 100 else (1,)
            axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=5))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}{unit}")
        for xs, ys, colour in finite:
            smoothed, indices = len(ys) >= _MIN_SMOOTHED, _thin(len(ys))
            axes.plot(xs[indices], ys[indices], color=_colour(colour), alpha=0.3 if smoothed else 1)
            if smoothed:
                medians = median_filter(ys, len(ys) // 40 * 2 + 1, mode="nearest")
                axes.plot(xs[indices], medians[indices], color=_colour(colour))

    last = [(colour, f"{ys[-1]:.4g}{unit}") for _, ys, colour in finite]
    return _card(
        f"{title} (log scale)" if logarithmic else title, plot, max(x[-1] for x, _, _ in finite), x_format, last
    )


def area_chart(
    title: str,
    xs: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    x_format: Callable[[float], str] = format_count,
) -> str:
    """Return a card with stacked shares, which add up to at most 1, over a rising axis; "" for fewer than two points."""
    if len(xs) < 2:
        return ""

    def plot(axes: Axes) -> None:
        indices = _thin(len(xs))
        stacked = [np.asarray(values, dtype=float)[indices] for values in shares.values()]
        axes.stackplot(np.asarray(xs)[indices], stacked, colors=[_colour(i) for i in range(len(stacked))], alpha=0.8)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])

    last = [(i, f"{name} {values[-1]:.0%}") for i, (name, values) in enumerate(shares.items())]
    return _card(title, plot, xs[-1], x_format, last)


def legend_html(labels: Iterable[tuple[int, str]]) -> str:
    """Return (colour, text) pairs as a legend."""
    return f'<div class="legend">{"".join(chip_html(*label) for label in labels)}</div>'


def chip_html(colour: int, text: str) -> str:
    """Return text beside a square of its colour."""
    return f'<span class="chip" style="--c: {_css(_colour(colour))}">{escape(text)}</span>'


def _card(
    title: str,
    plot: Callable[[Axes], None],
    end: float,
    x_format: Callable[[float], str],
    last: Sequence[tuple[int, str]],
) -> str:
    """Return a chart with an x axis from 0 to `end`, its title and the last values as a legend."""

    def plot_over(axes: Axes) -> None:
        plot(axes)
        ticks = (0, (end or 1) / 2, end or 1)
        axes.set_xlim(0, end or 1)
        axes.set_xticks(ticks, [x_format(value) for value in ticks])
        for label, alignment in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set_horizontalalignment(alignment)

    caption = f"{title}: {last[0][1]} at the end" if len(last) == 1 else f"{title}, at the end"
    return (
        f'<figure class="card"><svg class="chart" viewBox="0 0 {_CARD_PX[0]} {_CARD_PX[1]}" role="img" '
        f'aria-label="{escape(title)}">{_draw(_CARD_PX, plot_over)}</svg>'
        f"<figcaption>{escape(caption)}</figcaption>{legend_html(last) if len(last) > 1 else ''}</figure>"
    )


def _thin(count: int) -> np.ndarray:
    """Return at most `_MAX_POINTS` indices below `count`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).round().astype(int))


# --- files ---------------------------------------------------------------------------------------


def line_figure(title: str, series: Mapping[str, Sequence[Sequence[float]]], x_name: str, percent: bool = False) -> str:
    """Return an SVG file with a line through the (x, y) points of each name; equal series have one colour.

    x values are whole numbers; y values are shares if `percent`. Once all colours are used, lines are dashed.
    """
    distinct = list(dict.fromkeys(tuple(map(tuple, points)) for points in series.values()))

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

        for name, points in series.items():
            index = distinct.index(tuple(map(tuple, points)))
            style = "-" if index < len(_PALETTE) else "--"
            axes.plot(*zip(*points, strict=True), color=_colour(index), linestyle=style, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter(x_name + " {x:.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1) if percent else StrMethodFormatter("{x:.3g}"))
        if percent:  # up to 100 %, from the tenth below the lowest value, so that small differences look small
            low = min(y for points in distinct for _, y in points)
            axes.set_ylim(np.floor(low * 10) / 10 if low < 1 else 0, 1)

    return _file(title, plot, len(series))


def bar_figure(title: str, bars: Mapping[str, Mapping[str, float]]) -> str:
    """Return an SVG file with a horizontal bar for each name, stacked of shares that add up to at most 1."""
    parts = list(dict.fromkeys(part for shares in bars.values() for part in shares))

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import PercentFormatter

        left = np.zeros(len(bars))
        for index, part in enumerate(parts):
            widths = [shares.get(part, 0.0) for shares in bars.values()]
            axes.barh(list(bars), widths, left=left, height=0.75, color=_colour(index), label=part)
            left += widths
        axes.invert_yaxis()
        axes.grid(False)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))

    return _file(title, plot, max(len(bars), len(parts)))


def _file(title: str, plot: Callable[[Axes], None], rows: int) -> str:
    """Return an SVG file with a legend of `rows`."""
    width, height = _FIGURE_WIDTH_PX, max(240, 22 * rows + 60)

    def plot_with_legend(axes: Axes) -> None:
        plot(axes)
        axes.set_title(title, loc="left", color=_INK)
        axes.figure.legend(loc="outside right upper", frameon=False)

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">\n<style>{_FILE_STYLE}</style>\n'
        f"{_draw((width, height), plot_with_legend)}</svg>\n"
    )


# --- matplotlib ----------------------------------------------------------------------------------


def _draw(size_px: tuple[int, int], plot: Callable[[Axes], None]) -> str:
    """Return the content of the SVG element of a figure with one plot; equal plots give equal text."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with rc_context(_STYLE):
        width, height = size_px
        figure = Figure((width / 72, height / 72), layout="constrained")  # the SVG backend draws 72 px to the inch
        plot(figure.add_subplot())
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    content = stream.getvalue().split(">", 3)[3].removesuffix("</svg>\n")
    content = re.sub(r"<defs>.*?</defs>", "", content, flags=re.DOTALL)
    # ids would repeat among the charts of a page, and plots stay within their axes
    content = re.sub(r' (id|clip-path)="[^"]*"| transform="rotate\(-0 [^"]*"| font-family: [^;"]*;', "", content)
    content = re.sub(r"(</?g>|\s)*\n(</?g>|\s)*", "\n", content)
    return re.sub(r"(?<=: )#[0-9a-f]{6}", lambda match: _css(match[0]), content)


def _colour(index: int) -> str:
    return _PALETTE[index % len(_PALETTE)]


def _css(colour: str) -> str:
    """Return a colour as the CSS variable that overrides it, if there is one."""
    return f"var(--{_VARIABLES[colour]}, {colour})" if colour in _VARIABLES else colour
