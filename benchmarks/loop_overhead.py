"""A step of the one loop against bare forward, backward and optimiser on the same batches: what the loop's own work costs.

The loop also sets rates, checks losses and gradients, averages weights and logs; the bare step clips and steps as it must.
Both train the tiny backbone by the stage `sft`, a step each in turn. Making the batch is timed apart and counts as the
loop's in the second ratio only, for a loader makes it meanwhile. The floor is the averaging of weights alone, which reads
two numbers and writes one for each that moves, 12 bytes, at the pace of a copy of as many bytes.
Run: python benchmarks/loop_overhead.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from harness import SMOKE, compare, in_turns, keep, one_thread
from torch import nn

from latentbridge.config import ModelConfig, RunConfig
from latentbridge.models.checkpoint import new_model
from latentbridge.recipes import SFT
from latentbridge.rng import torch_rng
from latentbridge.training.loop import train
from latentbridge.training.optim import make_optimizers
from latentbridge.training.stage import trainable_parameters
from latentbridge.training.stages import make_stage

STEPS, BATCH = (3, 4) if SMOKE else (24, 16)


def main() -> None:
    one_thread()
    config = replace(
        SFT,
        stage=replace(SFT.stage, sources=(("shapes", 1.0),)),
        model=ModelConfig(parts=("backbone",)),
        init=(),
        steps=STEPS + 2,
        batch_size=BATCH,
        bf16=False,
        log_every=20,
        checkpoint_every=10_000,
        threads=torch.get_num_threads(),
    )
    loop, bare, making = in_turns_with_the_loop(config)
    whole = [own + made for own, made in zip(loop, making, strict=True)]
    targets = [
        compare("the loop's step / bare step", loop, bare, most=1.05),
        compare("the loop's step with making its batch / bare step", whole, bare),
    ]
    step_s, copy_s = sum(bare) / STEPS, averaging_s(config)
    floor = {
        "a bare step (CPU s)": round(step_s, 4),
        "averaging at a copy's pace (CPU s)": round(copy_s, 4),
        "the loop's step / bare step, at least": round(1 + copy_s / step_s, 4),
    }
    keep(__file__, targets, {"steps": STEPS, "batch": BATCH, **floor})


def in_turns_with_the_loop(config: RunConfig) -> tuple[list[float], list[float], list[float]]:
    """CPU seconds of the loop's steps, of bare steps on the same batches between them, and of making the batches.

    The first step warms up and the last one also saves, so neither counts.
    """
    stage: Any = make_stage(config)
    draw, bare_step = stage.batch, bare(config)
    starts, ends, barely, making = [], [], [], []

    def batch(model: Any, step: int) -> object:
        ends.append(time.process_time())
        found = draw(model, step)
        making.append(time.process_time() - ends[-1])
        barely.append(bare_step(found, step))
        starts.append(time.process_time())
        return found

    stage.batch, stage.rollouts = batch, True  # so that batches are made, and timed, in the loop
    with tempfile.TemporaryDirectory() as folder:
        train(config, stage, Path(folder) / "run", progress=False)
    loop = [end - start for start, end in zip(starts, ends[1:], strict=False)]
    return loop[1:], barely[1:-1], making[1:-1]


def averaging_s(config: RunConfig) -> float:
    """CPU seconds to move as many bytes as the average of all weights does."""
    numbers = sum(p.numel() for p in new_model(config.model, config.seed).parameters()) * 3 // 2
    source, target = torch.zeros(numbers), torch.zeros(numbers)
    return min(in_turns({"copy": lambda: target.copy_(source)}, 10)["copy"])


def bare(config: RunConfig) -> Callable[[object, int], float]:
    """A step of a model of its own by forward, backward, clipping and optimiser alone; gives its CPU seconds."""
    model, stage = new_model(config.model, config.seed), make_stage(config)
    stage.setup(model)
    named = trainable_parameters({f"model.{name}": p for name, p in model.named_parameters()}, stage, config)
    optimizers = make_optimizers(named, config.optim)

    def step(batch: Any, index: int) -> float:
        began = time.process_time()
        loss: Any = stage.loss(model, batch, torch_rng(config.seed, "loss", index), None).loss
        loss.backward()
        nn.utils.clip_grad_norm_(list(named.values()), config.optim.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.process_time() - began

    return step


if __name__ == "__main__":
    main()
