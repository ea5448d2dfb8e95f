"""Weights that go from files into a model one tensor at a time, in the form and on the device where they stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from latentbridge.devices import CPU
from latentbridge.models.quantization import Quantization, quantizable_layers, quantized
from latentbridge.models.stored_tensor import StoredTensor

_EXACT = ("autoencoder.", "second_view.")
"""Prefixes of the parts that keep their data type: bfloat16 has too few digits for pictures."""


@dataclass(frozen=True)
class Placement:
    """The form that a model's weights take as they are loaded, and where: by default the loader's own, on the CPU."""

    dtype: torch.dtype | None = None
    device: torch.device = CPU
    quantize: Quantization | None = None


AS_STORED = Placement()
_INITIALISATIONS = {name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")}
"""Names of torch's functions that fill a tensor, which are those of its methods too."""


@contextmanager
def empty_weights() -> Iterator[None]:
    """Build modules whose parameters are on the meta device, and whose buffers, which are often computed, are not.

    Initialisations do nothing, and the global generator is left unchanged.
    """
    thread = get_ident()

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter.is_meta or get_ident() != thread:  # tied to one that is there already, or of another model
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    returns: Any = on_meta  # torch annotates hooks as returning nothing
    hook = register_module_parameter_registration_hook(returns)
    try:
        with torch.random.fork_rng(devices=[]), _NoInitialisation():
            yield
    finally:
        hook.remove()


class _NoInitialisation(TorchFunctionMode):
    """Skips the initialisation of tensors on the meta device, for which torch imports its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in _INITIALISATIONS and isinstance(target, Tensor) and target.is_meta:
            return target
        return func(*args, **kwargs)


@torch.no_grad()
def assign_weights(
    model: nn.Module,
    stored: Mapping[str, StoredTensor],
    placement: Placement = AS_STORED,
    dtype: torch.dtype | None = None,
) -> None:
    """Read the weights of a model that was built by `empty_weights`, one tensor after another.

    `stored` has the names and shapes of the model's state dict; of tied parameters, which stay tied, one name is enough. `dtype`
    is the loader's own, by default that of each tensor in the model. Linear layers are quantised as soon as they are read.
    """
    sources = {id(slot.tensor): slot.name for slot in _slots(model) if slot.name in stored}
    uses = Counter(id(slot.tensor) for slot in _slots(model))
    linear = {id(layer): (parent, name, layer) for parent, name, layer in quantizable_layers(model)}
    tied: dict[int, Tensor] = {}
    for module_name, module in list(model.named_modules()):
        for slot in _own_slots(module_name, module):
            key = id(slot.tensor)
            new = tied.get(key)
            if new is None and key in sources:
                new = _read(sources[key], slot.tensor, stored, placement, dtype)
            if new is not None:
                slot.tensors[slot.key] = new
                tied |= {key: new} if uses[key] > 1 else {}
        if placement.quantize and id(module) in linear:
            parent, name, layer = linear[id(module)]
            setattr(parent, name, quantized(layer, placement.quantize))


def _read(
    name: str, old: Tensor, stored: Mapping[str, StoredTensor], placement: Placement, dtype: torch.dtype | None
) -> Tensor:
    """Return what replaces a parameter or buffer."""
    values = stored[name].read(weights_dtype(name, old, placement.dtype or dtype), placement.device)
    return nn.Parameter(values, old.requires_grad) if isinstance(old, nn.Parameter) else values


def weights_dtype(name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return the data type of a model's tensor of that name where its weights are `dtype`."""
    if dtype is None or not tensor.is_floating_point() or name.startswith(_EXACT):
        return tensor.dtype
    return dtype


@torch.no_grad()
def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Give the tensors in a model's state dict a data type, but those of the parts that need their own."""
    for slot in _slots(model):
        slot.tensor.data = slot.tensor.data.to(weights_dtype(slot.name, slot.tensor, dtype))


def stored_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and persistent buffers of a model, tied ones once for each name, without copying any."""
    return (slot.tensor for slot in _slots(model))


class _Slot(NamedTuple):
    """A parameter or persistent buffer: its name in the state dict, and the place in its module."""

    name: str
    tensors: dict[str, Any]
    key: str

    @property
    def tensor(self) -> Tensor:
        return self.tensors[self.key]


def _own_slots(module_name: str, module: nn.Module) -> list[_Slot]:
    prefix = f"{module_name}." if module_name else ""
    places = [(module._parameters, key) for key in module._parameters]
    places += [(module._buffers, key) for key in module._buffers if key not in module._non_persistent_buffers_set]
    return [_Slot(prefix + key, tensors, key) for tensors, key in places if tensors[key] is not None]


def _slots(model: nn.Module) -> Iterator[_Slot]:
    for module_name, module in model.named_modules(remove_duplicate=False):
        yield from _own_slots(module_name, module)
