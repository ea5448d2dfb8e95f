"""Stage 1 with several conversations in a row against conversations padded to the longest: CPU time for the same tokens.

The same batches of a recipe's own size both ways, another every round, forward and backward through the shipped model's
backbone; packing them is timed with it. At most as much can be won as there are places fewer, which the details tell: all
but attention takes its time by the place, and attention has as long rows as before. Run: python benchmarks/packing.py
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

import torch
from harness import SMOKE, Target, compare, in_turns, keep, one_thread
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentbridge.models.checkpoint import load
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.recipes import recipe
from latentbridge.training.stages import make_stage

RECIPES, ROUNDS = (("sft",), 1) if SMOKE else (("sft", "sft-edits"), 6)


def main() -> None:
    one_thread()
    model = load("tiny")
    targets: list[Target] = []
    details: dict[str, object] = {}
    for name in RECIPES:
        padded = batches(name, model)
        packed = [model.backbone.pack(batch) for batch in padded]
        tokens = {"padded": tokens_share(padded), "packed": tokens_share(packed)}
        places = [sum(batch.input_ids.numel() for batch in found) for found in (padded, packed)]
        details[name] = {"batch": len(padded[0].input_ids), "share of the rows that is tokens": tokens}
        details[name] |= {"places of padded rows / of packed ones": round(places[0] / places[1], 3)}
        for bf16 in (True, False):
            model.backbone.model.set_attn_implementation("eager" if bf16 else "sdpa")  # as the loop has it
            learn = partial(there_and_back, model, bf16)
            ways: dict[str, Callable[[], object]] = {
                "padded": partial(next, map(learn, padded)),
                "packed": partial(next, map(lambda batch: learn(model.backbone.pack(batch)), padded)),
            }
            seconds = in_turns(ways, ROUNDS)
            kind = "bfloat16" if bf16 else "float32"
            targets.append(compare(f"{name}, {kind}: padded / packed", seconds["padded"], seconds["packed"]))
    keep(__file__, targets, details)


def batches(name: str, model: OmniBridge) -> list[Any]:
    """One a round, and one for the round that does not count."""
    config = recipe(name)
    config = replace(config, batch_size=4) if SMOKE else config
    stage = make_stage(replace(config, stage=replace(config.stage, drawings=0.0)))
    return [stage.batch(model, step) for step in range(ROUNDS + 1)]


def tokens_share(found: list[Any]) -> float:
    return round(mean(batch.attention_mask.float().mean().item() for batch in found), 3)


def there_and_back(model: OmniBridge, bf16: bool, batch: Any) -> None:
    model.zero_grad(set_to_none=True)
    attention = sdpa_kernel(SDPBackend.MATH) if bf16 else nullcontext()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), attention:
        loss = model.backbone.language_loss(batch)
    loss.backward()


if __name__ == "__main__":
    main()
