"""What a step keeps of its blocks for the way back, and what it computes again instead; bit for bit the same either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "cheap", "blocks"]
_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
"""Of linear layers; attention's own products are few."""
_METHODS = ("forward", "project", "absorb")
"""What a block does; the last two are BAGEL's."""


def recompute(network: nn.Module, what: Recompute) -> None:
    """From now on, where gradients are wanted, every block of the network computes `what` anew on the way back.

    "cheap" keeps the outputs of linear layers and computes norms, activations and attention again; "blocks" keeps the
    inputs of blocks alone, for about a third more time. Blocks are the members of module lists. RecA on BAGEL cannot be
    had so: the weights it holds still are not held on the way back, and torch refuses.
    """
    if what == "none":
        return
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, _policy)} if what == "cheap" else {}
    for block in blocks(network):
        for name in _METHODS:
            if hasattr(type(block), name):
                setattr(block, name, _again(getattr(block, name), contexts))


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of module lists that have weights."""
    for module in network.children():
        if not isinstance(module, nn.ModuleList):
            yield from blocks(module)
        else:
            yield from (each for each in module if any(True for _ in each.parameters()))


def _again(method: Callable[..., Any], contexts: dict[str, Any]) -> Callable[..., Any]:
    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return method(*args, **kwargs)
        kernels = _kernels()

        def forward(*args: Any, **kwargs: Any) -> Any:
            with sdpa_kernel(kernels):  # those of the way there, also on the way back
                return method(*args, **kwargs)

        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **contexts, **kwargs)

    return run


def _kernels() -> list[SDPBackend]:
    enabled = {
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    return [kernel for kernel, on in enabled.items() if on]


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
