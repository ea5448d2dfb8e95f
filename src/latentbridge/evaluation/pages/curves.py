"""The log of one run or more as charts: losses, held-out measures, gradient, pace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from latentbridge.evaluation.pages.charts import Line, in_samples, in_time, show_legend, show_lines, show_stack
from latentbridge.evaluation.pages.page import Section

Records = Sequence[Mapping[str, Any]]
"""The lines of a `metrics.jsonl`, by step."""
_CLOCK = ("step", "seconds", "samples")
_GRADIENT, _RATE, _WAITING, _SHARE, _HELD_OUT = "grad_norm", "lr", "waiting", " share", "held-out "


@dataclass(frozen=True)
class Axis:
    """What curves are drawn along."""

    name: str
    along: Callable[[float], str]
    """Words for a value on it."""
    of: Callable[[Records], list[float]]


def elapsed(records: Records) -> list[float]:
    """Seconds of work up to each row, also where the clock began anew with a resume."""
    found, before = [], 0.0
    for record in records:
        passed = record["seconds"] - before
        found.append((found[-1] if found else 0.0) + (passed if passed >= 0 else record["seconds"]))
        before = record["seconds"]
    return found


SAMPLES = Axis("samples", in_samples, lambda records: [record["samples"] for record in records])
TIME = Axis("time", in_time, elapsed)


def loss_names(runs: Iterable[Records]) -> list[str]:
    """The parts of losses: what every row of a run holds and is nothing else."""
    return _ordered(
        name
        for records in runs
        for name in records[-1]
        if name not in (*_CLOCK, _GRADIENT, _RATE, _WAITING)
        and not name.endswith(_SHARE)
        and not name.startswith(_HELD_OUT)
        and all(name in record for record in records)
    )


def measure_names(runs: Iterable[Records]) -> list[str]:
    """What is measured now and then: on held-out data, or of checkpoints."""
    runs = list(runs)
    losses = loss_names(runs)
    return _ordered(
        name
        for records in runs
        for record in records
        for name in record
        if name not in (*_CLOCK, _GRADIENT, _RATE, _WAITING, *losses) and not name.endswith(_SHARE)
    )


def share_names(records: Records) -> list[str]:
    """The terms whose shares of the gradient a run logs, as they are logged."""
    return _ordered(name for record in records for name in record if name.endswith(_SHARE))


def show_values(name: str, runs: Mapping[str, Records], axis: Axis, title: str = "", linear: bool = False) -> str:
    """One logged value of all runs that have it, in one chart."""
    lines = [
        Line([x for x, _ in points], [y for _, y in points], colour)
        for colour, records in enumerate(runs.values())
        if (points := [(x, r[name]) for x, r in zip(axis.of(records), records, strict=True) if name in r])
    ]
    return show_lines(title or name, lines, axis.along, linear=linear)


def show_pace(runs: Mapping[str, Records], axis: Axis) -> str:
    """The time of a step."""
    lines = []
    for colour, records in enumerate(runs.values()):
        clock, places = elapsed(records), axis.of(records)
        rows = list(zip(records, clock, places, strict=True))
        paces = [(x, (end - start) / (b["step"] - a["step"])) for (a, start, _), (b, end, x) in pairwise(rows)]
        lines.append(Line([x for x, _ in paces], [y for _, y in paces], colour))
    return show_lines("time of a step", lines, axis.along, unit=" s")


def show_gradient(runs: Mapping[str, Records], axis: Axis) -> str:
    """Its norm before clipping, and the terms' shares of it, run by run."""
    charts = show_values(_GRADIENT, runs, axis, "gradient norm")
    for run, records in runs.items():
        logged = [
            (x, r) for x, r in zip(axis.of(records), records, strict=True) if any(n in r for n in share_names(records))
        ]
        shares = {
            name.removesuffix(_SHARE): [record.get(name, 0.0) for _, record in logged] for name in share_names(records)
        }
        if shares:
            title = f"shares of the gradient, {run}" if len(runs) > 1 else "shares of the gradient"
            charts += show_stack(title, [x for x, _ in logged], shares, axis.along)
    return charts


def show_curves(runs: Mapping[str, Records], axis: Axis) -> str:
    """All charts of runs over each other, under headings."""
    groups = {
        "Losses": "".join(show_values(name, runs, axis) for name in loss_names(runs.values())),
        "Held out": "".join(show_values(name, runs, axis) for name in measure_names(runs.values())),
        "Gradient": show_gradient(runs, axis),
        "Pace": show_pace(runs, axis)
        + show_values(_WAITING, runs, axis, "share of the time spent waiting for batches")
        + show_values(_RATE, runs, axis, "learning rate, as a share of its peak", linear=True),
    }
    return "".join(
        f'<h3>{heading}</h3><div class="cards">{charts}</div>' for heading, charts in groups.items() if charts
    )


def curves_section(runs: Mapping[str, Records]) -> Section:
    """Runs over each other, along samples or along time as the reader chooses."""
    legend = show_legend(enumerate(runs)) if len(runs) > 1 else ""
    choices, panels = "", ""
    for index, axis in enumerate((SAMPLES, TIME)):
        checked = " checked" if index == 0 else ""
        choices += f'<input type="radio" name="axis" id="by-{axis.name}"{checked}><label for="by-{axis.name}">by {axis.name}</label>'
        panels += f'<div class="panel on-{axis.name}">{show_curves(runs, axis)}</div>'
    return Section("curves", "Curves", "How it went.", f'<div class="axes">{choices}{legend}{panels}</div>')


def training_section(runs: Mapping[str, Records]) -> Section:
    """Runs one after the other: how the losses fell, and at what speed."""
    body = ""
    for name, records in runs.items():
        alone = {name: records}
        charts = "".join(show_values(part, alone, SAMPLES) for part in loss_names([records]))
        charts += show_values(_GRADIENT, alone, SAMPLES, "gradient norm") + show_pace(alone, SAMPLES)
        body += f'<h3>{escape(name)}</h3><div class="cards">{charts}</div>'
    return Section("curves", "Training", "How the losses fell, along the samples seen, and at what speed.", body)


def _ordered(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
