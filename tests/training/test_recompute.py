"""Activation checkpointing changes memory only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from latentbridge.config import AlignerConfig
from latentbridge.models.blocks import blocks
from latentbridge.models.checkpoint import new_model
from latentbridge.models.omnibridge.aligner import BiTransformer
from latentbridge.training.recompute import Recompute, recompute
from latentbridge.types import Conversation

TALKS = [Conversation((("two red circles", "a blue star"),))]


def stepped(network: Any, mode: Recompute, step: Callable[[], torch.Tensor]) -> tuple[list[torch.Tensor], int]:
    """Return the loss and all gradients of a step, and the bytes saved for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    recompute(network, mode)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)], sum(kept.values())


@pytest.mark.parametrize("mode", ["cheap", "blocks"])
@pytest.mark.parametrize("kind", ["model", "janus", "bagel", "harmon"])
def test_gradients_are_bitwise_equal(kind: str, mode: Recompute, request: pytest.FixtureRequest) -> None:
    found = []
    for setting in ("none", mode):
        network = new_model(request.getfixturevalue(f"small_{kind}").config, 3)
        found.append(stepped(network, setting, lambda: network.understanding_loss(TALKS))[0])  # noqa: B023
    assert len(found[0]) == len(found[1]) > 5
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_fewer_activations_are_saved() -> None:
    kept: dict[str, int] = {}
    for mode in ("none", "cheap", "blocks"):
        aligner = BiTransformer(AlignerConfig(num_queries=67))
        hidden = torch.randn(2, 31, 128, generator=torch.Generator().manual_seed(0))
        queries = aligner.query_tokens.expand(2, -1, -1)
        _, kept[mode] = stepped(aligner, mode, lambda: aligner(queries, hidden).square().mean())  # noqa: B023
    # checkpoints bypass autograd's hooks, so only tensors saved outside of blocks are counted here
    assert kept["cheap"] < kept["none"] and kept["blocks"] < kept["none"]


def test_blocks_are_the_outermost_members_of_lists(small_model: Any) -> None:
    names = {type(block).__name__ for block in blocks(small_model)}
    assert {"Qwen2VLDecoderLayer", "Qwen2VLVisionBlock", "BiTransformerBlock", "HunyuanDiTBlock"} <= names
    assert not names & {"T5LayerFF", "T5LayerSelfAttention"}
