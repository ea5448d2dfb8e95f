"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL from transformers' folders: prompts, replies and settings are transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.models.qwen_vl.tiny_releases import KINDS, save_release, template
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

import latentbridge as lb
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import load_model, save_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.continuous_batching import SamplingParams
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, Picture

NEW_TOKENS = 12


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sampling = {"do_sample": True, "top_k": 1, "top_p": 0.001, "temperature": 0.1, "repetition_penalty": 1.3}
    return save_release(request.param, tmp_path_factory.mktemp("releases") / request.param, **sampling)


@pytest.fixture(scope="module")
def model(folder: Path) -> OmniBridge:
    loaded = lb.load(folder)
    assert isinstance(loaded, OmniBridge)
    return loaded.float()


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).float().eval()


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    """Of no, one and three pictures, of one and two turns, with and without a system message."""
    rng = np.random.default_rng(3)

    def picture(height: int, width: int) -> Picture:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    return [
        Conversation((("What is this?", ""),), ((picture(33, 31),),)),
        Conversation((("red", ""),)),
        Conversation(
            (("two stars", "a circle"), ("left of", "")),
            ((picture(24, 60), picture(40, 40)), (picture(90, 20),)),
            system="large and blue",
        ),
    ]


def messages_of(conversation: Conversation) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if conversation.system is not None:
        messages.append({"role": "system", "content": [{"type": "text", "text": conversation.system}]})
    for index, (user, assistant) in enumerate(conversation.turns):
        count = len(conversation.pictures[index]) if index < len(conversation.pictures) else 0
        content = [*({"type": "image"} for _ in range(count)), {"type": "text", "text": user}]
        messages.append({"role": "user", "content": content})
        if assistant:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": assistant}]})
    return messages


def inputs_of(folder: Path, conversation: Conversation) -> dict[str, torch.Tensor]:
    """What transformers' processor of a Qwen-VL makes of a conversation: template, placeholders, patches.

    The processor class itself also needs a video processor, which needs torchvision.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    text = tokenizer.apply_chat_template(messages_of(conversation), tokenize=False, add_generation_prompt=True)
    pictures = [Image.fromarray(picture) for picture in conversation.all_pictures]
    inputs: dict[str, torch.Tensor] = dict(processor(images=pictures, return_tensors="pt")) if pictures else {}
    for grid in inputs.get("image_grid_thw", torch.empty(0, 3)):
        text = text.replace("<|image_pad|>", "<|placeholder|>" * (int(grid.prod()) // 4), 1)
    ids = tokenizer(text.replace("<|placeholder|>", "<|image_pad|>"), return_tensors="pt")["input_ids"]
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return inputs | {
        "input_ids": ids,
        "mm_token_type_ids": (ids == image).int(),
        "attention_mask": torch.ones_like(ids),
    }


@torch.no_grad()
def generated(reference: Any, inputs: dict[str, torch.Tensor], **options: Any) -> list[int]:
    output = reference.generate(**inputs, max_new_tokens=NEW_TOKENS, **options)[0, inputs["input_ids"].shape[1] :]
    return output.tolist()


def test_prompts_are_the_chat_templates(folder: Path, model: OmniBridge, conversations: list[Conversation]):
    for conversation in conversations:
        batch, inputs = model.backbone.tokenize([conversation], open_ended=True), inputs_of(folder, conversation)
        assert torch.equal(batch.input_ids, inputs["input_ids"])
        if conversation.all_pictures:
            assert batch.pixel_values is not None and torch.equal(batch.pixel_values, inputs["pixel_values"])
    system = "" if folder.name == "qwen3_vl" else "You are a helpful assistant."
    assert model.config.backbone.system_prompt == system


def test_replies_are_those_of_transformers(
    folder: Path, model: OmniBridge, reference: Any, conversations: list[Conversation]
):
    expected = [generated(reference, inputs_of(folder, each)) for each in conversations]
    generators = [torch_rng(0, "unused by the most likely token") for _ in conversations]
    replies = model.reply(conversations, generators, max_tokens=NEW_TOKENS)
    assert [list(reply.token_ids) for reply in replies] == expected
    plain = {"repetition_penalty": 1.0, "do_sample": False}
    expected = [generated(reference, inputs_of(folder, each), **plain) for each in conversations]
    options = {"temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": NEW_TOKENS}
    assert [list(reply.token_ids) for reply in model.reply(conversations, **options)] == expected
    assert len({tuple(tokens) for tokens in expected}) == 3, "each picture and each text counts"


def test_replies_do_not_depend_on_the_batch(model: OmniBridge, conversations: list[Conversation]):
    options = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "max_tokens": NEW_TOKENS}

    def reply(batch: list[Conversation]) -> list[str]:
        generators = [torch_rng(conversations.index(each), "reply") for each in batch]
        return [each.text for each in model.reply(batch, generators, **options)]

    together = reply(conversations)
    assert reply([conversations[0]]) + reply(conversations[1:]) == together
    assert reply(conversations[::-1]) == together[::-1]


def test_slots_reply_as_batches_do(model: OmniBridge, conversations: list[Conversation]):
    options = model.reply_options
    expected = model.reply(conversations, [torch_rng(0, "") for _ in conversations], max_tokens=NEW_TOKENS)
    slots = model.new_reply_batch(3, 400)
    tokens: dict[int, list[int]] = {}
    for conversation in conversations:
        (slot,) = slots.add([slots.tokenize(conversation)], [SamplingParams(options, torch_rng(0, ""))])
        tokens[slot] = []
    for _ in range(NEW_TOKENS):
        for slot, token in slots.step().items():
            tokens[slot].append(token)
    for reply, got in zip(expected, tokens.values(), strict=True):
        assert got[: len(reply.token_ids)] == list(reply.token_ids)


def test_settings_are_the_folders(folder: Path, model: OmniBridge, tmp_path: Path):
    options = model.reply_options
    assert (options.temperature, options.top_k, options.top_p) == (0.1, 1, 0.001)
    assert model.backbone.reply_options.repetition_penalty == 1.3
    assert model.context_length == 777 and model.max_pictures is None
    assert model.skills == {"understand", "embed"} and model.embedding_size == 48
    plain = lb.load(save_release(folder.name, tmp_path))
    assert (plain.reply_options.temperature, plain.reply_options.max_tokens) == (0.0, 1024)


def test_a_token_that_ends_a_reply_ends_it(model: OmniBridge, conversations: list[Conversation]):
    (reply,) = model.reply(conversations[1:2], temperature=0.0, max_tokens=NEW_TOKENS)
    backbone, ends = model.backbone, model.backbone.end_ids
    assert set(ends) == {backbone.end_of_turn, backbone.padding}
    try:
        backbone.end_ids = (reply.token_ids[2],)
        (cut,) = model.reply(conversations[1:2], temperature=0.0, max_tokens=NEW_TOKENS)
    finally:
        backbone.end_ids = ends
    first = reply.token_ids.index(reply.token_ids[2])
    assert cut.token_ids == reply.token_ids[: first + 1] and cut.finish_reason == "stop"


def test_vectors_are_means_of_states_and_do_not_depend_on_the_batch(
    folder: Path, model: OmniBridge, reference: Any, conversations: list[Conversation]
):
    pictures = [picture for each in conversations for picture in each.all_pictures]
    together = model.embed(images=pictures)
    np.testing.assert_allclose(together, np.stack([model.embed(images=each) for each in pictures]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    inputs = inputs_of(folder, Conversation((("", ""),), ((pictures[0],),)))
    with torch.no_grad():
        states = reference.model(**inputs).last_hidden_state[inputs["mm_token_type_ids"] == 1].mean(dim=0)
    np.testing.assert_allclose(together[0], states / states.norm(), atol=1e-5)
    texts = ["red", "a large star left of a circle"]
    alone = np.stack([model.embed(texts=each) for each in texts])
    np.testing.assert_allclose(model.embed(texts=texts), alone, atol=1e-5)


def test_precomputed_picture_states_change_nothing(model: OmniBridge, conversations: list[Conversation]):
    batch = model.backbone.tokenize(conversations)
    with torch.no_grad():
        precomputed = torch.cat(model.backbone.image_embedding_list(batch))
        expected, got = model.backbone.hidden(batch), model.backbone.hidden(batch, precomputed)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_what_was_trained_is_saved_and_found_again(
    model: OmniBridge, conversations: list[Conversation], tmp_path: Path
):
    save_model(model, tmp_path)
    again: Any = load_model(tmp_path)
    options = {"temperature": 0.0, "max_tokens": NEW_TOKENS}
    assert again.reply(conversations, **options) == model.reply(conversations, **options)
    assert again.reply_options == model.reply_options
    library = model.backbone.model
    tied = library.lm_head.weight is library.get_input_embeddings().weight
    assert tied == model.config.backbone.tied_embeddings


def test_a_thinking_template_opens_its_replies(folder: Path, tmp_path: Path):
    thinking: Any = lb.load(save_release(folder.name, tmp_path / "thinking", prefix="<think>\n"))
    conversation = Conversation((("red", ""),))
    ids = thinking.backbone.tokenize([conversation], open_ended=True).input_ids
    assert torch.equal(ids, inputs_of(tmp_path / "thinking", conversation)["input_ids"])
    assert thinking.tokenizer.decode(ids[0]).endswith("assistant\n<think>\n")


def test_another_chat_template_is_refused(folder: Path, tmp_path: Path):
    copy = save_release(folder.name, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(template(True).replace("<|im_end|>\n", "<|im_end|>"))
    with pytest.raises(UserError, match="chat template in .* is not ChatML"):
        lb.load(copy)
