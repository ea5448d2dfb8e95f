"""Stage 1 with several conversations in a row against conversations padded to the longest: tokens per CPU second.

The same batches of a recipe's own size both ways, forward and backward through the shipped model's backbone, in turns. Padding counts as no
token. Seconds are this process's CPU time, so that other work on the machine counts little. Writes `packing.json` beside
this file. Run: OMP_NUM_THREADS=1 python benchmarks/packing.py
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentbridge.models.checkpoint import load
from latentbridge.models.omnibridge.model import Model
from latentbridge.recipes import recipe
from latentbridge.training.stages import make_stage

RECIPES, ROUNDS = ("sft", "sft-edits"), 5


def main() -> None:
    torch.set_num_threads(1)
    model = load("tiny")
    results = {
        f"{name}, {'bfloat16' if bf16 else 'float32'}": measure(name, model, bf16)
        for name in RECIPES
        for bf16 in (True, False)
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(name: str, model: Model, bf16: bool) -> dict[str, float]:
    """Shares of the rows that are tokens, and the median ratio of tokens per CPU second, packing included."""
    config = recipe(name)
    stage = make_stage(replace(config, stage=replace(config.stage, drawings=0.0)))
    model.backbone.model.set_attn_implementation("eager" if bf16 else "sdpa")  # as the loop has it
    ratios, padded_share, packed_share = [], [], []
    for step in range(ROUNDS):
        padded = stage.batch(model, step)
        began = time.process_time()
        packed = model.backbone.pack(padded)
        packing_s = time.process_time() - began
        ratios.append(cpu_seconds(model, padded, bf16) / (cpu_seconds(model, packed, bf16) + packing_s))
        padded_share.append(padded.attention_mask.float().mean().item())
        packed_share.append(packed.attention_mask.float().mean().item())
    return {
        "tokens in padded rows": round(median(padded_share), 3),
        "tokens in packed rows": round(median(packed_share), 3),
        "tokens per CPU second, packed / padded": round(median(ratios), 2),
        "least": round(min(ratios), 2),
    }


def cpu_seconds(model: Model, batch: object, bf16: bool) -> float:
    """Forward and backward."""
    model.zero_grad(set_to_none=True)
    began = time.process_time()
    attention = sdpa_kernel(SDPBackend.MATH) if bf16 else nullcontext()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), attention:
        loss = model.backbone.language_loss(batch)
    loss.backward()
    return time.process_time() - began


if __name__ == "__main__":
    main()
