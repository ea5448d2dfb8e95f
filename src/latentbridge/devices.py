"""Where networks compute: the CPU, or an accelerator that torch knows.

Nothing but arithmetic depends on it. Data, chance and what is written know no device: batches are made on the CPU, and all
random numbers are drawn there by the generators of `rng.py`, first weights and the noise of a step among them, and moved to
where they are used; so one seed means the same data and the same noise on every device, and nothing of an accelerator's
own generators has to be kept for a resumed run. What results differ by is rounding.

Two things cross the border: the batch of a step, which the learner moves as a whole (`to_device`), and what a network makes of
words, pictures and seeds, which it makes where its own weights are (`device_of`).
"""

from __future__ import annotations

import os
import time
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from latentbridge.errors import UserError

CPU = torch.device("cpu")
_PROBE_SIZE, _PROBE_TRIES = 192, 4


def resolve_device(name: str) -> torch.device:
    """The device called "cpu", "cuda", "cuda:1" and so on; "auto" is the accelerator where there is one, else the CPU.

    An accelerator without a number is this process's own: of those that `torchrun` starts on a machine each has another.
    Raises UserError where there is no such device, naming those that are.
    """
    own = int(os.environ.get("LOCAL_RANK", "0"))
    there = torch.accelerator.current_accelerator(check_available=True)
    try:
        wanted = (there or CPU) if name == "auto" else torch.device(name)
    except RuntimeError:
        wanted = None
    if wanted == CPU:
        return CPU
    known = [f"{there.type}:{index}" for index in range(torch.accelerator.device_count())] if there else []
    found = f"{wanted.type}:{own if wanted.index is None else wanted.index}" if wanted else name
    if found not in known:
        raise UserError(f"There is no device {found} here; set device to one of {', '.join(['auto', 'cpu', *known])}.")
    return torch.device(found)


@cache
def has_fast_bfloat16(device: torch.device = CPU) -> bool:
    """Return whether a device multiplies matrices faster in bfloat16 than in float32.

    A CPU is timed, once a process and in 40 ms at most: processors without bfloat16 units take 12 to 80 times as long as in
    float32, those with avx512_bf16 or AMX half as long or less, so that other work beside the probe does not change its
    answer. What oneDNN may not use (`ONEDNN_MAX_CPU_ISA`) counts as not there.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True

    def seconds(dtype: torch.dtype) -> float:
        matrix, taken = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=dtype), []
        for _ in range(_PROBE_TRIES):
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            taken.append(time.perf_counter() - began)
        return min(taken)

    return seconds(torch.bfloat16) < seconds(torch.float32)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with all tensors of its dataclasses on a device; whatever else it holds stays as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if not is_dataclass(batch) or isinstance(batch, type):
        return batch
    return replace(batch, **{field.name: to_device(getattr(batch, field.name), device) for field in fields(batch)})
