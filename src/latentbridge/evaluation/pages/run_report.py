"""The page about runs, finished or not: where each stands, how it went, what it drew, and with which settings."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentbridge.errors import UserError
from latentbridge.evaluation.pages.curves import Records, curves_section, elapsed_seconds, loss_names, measure_names
from latentbridge.evaluation.pages.page import Section, figure_html, write_page
from latentbridge.evaluation.pages.plots import chip_html, format_duration
from latentbridge.rundir import RunDir, read_json

_RECENT = 5
"""Rows of the log from which the time left is told."""
_OVERDUE = 3
"""A run whose next row takes so many times as long as the last ones, and more than a minute, is taken for interrupted."""
_STATES = {"finished": "finished", "stopped": "stopped", "running": "under way", "interrupted": "interrupted"}


def describe_run(folder: Path) -> dict[str, Any]:
    """Where a run stands: {"run", "name", "state", "step", "steps", "samples", "seconds", "seconds_left", "reason",
    "losses", "measures", "environment", "config"}; what is not known is None.

    "losses" and "measures" are those logged last. Raises UserError for a run that has logged nothing yet.
    """
    run = RunDir(folder)
    records, config = _log(run), _settings(run)
    last, clock = records[-1], elapsed_seconds(records)
    stop = read_json(run.stopped) if run.stopped.exists() else None
    steps = config.get("steps")
    pace = _pace(records, clock)
    quiet_s = time.time() - (run.path / "metrics.jsonl").stat().st_mtime
    if (run.model / "config.json").exists():
        state = "finished"
    elif stop and stop["step"] >= last["step"]:
        state = "stopped"
    else:
        between = pace * (last["step"] - records[-2]["step"]) if pace and len(records) > 1 else 0.0
        state = "running" if quiet_s < max(60.0, _OVERDUE * between) else "interrupted"
    left = pace * (steps - last["step"]) if state in ("running", "interrupted") and pace and steps else None
    measures = {n: next(r[n] for r in reversed(records) if n in r) for n in measure_names([records])}
    return {
        "run": str(folder),
        "name": config.get("name", folder.name),
        "state": state,
        "step": last["step"],
        "steps": steps,
        "samples": last["samples"],
        "seconds": round(clock[-1], 2),
        "seconds_left": None if left is None else round(left),
        "reason": stop["reason"] if stop and state == "stopped" else None,
        "losses": {name: last[name] for name in loss_names([records])},
        "measures": measures,
        "environment": read_json(run.environment) if run.environment.exists() else None,
        "config": config,
    }


def write_run_report(folders: Sequence[Path], page: Path) -> Path:
    """The page about one run or several side by side; raises UserError for a run that has logged nothing yet."""
    described = [describe_run(folder) for folder in folders]
    names = _told_apart(folders)
    logs = {name: _log(RunDir(folder)) for name, folder in zip(names, folders, strict=True)}
    sections = [_standing_section(names, described), curves_section(logs)]
    sections += [
        s for name, folder in zip(names, folders, strict=True) if (s := _samples_section(name, RunDir(folder)))
    ]
    sections.append(_settings_section(names, described))
    title = f"Training run {described[0]['name']}" if len(folders) == 1 else f"{len(folders)} training runs"
    return write_page(page, title, _lead(described), sections)


def _log(run: RunDir) -> Records:
    if records := run.metrics():
        return records
    raise UserError(f"{run.path} holds no metrics yet; give the folder of a run that has logged a step.")


def _settings(run: RunDir) -> dict[str, Any]:
    path = run.path / "config.json"
    return read_json(path) if path.exists() else {}


def _pace(records: Records, clock: Sequence[float]) -> float | None:
    """Seconds a step over the last rows."""
    first = max(0, len(records) - 1 - _RECENT)
    steps = records[-1]["step"] - records[first]["step"]
    return (clock[-1] - clock[first]) / steps if steps else None


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths where those are the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _lead(described: Sequence[Mapping[str, Any]]) -> str:
    if len(described) > 1:
        return "Runs over each other, each in its colour."
    (run,) = described
    of = f"{run['step']} of {run['steps']} steps" if run["steps"] else f"{run['step']} steps"
    left = f" About {format_duration(run['seconds_left'])} are left." if run["seconds_left"] is not None else ""
    return f"{_STATES[run['state']].capitalize()}: {of}, {run['samples']:,} samples, {format_duration(run['seconds'])}.{left}"


def _standing_section(names: Sequence[str], described: Sequence[Mapping[str, Any]]) -> Section:
    rows = ""
    for index, (name, run) in enumerate(zip(names, described, strict=True)):
        left = "" if run["seconds_left"] is None else format_duration(run["seconds_left"])
        logged = {**run["losses"], **run["measures"]}
        values = ", ".join(f"{part} {value:.4g}" for part, value in logged.items())
        numbers = (
            f"{run['step']:,}" + (f" of {run['steps']:,}" if run["steps"] else ""),
            f"{run['samples']:,}",
            format_duration(run["seconds"]),
            left,
        )
        cells = "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)
        rows += (
            f"<tr><td>{chip_html(index, name)}</td><td>{_STATES[run['state']]}</td>"
            f'{cells}<td class="small">{escape(values)}</td></tr>'
        )
        if run["reason"]:
            rows += f'<tr><td colspan="7" class="is-wrong">{escape(run["reason"])}</td></tr>'
    titles = ("run", "state", "steps", "samples", "time", "left", "last values")
    head = "".join(f"<th{' class=number' if t in titles[2:6] else ''}>{t}</th>" for t in titles)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return Section("standing", "Where it stands", "As of its last logged step.", table)


def _samples_section(name: str, run: RunDir) -> Section | None:
    """The sheets over time; the prompts, which are the same in all, once."""
    if not (sheets := run.samples()):
        return None
    strip = "".join(
        figure_html(np.asarray(Image.open(path).convert("RGB")), f"after {step:,} steps")
        for step, path in sheets.items()
    )
    prompts = read_json(run.prompts) if run.prompts.exists() else []
    words = "".join(f"<li>{escape(prompt)}</li>" for prompt in prompts)
    told = (
        f'<details><summary>The prompts, row by row</summary><ol class="small">{words}</ol></details>' if words else ""
    )
    lead = "Always the same held-out prompts and the same noise, so that only the weights differ."
    return Section(
        f"samples-{name}", f"Drawn on the way, {name}", lead, f'<div class="strip sheets">{strip}</div>{told}'
    )


def _settings_section(names: Sequence[str], described: Sequence[Mapping[str, Any]]) -> Section:
    flat = [dict(_flatten({**run["config"], "environment": run["environment"] or {}})) for run in described]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    differing = [key for key in keys if len({settings.get(key) for settings in flat}) > 1]
    body = ""
    if differing:
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        rows = "".join(
            f"<tr><td><code>{escape(key)}</code></td>"
            + "".join(f"<td><code>{escape(settings.get(key, ''))}</code></td>" for settings in flat)
            + "</tr>"
            for key in differing
        )
        body += f'<div class="scroll"><table><thead><tr><th>what differs</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    shared = "".join(
        f"<div><code>{escape(key)} = {escape(flat[0][key])}</code></div>" for key in keys if key not in differing
    )
    title = "All settings" if len(described) == 1 else "What is the same"
    body += f'<details><summary>{title}</summary><div class="facts">{shared}</div></details>'
    return Section("settings", "Settings", "The resolved configuration, and where it ran.", body)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        found += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, json.dumps(value))]
    return found
