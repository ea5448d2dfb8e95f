"""What a run takes, told from its config alone: parameters, peak memory by part, FLOPs, hours and cost. An estimate, not a promise.

How it is made. The network is built on the meta device; what moves is what `stage.moving` says. Per rank, fully sharded:

  weights, gradients, EMA   4 bytes a parameter (all of them; those that move), as the loop keeps them; of several ranks
                            each has its shards, and where weights are not gathered by block (`Stage.by_block`) the
                            first two whole beside them
  optimiser                 8 bytes a moving parameter under AdamW, 4 under Muon
  bfloat16 copies           2 bytes a moving parameter, which autocast keeps during a step
  activations               for each pass with gradient (`training/costs/passes.py`) the input and the output of every linear layer,
                            at 2 bytes a number in bfloat16 and 4 else, but 4 bytes a logit; beside an adapter, which
                            keeps the input (once for siblings that read the same), the output alone. With
                            recompute="cheap" outputs alone, with "blocks" the inputs of blocks and one block whole.
                            A rank holds its share of the batch
  FLOPs                     2 a weight and token forward, 2 more to pass gradients on, 2 more where the weight moves;
                            and 4 x tokens^2 x width a layer for attention, as often

Not counted: gathered layers, workspace, fragmentation, norms, embeddings, convolutions of autoencoders, held-out checks.
`benchmarks/estimate.py` holds it against what a tiny step really keeps and computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from latentbridge.config import ModelConfig, RunConfig
from latentbridge.models.adapters import add_adapter
from latentbridge.models.checkpoint import Network, outline
from latentbridge.models.omnibridge.load_hunyuan_dit import outline_decoder
from latentbridge.training.costs.passes import Pass, Passes, passes
from latentbridge.training.optim import make_optimizers
from latentbridge.training.recompute import Recompute, blocks
from latentbridge.training.stage import Stage, moving
from latentbridge.training.stages import make_stage
from latentbridge.training.stages.native import Native

GIB = 2**30
_QUERIES = re.compile(r"\.(q_proj|to_q|q|qkv)(\.base_layer)?$")
"""Linear layers whose output is as wide as a layer's attention; `qkv` three times."""
_READS_ALONG = re.compile(r"\.(k_proj|v_proj|up_proj)\.lora_A\b")
"""What an adapter reads beside a sibling that reads the same."""
_LOGITS = ("lm_head", "vision_head")


@dataclass(frozen=True)
class Estimate:
    """Of one run on `ranks` GPUs; memory in GiB a rank, of which `peak` is the sum."""

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
    """10^12 FLOPs of a step, all ranks together."""
    hours: float
    cost: float

    def lines(self) -> list[str]:
        """The estimate in words, one fact a line."""
        memory = {name: getattr(self, name) for name in _MEMORY}
        return [
            f"parameters        {self.parameters:,}, of which {self.moving:,} move",
            *(f"{name:<18}{value:8.2f} GiB a rank" for name, value in memory.items()),
            f"{'peak':<18}{self.peak:8.2f} GiB a rank",
            f"{'a step':<18}{self.step_tflop:8.1f} TFLOP",
            f"{'the run':<18}{self.hours:8.3g} hours, {self.cost:.3g} in the unit of --price",
        ]


_MEMORY = ("weights", "gradients", "optimiser", "average", "copies", "activations")


def estimate(
    config: RunConfig,
    ranks: int = 1,
    *,
    tflops: float = 400.0,
    price: float = 2.0,
    text_tokens: int = 256,
    picture_px: int = 512,
) -> Estimate:
    """Of a run whose samples have texts and pictures of these sizes, where a GPU sustains `tflops` 10^12 FLOPs a second at
    `price` an hour: hours = steps x FLOPs / (tflops x 10^12 x ranks x 3600), cost = hours x ranks x price."""
    network, stage = build_on_meta(config)
    named = moving({f"model.{name}": p for name, p in network.named_parameters()}, stage, config)
    count, moved = sum(p.numel() for p in network.parameters()), sum(p.numel() for p in named.values())
    found = tuple(
        each._replace(learns=False) if each.of_data and not _learns(each, named) else each
        for each in passes(config, network, text_tokens, picture_px)
    )
    flops = config.batch_size * sum(pass_flops(network, each, named) for each in found)
    bytes_each = 2 if config.bf16 else 4
    memory = {
        "weights": 4 * count,
        "gradients": 4 * moved,
        "optimiser": _optimiser_bytes(named, config),
        "average": 4 * moved,
        "copies": 2 * moved * config.bf16,
        "activations": config.batch_size * activation_bytes(network, found, bytes_each, config.recompute),
    }
    whole = ("weights", "gradients") if ranks > 1 and not stage.by_block else ()
    shares = {name: value * (1 / ranks + (name in whole)) / GIB for name, value in memory.items()}
    hours = config.steps * flops / (tflops * 1e12 * ranks) / 3600
    return Estimate(
        count,
        moved,
        **shares,
        peak=sum(shares.values()),
        step_tflop=flops / 1e12,
        hours=hours,
        cost=hours * ranks * price,
    )


def build_on_meta(config: RunConfig) -> tuple[Network, Stage]:
    """A run's network on the meta device, with its adapter and the decoder it would be given, and its stage without its data."""
    fed_nothing = replace(config.stage, drawings=0.0, manifest="", sources=())
    stage, network = make_stage(replace(config, stage=fed_nothing)), outline(config.model)
    if (
        isinstance(config.model, ModelConfig)
        and "decoder." in dict(config.init)
        and "decoder" not in config.model.parts
    ):
        outline_decoder(network)  # pyright: ignore[reportArgumentType]
    if config.stage.lora_rank:
        with torch.device("meta"):
            add_adapter(network, config.stage.lora_rank)
    if isinstance(stage, Native):
        stage.choose(network)
    return network, stage


def _learns(each: Pass, named: Mapping[str, nn.Parameter]) -> bool:
    return any(name.startswith(f"model.{each.part}") for name in named)


def activation_bytes(network: nn.Module, found: Passes, bytes_each: int, recompute: Recompute) -> float:
    """What the passes of one sample keep for the way back, at most at once."""
    within = {id(module) for block in blocks(network) for module in block.modules()}
    kept, largest = 0.0, 0.0
    for each in (each for each in found if each.learns):
        inside = 0.0
        for name, layer in _layers(network, each.part):
            rows, columns = layer.weight.shape[0], layer.weight[0].numel()
            alone = name.endswith(".base_layer") or (recompute == "cheap" and id(layer) in within)
            numbers = rows if alone or _READS_ALONG.search(name) else rows + columns
            bytes_kept = columns * bytes_each + 4 * rows if name.endswith(_LOGITS) else numbers * bytes_each
            if id(layer) in within:
                inside += each.tokens * bytes_kept
            else:
                kept += each.times * each.tokens * bytes_kept
        if recompute == "blocks":
            own = [block for name, block in _named_blocks(network) if f"{name}.".startswith(each.part)]
            largest = max(largest, inside / max(1, len(own)))
            kept += each.times * each.tokens * sum(_width(block) for block in own) * bytes_each
        else:
            kept += each.times * inside
    return kept + largest


def _named_blocks(network: nn.Module) -> list[tuple[str, nn.Module]]:
    own = {id(block) for block in blocks(network)}
    return [(name, module) for name, module in network.named_modules() if id(module) in own]


def _width(block: nn.Module) -> int:
    """Numbers a token has on its way into a block: those of its widest norm."""
    return max((p.numel() for name, p in block.named_parameters() if "norm" in name and p.ndim == 1), default=0)


def pass_flops(network: nn.Module, each: Pass, named: Mapping[str, nn.Parameter]) -> float:
    """Of a pass of one sample, there and back."""
    there = back = 0.0
    for name, layer in _layers(network, each.part):
        product = 2.0 * layer.weight.numel() * each.tokens
        width = layer.out_features if isinstance(layer, nn.Linear) and _QUERIES.search(name) else 0
        attention = 4.0 * each.tokens**2 * (width // 3 if "qkv" in name else width)
        there += product + attention
        back += product + 2 * attention + product * (f"model.{name}.weight" in named)
    return each.times * (there + back * each.learns)


def _layers(network: nn.Module, part: str) -> Iterator[tuple[str, nn.Linear | nn.Conv2d | nn.Conv3d]]:
    for name, module in network.named_modules():
        if f"{name}.".startswith(part) and isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            yield name, module


def _optimiser_bytes(named: dict[str, nn.Parameter], config: RunConfig) -> int:
    total = 0
    for optimizer in make_optimizers(named, config.optim):
        moments = 1 if isinstance(optimizer, torch.optim.Muon) else 2
        total += sum(4 * moments * p.numel() for group in optimizer.param_groups for p in group["params"])
    return total
