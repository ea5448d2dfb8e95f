"""How far `latentbridge estimate` is off for tiny steps: FLOPs and bytes kept, counted while a step runs, against the estimate.

Counting needs no clock: torch's own FlopCounterMode, and every storage that autograd keeps for the way back, weights left
out. A ratio above 1 is an estimate too high. Peak memory of the whole process is not compared: at this size it is the
libraries'. Run: python benchmarks/estimate.py
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness import SMOKE, Target, held, keep, one_thread
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from latentbridge.config import AlignConfig, ModelConfig, RunConfig, SftConfig, TaskMix
from latentbridge.models.adapters import add_adapter
from latentbridge.models.checkpoint import new_model
from latentbridge.recipes import PRETRAIN_BAGEL, PRETRAIN_HARMON, PRETRAIN_JANUS
from latentbridge.rng import torch_rng
from latentbridge.training.costs.estimate import GIB, estimate
from latentbridge.training.stage import Objective, trainable_parameters
from latentbridge.training.stages import make_stage

BATCH = 2 if SMOKE else 8
LOOK = TaskMix(vqa=1.0, cot=0.0, generation=0.0, editing=0.0)
"""A picture in every conversation, as estimates have it."""
SFT = RunConfig("sft", SftConfig(tasks=LOOK), 1, BATCH, model=ModelConfig(parts=("backbone",)), bf16=False)
STEPS = {
    "sft": SFT,
    "sft with adapters": replace(SFT, stage=replace(SFT.stage, lora_rank=8)),
    "align": replace(SFT, model=ModelConfig(), stage=AlignConfig(items=16, retrieval_weight=0.1)),
    **{
        f"{base.name}, native": replace(
            base, batch_size=BATCH, bf16=False, init=(), stage=replace(base.stage, items=64)
        )
        for base in (PRETRAIN_JANUS, PRETRAIN_BAGEL, PRETRAIN_HARMON)
    },
}
OFF = 0.35
"""How far a ratio may be from 1."""


def main() -> None:
    one_thread()
    targets: list[Target] = []
    for name, config in STEPS.items():
        flops, kept, text = counted(config)
        found = estimate(config, text_tokens=text)
        for what, told, counts in (
            ("FLOPs", found.step_tflop * 1e12, flops),
            ("bytes kept", found.activations * GIB, kept),
        ):
            ratio = f"{name}: {what}, estimated / counted"
            targets.append(held(ratio, [told / counts], least=1 - OFF, most=1 + OFF))
    keep(__file__, targets, {"batch": BATCH})


def counted(config: RunConfig) -> tuple[float, float, int]:
    """FLOPs of a step, bytes it keeps, and the tokens of its longest text."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LATENTBRIDGE_CACHE"] = cache
        model, stage = new_model(config.model, 0), make_stage(config)
        if config.stage.lora_rank:
            add_adapter(model, config.stage.lora_rank)
        stage.setup(model)
        objective = Objective(model, stage)
    named = trainable_parameters(dict(objective.named_parameters()), stage, config)
    for name, parameter in objective.named_parameters():
        parameter.requires_grad_(name in named)
    batch: Any = stage.batch(model, 0)
    return *count_step(lambda: objective(batch, torch_rng(0, "estimate")).loss, model), text_tokens(model, batch)


def count_step(loss: Callable[[], Tensor], model: nn.Module) -> tuple[int, int]:
    """Return the FLOPs of a forward and backward pass, and the bytes autograd saves, without weights and each storage once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(save, lambda tensor: tensor):
            value = loss()
        value.backward()
    return counter.get_total_flops(), sum(saved.values())


def text_tokens(model: Any, batch: Any) -> int:
    """Of the longest conversation of a batch, its picture left out."""
    if hasattr(batch, "input_ids"):
        return batch.input_ids.shape[1] - int(batch.image_mask.sum()) // len(batch.input_ids)
    if hasattr(batch, "talks"):
        words = [" ".join(f"{user} {assistant}" for user, assistant in talk.turns) for talk in batch.conversations]
        return max(len(model.tokenizer.encode(text)) for text in words)
    return 1


if __name__ == "__main__":
    main()
