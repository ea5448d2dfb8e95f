"""How long training waits for its batches: made ahead in a process beside the loop, and made by the loop itself.

Real recipes at their own sizes, a few steps of each, the two ways in turns. A share is of the time on the wall between two
lines of the log, the only clock that sees waiting; so this wants a core for each of the two processes. The first line is left
out, for it holds the start of the process. What batches cost when the loop makes them is the floor: the time with
batches ahead can be no less than 1 - that share of the other. Run: python benchmarks/waiting.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from harness import SMOKE, Target, compare, held, keep, one_thread

from latentbridge.config import RunConfig
from latentbridge.recipes import recipe
from latentbridge.run_folder import RunFolder
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage

LINES, STEPS_A_LINE, ROUNDS = (2, 2, 1) if SMOKE else (2, 2, 3)
"""Lines of the log that count, and steps between them."""
STARTS = {
    "pretrain-decoder": (("autoencoder.", "tiny"),),
    "pretrain-backbone": (),
    "sft": (),
    "post-sft": (("", "tiny"),),
}
"""Recipes with what they start from, so that none needs a run before it."""


def main() -> None:
    one_thread()
    targets: list[Target] = []
    details: dict[str, object] = {"steps that count": LINES * STEPS_A_LINE, "rounds": ROUNDS}
    for name in list(STARTS)[: 1 if SMOKE else None]:
        config = settings(name)
        shares: dict[bool, list[float]] = {True: [], False: []}
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(ROUNDS):
            for ahead in shares:
                waited, taken = once(config, ahead)
                shares[ahead] += waited
                seconds[ahead].append(taken)
        made = mean(shares[False])
        targets += [
            held(f"{name}: share of the time waited, batches ahead", shares[True], most=0.03),
            compare(f"{name}: made in the loop / ahead, time on the wall", seconds[False], seconds[True]),
        ]
        details[name] = {
            "batch": config.batch_size,
            "share of the time, made in the loop": round(made, 4),
            "made in the loop / ahead, at most": round(1 / (1 - made), 3),
        }
    keep(__file__, targets, details)


def settings(name: str) -> RunConfig:
    base = recipe(name)
    return replace(
        base,
        stage=replace(base.stage, drawings=0.0, items=256),
        steps=(LINES + 1) * STEPS_A_LINE + 1,
        batch_size=4 if SMOKE else base.batch_size,
        log_every=STEPS_A_LINE,
        checkpoint_every=10**6,
        init=STARTS[name],
    )


def once(config: RunConfig, ahead: bool) -> tuple[list[float], float]:
    """The shares of waiting of the lines that count, and the seconds of a step."""
    stage = make_stage(config)
    stage.rollouts = not ahead
    with TemporaryDirectory() as folder:
        train(config, stage, Path(folder) / "run", progress=False)
        first, *lines, _ = RunFolder(Path(folder) / "run").metrics()
    return [line["waiting"] for line in lines], (lines[-1]["seconds"] - first["seconds"]) / (LINES * STEPS_A_LINE)


if __name__ == "__main__":
    main()
