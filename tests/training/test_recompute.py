"""Computing again changes nothing but memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from latentbridge.config import AlignerConfig
from latentbridge.models.checkpoint import new_model
from latentbridge.models.omnibridge.aligner import BiTransformer
from latentbridge.training.recompute import Recompute, blocks, recompute
from latentbridge.types import Conversation

TALKS = [Conversation((("two red circles", "a blue star"),))]


def stepped(network: Any, what: Recompute, step: Callable[[], torch.Tensor]) -> tuple[list[torch.Tensor], int]:
    """The loss and all gradients of a step, and how many bytes it kept for the way back."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    recompute(network, what)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)], sum(kept.values())


@pytest.mark.parametrize("what", ["cheap", "blocks"])
@pytest.mark.parametrize("kind", ["model", "janus", "bagel", "harmon"])
def test_gradients_stay_bit_for_bit(kind: str, what: Recompute, request: pytest.FixtureRequest) -> None:
    found = []
    for each in ("none", what):
        network = new_model(request.getfixturevalue(f"small_{kind}").config, 3)
        found.append(stepped(network, each, lambda: network.understanding_loss(TALKS))[0])  # noqa: B023
    assert len(found[0]) == len(found[1]) > 5
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_less_is_kept() -> None:
    kept: dict[str, int] = {}
    for what in ("none", "cheap", "blocks"):
        aligner = BiTransformer(AlignerConfig(num_queries=67))
        hidden = torch.randn(2, 31, 128, generator=torch.Generator().manual_seed(0))
        queries = aligner.query_tokens.expand(2, -1, -1)
        _, kept[what] = stepped(aligner, what, lambda: aligner(queries, hidden).square().mean())  # noqa: B023
    # checkpoints keep what they need apart from autograd's hooks, so only what is kept outside of blocks is seen here
    assert kept["cheap"] < kept["none"] and kept["blocks"] < kept["none"]


def test_blocks_are_the_outermost_members_of_lists(small_model: Any) -> None:
    names = {type(block).__name__ for block in blocks(small_model)}
    assert {"Qwen2VLDecoderLayer", "Qwen2VLVisionBlock", "BiTransformerBlock", "HunyuanDiTBlock"} <= names
    assert not names & {"T5LayerFF", "T5LayerSelfAttention"}
