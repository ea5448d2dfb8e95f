"""Many processes that train as one: how they meet, and weights in shards (FSDP2, which averages the gradients).

Whose rows are whose, and what is counted over all, is in `latentbridge/ranks.py`. In a process that was started alone
everything here hands back what it was given.
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

_PATIENCE = timedelta(hours=12)
"""How long a rank waits for the others, one of which may be filling a cache; where one dies, torchrun ends them all."""
_MORE_BLOCKS = ("HunyuanDiTBlock",)
"""Blocks of networks that do not list them as `_no_split_modules`, the libraries' word for layers to keep together."""


def is_rank_zero() -> bool:
    """Whether this is the rank that writes files and talks to the user; known before and after the ranks are together."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


@contextmanager
def process_group(device: torch.device = CPU) -> Iterator[None]:
    """Together with the other processes that `torchrun` started, where it did and they have not met already.

    They exchange what lies on their devices by the device's own backend (NCCL for CUDA), and numbers by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "gloo" if device == CPU else f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
    dist.init_process_group(backend, timeout=_PATIENCE, device_id=None if device == CPU else device)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def one_rank_at_a_time() -> Iterator[None]:
    """One rank after another, so that a cache which all need is filled by the first and found by those who share its disk."""
    for _ in range(rank()):
        dist.barrier()
    yield
    if world_size() > 1:
        for _ in range(world_size() - rank()):
            dist.barrier()


def barrier() -> None:
    """Go on when every rank has come here."""
    if world_size() > 1:
        dist.barrier()


# --- rows and means --------------------------------------------------------------------------------


def zero_weight_indices(talks: Sequence[Conversation]) -> list[int]:
    """The number of the conversation that this rank reads beside its own: of the first with a picture, where none of its own has one.

    Gradients are averaged parameter by parameter, so a rank whose rows leave the eye alone reads another's picture; it
    must not count.
    """
    seeing = [index for index, talk in enumerate(talks) if talk.picture is not None]
    return seeing[:1] if not any(index % world_size() == rank() for index in seeing) else []


def local_conversations(talks: Sequence[Conversation]) -> list[Conversation]:
    """This rank's conversations, and the `zero_weight_indices` one, whose replies do not count."""
    return [*local_rows(list(talks)), *(replace(talks[index], counts=False) for index in zero_weight_indices(talks))]


def mean_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """The mean over ranks of what each has under the same names, for the log."""
    if world_size() == 1 or not values:
        return dict(values)
    means = all_reduce_sum(torch.tensor(list(values.values()), dtype=torch.double)) / world_size()
    return dict(zip(values, means.tolist(), strict=True))


def broadcast_from_rank_zero(number: int) -> int:
    """The leading rank's number, on every rank."""
    if world_size() == 1:
        return number
    message = torch.tensor([number])
    dist.broadcast(message, src=0)
    return int(message)


# --- weights in shards -----------------------------------------------------------------------------


def shard_parameters(objective: nn.Module, by_block: bool = True) -> None:
    """Split all parameters over the ranks: `by_block` of transformers, and the rest with the root, whose forward gathers it.

    A block stays with the root where others read its parameters, as the aligner's do with the relative position bias.
    """
    if world_size() == 1:
        return
    device = next(objective.parameters()).device.type
    mesh = init_device_mesh(device, (world_size(),))
    modules = list(objective.modules()) if by_block else []
    blocks = {name for module in modules for name in getattr(module, "_no_split_modules", None) or ()}
    for module in modules:
        alone = not any("relative_attention_bias" in name for name, _ in module.named_parameters())
        if type(module).__name__ in {*blocks, *_MORE_BLOCKS} and alone:
            fully_shard(module, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor, which may be all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gathered_parameters(objective: nn.Module) -> Iterator[None]:
    """All weights gathered on every rank, so that ranks may call the model's parts as often as each likes.

    For rollouts and checks: inside, no forward waits for other ranks, and nothing may be trained.
    """
    if not isinstance(objective, FSDPModule):
        yield
        return
    objective._get_fsdp_state()._lazy_init()  # else the first block to be asked takes itself for the root
    sharded = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(module is not objective, recurse=False)
        objective.reset_iter_state()  # shards again, and forgets in which order blocks were asked


def unshard_parameters(objective: nn.Module) -> None:
    """Give every module its parameters whole, for good: training is over."""
    gathered: dict[int, nn.Parameter] = {}
    for module in objective.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                if id(parameter) not in gathered:  # tied ones stay tied
                    gathered[id(parameter)] = nn.Parameter(parameter.full_tensor(), parameter.requires_grad)
                module.register_parameter(name, gathered[id(parameter)])


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> float:
    """Scale gradients in place to a norm of at most `largest` over all parameters and ranks; returns the norm before."""
    moving = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    nn.utils.clip_grads_with_norm_(moving, largest, norm)
    return float(norm)


def gather_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """A hook before a step: every rank gets the optimiser's gradients whole, where each row of an update needs all rows.

    Muon runs on shards, too, but multiplies them in bfloat16 in another order, so that its updates differ in the third
    digit from those of one rank; with whole gradients they are the same. Its momentum is whole on every rank then.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter.grad, DTensor):
                parameter.grad = parameter.grad.redistribute(placements=[Replicate()])
