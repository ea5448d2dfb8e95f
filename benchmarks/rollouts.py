"""Stochastic latent rollouts of the shipped model, forward and backward: what it costs to find and to teach the best of K.

Three ways, side by side in one run: one rollout after another, all with gradient (a loop); all in one pass with gradient;
all in one pass without gradient, then the best again with it, which is what training does. Seconds are this process's
CPU time, so that other work on the machine counts little. Writes `rollouts.json` beside this file.
Run: python benchmarks/rollouts.py
"""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from latentbridge.data.language import describe
from latentbridge.data.scenes import distinct_scenes
from latentbridge.models.backbones.omnibridge import OmniBridge
from latentbridge.models.checkpoint import load
from latentbridge.rng import numpy_rng, torch_rng
from latentbridge.training.latentumm import RoundTrip, all_trips, best_trips, preference_loss, rollout_noise

PAIRS, SIGMA, ROUNDS = 4, 0.05, 3


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    backbone = OmniBridge(load("tiny"))
    prompts = [describe(scene) for scene in distinct_scenes("train", numpy_rng(0, "rollouts"), PAIRS)]
    with torch.no_grad():
        z = backbone.gen_latent(prompts)
    trip = partial(backbone.roundtrip, seeds=list(range(PAIRS)))
    results = {f"K = {count}": measure(z.requires_grad_(), trip, count) for count in (2, 4, 8)}
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(z: Tensor, trip: RoundTrip, count: int) -> dict[str, float]:
    """Median CPU seconds each way, taken in turns, and the ratios to what training does."""
    noise = rollout_noise(z, count, SIGMA, torch_rng(0, "noise"))
    ways = {
        "a loop": lambda: torch.stack([cosine_similarity(z, trip(start), dim=-1) for start in (z, *(z + noise))])[1:],
        "one pass": lambda: all_trips(z, noise, trip)[1],
        "the best again": lambda: best_trips(z, noise, trip)[1],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, scores in ways.items():
            began = time.process_time()
            preference_loss(scores()).backward()
            seconds[name].append(time.process_time() - began)
    median = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    ratios = {
        f"{name} / the best again": round(median[name] / median["the best again"], 2) for name in ("a loop", "one pass")
    }
    return {**{f"{name} (s)": round(value, 3) for name, value in median.items()}, **ratios}


if __name__ == "__main__":
    main()
