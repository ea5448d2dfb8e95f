"""A device that every machine has: its tensors say they lie on `pretend:0`, their values lie in CPU tensors inside them.

What a real device refuses it refuses as well: an operation over tensors of two devices, and chance from another device's
generator. What torch allows is allowed: CPU numbers without dimensions, CPU indices, copies. Also refused is chance drawn
on the device, which the house never draws. Unlike FakeTensorMode it computes, so code that reads values (`item`, masks as
indices) runs as it is. `begin` is for a process of its own: from there on torch takes it for the machine's accelerator.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten: Any = torch.ops.aten
_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class MixedDevices(RuntimeError):
    """What a real device says to tensors that lie elsewhere."""


class Pretended(Tensor):
    """A tensor on the device; `held` has its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        sizes = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, held.size(), **sizes, dtype=held.dtype, device="pretend:0")
        made.held = held
        return made

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"{self.held} on pretend:0"

    def tolist(self) -> Any:
        """Torch leaves it out for tensors of any class but its own."""
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied: Tensor = Pretended(self.held.clone())
        copied = torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        memo[id(self)] = copied
        return copied

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sees operations that no tensor of the device takes part in, of which some make one."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


class _Backend(_DummyBackendModule):
    """What torch asks of a device's module: here everything is done when it is asked for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def current_stream(self) -> _Backend:
        return self

    def stream(self, stream: _Backend) -> AbstractContextManager[None]:
        return nullcontext()

    def synchronize(self) -> None:
        pass


def begin() -> TorchDispatchMode:
    """The machine has the device from here on; inside the mode that is returned it computes."""
    _setup_privateuseone_for_python_backend("pretend", backend_module=_Backend())
    torch.__future__.set_swap_module_params_on_conversion(True)  # tied parameters stay tied
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` shows the mode how it moves what it made
    torch.library.impl("aten::_local_scalar_dense", "PrivateUse1")(_number)  # it reads members of lists past the mode
    return _Factories()


def _number(tensor: Pretended) -> Any:
    return tensor.held.item()


def _compute(function: Any, args: Any, kwargs: Any) -> Any:
    device = kwargs.get("device")
    wanted = device is not None and torch.device(device).type == "pretend"
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    if not wanted and not any(isinstance(tensor, Pretended) for tensor in tensors):
        return function(*args, **kwargs)
    _refuse(function, args, tensors)
    given = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    args_held, given = tree_map_only(Pretended, lambda tensor: tensor.held, (args, given))
    found = function(*args_held, **given)
    if wanted or device is None:
        found = tree_map_only(Tensor, Pretended, found)
        return return_and_correct_aliasing(function, args, kwargs, found)
    return found


def _refuse(function: Any, args: Any, tensors: list[Tensor]) -> None:
    if torch.Tag.nondeterministic_seeded in function.tags and "attention" not in str(function):
        raise MixedDevices(f"{function} draws chance on the device")
    if function in _COPIES:
        return
    counted = [args[0], *args[2:]] if function in _INDEXED else tensors
    elsewhere = [each for each in counted if isinstance(each, Tensor) and not isinstance(each, Pretended) and each.ndim]
    if elsewhere or (function in _INDEXED and not isinstance(args[0], Pretended)):
        shapes = [tuple(each.shape) for each in elsewhere]
        raise MixedDevices(f"{function} over tensors of pretend:0 and of {shapes} on the CPU")
