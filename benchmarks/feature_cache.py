"""Stage-2 steps a second with frozen features from the store, against computing them in every step; side by side in one run.

Two sizes: the shipped tiny model, and the proportions of the 8B recipe scaled down (backbone to aligner as 5.5 to 1 in
weights). Three ways a step can get its features: recomputed with the rewritten captions sampled anew (what the released
code does), recomputed from stored captions, and read from the store. Writes `feature_cache.json` beside this file.
Run: python benchmarks/feature_cache.py
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from latentbridge.config import AlignerConfig, BackboneConfig, ModelConfig, RunConfig
from latentbridge.models.checkpoint import new_model
from latentbridge.models.unified import Model
from latentbridge.recipes import ALIGN
from latentbridge.rng import torch_rng
from latentbridge.training.stages.align import Align

ROUNDS = 4
SCALED_8B = replace(
    ModelConfig(),
    backbone=BackboneConfig(
        hidden_size=448,
        num_layers=8,
        num_heads=14,
        num_kv_heads=2,
        intermediate_size=2368,
        vision_width=160,
        vision_heads=5,
    ),
    aligner=AlignerConfig(d_model=256, d_ff=640, d_kv=32, num_heads=8, num_layers=4, cross_layers=(0, 2)),
)


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    results = {name: measure(config) for name, config in (("tiny", ModelConfig()), ("8B scaled down", SCALED_8B))}
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(model_config: ModelConfig) -> dict[str, float]:
    """Median seconds of a step each way, taken in turns, and the ratios to the store."""
    config = replace(
        ALIGN, model=model_config, batch_size=16, init=(), stage=replace(ALIGN.stage, drawings=0, items=64)
    )
    model = new_model(config.model, 0)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LATENTBRIDGE_CACHE"] = cache
        stage = Align(config)
        stage.prepare(model)
        stage.attach(model)
        ways: dict[str, Callable[[int], None]] = {
            "store": lambda step: train_step(stage, model, step),
            "recomputed": lambda step: (recompute(stage, model, step), train_step(stage, model, step))[1],
            "recomputed and rewritten": lambda step: (
                rewrite(model, config), recompute(stage, model, step), train_step(stage, model, step)
            )[2],
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for step in range(ROUNDS + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                way(step % 4)
                if step:
                    seconds[name].append(time.perf_counter() - began)
    median = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    shares = {f"{name} / store": round(median[name] / median["store"], 2) for name in ways if name != "store"}
    weights = {part: sum(p.numel() for p in module.parameters()) for part, module in model.named_children()}
    rounded = {f"{name} (s)": round(value, 4) for name, value in median.items()}
    return {**rounded, **shares, **{f"weights of {part}": count for part, count in weights.items()}}


def train_step(stage: Align, model: Model, step: int) -> None:
    moving = [p for name, p in model.named_parameters() if stage.trainable(f"model.{name}")]
    outputs = stage.loss(model, stage.batch(model, step), torch_rng(0, "bench", step), None)
    torch.autograd.grad(outputs.loss, moving, allow_unused=True)  # pyright: ignore[reportArgumentType]


def recompute(stage: Align, model: Model, step: int) -> None:
    size = stage.config.batch_size
    stage.compute(model, range(step * size, (step + 1) * size))


def rewrite(model: Model, config: RunConfig) -> None:
    """A caption of the usual length for every item; an untrained model stops only at the limit."""
    model.rewrite(["a red circle left of a blue star"] * config.batch_size)


if __name__ == "__main__":
    main()
