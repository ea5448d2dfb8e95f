"""BiTransformer forward and backward at d_model 2048 and 256 queries, held against transformers' eager T5 attention and a floor.

The aligner is made of transformers' own eager T5 layers: scores are materialised, [32 256 256] a layer, and the
position bias, which learns, goes through them. So eager is what a step does unless `recompute` says otherwise, and
four things are compared with it: `recompute="cheap"`, `recompute="blocks"`, bfloat16, and the floor, which is the linear
layers alone on the same rows. Timed at 2 and 4 of 24 layers, each with cross-attention as often as the release; time is
linear in layers, and so is memory but for one layer.

The aim of 1.5 times the speed in float32 cannot be had: a step is its linear layers. Attention's own products are 2 % of the
FLOPs at 256 queries, and eager took 1.09 and 1.14 times as long as the floor (2 layers, 2 rounds, one thread of a busy
machine with avx512_bf16 and no AMX, 2026-11-23), which is all that fused projections, a better kernel or fewer copies could
win together. SDPA with the bias as its mask took 1.02 and 1.05 times as long as eager in the same rounds, for where the mask
learns torch writes attention out as well. Only cheaper products are faster: bfloat16 took 1 / 1.35 and 1 / 1.63 of the time,
and a run asks for it by `bf16`.

Memory is the peak of a process of its own, less what it holds before the step. Run: python benchmarks/aligner.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from harness import SMOKE, Target, compare, flops, in_turns, keep, memory, one_thread, printed_number
from torch import Tensor, nn

from latentbridge.config import AlignerConfig
from latentbridge.models.omnibridge.aligner import BiTransformer
from latentbridge.rng import torch_rng
from latentbridge.training.recompute import Recompute, recompute

ROUNDS, DEPTHS, WIDTH, QUERIES = (1, (2,), 64, 16) if SMOKE else (4, (2, 4), 2048, 256)
HIDDEN, BATCH, MEMORY_BATCH = 128, 1, 4
WAYS: tuple[Recompute, ...] = ("none", "cheap", "blocks")


def main() -> None:
    one_thread()
    if sys.argv[1:2] == ["--memory"]:
        what, depth = sys.argv[2], int(sys.argv[3])
        model, step = prepared(depth, MEMORY_BATCH)
        before = memory("VmRSS")
        recompute(model, what)  # pyright: ignore[reportArgumentType]
        step()
        print(memory("VmHWM") - before)
        return
    targets: list[Target] = []
    details: dict[str, object] = {"batch": BATCH, "batch for memory": MEMORY_BATCH, "hidden states": HIDDEN}
    for depth in DEPTHS:
        ways: dict[str, Callable[[], object]] = {}
        for what in WAYS:
            model, ways[what] = prepared(depth, BATCH)
            recompute(model, what)
        ways["bfloat16"] = torch.autocast("cpu", torch.bfloat16)(prepared(depth, BATCH)[1])
        ways["floor"] = floor(depth)
        seconds = in_turns(ways, ROUNDS)
        held = {
            what: printed_number(__file__, "--memory", what, str(depth), *(["--smoke"] if SMOKE else []))
            for what in WAYS
        }
        name = f"{depth} layers"
        targets += [
            compare(f"{name}: eager / cheap, time", seconds["none"], seconds["cheap"], least=1.5),
            compare(f"{name}: cheap / eager, memory of a step", [held["cheap"]], [held["none"]], most=0.6),
            compare(f"{name}: blocks / eager, time", seconds["blocks"], seconds["none"]),
            compare(f"{name}: blocks / eager, memory of a step", [held["blocks"]], [held["none"]]),
            compare(f"{name}: eager / bfloat16, time", seconds["none"], seconds["bfloat16"]),
            compare(f"{name}: eager / floor, time", seconds["none"], seconds["floor"]),
        ]
        products = {way: flops(ways[way]) for way in seconds}
        details[name] = {
            "FLOPs, eager / floor": round(products["none"] / products["floor"], 3),
            "GFLOP a CPU second": {way: round(products[way] / min(found) / 1e9, 1) for way, found in seconds.items()},
            "CPU s": {way: round(min(found), 3) for way, found in seconds.items()},
            "MiB of a step": {what: round(found) for what, found in held.items()},
        }
    keep(__file__, targets, details)


def prepared(depth: int, batch: int) -> tuple[BiTransformer, Callable[[], object]]:
    """An aligner of so many layers, and a step of it: forward, backward."""
    crosses = tuple(range(0, depth, 3))  # 7 of 24 in the release
    model = BiTransformer(sizes(depth, crosses)).eval()
    rng = torch_rng(0, "aligner benchmark")
    hidden = torch.randn(batch, HIDDEN, WIDTH, generator=rng).requires_grad_()  # as they come from the projector

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(model.query_tokens.expand(batch, -1, -1), hidden).square().mean().backward()

    return model, step


def sizes(depth: int, crosses: tuple[int, ...]) -> AlignerConfig:
    return AlignerConfig(
        d_model=WIDTH,
        d_ff=WIDTH * 5 // 2,
        d_kv=WIDTH // 32,
        num_heads=32,
        num_layers=depth,
        num_queries=QUERIES,
        cross_layers=crosses,
    )


def floor(depth: int) -> Callable[[], object]:
    """Forward and backward of the aligner's linear layers alone, each on rows as many as it gets in a step."""
    model, _ = prepared(depth, BATCH)
    rng, pairs = torch_rng(0, "floor"), list[tuple[nn.Linear, Tensor]]()
    for name, layer in model.named_modules():
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
