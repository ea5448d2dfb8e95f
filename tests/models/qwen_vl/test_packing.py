from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from latentbridge.config import TaskMix
from latentbridge.data.shapes.scenes import scenes
from latentbridge.data.shapes.tasks import scene_conversation
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.packing import first_fit
from latentbridge.rng import numpy_rng


def test_first_fit_by_hand():
    # Longest first: 7 | 5 5 | 4 | 3 with the 7 | 1 in what the 4 left
    assert first_fit([3, 5, 7, 1, 5, 4], 10) == [[2, 0], [1, 4], [5, 3]]
    assert first_fit([4], 4) == [[0]]


@pytest.fixture(scope="module")
def batch(small_model) -> TokenBatch:
    """Eleven conversations of many lengths, some without a picture."""
    rng = numpy_rng(0, "packing")
    conversations = [
        scene_conversation(scene, rng, TaskMix()) for scene, _ in zip(scenes("train", rng), range(11), strict=False)
    ]
    assert 0 < sum(not conversation.all_pictures for conversation in conversations) < 11
    return small_model.backbone.tokenize(conversations)


def gradients(backbone, batch: TokenBatch) -> tuple[float, dict[str, torch.Tensor]]:
    backbone.zero_grad(set_to_none=True)
    loss = backbone.language_loss(batch)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("compat", ["corrected", "reference"])
def test_packing_keeps_loss_and_gradient(small_model, batch, attention, compat):
    backbone = copy.deepcopy(small_model.backbone)
    backbone.compat = compat
    backbone.model.set_attn_implementation(attention)
    packed = backbone.pack(batch)
    assert packed.attention_mask.sum() == batch.attention_mask.sum()
    assert packed.input_ids.shape[0] < batch.input_ids.shape[0]
    assert packed.input_ids.shape[1] == batch.input_ids.shape[1]
    (padded_loss, padded_gradients), (packed_loss, packed_gradients) = (
        gradients(backbone, batch),
        gradients(backbone, packed),
    )
    assert packed_loss == pytest.approx(padded_loss, rel=1e-5)
    assert padded_gradients.keys() == packed_gradients.keys()
    for name, gradient in padded_gradients.items():
        torch.testing.assert_close(
            packed_gradients[name], gradient, rtol=2e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-8
        )


def test_conversations_of_a_row_do_not_attend_to_each_other(small_model, batch):
    backbone = small_model.backbone
    packed = backbone.pack(batch)
    assert packed.position_ids is not None
    first = (packed.position_ids[0] == 0) & packed.attention_mask.bool()
    row = int(first.sum(dim=1).argmax())
    second = first[row].nonzero().flatten().tolist()[1]
    with torch.no_grad():
        before = backbone.hidden(packed)[row]
        changed = packed.input_ids.clone()
        words = (torch.arange(second) >= 3) & ~packed.image_mask[row, :second]
        changed[row, :second][words] = changed[row, :second][words].roll(1)
        after = backbone.hidden(replace(packed, input_ids=changed))[row]
    assert torch.equal(before[second:], after[second:])
    assert not torch.allclose(before[:second], after[:second])


def test_pictures_move_with_their_conversations(small_model, batch):
    """A state at an image token is the picture's and the words' before it: the same wherever the conversation stands."""
    backbone = small_model.backbone
    packed = backbone.pack(batch)
    with torch.no_grad():
        padded_states = backbone.hidden(batch)[batch.image_mask]
        packed_states = backbone.hidden(packed)[packed.image_mask]
    per = int(batch.image_mask.sum(dim=1).max())
    key = lambda states: states.view(-1, per, states.shape[1])[:, -1].sum(dim=1).sort().values  # noqa: E731
    torch.testing.assert_close(key(packed_states), key(padded_states), rtol=1e-4, atol=1e-4)
