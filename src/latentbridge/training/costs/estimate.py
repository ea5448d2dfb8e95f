"""Estimated cost of a run from its config alone: parameters, peak memory by part, FLOPs, hours and price.

The network is built on the meta device; the trained parameters are those of `stage.trainable_parameters`. Per rank, fully sharded:

  weights, gradients, EMA   4 bytes per parameter (all; trained; trained). Each rank has its shards and, if weights are not
                            gathered by block (`Stage.by_block`), full copies of the first two
  optimizer                 8 bytes per trained parameter with AdamW, 4 with Muon
  bfloat16 copies           2 bytes per trained parameter, which autocast keeps during a step
  activations               for each pass with gradient (`training/costs/passes.py`) the input and output of every linear layer,
                            at 2 bytes per number in bfloat16, else 4, and 4 bytes per logit; beside an adapter, which
                            keeps the input (once for siblings with the same input), the output only. With
                            recompute="cheap" outputs only, with "blocks" the inputs of blocks and one whole block.
                            Each rank holds its share of the batch
  FLOPs                     2 per weight and token forward, 2 for the gradient of the input, 2 for that of a trained weight;
                            for attention 4 x tokens^2 x width per layer forward, twice that backward

Not included: gathered layers, workspace, fragmentation, norms, embeddings, convolutions of autoencoders, held-out metrics.
`benchmarks/estimate.py` compares it with measurements of a tiny step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from latentbridge.config import DataStageConfig, ModelConfig, RunConfig
from latentbridge.models.adapters import add_adapter
from latentbridge.models.blocks import blocks
from latentbridge.models.checkpoint import Network, outline
from latentbridge.models.omnibridge.load_hunyuan_dit import attach_meta_decoder
from latentbridge.training.costs.passes import Pass, Passes, passes
from latentbridge.training.optim import make_optimizers
from latentbridge.training.recompute import Recompute
from latentbridge.training.stage import Stage, trainable_parameters
from latentbridge.training.stages import make_stage
from latentbridge.training.stages.native import BackboneStage

GIB = 2**30
_QUERIES = re.compile(r"\.(q_proj|to_q|q|qkv)(\.base_layer)?$")
"""Linear layers whose output is as wide as a layer's attention; `qkv` three times."""
_SHARED_INPUT = re.compile(r"\.(k_proj|v_proj|up_proj)\.lora_A\b")
"""Adapter layers with the same input as a sibling."""
_LOGITS = ("lm_head", "vision_head")
_MEMORY = ("weights", "gradients", "optimiser", "average", "copies", "activations")


@dataclass(frozen=True)
class Estimate:
    """The cost of one run on `ranks` GPUs; memory in GiB per rank, of which `peak` is the sum."""

    parameters: int
    moving: int
    weights: float
    gradients: float
    optimiser: float
    average: float
    copies: float
    activations: float
    peak: float
    step_tflop: float
    """10^12 FLOPs per step of all ranks."""
    hours: float
    cost: float

    def lines(self) -> list[str]:
        """Return the estimate as text."""
        memory = {name: getattr(self, name) for name in _MEMORY}
        return [
            f"parameters        {self.parameters:,}, of which {self.moving:,} are trained",
            *(f"{name:<18}{value:8.2f} GiB a rank" for name, value in memory.items()),
            f"{'peak':<18}{self.peak:8.2f} GiB a rank",
            f"{'a step':<18}{self.step_tflop:8.1f} TFLOP",
            f"{'the run':<18}{self.hours:8.3g} hours, {self.cost:.3g} in the unit of --price",
        ]


def estimate(
    config: RunConfig,
    ranks: int = 1,
    *,
    tflops: float = 400.0,
    price: float = 2.0,
    text_tokens: int = 256,
    picture_px: int = 512,
) -> Estimate:
    """Return the cost of a run whose samples have texts and images of these sizes.

    A GPU sustains `tflops` 10^12 FLOPs per second and costs `price` per hour: hours = steps x FLOPs / (tflops x 10^12 x
    ranks x 3600), cost = hours x ranks x price.
    """
    network, stage = build_on_meta(config)
    trained = trainable_parameters({f"model.{name}": p for name, p in network.named_parameters()}, stage, config)
    count, trained_count = sum(p.numel() for p in network.parameters()), sum(p.numel() for p in trained.values())
    steps = tuple(
        item._replace(with_gradient=False) if item.from_data and not _is_trained(item, trained) else item
        for item in passes(config, network, text_tokens, picture_px)
    )
    flops = config.batch_size * sum(pass_flops(network, item, trained) for item in steps)
    number_bytes = 2 if config.bf16 else 4
    memory = {
        "weights": 4 * count,
        "gradients": 4 * trained_count,
        "optimiser": _optimizer_bytes(trained, config),
        "average": 4 * trained_count,
        "copies": 2 * trained_count * config.bf16,
        "activations": config.batch_size * _activation_bytes(network, steps, number_bytes, config.recompute),
    }
    unsharded = ("weights", "gradients") if ranks > 1 and not stage.by_block else ()
    per_rank = {name: value * (1 / ranks + (name in unsharded)) / GIB for name, value in memory.items()}
    hours = config.steps * flops / (tflops * 1e12 * ranks) / 3600
    return Estimate(
        count,
        trained_count,
        **per_rank,
        peak=sum(per_rank.values()),
        step_tflop=flops / 1e12,
        hours=hours,
        cost=hours * ranks * price,
    )


def build_on_meta(config: RunConfig) -> tuple[Network, Stage]:
    """Return a run's network on the meta device, with its adapter and an inherited decoder, and its stage without data."""
    if isinstance(config.stage, DataStageConfig):
        config = replace(config, stage=replace(config.stage, sources=(("shapes", 1.0),)))
    stage, network = make_stage(config), outline(config.model)
    if (
        isinstance(config.model, ModelConfig)
        and "decoder." in dict(config.init)
        and "decoder" not in config.model.parts
    ):
        attach_meta_decoder(network)  # pyright: ignore[reportArgumentType]
    if config.stage.lora_rank:
        with torch.device("meta"):
            add_adapter(network, config.stage.lora_rank)
    if isinstance(stage, BackboneStage):
        stage.bind(network)
    return network, stage


def _is_trained(item: Pass, trained: Mapping[str, nn.Parameter]) -> bool:
    return any(name.startswith(f"model.{item.part}") for name in trained)


def _activation_bytes(network: nn.Module, steps: Passes, number_bytes: int, recompute: Recompute) -> float:
    """Return the peak bytes of activations that the passes of one sample save for the backward pass."""
    in_blocks = {id(module) for block in blocks(network) for module in block.modules()}
    saved, largest_block = 0.0, 0.0
    for item in (item for item in steps if item.with_gradient):
        block_bytes = 0.0
        for name, layer in _linear_layers(network, item.part):
            outputs, inputs = layer.weight.shape[0], layer.weight[0].numel()
            output_only = name.endswith(".base_layer") or (recompute == "cheap" and id(layer) in in_blocks)
            numbers = outputs if output_only or _SHARED_INPUT.search(name) else outputs + inputs
            layer_bytes = inputs * number_bytes + 4 * outputs if name.endswith(_LOGITS) else numbers * number_bytes
            if id(layer) in in_blocks:
                block_bytes += item.tokens * layer_bytes
            else:
                saved += item.times * item.tokens * layer_bytes
        if recompute == "blocks":
            own = [block for name, block in _named_blocks(network) if f"{name}.".startswith(item.part)]
            largest_block = max(largest_block, block_bytes / max(1, len(own)))
            saved += item.times * item.tokens * sum(_width(block) for block in own) * number_bytes
        else:
            saved += item.times * block_bytes
    return saved + largest_block


def _named_blocks(network: nn.Module) -> list[tuple[str, nn.Module]]:
    own = {id(block) for block in blocks(network)}
    return [(name, module) for name, module in network.named_modules() if id(module) in own]


def _width(block: nn.Module) -> int:
    """Return the width of a block's input: that of its widest norm."""
    return max((p.numel() for name, p in block.named_parameters() if "norm" in name and p.ndim == 1), default=0)


def pass_flops(network: nn.Module, item: Pass, trained: Mapping[str, nn.Parameter]) -> float:
    """Return the forward and backward FLOPs of a pass of one sample."""
    forward = backward = 0.0
    for name, layer in _linear_layers(network, item.part):
        product = 2.0 * layer.weight.numel() * item.tokens
        width = layer.out_features if isinstance(layer, nn.Linear) and _QUERIES.search(name) else 0
        attention = 4.0 * item.tokens**2 * (width // 3 if "qkv" in name else width)
        forward += product + attention
        backward += product + 2 * attention + product * (f"model.{name}.weight" in trained)
    return item.times * (forward + backward * item.with_gradient)


def _linear_layers(network: nn.Module, part: str) -> Iterator[tuple[str, nn.Linear | nn.Conv2d | nn.Conv3d]]:
    for name, module in network.named_modules():
        if f"{name}.".startswith(part) and isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            yield name, module


def _optimizer_bytes(trained: dict[str, nn.Parameter], config: RunConfig) -> int:
    total = 0
    for optimizer in make_optimizers(trained, config.optim):
        moments = 1 if isinstance(optimizer, torch.optim.Muon) else 2
        total += sum(4 * moments * p.numel() for group in optimizer.param_groups for p in group["params"])
    return total
