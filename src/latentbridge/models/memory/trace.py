"""Execution of a network over sizes alone: its tensors on the meta device have no values, and live bytes are counted.

Values that do not depend on weights (token ids, masks, positions, times, noise) are kept beside their meta tensor, so that
control flow and shapes that read them come out as in a real run. What depends on weights reads as 0, False, or 1.0 for
floating-point numbers: greedy decoding never meets an end token and takes the longest reply.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

META = torch.device("meta")
_aten: Any = torch.ops.aten
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
_sizes: dict[Any, Any] = {}
"""Sizes of the results of operations by those of their inputs: blocks repeat, and torch takes long to find them."""
_MOST_VALUES = 2**25
"""Most elements of a tensor whose values are kept."""


class StorageCount:
    """Bytes of live tensor storages, each counted once however many views it has."""

    def __init__(self, excluded: Iterable[Tensor] = ()):
        self.live = self.peak = 0
        self._seen: set[int] = {tensor.untyped_storage()._cdata for tensor in excluded}

    def add(self, result: Any) -> None:
        """Count the storages of the tensors in an operation's result until they are freed."""
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._seen:
                self._seen.add(key)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, num_bytes: int) -> None:
        self._seen.discard(key)
        self.live -= num_bytes


@dataclass
class Work:
    """The operations and bytes of a computation."""

    flops: float = 0.0
    moved: float = 0.0
    """Bytes that operations read and write."""
    operations: float = 0.0


class SizeTrace(TorchDispatchMode):
    """Runs operations on meta tensors by their sizes; counts live bytes on the device, FLOPs and bytes moved."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.storages = StorageCount((*network.parameters(), *network.buffers()))
        self.work = Work()
        self._functions = _Functions(self.work)

    def __enter__(self) -> SizeTrace:
        self._lifts_cpu_only = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` shows how it moves what it made
        super().__enter__()
        self._functions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifts_cpu_only)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors(args))
        device = kwargs.get("device")
        if not any(tensor.is_meta for tensor in tensors) and (device is None or torch.device(device) != META):
            return function(*args, **kwargs)
        if function is _aten._local_scalar_dense.default:
            return _value_or_guess(args[0]).item()
        if device is not None and torch.device(device) != META or _is_written_on_host(function, args):
            return self._to_host(function, args, kwargs)
        result = self._on_meta(function, args, kwargs, tensors)
        if not function.is_view:
            self._count(function, args, kwargs, tensors, result)
        self.storages.add(result)
        return result

    def _on_meta(self, function: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """Return the result of an operation on the meta device, with its values if they are known."""
        if function is _aten._is_all_true.default and _known(args[0]) is None:
            return _to_meta(torch.tensor(True))  # a check of the library
        if function in _INDEXED:
            args = (args[0], [each for index in args[1] for each in _positions(index)], *args[2:])
        elif torch.Tag.dynamic_output_shape in function.tags:
            args, kwargs = tree_map_only(Tensor, partial(_value_or_guess, guess=True), (args, kwargs))
            return tree_map_only(Tensor, _to_meta, function(*args, **kwargs))
        values = _values(function, args, kwargs, tensors)
        result = args[0] if _is_in_place(function) else _sized(function, args, kwargs)
        _attach(result, values)
        return result

    def _to_host(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Return the result of a copy to the host."""
        args, kwargs = tree_map_only(Tensor, _value_or_guess, (args, kwargs))
        return function(*args, **kwargs)

    def _count(self, function: Any, args: Any, kwargs: Any, tensors: list[Tensor], result: Any) -> None:
        work = self.work
        work.operations += 1
        written = result if isinstance(result, (tuple, list)) else (result,)
        for tensor in (*tensors, *written):
            if isinstance(tensor, Tensor):
                work.moved += tensor.numel() * tensor.element_size()
        if function is _aten._int_mm.default:
            work.flops += 2 * written[0].numel() * args[0].shape[1]
        elif flops := flop_registry.get(function._overloadpacket):
            work.flops += flops(*args, **kwargs, out_val=result)


def _sized(function: Any, args: Any, kwargs: Any) -> Any:
    """Return meta tensors of the sizes of an operation's result."""
    if function.is_view or torch.Tag.inplace_view in function.tags:
        return function(*args, **kwargs)
    key = function, _signature(args), _signature(tuple(kwargs.items()))
    if key not in _sizes:
        args, kwargs = tree_map_only(Tensor, _on_meta, (args, kwargs))
        result = function(*args, **kwargs)
        _sizes[key] = tree_map_only(Tensor, _signature, result)
        return result
    sizes = _sizes[key]
    return _empty(sizes) if isinstance(sizes, _Sizes) else tree_map_only(_Sizes, _empty, sizes, is_leaf=_is_sizes)


class _Functions(TorchFunctionMode):
    """Attention as fused kernels compute it, which keep no matrix of all pairs of tokens; new tensors with values."""

    def __init__(self, work: Work):
        super().__init__()
        self._work = work

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and args[0].is_meta:
            return self._attention(*args[:3])
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") not in (None, "cpu"):
            values = tree_map_only(Tensor, Tensor.item, args) if isinstance(args[0], (tuple, list)) else args
            return function(*values, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if function is Tensor.new_tensor and args[0].is_meta and "device" not in kwargs:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(META)
        return function(*args, **kwargs)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, width = query.shape
        self._work.flops += 2 * batch * heads * length * key.shape[2] * (width + value.shape[3])
        return query.new_empty(batch, length, heads, value.shape[3]).transpose(1, 2)


class _Sizes(NamedTuple):
    """The layout of a tensor."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _signature(value: Any) -> Any:
    """Return arguments with the sizes of tensors in their place; it can be a key."""
    if isinstance(value, Tensor):
        return _Sizes(tuple(value.shape), value.stride(), value.dtype)
    return tuple([_signature(each) for each in value]) if isinstance(value, (tuple, list)) else value


def _empty(sizes: _Sizes) -> Tensor:
    return torch.empty_strided(sizes.size, sizes.stride, dtype=sizes.dtype, device=META)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, _Sizes)


def _tensors(arguments: Any) -> Iterator[Tensor]:
    """Yield the tensors among positional arguments and in lists of them."""
    for value in arguments:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


@cache
def _is_in_place(function: Any) -> bool:
    """Return whether an operation changes the values of its first argument alone, and returns it."""
    if torch.Tag.inplace_view in function.tags:
        return False
    first = function._schema.arguments[0] if function._schema.arguments else None
    return first is not None and first.alias_info is not None and first.alias_info.is_write


def _is_written_on_host(function: Any, args: Any) -> bool:
    """Return whether an operation writes into a tensor of the host."""
    return function is _aten.copy_.default and not args[0].is_meta


def _on_meta(tensor: Tensor) -> Tensor:
    return (
        tensor
        if tensor.is_meta
        else torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=META)
    )


def _to_meta(value: Tensor) -> Tensor:
    tensor = _on_meta(value)
    _attach(tensor, value)
    return tensor


def _values(function: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
    """Return what an operation gives on the values of its inputs, or None if some are not known."""
    if any(_known(tensor) is None for tensor in tensors) or torch.Tag.nondeterministic_seeded in function.tags:
        return None
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map_only(Tensor, _known, (args, kwargs))
    return function(*args, **kwargs)


def _known(tensor: Tensor) -> Tensor | None:
    """Return a tensor's values; None if they depend on weights."""
    if isinstance(tensor, nn.Parameter):
        return None
    return getattr(tensor, "known_values", None) if tensor.is_meta else tensor


def _attach(result: Any, values: Any) -> None:
    """Keep the values, or None, of the tensors of a result beside them."""
    if isinstance(result, Tensor):
        kept = values if isinstance(values, Tensor) and values.numel() <= _MOST_VALUES else None
        result.known_values = kept  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(result, (tuple, list)):
        for index, each in enumerate(result):
            _attach(each, None if values is None else values[index])


def _value_or_guess(tensor: Tensor, guess: bool = False) -> Tensor:
    """Return a tensor's values; where they are not known zeros, `guess` for bool, and ones for floating-point numbers."""
    values = _known(tensor)
    if values is not None:
        return values
    fill = guess if tensor.dtype == torch.bool else float(tensor.is_floating_point())
    return torch.full(tensor.shape, fill, dtype=tensor.dtype)


def _positions(index: Tensor | None) -> list[Tensor | None]:
    """Return an index; a mask as the positions where it is True, everywhere if its values are not known."""
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return [_to_meta(each) for each in _value_or_guess(index, True).nonzero(as_tuple=True)]
