"""Stochastic latent rollouts of the shipped model, forward and backward: what it costs to find and to teach the best of K.

Three ways, side by side in one run: one rollout after another, all with gradient (a loop); all in one pass with gradient;
all in one pass without gradient, then the best again with it, which is what training does. By FLOPs alone, with a way back
twice as long as the way there, the loop costs 3 (K + 1) trips and the last way K + 6, which is 1.5 times at K = 4 and
1.93 at K = 8; with the rollouts' own graphs kept it would be K + 5. What is above that is won by larger batches. So the
aim of 2.5 at K = 4 is beyond what teaching the best alone can give. Run: python benchmarks/rollouts.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from harness import SMOKE, Target, compare, flops, in_turns, keep, one_thread
from torch import Tensor
from torch.nn.functional import cosine_similarity

from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.models.backbones.omnibridge import OmniBridge
from latentbridge.models.checkpoint import load
from latentbridge.rng import numpy_rng, torch_rng
from latentbridge.training.objectives.latentumm import RoundTrip, all_trips, best_trips, preference_loss, rollout_noise

PAIRS, SIGMA, ROUNDS, COUNTS = (2, 0.05, 1, (2,)) if SMOKE else (4, 0.05, 5, (2, 4, 8))
AGAIN = "the best again"
"""What training does, and what the others are held against."""


def main() -> None:
    one_thread()
    backbone = OmniBridge(load("tiny"))
    prompts = [describe(scene) for scene in distinct_scenes("train", numpy_rng(0, "rollouts"), PAIRS)]
    with torch.no_grad():
        z = backbone.gen_latent(prompts).requires_grad_()
    trip = partial(backbone.roundtrip, seeds=list(range(PAIRS)))
    targets: list[Target] = []
    there = flops(torch.no_grad()(lambda: trip(z.detach())))
    both = flops(lambda: cosine_similarity(z, trip(z), dim=-1).sum().backward())
    details: dict[str, object] = {"pairs": PAIRS, "FLOPs of a trip there and back / there": round(both / there, 3)}
    for count in COUNTS:
        seconds = measure(z, trip, count)
        all_learn = (count + 1) * both
        products = {"a loop": all_learn, "one pass": all_learn, AGAIN: count * there + 2 * both}
        for name, least in (("a loop", 2.5 if count == 4 else None), ("one pass", None)):
            target = compare(f"K = {count}: {name} / {AGAIN}", seconds[name], seconds[AGAIN], least=least)
            targets.append(target)
            details[target.name] = {"by FLOPs": round(products[name] / products[AGAIN], 2)}
        details[f"K = {count}: GFLOP a CPU second"] = {
            name: round(products[name] / min(taken) / 1e9, 1) for name, taken in seconds.items()
        }
    keep(__file__, targets, details)


def measure(z: Tensor, trip: RoundTrip, count: int) -> dict[str, list[float]]:
    """CPU seconds each way, taken in turns."""
    noise = rollout_noise(z, count, SIGMA, torch_rng(0, "noise"))
    ways: dict[str, Callable[[], Tensor]] = {
        "a loop": lambda: torch.stack([cosine_similarity(z, trip(start), dim=-1) for start in (z, *(z + noise))])[1:],
        "one pass": lambda: all_trips(z, noise, trip)[1],
        AGAIN: lambda: best_trips(z, noise, trip)[1],
    }
    return in_turns({name: partial(taught, scores) for name, scores in ways.items()}, ROUNDS)


def taught(scores: Callable[[], Tensor]) -> None:
    preference_loss(scores()).backward()


if __name__ == "__main__":
    main()
