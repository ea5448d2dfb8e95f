"""How far `latentbridge plan` is off: peak device memory of untrained tiny models as planned, against what is measured.

Measured are all tensor storages that live at once while the verb runs on the CPU, and the weights that lie on the device; offloaded
blocks are copied as for a real device. The plan knows sizes alone. Storages inside kernels of bitsandbytes are not seen,
and its weights are not repacked as on some CPUs, which takes more memory for a while.
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
from latentbridge.models.checkpoint import new_model
from latentbridge.models.memory.known import UNTRAINED, outlined
from latentbridge.models.memory.plan import plan
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
_OPTIONS: dict[str, dict[str, Any]] = {"understand": {"max_tokens": 24}, "generate": {"steps": 4}, "edit": {"steps": 4}}
"""Of the verbs; more tokens than are traced."""


def main() -> None:
    one_thread()
    targets: list[Target] = []
    kinds = ["janus"] if SMOKE else list(UNTRAINED)
    for kind, verb in product(kinds, VERBS[-1:] if SMOKE else VERBS):
        if verb in outlined(kind).skills:
            ratios = list(_ratios(kind, verb))
            name = f"{kind}, {verb}: planned / measured in {len(ratios)} modes"
            targets.append(held(f"{name}, the least", [min(ratios)], least=1 - OFF))
            targets.append(held(f"{name}, the most", [max(ratios)], most=1 + OFF))
    keep(__file__, targets, {"batch": _BATCH, "options": _OPTIONS})


def _ratios(kind: str, verb: Any) -> Iterator[float]:
    request = Request(verb, batch=_BATCH, options=tuple(_OPTIONS.get(verb, {}).items()))
    for mode in plan(kind, request).modes:
        yield mode.device / measured(new_model(UNTRAINED[kind], 0), request, mode.precision, mode.offload)


def measured(model: Any, request: Request, precision: str, offload: Offload | None) -> float:
    """Return the most bytes on the device while a model, which is changed, does what is asked for."""
    chosen = PRECISIONS[precision]
    cast_weights(model, chosen.dtype)
    if chosen.scheme:
        quantize(model, chosen.scheme)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    waiting = {
        id(parameter)
        for part in (block_parts(model) if offload else ())
        for block in part
        for module in waiting_modules(block)
        for parameter in module.parameters(recurse=False)
    }
    with _copying():
        place(model, torch.device("cpu"), offload)
        count = _Counted(_stored(model, set(), waiting))
        count.storages.add(list(_stored(model, waiting)))
        with count:
            whole(model, request)()
    return count.storages.peak


class _Counted(TorchDispatchMode):
    """Counts the storages of what operations make, besides those of given weights."""

    def __init__(self, host: Iterator[Tensor]):
        super().__init__()
        self.storages = StorageCount(host)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(function) == "bitsandbytes.int8_scaled_mm.default":
            return self._int8_product(*args)
        result = function(*args, **kwargs)
        self.storages.add(result)
        return result

    def _int8_product(
        self, rows: Tensor, weight: Tensor, row_scales: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Multiply in the two steps of the library's kernel, the first of which makes a matrix of int32."""
        steps = torch.ops.bitsandbytes
        products = steps.int8_linear_matmul.default(rows, weight)
        self.storages.add(products)
        result = steps.int8_mm_dequant.default(products, row_scales, scales, dtype, bias)
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


def _stored(model: nn.Module, without: set[int], only: set[int] | None = None) -> Iterator[Tensor]:
    """Yield the weights with the scales of quantised ones, without some parameters, or some alone."""
    for parameter in model.parameters():
        if id(parameter) not in without and (only is None or id(parameter) in only):
            yield parameter
            states = [getattr(parameter, name, None) for name in ("SCB", "CB", "quant_state")]
            while states:
                state = states.pop()
                if isinstance(state, Tensor):
                    yield state
                elif state is not None:
                    states += [getattr(state, name, None) for name in ("absmax", "code", "offset", "state2")]
    if only is None:
        yield from model.buffers()


if __name__ == "__main__":
    main()
