"""The model card of an exported model: README.md with YAML front matter, from the record of its run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentbridge import __version__
from latentbridge.config import RunConfig, from_dict, to_dict
from latentbridge.errors import UserError
from latentbridge.evaluation.metrics import format_score
from latentbridge.files import atomic_write, read_json
from latentbridge.models.doctor.records import ReleaseRecord, record_named
from latentbridge.run_folder import RunFolder

_TASKS = {
    "understand": "image-text-to-text",
    "generate": "text-to-image",
    "edit": "image-to-image",
    "embed": "feature-extraction",
}
_LOADING = {
    "peft": 'PeftModel.from_pretrained(base, "FOLDER")',
    "authors": 'latentbridge.load("FOLDER")',
    "transformers": 'latentbridge.load("FOLDER")',
}
_COUNTS = ("step", "seconds", "samples", "waiting")
"""Entries of a metrics record that are no losses or measures."""


@dataclass(frozen=True)
class Exported:
    """The facts of an export that a card states beside its run's."""

    title: str
    layout: str
    skills: frozenset[str]
    left_out: tuple[str, ...] = ()
    """Parts of the trained model that the layout has no place for."""


def write_model_card(folder: Path, exported: Exported, run: Path, scores: Mapping[str, Any] | None = None) -> Path:
    """Write README.md beside an exported model; `scores` are a document of `latentbridge eval`."""
    path = folder / "README.md"
    with atomic_write(path) as temporary:
        temporary.write_text(model_card(exported, run, scores), encoding="utf-8")
    return path


def model_card(exported: Exported, run: Path, scores: Mapping[str, Any] | None = None) -> str:
    """Return the text of a card; a folder that is no run of ours has no training section."""
    config = run_config(run)
    bases = base_records(config)
    parts = [_front_matter(exported, bases), f"# {exported.title}", _introduction(exported, config, bases)]
    if config:
        parts += [_training(config, RunFolder(run)), _data(config)]
    parts += [_scores(scores), _licence(config, bases)]
    return "\n\n".join(parts) + "\n"


def run_config(folder: Path) -> RunConfig | None:
    """Return the config of a run folder; None for a folder of a model alone."""
    path = folder / "config.json"
    stored = read_json(path) if path.is_file() else None
    if not isinstance(stored, dict) or not {"stage", "steps"} <= stored.keys():
        return None
    return from_dict(RunConfig, stored)


def base_records(config: RunConfig | None) -> list[ReleaseRecord]:
    """Return the records of the releases that a run started from."""
    names = dict.fromkeys(Path(source).name for _, source in config.init) if config else {}
    return [record for name in names if (record := record_named(name))]


def _front_matter(exported: Exported, bases: Iterable[ReleaseRecord]) -> str:
    from huggingface_hub import ModelCardData

    bases = list(bases)
    tasks = [task for skill, task in _TASKS.items() if skill in exported.skills]
    licences = {record.licence for record in bases}
    licence = licences.pop() if len(licences) == 1 else ""
    named = next((record.licence_name for record in bases if record.licence_name), None)
    data = ModelCardData(
        base_model=[record.repository for record in bases] or None,
        library_name="peft" if exported.layout == "peft" else "latentbridge",
        license=licence or None,
        license_name=named if licence == "other" else None,
        pipeline_tag=tasks[0] if tasks else None,
        tags=["latentbridge", *tasks],
    )
    return f"---\n{data.to_yaml()}\n---"


def _introduction(exported: Exported, config: RunConfig | None, bases: list[ReleaseRecord]) -> str:
    started = ", ".join(record.repository for record in bases)
    if config and not started:
        started = ", ".join(source for _, source in config.init) or "random weights"
    kind = "A LoRA adapter" if exported.layout == "peft" else "A model"
    lines = [f"{kind} trained with LatentBridge {__version__}{f' from {started}' if started else ''}."]
    if exported.skills:
        lines.append(f"It can {', '.join(skill for skill in _TASKS if skill in exported.skills)}.")
    if exported.left_out:
        lines.append(f"Not in these files, which have no place for it: {', '.join(exported.left_out)}.")
    if exported.layout == "peft":
        lines.append("It was trained beside the base's own weights and does nothing useful with others.")
    return " ".join(lines) + f"\n\n```python\n{_LOADING[exported.layout]}\n```"


def _training(config: RunConfig, run: RunFolder) -> str:
    environment = read_json(run.environment) if run.environment.is_file() else {}
    size = read_json(run.size) if run.size.is_file() else {}
    metrics = run.metrics()
    rows = {
        "recipe": config.name,
        "stage": config.stage.kind,
        "steps": f"{config.steps:,}",
        "batch size": f"{config.batch_size:,}",
        "seed": config.seed,
        "optimiser": f"peak rate {config.optim.lr:g}, warm-up of {config.optim.warmup_steps} steps",
        "LoRA rank": config.stage.lora_rank or "none",
        "trained parameters": f"{size['moving']:,}" if "moving" in size else "not recorded",
        "time": f"{metrics[-1]['seconds'] / 3600:.2f} hours" if metrics else "not recorded",
        "hardware": _hardware(environment),
        "precision": "bfloat16 products" if config.bf16 and environment.get("bfloat16") else "float32",
        "packages": ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items()),
        "command": f"`{environment['command']}`" if "command" in environment else "not recorded",
    }
    table = _table(("setting", "value"), rows.items())
    losses = {name: f"{value:.4g}" for name, value in (metrics[-1] if metrics else {}).items() if name not in _COUNTS}
    last = f"\n\nLast logged step:\n\n{_table(('measure', 'value'), losses.items())}" if losses else ""
    whole = json.dumps(to_dict(config), indent=2)
    settings = f"<details><summary>All settings</summary>\n\n```json\n{whole}\n```\n\n</details>"
    return f"## Training\n\n{table}{last}\n\n{settings}"


def _hardware(environment: Mapping[str, Any]) -> str:
    if not environment:
        return "not recorded"
    return f"{environment.get('device', 'cpu')}: {environment['machine']}, {environment['cores']} cores"


def _data(config: RunConfig) -> str:
    stage = to_dict(config.stage)
    sources = stage.get("sources") or []
    named = ", ".join(str(each[0] if isinstance(each, (list, tuple)) else each) for each in sources)
    return f"## Data\n\n{named or 'The data of the stage ' + config.stage.kind + '; see all settings above.'}"


def _scores(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return "## Scores\n\nNone were recorded with this export."
    if not isinstance(scores.get("rows"), list):
        raise UserError("The scores hold no rows; give a file that `latentbridge eval --out` wrote.")
    rows = [
        (
            row["skill"],
            row["metric"].strip(),
            format_score(row["value"], row["unit"]),
            f"{format_score(row['low'], row['unit'])} to {format_score(row['high'], row['unit'])}",
            row["n"],
        )
        for row in scores["rows"]
    ]
    heading = f"World `{scores.get('world', '')}`, seed {scores.get('seed', '')}, {scores.get('date', '')}, {scores.get('hardware', '')}."
    return f"## Scores\n\n{heading}\n\n{_table(('skill', 'metric', 'value', '95 % interval', 'n'), rows)}"


def _licence(config: RunConfig | None, bases: list[ReleaseRecord]) -> str:
    lines = [
        f"- {record.repository}: {record.licence_name or record.licence or 'not recorded here; see its own card'}"
        for record in bases
    ]
    if not lines and config and config.init:
        lines = [f"- {source}: not recorded here" for _, source in config.init]
    text = "The weights stay under the licence of what they were trained from; the data may add terms of its own."
    return "\n".join(["## Licence", "", text, *([""] if lines else []), *lines])


def _table(heads: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
