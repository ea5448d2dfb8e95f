"""The shipped tiny model from nothing: four runs, two at a time, then its scores."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import torch

from latentbridge.data.drawings import build_drawings, load_drawings
from latentbridge.errors import UserError
from latentbridge.evaluation.run import evaluate
from latentbridge.models.checkpoint import TINY, load_model, save_model
from latentbridge.rundir import RunDir, atomic_write, write_json

_LANES = (("pretrain-decoder",), ("pretrain-backbone", "sft"))
"""Runs that need nothing of each other: one lane a core."""
_JOINED = "align"


def stored_hours(source: Path = TINY) -> float:
    """How long the shipped model's own training took, in hours: the longer lane, then alignment."""
    seconds = {path.name: RunDir(path).metrics()[-1]["seconds"] for path in source.glob("training/*")}
    return (max(sum(seconds[name] for name in lane) for lane in _LANES) + seconds[_JOINED]) / 3600


def reproduce(out: Path) -> Path:
    """Train all stages under `out`, resuming what was begun, and leave the scored model in `out/tiny`."""
    hours = f"about {stored_hours():.1f} hours" if (TINY / "training").exists() else "some hours"
    print(
        f"Training the tiny model from nothing takes {hours} on 2 CPU cores; interrupted, the same command goes on.",
        file=sys.stderr,
    )
    build_drawings()
    running = [_start_lane(lane, out) for lane in _LANES]
    if any([process.wait() for process in running]):
        raise UserError(f"A training run stopped early; its message is above, and the same command goes on from {out}.")
    if _start_lane((_JOINED,), out).wait():
        raise UserError(f"Alignment stopped early; its message is above, and the same command goes on from {out}.")
    return ship(out, out / "tiny")


def ship(runs: Path, folder: Path) -> Path:
    """The aligned model rounded to bfloat16, with its recipes, curves and scores beside it."""
    save_model(load_model(runs / _JOINED), folder, dtype=torch.bfloat16)
    names = [name for lane in _LANES for name in lane] + [_JOINED]
    for name in names:
        for file in ("config.json", "metrics.jsonl"):
            with atomic_write(folder / "training" / name / file) as temporary:
                shutil.copyfile(runs / name / file, temporary)
    model = load_model(folder)
    worlds = [evaluate(model, "shapes"), evaluate(model, "drawings")]
    write_json(
        folder / "scores.json",
        {
            **{key: worlds[0][key] for key in ("seed", "date", "hardware")},
            "command": "make reproduce",
            "drawings_manifest_sha256": load_drawings().manifest_sha256,
            "rows": [row for world in worlds for row in world["rows"]],
        },
    )
    return folder


def _start_lane(names: tuple[str, ...], out: Path) -> subprocess.Popen[bytes]:
    """A process that trains the named recipes one after another, each resuming where it stands."""
    script = f"from latentbridge.reproduce import train_lane; train_lane({names!r}, {str(out)!r})"
    return subprocess.Popen([sys.executable, "-c", script])


def train_lane(names: tuple[str, ...], out: str) -> None:
    """Train recipes in turn; for the processes `reproduce` starts."""
    from latentbridge.recipes import recipe
    from latentbridge.training.loop import train
    from latentbridge.training.stages import make_stage

    for name in names:
        config = recipe(name)
        train(config, make_stage(config), Path(out) / name, resume=True)
