"""Weights that wait in host memory until a device needs them: whole parts of a model, or layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from latentbridge.models.blocks import blocks
from latentbridge.models.quantization import forget_weight

Offload = Literal["parts", "layers"]


def place(model: nn.Module, device: torch.device, offload: Offload | None) -> None:
    """Move a model to a device, or have the weights of its transformer blocks brought there when they are used.

    "parts" keeps the blocks of one part (language model, vision encoder, decoder) at a time on the device. "layers" brings
    each layer of a block for its own forward pass: the least memory, and a copy of all weights in every pass. Results are
    the same bit for bit.
    """
    if offload is None:
        model.to(device)
        return
    for module in model.modules():
        module.execution_device = device  # pyright: ignore[reportArgumentType]
    parts = block_parts(model)
    groups = parts if offload == "parts" else [[block] for part in parts for block in part]
    waiting = {id(parameter) for group in groups for block in group for parameter in waiting_parameters(block)}
    _Offloader(device).attach(groups)
    _move_others(model, device, waiting)


def block_parts(model: nn.Module) -> list[list[nn.Module]]:
    """Return the blocks of each part of a model; a model that is one part is taken apart."""
    parts = [child for child in model.children() if any(True for _ in blocks(child))]
    if len(parts) == 1 and not isinstance(parts[0], nn.ModuleList):
        return block_parts(parts[0])
    return [list(blocks(part)) for part in parts] or [list(blocks(model))]


def waiting_parameters(block: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a block that wait in host memory."""
    return (parameter for module in waiting_modules(block) for parameter in module.parameters(recurse=False))


def waiting_modules(block: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of a block whose weights wait; the small embeddings of T5's positions are read outside of it."""
    return (module for module in block.modules() if not isinstance(module, nn.Embedding))


def _move_others(model: nn.Module, device: torch.device, waiting: set[int]) -> None:
    """Move the parameters and buffers that do not wait in host memory."""
    moved: dict[int, nn.Parameter] = {}  # tied parameters stay one
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in waiting:
                if id(parameter) not in moved:
                    moved[id(parameter)] = _on(parameter, device)
                module._parameters[name] = moved[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def _on(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    """Return a parameter on a device; quantised ones keep their type."""
    moved = parameter.to(device)
    return moved if isinstance(moved, nn.Parameter) else nn.Parameter(moved.detach(), parameter.requires_grad)


class _Offloader:
    """Hooks that bring a group of blocks to the device before any of their modules runs, in place of the group before.

    accelerate's hooks act on the `forward` of a part, or of each module that has weights of its own; here parts are entered by
    other methods, and some modules read the weights of their children.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._on_device: list[_Hosted] = []

    def attach(self, groups: list[list[nn.Module]]) -> None:
        """Attach hooks to all modules of each group of blocks."""
        for group in groups:
            modules = [module for block in group for module in waiting_modules(block)]
            hosted = [
                _Hosted(module, name, parameter)
                for module in modules
                for name, parameter in module._parameters.items()
                if parameter is not None
            ]
            for module in modules:
                module.register_forward_pre_hook(self._hook(hosted))

    def _hook(self, hosted: list[_Hosted]) -> Any:
        def bring(*_: Any) -> None:
            if self._on_device is not hosted:
                for module, name, parameter in self._on_device:
                    module._parameters[name] = parameter
                    forget_weight(module)
                for module, name, parameter in hosted:
                    module._parameters[name] = _on(parameter, self._device)
                self._on_device = hosted

        return bring


class _Hosted(NamedTuple):
    """A parameter in host memory, and where it belongs."""

    module: nn.Module
    name: str
    parameter: nn.Parameter
