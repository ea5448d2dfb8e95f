"""torch.compile on and off: forward and backward of one block of the tiny aligner and of one of the decoder.

Blocks alone, for they are what repeats: all blocks of a kind share what one of them was compiled to (PyTorch's recipe of
regional compilation). A block took 34 CPU seconds with the C++ compiler in them; the aligner whole had not ended
after 49, more than three minutes of a busy machine (2026-11-23). The language model is left out: its batches have another
length at every step, for which it would be compiled again and again. Compiling needs a C++ compiler, and its own time is
given, for a run must first earn that back.
Run: python benchmarks/compile.py
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch._inductor.config as inductor
from harness import SMOKE, Target, compare, in_turns, keep, not_here, one_thread
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from latentbridge.config import ModelConfig
from latentbridge.models.checkpoint import new_model
from latentbridge.rng import torch_rng

ROUNDS, BATCH = (1, 2) if SMOKE else (20, 32)
COMPILERS = ("c++", "g++", "clang++")


class Block(NamedTuple):
    """A module and what it is called with."""

    module: nn.Module
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


def main() -> None:
    one_thread()
    if not any(shutil.which(name) for name in COMPILERS):
        not_here(f"no C++ compiler ({', '.join(COMPILERS)}) is here; install one.")
    inductor.compile_threads = 1  # the compiler is then a child of this process, and its time is counted
    targets: list[Target] = []
    details: dict[str, object] = {"batch": BATCH}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for part, (block, args, kwargs) in list(blocks().items())[: 1 if SMOKE else None]:
            compiled, began = torch.compile(block, dynamic=False), cpu_seconds()
            off, on = (partial(step, module, args, kwargs) for module in (block, compiled))
            try:
                on()
            except BackendCompilerFailed as error:
                not_here(f"the {part} does not compile ({str(error).splitlines()[0]}); are Python's headers there?")
            taken = cpu_seconds() - began
            seconds = in_turns({"off": off, "on": on}, ROUNDS)
            targets.append(compare(f"a block of the {part}: off / on", seconds["off"], seconds["on"]))
            saved = (sum(seconds["off"]) - sum(seconds["on"])) / ROUNDS
            details[f"a block of the {part}"] = {
                "compiling, C++ compiler included (CPU s)": round(taken, 1),
                "passes until that is earned back": round(taken / saved) if saved > 0 else "never",
            }
    keep(__file__, targets, details)


def blocks() -> dict[str, Block]:
    """A block of each part, as a way to call it with what it reads in training."""
    config = ModelConfig()
    model, rng = new_model(config, 0), torch_rng(0, "compile")
    sizes = config.aligner
    queries = torch.randn(BATCH, sizes.num_queries, sizes.d_model, generator=rng)
    hidden = torch.randn(BATCH, 24, sizes.d_model, generator=rng)
    side, channels = config.decoder.grid, config.autoencoder.channels
    noisy = torch.randn(BATCH, channels, side, side, generator=rng)
    times = torch.randint(1000, (BATCH,), generator=rng).float()
    return {
        "aligner": met(model.aligner, "block.0", queries, hidden),
        "decoder": met(model.decoder, "transformer.blocks.0", noisy, times, queries),
    }


@torch.no_grad()
def met(part: nn.Module, name: str, *inputs: Tensor) -> Block:
    """A block of a part, and what it is called with when the part reads `inputs`; its numbers get gradients, as in training."""
    block, calls = part.get_submodule(name), list[Block]()
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(Block(block, args, kwargs)), with_kwargs=True
    )
    part(*inputs)
    handle.remove()
    for value in (*calls[0].args, *calls[0].kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            value.requires_grad_()
    return calls[0]


def step(module: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Forward and backward."""
    module(*args, **kwargs).square().mean().backward()


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


if __name__ == "__main__":
    main()
