"""Training of the shipped tiny model from scratch: six runs, in parallel if possible, then its scores."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from latentbridge.data.drawings.catalogue import build_drawings, load_drawings
from latentbridge.errors import UserError
from latentbridge.evaluation.run import evaluate
from latentbridge.files import atomic_write, write_json
from latentbridge.models.checkpoint import TINY, as_trainable, load, save_model
from latentbridge.processes import start_process
from latentbridge.run_folder import RunFolder
from latentbridge.training.fits.input_check import fit_input_check

_GROUPS = ((("pretrain-decoder",), ("pretrain-backbone", "sft")), (("sft-binding", "sft-edits"),), (("align",),))
"""Groups of recipe sequences; the sequences of a group are independent and run in parallel."""
_RECIPES = [name for group in _GROUPS for sequence in group for name in sequence]


def training_hours(source: Path = TINY) -> float | None:
    """Return the hours the shipped model took to train, or None if some run's metrics are missing."""
    seconds = {path.name: RunFolder(path).metrics()[-1]["seconds"] for path in source.glob("training/*")}
    if any(name not in seconds for name in _RECIPES):
        return None
    return sum(max(sum(seconds[name] for name in sequence) for sequence in group) for group in _GROUPS) / 3600


def reproduce(out: Path) -> Path:
    """Train all stages under `out`, resuming existing runs, and return the folder of the scored model, `out/tiny`."""
    hours = training_hours()
    duration = f"about {hours:.1f} hours" if hours else "some hours"
    print(f"Training takes {duration} on 2 CPU cores; if interrupted, run the same command to resume.", file=sys.stderr)
    build_drawings()
    for group in _GROUPS:
        processes = [start_process(train_recipes, sequence, str(out)) for sequence in group]
        if any([process.wait() for process in processes]):
            raise UserError(f"A run failed; its message is above. Run the same command to resume from {out}.")
    _export(out, out / "tiny")
    _write_scores(out / "tiny")
    return out / "tiny"


def _export(runs: Path, folder: Path) -> None:
    """Save the aligned model in bfloat16 with its recipes, training curves and record of training data."""
    save_model(load(runs / "align"), folder, dtype=torch.bfloat16)
    fit_input_check("tiny", ("shapes", "drawings")).save(folder)
    for name in _RECIPES:
        for file in ("config.json", "metrics.jsonl"):
            with atomic_write(folder / "training" / name / file) as temporary:
                shutil.copyfile(runs / name / file, temporary)


def _write_scores(folder: Path) -> None:
    """Evaluate the model in a folder on both worlds and write its `scores.json`."""
    model = as_trainable(load(folder))
    worlds = [evaluate(model, "shapes", size=50), evaluate(model, "drawings", size=50)]
    scores = {
        **{key: worlds[0][key] for key in ("size", "seed", "date", "hardware")},
        "command": "make reproduce",
        "drawings_manifest_sha256": load_drawings().manifest_sha256,
        "rows": [row for world in worlds for row in world["rows"]],
    }
    write_json(folder / "scores.json", scores)


def train_recipes(names: tuple[str, ...], out: str) -> None:
    """Train recipes one after another, resuming existing runs; the function `reproduce` runs in each process."""
    from latentbridge.recipes import recipe
    from latentbridge.training.loop import train
    from latentbridge.training.stages import make_stage

    for name in names:
        config = recipe(name)
        train(config, make_stage(config), Path(out) / name, resume=True)
