"""Multi-rank training: process group, collectives, and FSDP2 sharding, which averages gradients over ranks.

`latentbridge/ranks.py` has each rank's rows and global means. With a single process all functions are no-ops.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from latentbridge.devices import CPU
from latentbridge.ranks import all_reduce_sum, local_rows, rank, world_size
from latentbridge.types import Conversation

_TIMEOUT = timedelta(hours=12)
"""Long, because one rank may be filling a cache; if a rank dies, torchrun ends the others."""
_MORE_BLOCKS = ("HunyuanDiTBlock",)
"""Block classes that their networks do not list in `_no_split_modules`."""


def is_rank_zero() -> bool:
    """Return whether this rank writes files and prints messages; valid outside the process group as well."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


@contextmanager
def process_group(device: torch.device = CPU) -> Iterator[None]:
    """Join the process group of `torchrun`, if it started this process and no group is initialized.

    Tensors on the device use the device's backend (NCCL for CUDA), CPU tensors gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "gloo" if device == CPU else f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
    dist.init_process_group(backend, timeout=_TIMEOUT, device_id=None if device == CPU else device)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def one_rank_at_a_time() -> Iterator[None]:
    """Run the block on one rank after another, so that the first fills a disk cache and the others load it."""
    for _ in range(rank()):
        dist.barrier()
    yield
    if world_size() > 1:
        for _ in range(world_size() - rank()):
            dist.barrier()


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


# --- rows and means --------------------------------------------------------------------------------


def zero_weight_indices(talks: Sequence[Conversation]) -> list[int]:
    """Return the index of a conversation this rank must add with zero weight, if its own have no image and others do.

    Gradients are averaged parameter by parameter, so every rank must run the vision encoder if any does.
    """
    with_image = [index for index, talk in enumerate(talks) if talk.all_pictures]
    return with_image[:1] if not any(index % world_size() == rank() for index in with_image) else []


def local_conversations(talks: Sequence[Conversation]) -> list[Conversation]:
    """Return this rank's conversations and the zero-weight one, if any."""
    return [*local_rows(list(talks)), *(replace(talks[index], counts=False) for index in zero_weight_indices(talks))]


def mean_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean over ranks of metrics, whose names must be the same on all."""
    if world_size() == 1 or not values:
        return dict(values)
    means = all_reduce_sum(torch.tensor(list(values.values()), dtype=torch.double)) / world_size()
    return dict(zip(values, means.tolist(), strict=True))


def broadcast_from_rank_zero(number: int) -> int:
    """Return rank 0's number on every rank."""
    if world_size() == 1:
        return number
    message = torch.tensor([number])
    dist.broadcast(message, src=0)
    return int(message)


# --- sharding --------------------------------------------------------------------------------------


def shard_parameters(objective: nn.Module, by_block: bool = True) -> None:
    """Shard all parameters over the ranks, with `by_block` each transformer block separately.

    The aligner's block that owns the relative position bias stays with the root, as other blocks read the bias.
    """
    if world_size() == 1:
        return
    device = next(objective.parameters()).device.type
    mesh = init_device_mesh(device, (world_size(),))
    modules = list(objective.modules()) if by_block else []
    blocks = {name for module in modules for name in getattr(module, "_no_split_modules", None) or ()}
    for module in modules:
        separate = not any("relative_attention_bias" in name for name, _ in module.named_parameters())
        if type(module).__name__ in {*blocks, *_MORE_BLOCKS} and separate:
            fully_shard(module, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a DTensor, or a plain tensor unchanged."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gathered_parameters(objective: nn.Module) -> Iterator[None]:
    """Keep all weights unsharded, so that ranks may call the model different numbers of times; no training inside."""
    if not isinstance(objective, FSDPModule):
        yield
        return
    objective._get_fsdp_state()._lazy_init()  # else the first block that is called becomes the root
    sharded = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(module is not objective, recurse=False)
        objective.reset_iter_state()  # reshards, and resets the order in which blocks were called


def unshard_parameters(objective: nn.Module) -> None:
    """Replace all sharded parameters by full ones, permanently; tied parameters stay tied."""
    gathered: dict[int, nn.Parameter] = {}
    for module in objective.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                if id(parameter) not in gathered:
                    gathered[id(parameter)] = nn.Parameter(parameter.full_tensor(), parameter.requires_grad)
                module.register_parameter(name, gathered[id(parameter)])


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Clip the global gradient norm in place and return the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(list(parameters), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def gather_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Replicate the optimizer's gradients on every rank; a step pre-hook for Muon.

    Muon also runs on sharded gradients, but then its bfloat16 products are in another order and updates differ in the third
    digit from those of one rank. Its momentum is replicated as well.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter.grad, DTensor):
                parameter.grad = parameter.grad.redistribute(placements=[Replicate()])
