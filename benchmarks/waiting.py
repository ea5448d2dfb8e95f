"""How long training waits for its batches: made ahead in a process beside the loop, and made by the loop itself.

Real recipes at their own sizes, a few steps of each, the two ways in turns. A share is of the time between two lines of the
log; the first line is left out, for it holds the start of the process. `made` is what batches cost when the loop makes
them, so the gain at best is 1 / (1 - made). Writes `waiting.json` beside this file. Run: python benchmarks/waiting.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from latentbridge.config import RunConfig
from latentbridge.recipes import recipe
from latentbridge.rundir import RunDir
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage

LINES, STEPS_A_LINE, ROUNDS = 3, 4, 3
RECIPES = {
    "pretrain-decoder": (("autoencoder.", "tiny"),),
    "pretrain-backbone": (),
    "sft": (),
    "post-sft": (("", "tiny"),),
}
"""With what they start from, so that none needs a run before it."""


def main() -> None:
    results = {name: measure(name) for name in RECIPES}
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(name: str) -> dict[str, float]:
    """Median shares of waiting, and the ratio of the times a step takes."""
    base = recipe(name)
    config = replace(
        base,
        stage=replace(base.stage, drawings=0.0, items=256),
        steps=(LINES + 1) * STEPS_A_LINE,
        log_every=STEPS_A_LINE,
        checkpoint_every=10**6,
        init=RECIPES[name],
    )
    taken: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for ahead, ways in taken.items():
            ways.append(once(config, ahead))
    shares = {ahead: median(share for share, _ in ways) for ahead, ways in taken.items()}
    seconds = {ahead: median(second for _, second in ways) for ahead, ways in taken.items()}
    return {
        "waiting share, ahead": round(shares[True], 4),
        "waiting share, made": round(shares[False], 4),
        "seconds a step, ahead / made": round(seconds[True] / seconds[False], 3),
    }


def once(config: RunConfig, ahead: bool) -> tuple[float, float]:
    """The share of waiting and the seconds a step."""
    stage = make_stage(config)
    stage.rollouts = not ahead
    with TemporaryDirectory() as folder:
        train(config, stage, Path(folder) / "run", progress=False)
        lines = RunDir(Path(folder) / "run").metrics()
    seconds = (lines[-2]["seconds"] - lines[0]["seconds"]) / (lines[-2]["step"] - lines[0]["step"])
    return median(line["waiting"] for line in lines[1:-1]), seconds


if __name__ == "__main__":
    main()
