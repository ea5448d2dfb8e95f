"""A step in bfloat16 against float32: what mixed precision does on this processor, which the results name.

CPUs with AMX multiply bfloat16 in tiles; avx512_bf16 alone has twice the float32 products an instruction, and neither
helps norms, softmax or the optimiser. Timed: the step of `sft` for the tiny backbone as the loop does it, autocast and
written-out attention included, and a bare product of matrices, which is the most that the step could gain.
Run: python benchmarks/bf16.py
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from harness import SMOKE, compare, in_turns, keep, machine, one_thread
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentbridge.config import ModelConfig
from latentbridge.models.checkpoint import new_model
from latentbridge.recipes import SFT
from latentbridge.rng import torch_rng
from latentbridge.training.stages import make_stage

ROUNDS, BATCH, SIDE = (1, 2, 64) if SMOKE else (8, 32, 1024)


def main() -> None:
    one_thread()
    amx = "amx_bf16" in machine()["instructions"]
    steps = in_turns({"float32": step(bf16=False), "bfloat16": step(bf16=True)}, ROUNDS)
    products = in_turns({"float32": product(torch.float32), "bfloat16": product(torch.bfloat16)}, ROUNDS)
    targets = [
        compare("a step: float32 / bfloat16", steps["float32"], steps["bfloat16"], least=1.5 if amx else None),
        compare("a product of matrices: float32 / bfloat16", products["float32"], products["bfloat16"]),
    ]
    flop = 2 * SIDE**3
    rates = {name: round(flop / min(found) / 1e9, 1) for name, found in products.items()}
    keep(__file__, targets, {"batch": BATCH, "AMX": amx, "GFLOP a CPU second in products": rates})


def step(bf16: bool) -> Callable[[], None]:
    """Forward and backward of the stage `sft` on one batch."""
    config = replace(
        SFT,
        stage=replace(SFT.stage, sources=(("shapes", 1.0),)),
        model=ModelConfig(parts=("backbone",)),
        init=(),
        batch_size=BATCH,
        bf16=bf16,
    )
    model, stage = new_model(config.model, 0), make_stage(config)
    if bf16:
        model.backbone.model.set_attn_implementation("eager")
    batch: Any = stage.batch(model, 0)

    def run() -> None:
        model.zero_grad(set_to_none=True)
        attention = sdpa_kernel(SDPBackend.MATH) if bf16 else nullcontext()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), attention:
            outputs: Any = stage.loss(model, batch, torch_rng(0, "bench"), None)
        outputs.loss.backward()

    return run


def product(dtype: torch.dtype) -> Callable[[], Any]:
    left, right = (torch.randn(SIDE, SIDE, generator=torch_rng(0, name)).to(dtype) for name in ("left", "right"))
    return lambda: left @ right


if __name__ == "__main__":
    main()
