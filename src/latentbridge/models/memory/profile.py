"""Peaks of activations, and work, of a request by the blocks of transformers that run, from an outline on the meta device.

A language model of many layers is traced with two and with three of them, and what every pass over it takes is extrapolated:
layers are equal, so live bytes and work are linear in their number. The part of the peak that grows with it is the KV cache.
Diffusion is traced in few steps, since each takes as much memory as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import nn

from latentbridge.models.memory.requests import Request, stages
from latentbridge.models.memory.trace import SizeTrace, Work
from latentbridge.models.memory.weights import BlockId
from latentbridge.models.offload import block_parts, waiting_modules
from latentbridge.models.trainable import TrainableModel
from latentbridge.models.unified import UnifiedModel

_FEW_LAYERS = 3


@dataclass
class Stretch:
    """The work done while one part of a model is on the device, up to its next pass."""

    part: int | None
    """None before the first block."""
    peaks: dict[BlockId | None, float] = field(default_factory=dict)
    """Most live bytes, without weights, by the block that was brought last; equal blocks count as their first."""
    cache: dict[BlockId | None, float] = field(default_factory=dict)
    """The part of these that grows with the number of layers."""
    brought: dict[BlockId, float] = field(default_factory=dict)
    """Number of blocks that run."""
    work: Work = field(default_factory=Work)
    times: int = 1
    """Times that the part is brought, if others run between."""


Profile = list[Stretch]


class _Layers(NamedTuple):
    """Equal layers of a language model: the modules that hold a list of them, and the configs that have their number."""

    holders: list[tuple[nn.Module, str]]
    configs: list[Any]
    count: int


class _Recorder:
    """Divides a trace into stretches by hooks on the modules that bring blocks to the device."""

    def __init__(self, trace: SizeTrace):
        self.stretches: Profile = [Stretch(None)]
        self._trace = trace
        self._before = Work()
        self._key: BlockId | None = None
        self._block: nn.Module | None = None
        self._first: dict[nn.Module, nn.Module] = {}
        self._run: set[nn.Module] = set()

    def enter(self, key: BlockId, block: nn.Module, module: nn.Module) -> None:
        """Note that a module of a block runs; a block runs again when its first module does."""
        again = self._first.setdefault(block, module) is module and block in self._run
        if block is self._block and not again:
            return
        self.close()
        if again or key.part != self.stretches[-1].part:
            self.stretches.append(Stretch(key.part))
            self._run.clear()
        stretch = self.stretches[-1]
        stretch.brought[key] = stretch.brought.get(key, 0.0) + 1
        self._run.add(block)
        self._key, self._block = key, block

    def close(self) -> None:
        """Record the peak and the work since the last block was entered."""
        stretch, storages, work = self.stretches[-1], self._trace.storages, self._trace.work
        stretch.peaks[self._key] = max(stretch.peaks.get(self._key, 0.0), storages.peak)
        storages.peak = storages.live
        stretch.work = Work(
            *(a + b - c for a, b, c in zip(*map(_values, (stretch.work, work, self._before)), strict=True))
        )
        self._before = replace(work)


@contextmanager
def _hooked(network: nn.Module, equal: _Layers | None, current: list[_Recorder]) -> Iterator[None]:
    """Have the blocks of a whole network tell the last recorder in `current` when they run."""
    keys = {
        block: BlockId(part, index)
        for part, members in enumerate(block_parts(network))
        for index, block in enumerate(members)
    }
    for holder in equal.holders if equal else ():
        blocks = list(getattr(*holder))
        keys.update((block, keys[blocks[0]]) for block in blocks if block in keys)
    handles = [
        module.register_forward_pre_hook(_hook(current, key, block))
        for block, key in keys.items()
        for module in waiting_modules(block)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(current: list[_Recorder], key: BlockId, block: nn.Module) -> Callable[..., None]:
    return lambda module, *_: current[-1].enter(key, block, module)


def profile(model: UnifiedModel, request: Request) -> Profile:
    """Return the profile of a request; raise UserError if the model does not take it."""
    layers, recorders = _equal_layers(model), list[_Recorder]()
    found: Profile = []
    with _hooked(model, layers, recorders):
        for stage in stages(model, request):
            passes = _profiled(model, stage.run, layers, recorders)
            found += passes
            if stage.more_passes:
                found += [_later_passes(*pair, stage.more_passes) for pair in _last_passes(passes)]
    return found


def _last_passes(found: Profile) -> list[tuple[Stretch, Stretch]]:
    """Return the stretches of the last two whole passes for single tokens, in pairs; what ends the profile is no whole one."""
    parts = [stretch.part for stretch in found]
    for length in range(1, len(found) // 2):
        if parts[-1 - length : -1] == parts[-1 - 2 * length : -1 - length]:
            return list(zip(found[-1 - 2 * length : -1 - length], found[-1 - length : -1], strict=True))
    return []


def _later_passes(before: Stretch, last: Stretch, count: int) -> Stretch:
    """Return as one stretch the next `count` passes, each of which adds what the last added to the one before."""

    def total(low: float, high: float) -> float:
        return count * high + (high - low) * count * (count + 1) / 2

    work = Work(*(total(*pair) for pair in zip(_values(before.work), _values(last.work), strict=True)))
    grown = {block: peak + count * (peak - before.peaks[block]) for block, peak in last.peaks.items()}
    cache = {block: size + count * (size - before.cache[block]) for block, size in last.cache.items()}
    return Stretch(
        last.part, grown, cache, {block: count * times for block, times in last.brought.items()}, work, count
    )


def _profiled(
    model: UnifiedModel, run: Callable[[], Any], layers: _Layers | None, recorders: list[_Recorder]
) -> Profile:
    if layers is None:
        return _traced(model, run, recorders)
    few = min(layers.count, _FEW_LAYERS)
    with _shortened(layers, few - 1):
        fewer = _traced(model, run, recorders)
    with _shortened(layers, few):
        more = _traced(model, run, recorders)
    return [_extrapolated(*pair, few, layers.count) for pair in zip(fewer, more, strict=True)]


def _traced(model: UnifiedModel, run: Callable[[], Any], recorders: list[_Recorder]) -> Profile:
    trace = SizeTrace(model)
    recorders.append(_Recorder(trace))
    with trace:
        run()
    recorders[-1].close()
    return recorders[-1].stretches


def _extrapolated(fewer: Stretch, more: Stretch, few: int, count: int) -> Stretch:
    """Return a stretch with `count` layers from those with `few` - 1 and with `few`."""

    def at_count(low: float, high: float) -> float:
        return high + (count - few) * (high - low)

    growth = {block: max(0.0, more.peaks[block] - fewer.peaks[block]) for block in more.peaks}
    work = Work(*(at_count(*pair) for pair in zip(_values(fewer.work), _values(more.work), strict=True)))
    return Stretch(
        more.part,
        {block: peak + (count - few) * growth[block] for block, peak in more.peaks.items()},
        {block: count * size for block, size in growth.items()},
        {block: at_count(fewer.brought[block], times) for block, times in more.brought.items()},
        work,
    )


def _values(work: Work) -> Sequence[float]:
    return work.flops, work.moved, work.operations


def _equal_layers(model: UnifiedModel) -> _Layers | None:
    """Return the equal layers of the language model: its largest list of them, and others like it; None for fewer than 2."""
    if not isinstance(model, TrainableModel):
        return None
    host = model.adapter_host
    found: dict[tuple[int, int], list[tuple[nn.Module, str, Any]]] = {}
    for path, owner in host.named_modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) > 1:
                sizes = {sum(p.numel() for p in block.parameters()) for block in child}
                config = _config_of(host, path, len(child))
                if len(sizes) == 1 and config is not None:
                    found.setdefault((len(child) * sizes.pop(), len(child)), []).append((owner, name, config))
    if not found:
        return None
    (_, count), lists = max(found.items())
    configs = {id(config): config for _, _, config in lists}
    return _Layers([(owner, name) for owner, name, _ in lists], list(configs.values()), count)


def _config_of(root: nn.Module, path: str, count: int) -> Any:
    """Return the config of a language model of `count` layers that a module at a path belongs to; None if there is none."""
    names = path.split(".") if path else []
    for length in range(len(names), -1, -1):
        config: Any = getattr(root.get_submodule(".".join(names[:length])), "config", None)
        if getattr(config, "num_hidden_layers", None) == count and hasattr(config, "vocab_size"):
            return config
    return None


@contextmanager
def _shortened(layers: _Layers, count: int) -> Iterator[None]:
    """Leave the language model `count` layers."""
    whole = [getattr(*holder) for holder in layers.holders]
    for (owner, name), blocks in zip(layers.holders, whole, strict=True):
        setattr(owner, name, nn.ModuleList(list(blocks)[:count]))
    for config in layers.configs:
        config.num_hidden_layers = count
    try:
        yield
    finally:
        for (owner, name), blocks in zip(layers.holders, whole, strict=True):
            setattr(owner, name, blocks)
        for config in layers.configs:
            config.num_hidden_layers = layers.count
