"""What a step really computes and keeps, which `training/costs/estimate.py` tells beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


class Counted(NamedTuple):
    """Of one way there and back."""

    flops: int
    kept_bytes: int
    """Of what autograd keeps for the way back, without weights; each storage once."""


def count_step(loss: Callable[[], Tensor], model: nn.Module) -> Counted:
    """Compute a loss of `model` and its gradients, and count."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss()
        value.backward()
    return Counted(counter.get_total_flops(), sum(kept.values()))
