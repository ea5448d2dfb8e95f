"""The transformer blocks of a network."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost members of module lists that have parameters."""
    for module in network.children():
        if not isinstance(module, nn.ModuleList):
            yield from blocks(module)
        else:
            yield from (block for block in module if any(True for _ in block.parameters()))
