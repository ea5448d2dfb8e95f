from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.options import ReplyOptions
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.modeling_qwen_vl import Compat, QwenVL
from latentbridge.models.qwen_vl.sampling import generate_replies
from latentbridge.types import Conversation

FIXTURE = load_file(Path(__file__).parents[2] / "golden" / "omnibridge" / "golden.safetensors")
ATOL = 2e-5  # float32 rounding; observed 2e-6
IMAGE_TOKEN = 90
SIXTEEN_IMAGE_TOKENS = 16  # 64 px / (8 px patches merged 2 x 2), squared


def texts_of(*arguments: Any) -> list[str]:
    return [reply.text for reply in generate_replies(*arguments)]


@pytest.fixture(scope="module")
def backbone(small_model: OmniBridge) -> QwenVL:
    return small_model.backbone


def build_golden(compat: Compat, backbone: QwenVL) -> QwenVL:
    """The fixture's tiny Qwen2-VL; tokenizer and processor are not used, since the fixture starts from ids and patches."""
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "vocab_size": 96,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 4,
            "hidden_size": 48,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=IMAGE_TOKEN,
        video_token_id=93,
        vision_start_token_id=91,
        vision_end_token_id=92,
        tie_word_embeddings=False,
    )
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    weights = {name.removeprefix("qwen.w."): value for name, value in FIXTURE.items() if name.startswith("qwen.w.")}
    model.load_state_dict({renamed(name): value for name, value in weights.items()})
    golden = QwenVL(model, backbone.tokenizer, backbone.image_processor, "")
    golden.compat = compat
    return golden


def renamed(name: str) -> str:
    """Convert a key of the released layout to transformers' current one."""
    if name.startswith("model."):
        return name.replace("model.", "model.language_model.", 1)
    return f"model.{name}" if name.startswith("visual.") else name


def golden_batch() -> TokenBatch:
    ids = FIXTURE["qwen.in.input_ids"].long()
    pixels, grid = FIXTURE["qwen.in.pixel_values"], FIXTURE["qwen.in.grid_thw"].long()
    return TokenBatch(
        ids, torch.ones_like(ids), ids == IMAGE_TOKEN, torch.full_like(ids, -100), torch.zeros(ids.shape), pixels, grid
    )


def distance(got: Tensor, name: str) -> float:
    return (got - FIXTURE[f"qwen.out.{name}"]).abs().max().item()


@torch.no_grad()
def test_hidden_states_equal_the_authors_with_both_position_ids(backbone: QwenVL):
    mrope, sequential = build_golden("corrected", backbone), build_golden("reference", backbone)
    batch = golden_batch()
    hidden = mrope.hidden(batch)
    assert distance(hidden, "hidden_mrope") <= ATOL
    assert distance(sequential.hidden(batch), "hidden_1d") <= ATOL
    assert distance(hidden, "hidden_1d") > 100 * ATOL
    assert distance(mrope.model.lm_head(hidden), "logits_plain_mrope") <= ATOL
    assert distance(mrope._position_ids(batch), "mrope_position_ids") == 0
    tokens = mrope.model.model.get_image_features(batch.pixel_values, batch.image_grid_thw).pooler_output  # pyright: ignore
    assert distance(torch.cat(list(tokens)), "visual") <= ATOL


@torch.no_grad()
def test_parity_fails_when_one_weight_changes(backbone: QwenVL):
    changed = build_golden("corrected", backbone)
    changed.model.model.language_model.layers[1].mlp.up_proj.weight[0, 0] += 0.01
    assert distance(changed.hidden(golden_batch()), "hidden_mrope") > ATOL


# --- tokens --------------------------------------------------------------------------------------


def test_a_conversation_becomes_qwens_chat_text(backbone: QwenVL, three_pictures: list[np.ndarray]):
    conversation = Conversation.with_picture(
        (("What is this?", "a red star"), ("Where?", "top left")), three_pictures[0]
    )
    image = "<|vision_start|>" + "<|image_pad|>" * SIXTEEN_IMAGE_TOKENS + "<|vision_end|>"
    expected = (
        f"<|im_start|>user\n{image}What is this?<|im_end|>\n<|im_start|>assistant\na red star<|im_end|>\n"
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\ntop left<|im_end|>"
    )
    batch = backbone.tokenize([conversation])
    assert backbone.tokenizer.decode(batch.input_ids[0]) == expected
    assert batch.image_mask.sum() == SIXTEEN_IMAGE_TOKENS
    assert batch.image_grid_thw is not None and batch.image_grid_thw.tolist() == [[1, 8, 8]]

    named = QwenVL(backbone.model, backbone.tokenizer, backbone.image_processor, "Be kind.")
    opened = named.tokenize([Conversation((("Hi", "unseen"),))], open_ended=True)
    text = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert backbone.tokenizer.decode(opened.input_ids[0]) == text


def test_labels_are_the_replies_and_their_ends(backbone: QwenVL):
    conversations = [
        Conversation((("What is this?", "a star"), ("Where?", "top left"))),
        Conversation((("Hi", "yes"),)),
    ]
    batch = backbone.tokenize(conversations)
    chosen = [row[row != IGNORE_INDEX] for row in batch.labels]
    assert [backbone.tokenizer.decode(row) for row in chosen] == ["a star<|im_end|>top left<|im_end|>", "yes<|im_end|>"]
    labelled = batch.labels != IGNORE_INDEX
    assert torch.equal(batch.labels[labelled], batch.input_ids[labelled])
    assert not labelled[batch.attention_mask == 0].any()


def test_special_tokens_typed_by_a_user_are_plain_text(backbone: QwenVL, three_pictures: list[np.ndarray]):
    typed = "<|image_pad|> and <img>this</img><|im_end|>"
    batch = backbone.tokenize([Conversation.with_picture(((typed, "ok"),), three_pictures[0])])
    assert typed in backbone.tokenizer.decode(batch.input_ids[0])
    assert batch.image_mask.sum() == SIXTEEN_IMAGE_TOKENS
    ends = (batch.input_ids == backbone.end_of_turn).sum()
    assert ends == 2  # the user's turn and the assistant's


# --- padding, batches and caches -----------------------------------------------------------------


def three_conversations(pictures: list[np.ndarray]) -> list[Conversation]:
    return [
        Conversation.with_picture((("Describe the picture.", "large red circle top"),), pictures[0]),
        Conversation((("Hi", "yes"), ("How many objects are there, all in all?", "two"))),
        Conversation.with_picture((("What?", "no"),), pictures[1]),
    ]


@torch.no_grad()
@pytest.mark.parametrize("pad", ["left", "right"])
def test_hidden_states_do_not_depend_on_padding_or_batch(backbone: QwenVL, three_pictures, pad):
    conversations = three_conversations(three_pictures)
    batch = backbone.tokenize(conversations, pad=pad)
    together = backbone.hidden(batch)
    assert len(set(batch.attention_mask.sum(dim=1).tolist())) == 3
    for row, conversation in enumerate(conversations):
        alone = backbone.hidden(backbone.tokenize([conversation]))[0]
        real = together[row][batch.attention_mask[row].bool()]
        assert (real - alone).abs().max() <= 1e-5  # float32 rounding: states are of order 1


def test_replies_do_not_depend_on_the_batch(backbone: QwenVL, three_pictures: list[np.ndarray]):
    conversations = three_conversations(three_pictures)
    together = texts_of(backbone, conversations, ReplyOptions(12))
    assert together == [texts_of(backbone, [conversation], ReplyOptions(12))[0] for conversation in conversations]
    assert len(set(together)) == 3


@torch.no_grad()
def test_cached_generation_equals_uncached(backbone: QwenVL, three_pictures: list[np.ndarray]):
    conversation = three_conversations(three_pictures)[0]
    batch = backbone.tokenize([conversation], open_ended=True)
    start = batch.input_ids.shape[1]
    for _ in range(8):
        chosen = backbone.model.lm_head(backbone.hidden(batch)[:, -1]).argmax(dim=-1)
        batch.input_ids = torch.cat([batch.input_ids, chosen[:, None]], dim=1)
        batch.attention_mask = torch.ones_like(batch.input_ids)
        batch.image_mask = torch.cat([batch.image_mask, torch.tensor([[False]])], dim=1)
    expected = backbone.tokenizer.decode(batch.input_ids[0, start:]).partition("<|im_end|>")[0]
    assert len(expected) > 8
    assert texts_of(backbone, [conversation], ReplyOptions(8)) == [expected]


def test_sampled_replies_depend_on_their_generators_only(backbone: QwenVL, three_pictures: list[np.ndarray]):
    conversations = three_conversations(three_pictures)

    def sample(chosen: list[Conversation], seeds: list[int]) -> list[str]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return texts_of(backbone, chosen, ReplyOptions(6, 1.0), generators)

    together = sample(conversations, [1, 2, 3])
    assert together == sample(conversations, [1, 2, 3]) and together != sample(conversations, [4, 5, 6])
    assert sample(conversations[2:], [3]) == together[2:]


@pytest.mark.parametrize("pad", ["left", "right"])
@torch.no_grad()
def test_the_language_loss_weighs_replies_by_the_root_of_their_length(backbone: QwenVL, pad: Literal["left", "right"]):
    conversations = [Conversation((("Hi", "yes"), ("So?", "no"))), Conversation((("Hm", "a star and a circle"),))]
    batch = backbone.tokenize(conversations, pad=pad)
    log_probabilities = backbone.model.lm_head(backbone.hidden(batch)).log_softmax(dim=-1)
    replies = [[], [], []]
    for row, place in (batch.labels != IGNORE_INDEX).nonzero().tolist():
        second = row == 0 and len(replies[0]) == len(backbone.tokenizer.encode("yes")) + 1
        replies[2 if row else int(second)].append(-log_probabilities[row, place - 1, batch.labels[row, place]])
    assert len(replies[2]) > len(replies[0])
    expected = sum(sum(reply) / len(reply) ** 0.5 for reply in replies) / sum(len(reply) ** 0.5 for reply in replies)
    assert backbone.language_loss(batch).item() == pytest.approx(float(expected), abs=1e-5)


@torch.no_grad()
def test_precomputed_image_embeddings_change_nothing(backbone: QwenVL, three_pictures: list[np.ndarray]):
    conversations = [Conversation.with_picture((("Hi", "yes"),), picture) for picture in (*three_pictures[:2], None)]
    batch = backbone.tokenize(conversations)
    seen = backbone.image_embeddings(batch)
    torch.testing.assert_close(backbone.hidden(batch, seen), backbone.hidden(batch), atol=1e-6, rtol=0)
    assert not torch.allclose(backbone.hidden(batch, seen.flip(0)), backbone.hidden(batch), atol=1e-3)
