"""Drawing and answering with the authors' weights at tiny width (tests/golden/janus)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentbridge.errors import UserError
from latentbridge.models.backbones.janus.load_janus import load_janus
from latentbridge.models.backbones.janus.modeling_janus import JanusPro
from latentbridge.models.backbones.janus.pictures import resize_longest_side
from latentbridge.models.pixels import truncated_levels, truncated_pictures
from latentbridge.types import Conversation

FIXTURE = Path(__file__).parents[2] / "golden" / "janus"
TEXTS = ["a red circle left of a blue square", "two stars"]


@pytest.fixture(scope="module")
def model() -> JanusPro:
    return load_janus(FIXTURE, vision_heads=4).float()


def test_greedy_drawings_are_the_authors_alone_and_in_a_batch(model: JanusPro):
    expected = load_file(FIXTURE / "expected.safetensors")
    together = model.draw_descriptions(TEXTS, [3, 4], temperature=0.0)
    for index, picture in enumerate(together):
        theirs = expected[f"gen{index}.picture"].numpy().astype(int)
        assert np.abs(picture - theirs).max() <= 1 and (picture != theirs).mean() < 1e-3
    (alone,) = model.draw_descriptions(TEXTS[1:], [9], temperature=0.0)
    assert np.abs(alone.astype(int) - together[1]).max() <= 1


def test_each_item_has_its_own_seed(model: JanusPro):
    first, second, third = model.draw_descriptions([TEXTS[1]] * 3, [3, 4, 3])
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    (alone,) = model.draw_descriptions([TEXTS[1]], [4])
    assert np.abs(alone.astype(int) - second).max() <= 1
    assert not np.array_equal(model.draw_descriptions([TEXTS[1]], [3], guidance=1.0)[0], first)
    with pytest.raises(UserError, match="draws 64x64"):
        model.generate(TEXTS, 1, size=(128, 64))


def test_several_pictures_and_turns_reach_the_model_in_order(model: JanusPro):
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (50, 40, 3), np.uint8) for _ in range(2))
    turns = (("Which?", "the left"), ("Why?", ""))
    talk = Conversation(turns, ((first, second), (first,)), system="")
    ids = model._tokenize(talk, open_ended=True).ids
    picture = f"<begin_of_image>{'<image_placeholder>' * 16}<end_of_image>"
    assert model.tokenizer.decode(ids).removeprefix(model.tokenizer.bos_token) == (
        f"<|User|>: {picture}\n{picture}\nWhich?\n\n<|Assistant|>: the left{model.tokenizer.eos_token}"
        f"<|User|>: {picture}\nWhy?\n\n<|Assistant|>:"
    )
    _, embeds = model.embed_conversations([talk])
    features = model.encode_image(model.pixel_values([first, second, first])).flatten(0, 1)
    torch.testing.assert_close(embeds[0, torch.tensor(ids) == model._image], features)
    plain = Conversation(turns, ((first, first), (first,)), system="")
    together = model.reply([talk, plain, talk], max_tokens=6)
    assert together[0] == together[2] == model.reply([talk], max_tokens=6)[0]


def test_messages_are_stripped_as_the_authors_strip_them(model: JanusPro):
    picture = np.zeros((8, 8, 3), np.uint8)
    for pictures in ((), ((picture,),)):
        spaced = model._tokenize(Conversation(((" Hi \n", " yes "), ("So? ", "")), pictures), open_ended=True).ids
        plain = model._tokenize(Conversation((("Hi", "yes"), ("So?", "")), pictures), open_ended=True).ids
        if pictures:  # what follows a picture keeps its leading space
            plain = model._tokenize(Conversation(((" Hi", "yes"), ("So?", "")), pictures), open_ended=True).ids
        assert spaced == plain


def test_sampled_replies_have_probabilities_and_end_where_they_should(model: JanusPro):
    talk = Conversation((("Hi", ""),), system="")
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 1)]
    replies = model.reply([talk] * 3, generators, max_tokens=9, temperature=2.0, top_p=0.9, top_k=50)
    assert replies[0].text == replies[2].text != replies[1].text
    assert len(replies[0].logprobs) == len(replies[0].token_ids) and max(replies[0].logprobs) < 0
    assert replies[0].finish_reason == "length" and len(replies[0].token_ids) == 9
    (greedy,) = model.reply([talk], max_tokens=9)
    (narrow,) = model.reply([talk], generators[:1], max_tokens=9, temperature=2.0, top_k=1)
    assert narrow.token_ids == greedy.token_ids


def test_a_reply_ends_with_the_end_of_the_turn():
    model = load_janus(FIXTURE, vision_heads=4).float()
    talk, other = Conversation((("Hi", ""),), system=""), Conversation((("What is this?", ""),), system="")
    (free,) = model.reply([talk], max_tokens=9)
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(free.token_ids[3])
    ended, longer = model.reply([talk, other], max_tokens=9)
    first = free.token_ids.index(free.token_ids[3])
    assert ended.token_ids == free.token_ids[: first + 1] and ended.finish_reason == "stop"
    assert len(longer.token_ids) > len(ended.token_ids)


def test_sides_are_rounded_down_and_no_shorter_than_the_least():
    tall = np.zeros((150, 61, 3), np.uint8)
    assert resize_longest_side(tall, 384, 14).shape == (384, 156, 3)  # 156.16
    assert resize_longest_side(np.zeros((100, 66, 3), np.uint8), 384, 14).shape == (384, 253, 3)  # 253.44, not 254
    assert resize_longest_side(np.zeros((77, 100, 3), np.uint8), 64, 14).shape == (49, 64, 3)  # 49.28
    assert resize_longest_side(np.zeros((79, 100, 3), np.uint8), 64, 14).shape == (50, 64, 3)  # 50.56, not 51
    assert resize_longest_side(np.zeros((900, 3, 3), np.uint8), 384, 14).shape == (384, 14, 3)


def test_levels_are_cut_off():
    pixels = torch.tensor([-1.2, -1, -0.9, 0, 0.999, 1, 1.3])[None, None, None].expand(1, 3, 1, 7).requires_grad_()
    (picture,) = truncated_pictures(pixels)
    assert picture[0, :, 0].tolist() == [0, 0, 12, 127, 254, 255, 255]
    levels = truncated_levels(pixels)
    assert levels[0, 0, 0].round().tolist() == picture[0, :, 0].tolist()
    (gradient,) = torch.autograd.grad(levels.sum(), pixels)
    assert torch.equal(gradient, torch.full_like(gradient, 127.5))
