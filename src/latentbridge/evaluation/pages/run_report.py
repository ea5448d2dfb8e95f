"""Report page of training runs, finished or not: status, curves, samples and settings."""

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
from latentbridge.files import read_json
from latentbridge.run_folder import RunFolder

_RECENT = 5
"""Records of the log from which the remaining time is estimated."""
_OVERDUE = 3
"""A run counts as interrupted if its next record takes so many times as long as the last ones, and more than a minute."""


def describe_run(folder: Path) -> dict[str, Any]:
    """Return the status of a run: {"run", "name", "state", "step", "steps", "samples", "seconds", "seconds_left", "reason",
    "losses", "measures", "environment", "config"}; unknown values are None.

    "losses" and "measures" have the values logged last. Raises UserError for a run that has logged nothing yet.
    """
    run = RunFolder(folder)
    records, config = _log(run), _read_if_exists(run.path / "config.json") or {}
    last, clock = records[-1], elapsed_seconds(records)
    stop = _read_if_exists(run.stopped)
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
        "environment": _read_if_exists(run.environment),
        "config": config,
    }


def write_run_report(folders: Sequence[Path], page: Path) -> Path:
    """Write the page about one run or several; raises UserError for a run that has logged nothing yet."""
    statuses = [describe_run(folder) for folder in folders]
    names = _unique_names(folders)
    logs = {name: _log(RunFolder(folder)) for name, folder in zip(names, folders, strict=True)}
    sections = [_status_section(names, statuses), curves_section(logs)]
    sections += [
        s for name, folder in zip(names, folders, strict=True) if (s := _samples_section(name, RunFolder(folder)))
    ]
    sections.append(_settings_section(names, statuses))
    title = f"Training run {statuses[0]['name']}" if len(folders) == 1 else f"{len(folders)} training runs"
    return write_page(page, title, _lead(statuses), sections)


def _log(run: RunFolder) -> Records:
    if records := run.metrics():
        return records
    raise UserError(f"{run.path} holds no metrics yet; give the folder of a run that has logged a step.")


def _read_if_exists(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _pace(records: Records, clock: Sequence[float]) -> float | None:
    """Return the seconds per step over the last records."""
    first = max(0, len(records) - 1 - _RECENT)
    steps = records[-1]["step"] - records[first]["step"]
    return (clock[-1] - clock[first]) / steps if steps else None


def _unique_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, or their paths if names repeat."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _lead(statuses: Sequence[Mapping[str, Any]]) -> str:
    if len(statuses) > 1:
        return "Runs in the same charts, each in its colour."
    (run,) = statuses
    progress = f"{run['step']} of {run['steps']} steps" if run["steps"] else f"{run['step']} steps"
    left = f" About {format_duration(run['seconds_left'])} are left." if run["seconds_left"] is not None else ""
    return (
        f"{run['state'].capitalize()}: {progress}, {run['samples']:,} samples, {format_duration(run['seconds'])}.{left}"
    )


def _status_section(names: Sequence[str], statuses: Sequence[Mapping[str, Any]]) -> Section:
    rows = ""
    for index, (name, run) in enumerate(zip(names, statuses, strict=True)):
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
            f"<tr><td>{chip_html(index, name)}</td><td>{run['state']}</td>"
            f'{cells}<td class="small">{escape(values)}</td></tr>'
        )
        if run["reason"]:
            rows += f'<tr><td colspan="7" class="is-wrong">{escape(run["reason"])}</td></tr>'
    titles = ("run", "state", "steps", "samples", "time", "left", "last values")
    head = "".join(f"<th{' class=number' if t in titles[2:6] else ''}>{t}</th>" for t in titles)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return Section("status", "Status", "As of the last logged step.", table)


def _samples_section(name: str, run: RunFolder) -> Section | None:
    """Return the sheets over time and their common prompts, or None without sheets."""
    if not (sheets := run.samples()):
        return None
    strip = "".join(
        figure_html(np.asarray(Image.open(path).convert("RGB")), f"after {step:,} steps")
        for step, path in sheets.items()
    )
    words = "".join(f"<li>{escape(prompt)}</li>" for prompt in _read_if_exists(run.prompts) or [])
    details = (
        f'<details><summary>The prompts, row by row</summary><ol class="small">{words}</ol></details>' if words else ""
    )
    lead = "The same held-out prompts and noise at each step; only the weights differ."
    return Section(
        f"samples-{name}", f"Samples during training, {name}", lead, f'<div class="strip sheets">{strip}</div>{details}'
    )


def _settings_section(names: Sequence[str], statuses: Sequence[Mapping[str, Any]]) -> Section:
    flat = [dict(_flatten({**run["config"], "environment": run["environment"] or {}})) for run in statuses]
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
        body += f'<div class="scroll"><table><thead><tr><th>differing setting</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    shared = "".join(
        f"<div><code>{escape(key)} = {escape(flat[0][key])}</code></div>" for key in keys if key not in differing
    )
    title = "All settings" if len(statuses) == 1 else "Shared settings"
    body += f'<details><summary>{title}</summary><div class="facts">{shared}</div></details>'
    return Section("settings", "Settings", "The resolved configuration and environment.", body)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, json.dumps(value))]
    return pairs
