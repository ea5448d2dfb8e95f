"""BiTransformer forward and backward at d_model 2048 and 256 queries, held against transformers' eager T5 attention and a floor.

"eager" is the aligner of transformers' own T5 layers as they come: scores materialised, [8 32 256 256] a layer, and the
"gelu_new" that is written out in nine operations. "ours" computes the same with attention that keeps no scores
(`models/omnibridge/attention.py`) and torch's fused gelu; "cheap" and "blocks" are ours with `recompute`. The floor is the linear
layers alone on the same rows. Timed at 2 of 24 layers, both with cross-attention as often as the release; time is linear in
layers.

The aim of 1.5 times the speed cannot be had in float32, where the floor itself is 1.2 to 1.3 times as fast as eager: linear
layers are all but a fifth of a step. In bfloat16 on a processor with AMX the floor is 1.7 times as fast, and what lies between are
norms, gates and residual sums in float32 and weights that autocast copies.

Memory is the peak of a process of its own, less what it holds before the step, at 6 layers: what a layer more takes is
constant from 2 layers on, gradients of its weights (193 MiB) among it. Run: python benchmarks/aligner.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from harness import SMOKE, Target, compare, flops, in_turns, keep, memory, one_thread, printed_number
from torch import Tensor, nn
from transformers import T5Config

from latentbridge.config import AlignerConfig
from latentbridge.models.omnibridge import aligner
from latentbridge.models.omnibridge.aligner import BiTransformer, t5_config
from latentbridge.rng import torch_rng
from latentbridge.training.recompute import Recompute, recompute

ROUNDS, DEPTH, MEMORY_DEPTH, WIDTH, QUERIES = (1, 2, 2, 64, 16) if SMOKE else (4, 2, 6, 2048, 256)
HIDDEN, BATCH = 128, 8
OURS: dict[str, Recompute] = {"ours": "none", "cheap": "cheap", "blocks": "blocks"}
EAGER, FLOOR = "eager", "floor"


def main() -> None:
    one_thread()
    if sys.argv[1:2] == ["--memory"]:
        step = prepared(sys.argv[2], MEMORY_DEPTH)
        before = memory("VmRSS")
        step()
        print(memory("VmHWM") - before)
        return
    ways = {name: prepared(name, DEPTH) for name in (EAGER, *OURS)} | {FLOOR: floor(DEPTH)}
    in_bfloat16 = torch.autocast("cpu", torch.bfloat16)
    both = {**ways, **{f"{name}, bfloat16": in_bfloat16(ways[name]) for name in (EAGER, "ours", FLOOR)}}
    seconds = in_turns(both, ROUNDS)
    smoke = ["--smoke"] if SMOKE else []
    held = {name: printed_number(__file__, "--memory", name, *smoke) for name in (EAGER, *OURS)}
    targets: list[Target] = []
    for dtype, least in (("", 1.5), (", bfloat16", 1.5)):
        eager = seconds[f"{EAGER}{dtype}"]
        targets.append(compare(f"eager / ours, time{dtype}", eager, seconds[f"ours{dtype}"], least=least))
        targets.append(compare(f"eager / floor, time{dtype}", eager, seconds[f"{FLOOR}{dtype}"]))
    for name in ("cheap", "blocks"):
        targets.append(compare(f"eager / {name}, time", seconds[EAGER], seconds[name]))
    for name in OURS:
        most = 0.6 if name == "cheap" else None
        targets.append(compare(f"{name} / eager, memory of a step", [held[name]], [held[EAGER]], most=most))
    products = {name: flops(way) for name, way in both.items()}
    details = {
        "batch": BATCH,
        "hidden states": HIDDEN,
        "FLOPs, eager / floor": round(products[EAGER] / products[FLOOR], 3),
        "GFLOP a CPU second": {name: round(products[name] / min(found) / 1e9, 1) for name, found in seconds.items()},
        "CPU s": {name: round(min(found), 3) for name, found in seconds.items()},
        f"MiB of a step, {MEMORY_DEPTH} layers": {name: round(found) for name, found in held.items()},
    }
    keep(__file__, targets, details)


def prepared(name: str, depth: int) -> Callable[[], object]:
    """A step, forward and backward, of an aligner of so many layers."""
    with patch.object(aligner, "t5_config", as_it_comes) if name == EAGER else nullcontext():
        model = BiTransformer(sizes(depth)).eval()
    recompute(model, OURS.get(name, "none"))
    hidden = torch.randn(BATCH, HIDDEN, WIDTH, generator=torch_rng(0, "aligner benchmark"))
    hidden.requires_grad_()  # as they come from the projector

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(model.query_tokens.expand(BATCH, -1, -1), hidden).square().mean().backward()

    return step


def as_it_comes(config: AlignerConfig, **more: Any) -> T5Config:
    """The aligner's T5 with transformers' own attention and gelu."""
    found = t5_config(config, **{**more, "attn_implementation": "eager"})
    found.dense_act_fn = "gelu_new"
    return found


def sizes(depth: int) -> AlignerConfig:
    return AlignerConfig(
        d_model=WIDTH,
        d_ff=WIDTH * 5 // 2,
        d_kv=WIDTH // 32,
        num_heads=32,
        num_layers=depth,
        num_queries=QUERIES,
        cross_layers=tuple(range(0, depth, 3)),  # 7 of 24 in the release
    )


def floor(depth: int) -> Callable[[], object]:
    """Forward and backward of the aligner's linear layers alone, each on rows as many as it gets in a step."""
    rng, pairs = torch_rng(0, "floor"), list[tuple[nn.Linear, Tensor]]()
    for name, layer in BiTransformer(sizes(depth)).named_modules():
        if isinstance(layer, nn.Linear):
            rows = HIDDEN if "EncDecAttention.k" in name or "EncDecAttention.v" in name else QUERIES
            pairs.append((layer, torch.randn(BATCH * rows, layer.in_features, generator=rng, requires_grad=True)))

    def step() -> None:
        for layer, rows in pairs:
            layer.zero_grad(set_to_none=True)
            rows.grad = None
            product = layer(rows)
            product.backward(product.detach())

    return step


if __name__ == "__main__":
    main()
