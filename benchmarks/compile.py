"""torch.compile on and off: forward and backward of the tiny aligner and decoder, whose shapes never change.

The language model is left out: its batches have another length at every step, for which it would be compiled again and
again. Compiling needs a C++ compiler, and its own time is given, for a run must first earn that back.
Run: python benchmarks/compile.py
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial

import torch
from harness import SMOKE, compare, in_turns, keep, one_thread
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from latentbridge.config import ModelConfig
from latentbridge.models.checkpoint import new_model
from latentbridge.rng import torch_rng

ROUNDS, BATCH = (1, 2) if SMOKE else (8, 32)
COMPILERS = ("c++", "g++", "clang++")


def main() -> None:
    one_thread()
    if not any(shutil.which(name) for name in COMPILERS):
        print(f"No C++ compiler ({', '.join(COMPILERS)}) is here, so nothing can be compiled; install one.")
        return
    targets, details = [], {}
    for part, (module, inputs) in parts().items():
        compiled = torch.compile(module, dynamic=False)
        began = time.process_time()
        try:
            step(compiled, inputs)
        except BackendCompilerFailed as error:
            print(
                f"The {part} does not compile here ({str(error).splitlines()[0]}); a compiler needs Python's headers too."
            )
            return
        details[f"compiling the {part}, own process (CPU s)"] = round(time.process_time() - began, 1)
        seconds = in_turns({"off": partial(step, module, inputs), "on": partial(step, compiled, inputs)}, ROUNDS)
        saved = sum(seconds["off"]) - sum(seconds["on"])
        details[f"saved by a step of the {part} (CPU s)"] = round(saved / ROUNDS, 4)
        targets.append(compare(f"{part}: off / on", seconds["off"], seconds["on"]))
    keep(__file__, targets, {"batch": BATCH, **details})


def parts() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """The parts with what they read in training."""
    config = ModelConfig()
    model, rng = new_model(config, 0), torch_rng(0, "compile")
    sizes = config.aligner
    queries = torch.randn(BATCH, sizes.num_queries, sizes.d_model, generator=rng)
    hidden = torch.randn(BATCH, 24, sizes.d_model, generator=rng)
    side, channels = config.decoder.grid, config.autoencoder.channels
    noisy = torch.randn(BATCH, channels, side, side, generator=rng)
    times = torch.randint(1000, (BATCH,), generator=rng).float()
    return {"aligner": (model.aligner, (queries, hidden)), "decoder": (model.decoder, (noisy, times, queries))}


def step(module: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    """Forward and backward."""
    module(*inputs).square().mean().backward()


if __name__ == "__main__":
    main()
