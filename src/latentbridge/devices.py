"""Devices: the CPU, or an accelerator that torch supports.

Batches are made and all random numbers drawn on the CPU (`rng.py`) and then moved to the device, so one seed gives the
same data and noise on every device, and a resumed run needs no accelerator generator state. Results differ by rounding.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from latentbridge.errors import UserError

if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads of OpenMP's pool, and would wait for them forever at its first parallel loop.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

CPU = torch.device("cpu")
_BENCHMARK_SIZE, _BENCHMARK_RUNS = 192, 4


def resolve_device(name: str) -> torch.device:
    """Return the device called "cpu", "cuda", "cuda:1" and so on; "auto" is the accelerator if there is one, else the CPU.

    An accelerator without an index gets `LOCAL_RANK`, which `torchrun` sets. Raises UserError if the device does not exist.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = (accelerator or CPU) if name == "auto" else torch.device(name)
    except RuntimeError:
        device = None
    if device == CPU:
        return CPU
    count = torch.accelerator.device_count() if accelerator else 0
    available = [f"{accelerator.type}:{index}" for index in range(count)] if accelerator else []
    full_name = f"{device.type}:{local_rank if device.index is None else device.index}" if device else name
    if full_name not in available:
        choices = ", ".join(["auto", "cpu", *available])
        raise UserError(f"There is no device {full_name} here; set device to one of {choices}.")
    return torch.device(full_name)


@cache
def has_fast_bfloat16(device: torch.device = CPU) -> bool:
    """Return whether a device multiplies matrices faster in bfloat16 than in float32.

    A CPU is timed once per process, for up to 40 ms: without bfloat16 units it takes 12 to 80 times as long as in float32,
    with avx512_bf16 or AMX half as long or less, so other load does not change the answer. Respects `ONEDNN_MAX_CPU_ISA`.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True

    def seconds(dtype: torch.dtype) -> float:
        matrix, durations = torch.ones(_BENCHMARK_SIZE, _BENCHMARK_SIZE, dtype=dtype), []
        for _ in range(_BENCHMARK_RUNS):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            durations.append(time.perf_counter() - start)
        return min(durations)

    return seconds(torch.bfloat16) < seconds(torch.float32)


def device_of(network: nn.Module) -> torch.device:
    """Return the device that a network computes on: that of its weights, unless they wait elsewhere (`models/offload.py`)."""
    return getattr(network, "execution_device", None) or next(network.parameters()).device


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which nothing is cast, on a device that has autocast or not."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a tensor, or a dataclass with all its tensors, on a device; other values unchanged."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if not is_dataclass(batch) or isinstance(batch, type):
        return batch
    return replace(batch, **{field.name: to_device(getattr(batch, field.name), device) for field in fields(batch)})
