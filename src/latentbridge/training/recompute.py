"""Activation checkpointing of transformer blocks; results are bitwise the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from latentbridge.models.blocks import blocks

Recompute = Literal["none", "cheap", "blocks"]
_SAVED_OPS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
"""The products of linear layers."""
_METHODS = ("forward", "project", "absorb")
"""The methods of a block that are checkpointed; the last two are BAGEL's."""


def recompute(network: nn.Module, mode: Recompute) -> None:
    """Checkpoint the activations of every block of a network, in place.

    "cheap" saves the outputs of linear layers and recomputes norms, activations and attention; "blocks" saves only the
    inputs of blocks and takes about a third longer. RecA on BAGEL does not support it: it freezes weights during the
    forward pass but not during the recomputation, and torch raises an error.
    """
    if mode == "none":
        return
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, _policy)} if mode == "cheap" else {}
    for block in blocks(network):
        for name in _METHODS:
            if hasattr(type(block), name):
                setattr(block, name, _checkpointed(getattr(block, name), contexts))


def _checkpointed(method: Callable[..., Any], contexts: dict[str, Any]) -> Callable[..., Any]:
    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return method(*args, **kwargs)
        kernels = _enabled_kernels()

        def forward(*args: Any, **kwargs: Any) -> Any:
            with sdpa_kernel(kernels):  # use the same kernels in the recomputation
                return method(*args, **kwargs)

        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **contexts, **kwargs)

    return run


def _enabled_kernels() -> list[SDPBackend]:
    enabled = {
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled(),
    }
    return [kernel for kernel, on in enabled.items() if on]


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _SAVED_OPS else CheckpointPolicy.PREFER_RECOMPUTE
