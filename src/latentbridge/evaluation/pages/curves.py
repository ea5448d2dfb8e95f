"""Charts of the metrics logs of runs: losses, held-out measures, gradients and step times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from latentbridge.evaluation.pages.page import Section
from latentbridge.evaluation.pages.plots import (
    Line,
    area_chart,
    format_count,
    format_duration,
    legend_html,
    line_chart,
)

Records = Sequence[Mapping[str, Any]]
"""The lines of a `metrics.jsonl`, by step."""
_CLOCK = ("step", "seconds", "samples")
_GRADIENT, _RATE, _WAITING, _SHARE, _HELD_OUT = "grad_norm", "lr", "waiting", " share", "held-out "


@dataclass(frozen=True)
class Axis:
    """The x axis of curves."""

    name: str
    format: Callable[[float], str]
    values: Callable[[Records], list[float]]


def elapsed_seconds(records: Records) -> list[float]:
    """Return the seconds of work up to each record; the logged clock starts again at each resume."""
    total, before = 0.0, 0.0
    totals: list[float] = []
    for record in records:
        seconds = record["seconds"]
        total += seconds - before if seconds >= before else seconds
        before = seconds
        totals.append(total)
    return totals


SAMPLES = Axis("samples", format_count, lambda records: [record["samples"] for record in records])
TIME = Axis("time", format_duration, elapsed_seconds)


def loss_names(runs: Iterable[Records]) -> list[str]:
    """Return the names of loss terms: values in every record of a run that are no clock, gradient, rate or measure."""
    return _unique(
        name
        for records in runs
        for name in records[-1]
        if name not in (*_CLOCK, _GRADIENT, _RATE, _WAITING)
        and not name.endswith(_SHARE)
        and not name.startswith(_HELD_OUT)
        and all(name in record for record in records)
    )


def measure_names(runs: Iterable[Records]) -> list[str]:
    """Return the names of values measured at some steps only, on held-out data or of checkpoints."""
    runs = list(runs)
    losses = loss_names(runs)
    return _unique(
        name
        for records in runs
        for record in records
        for name in record
        if name not in (*_CLOCK, _GRADIENT, _RATE, _WAITING, *losses) and not name.endswith(_SHARE)
    )


def share_names(records: Records) -> list[str]:
    """Return the logged names of the loss terms' shares of the gradient."""
    return _unique(name for record in records for name in record if name.endswith(_SHARE))


def value_chart(name: str, runs: Mapping[str, Records], axis: Axis, title: str = "", linear: bool = False) -> str:
    """Return one chart of a logged value, with a line for each run that has it."""
    lines = [
        Line([x for x, _ in points], [y for _, y in points], colour)
        for colour, records in enumerate(runs.values())
        if (points := [(x, r[name]) for x, r in zip(axis.values(records), records, strict=True) if name in r])
    ]
    return line_chart(title or name, lines, axis.format, linear=linear)


def step_time_chart(runs: Mapping[str, Records], axis: Axis) -> str:
    """Return a chart of the seconds per step."""
    lines: list[Line] = []
    for colour, records in enumerate(runs.values()):
        rows = zip(records, elapsed_seconds(records), axis.values(records), strict=True)
        points = [(x, (end - start) / (b["step"] - a["step"])) for (a, start, _), (b, end, x) in pairwise(rows)]
        lines.append(Line([x for x, _ in points], [y for _, y in points], colour))
    return line_chart("time of a step", lines, axis.format, unit=" s")


def gradient_charts(runs: Mapping[str, Records], axis: Axis) -> str:
    """Return charts of the gradient norm before clipping, and of the terms' shares of it for each run."""
    charts = value_chart(_GRADIENT, runs, axis, "gradient norm")
    for run, records in runs.items():
        names = share_names(records)
        logged = [(x, r) for x, r in zip(axis.values(records), records, strict=True) if any(n in r for n in names)]
        if names:
            shares = {name.removesuffix(_SHARE): [record.get(name, 0.0) for _, record in logged] for name in names}
            title = f"shares of the gradient, {run}" if len(runs) > 1 else "shares of the gradient"
            charts += area_chart(title, [x for x, _ in logged], shares, axis.format)
    return charts


def curves_section(runs: Mapping[str, Records]) -> Section:
    """Return a section with the charts of all runs, over samples or over time as the reader chooses."""
    legend = legend_html(enumerate(runs)) if len(runs) > 1 else ""
    choices, panels = "", ""
    for axis in (SAMPLES, TIME):
        checked = " checked" if axis is SAMPLES else ""
        choices += f'<input type="radio" name="axis" id="by-{axis.name}"{checked}><label for="by-{axis.name}">by {axis.name}</label>'
        panels += f'<div class="panel on-{axis.name}">{_all_charts(runs, axis)}</div>'
    return Section(
        "curves", "Curves", "Logged values over the run.", f'<div class="axes">{choices}{legend}{panels}</div>'
    )


def _all_charts(runs: Mapping[str, Records], axis: Axis) -> str:
    groups = {
        "Losses": "".join(value_chart(name, runs, axis) for name in loss_names(runs.values())),
        "Held out": "".join(value_chart(name, runs, axis) for name in measure_names(runs.values())),
        "Gradient": gradient_charts(runs, axis),
        "Speed": step_time_chart(runs, axis)
        + value_chart(_WAITING, runs, axis, "share of the time spent waiting for batches")
        + value_chart(_RATE, runs, axis, "learning rate, as a share of its peak", linear=True),
    }
    return "".join(_card_grid(heading, charts) for heading, charts in groups.items() if charts)


def training_section(runs: Mapping[str, Records]) -> Section:
    """Return a section with losses, gradient norm and step time of one run after the other."""
    body = ""
    for name, records in runs.items():
        run = {name: records}
        charts = "".join(value_chart(term, run, SAMPLES) for term in loss_names([records]))
        charts += value_chart(_GRADIENT, run, SAMPLES, "gradient norm") + step_time_chart(run, SAMPLES)
        body += _card_grid(name, charts)
    return Section("curves", "Training", "Losses, gradient norm and step time over the samples seen.", body)


def _card_grid(heading: str, charts: str) -> str:
    return f'<h3>{escape(heading)}</h3><div class="cards">{charts}</div>'


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
