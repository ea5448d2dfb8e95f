"""The shipped tiny model from nothing: six runs, two at a time where they can, then its scores."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from latentbridge.data.drawings.catalogue import build_drawings, load_drawings
from latentbridge.errors import UserError
from latentbridge.evaluation.run import evaluate
from latentbridge.files import atomic_write, write_json
from latentbridge.models.checkpoint import TINY, load, save_model
from latentbridge.processes import start_process
from latentbridge.run_folder import RunFolder
from latentbridge.training.fits.input_check import fit_input_check

_WAVES = ((("pretrain-decoder",), ("pretrain-backbone", "sft")), (("sft-binding", "sft-edits"),), (("align",),))
"""Waves of lanes: the lanes of a wave need nothing of each other and share the cores."""


def training_hours(source: Path = TINY) -> float | None:
    """How long the shipped model's own training took, in hours: the longest lane of each wave; None if not all is stored."""
    seconds = {path.name: RunFolder(path).metrics()[-1]["seconds"] for path in source.glob("training/*")}
    if any(name not in seconds for wave in _WAVES for lane in wave for name in lane):
        return None
    return sum(max(sum(seconds[name] for name in lane) for lane in wave) for wave in _WAVES) / 3600


def reproduce(out: Path) -> Path:
    """Train all stages under `out`, resuming what was begun, and leave the scored model in `out/tiny`."""
    hours = training_hours()
    duration = f"about {hours:.1f} hours" if hours else "some hours"
    print(f"Training takes {duration} on 2 CPU cores; interrupted, the same command goes on.", file=sys.stderr)
    build_drawings()
    for wave in _WAVES:
        lanes = [start_process(train_recipes, lane, str(out)) for lane in wave]
        if any([lane.wait() for lane in lanes]):
            raise UserError(f"A run stopped early; its message is above, and the same command goes on from {out}.")
    folder = ship(out, out / "tiny")
    score(folder)
    return folder


def ship(runs: Path, folder: Path) -> Path:
    """The aligned model rounded to bfloat16, with its recipes, training curves and record of training data beside it."""
    save_model(load(runs / "align"), folder, dtype=torch.bfloat16)
    fit_input_check("tiny", ("shapes", "drawings")).save(folder)
    for name in (name for wave in _WAVES for lane in wave for name in lane):
        for file in ("config.json", "metrics.jsonl"):
            with atomic_write(folder / "training" / name / file) as temporary:
                shutil.copyfile(runs / name / file, temporary)
    return folder


def score(folder: Path) -> None:
    """Both worlds' scores of the model in a folder, written to its `scores.json`."""
    model = load(folder)
    worlds = [evaluate(model, "shapes", size=50), evaluate(model, "drawings", size=50)]
    scores = {
        **{key: worlds[0][key] for key in ("size", "seed", "date", "hardware")},
        "command": "make reproduce",
        "drawings_manifest_sha256": load_drawings().manifest_sha256,
        "rows": [row for world in worlds for row in world["rows"]],
    }
    write_json(folder / "scores.json", scores)


def train_recipes(names: tuple[str, ...], out: str) -> None:
    """Train recipes in turn, each resuming where it stands; for the processes `reproduce` starts."""
    from latentbridge.recipes import recipe
    from latentbridge.training.loop import train
    from latentbridge.training.stages import make_stage

    for name in names:
        config = recipe(name)
        train(config, make_stage(config), Path(out) / name, resume=True)
