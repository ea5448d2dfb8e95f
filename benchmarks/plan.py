"""How far `latentbridge plan` is off: peak device memory of untrained tiny models as planned, against what is measured.

Measured are all tensor storages that live at once while the verb runs on the CPU, and the weights that lie on the device; offloaded
blocks are copied as for a real device. The plan knows sizes alone. Storages inside kernels of bitsandbytes are not seen.
A ratio above 1 is a plan too high. Run: python benchmarks/plan.py
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from harness import SMOKE, Target, held, keep, one_thread
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from latentbridge.models import offload as offloading
from latentbridge.models.checkpoint import new_model, outline
from latentbridge.models.memory.known import UNTRAINED
from latentbridge.models.memory.plan import OFFLOADS, measure
from latentbridge.models.memory.requests import Request, whole
from latentbridge.models.memory.trace import StorageCount
from latentbridge.models.memory.weights import PRECISIONS
from latentbridge.models.offload import Offload, block_parts, place, waiting_modules
from latentbridge.models.quantization import quantize
from latentbridge.models.weights import cast_weights

VERBS = ("understand", "generate", "edit", "embed")
OFF = 0.10
"""How far a ratio may be from 1."""
_BATCH = 2


def main() -> None:
    one_thread()
    targets: list[Target] = []
    kinds = ["janus"] if SMOKE else list(UNTRAINED)
    for kind, verb in product(kinds, VERBS[:1] if SMOKE else VERBS):
        config = UNTRAINED[kind]
        if verb not in outline(config).skills:
            continue
        for precision in PRECISIONS:
            request = Request(verb, batch=_BATCH)
            planned = {mode.offload: mode.device for mode in measure(outline(config), precision, request)}
            ratios = [
                planned[offload] / measured(new_model(config, 0), request, precision, offload) for offload in OFFLOADS
            ]
            for offload, ratio in zip(OFFLOADS, ratios, strict=True):
                name = f"{kind}, {verb}, {precision}, offload {offload or 'none'}: planned / measured"
                targets.append(held(name, [ratio], least=1 - OFF, most=1 + OFF))
    keep(__file__, targets, {"batch": _BATCH})


def measured(model: Any, request: Request, precision: str, offload: Offload | None) -> float:
    """Return the most bytes on the device while a model, which is changed, does what is asked for."""
    chosen = PRECISIONS[precision]
    cast_weights(model, chosen.dtype)
    if chosen.scheme:
        quantize(model, chosen.scheme)
    waiting = {
        id(parameter)
        for part in (block_parts(model) if offload else ())
        for block in part
        for module in waiting_modules(block)
        for parameter in module.parameters(recurse=False)
    }
    with _copying():
        place(model, torch.device("cpu"), offload)
        everything = list(_stored(model, set()))
        resident = {tensor.untyped_storage()._cdata: tensor for tensor in _stored(model, waiting)}
        count = _Counted(everything)
        with count:
            whole(model, request)()
    return count.storages.peak + sum(tensor.untyped_storage().nbytes() for tensor in resident.values())


class _Counted(TorchDispatchMode):
    """Counts the storages of what operations make."""

    def __init__(self, weights: list[Tensor]):
        super().__init__()
        self.storages = StorageCount(weights)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.storages.add(result)
        return result


@contextmanager
def _copying() -> Iterator[None]:
    """Copy the weights that an offloaded block brings, as a device other than the host would."""
    original = offloading._on
    offloading._on = lambda parameter, device: copy.deepcopy(parameter)
    try:
        yield
    finally:
        offloading._on = original
        gc.collect()


def _stored(model: nn.Module, waiting: set[int]) -> Iterator[Tensor]:
    """Yield the weights that do not wait, with the scales of quantised ones."""
    for parameter in model.parameters():
        if id(parameter) not in waiting:
            yield parameter
            states = [getattr(parameter, name, None) for name in ("SCB", "CB", "quant_state")]
            while states:
                state = states.pop()
                if isinstance(state, Tensor):
                    yield state
                elif state is not None:
                    states += [getattr(state, name, None) for name in ("absmax", "code", "offset", "state2")]
    yield from model.buffers()


if __name__ == "__main__":
    main()
