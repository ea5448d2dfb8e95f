from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.errors import UserError
from latentbridge.models.backbones.janus.load_janus import load_janus
from latentbridge.models.backbones.janus.modeling_janus import ASSISTANT, IMAGE, IMAGE_END, IMAGE_START, USER, JanusPro
from latentbridge.types import Conversation

TEXTS = ["a red circle", "two blue stars on the left, one of them large"]
NUM_CODES = 16  # 32 px / 8 px patches, squared


@pytest.fixture
def janus(small_janus: JanusPro) -> JanusPro:
    """A copy that tests may change."""
    return copy.deepcopy(small_janus)


def some_codes(seed: int = 0) -> Tensor:
    return torch.randint(61, (2, NUM_CODES), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_round_trip_reads_the_picture_a_viewer_gets(janus: JanusPro):
    # a latent holds one branch of guidance, so only unguided drawings come from it alone
    janus.drawing_options = replace(janus.drawing_options, guidance=1.0)
    pictures = janus.draw_descriptions(TEXTS, [5, 9])
    expected = janus._image_states(janus.pixel_values(pictures)).flatten(1)
    returned = janus.roundtrip(janus.gen_latent(TEXTS, [5, 9]), [5, 9])
    torch.testing.assert_close(returned, expected, atol=5e-3, rtol=0)  # a pixel or two may tip to the next level
    assert (janus.roundtrip(janus.gen_latent(TEXTS, [5, 9]), [9, 5]) - expected).abs().max() > 5e-2


@torch.no_grad()
@pytest.mark.parametrize("guidance", [2.0, 5.0])  # the library's loop fails without guidance
def test_codes_at_temperature_0_are_those_of_the_librarys_own_loop(janus: JanusPro, guidance: float):
    options = replace(janus.drawing_options, guidance=guidance, temperature=0.0)
    rows = janus._tokenize_prompts(TEXTS[:1])
    config = janus.model.generation_config
    config.bos_token_id, config.pad_token_id = janus.tokenizer.bos_token_id, janus.tokenizer.pad_token_id
    config.generation_kwargs = {"boi_token_id": janus._image_start}
    theirs = janus.model.generate(
        rows.ids,
        attention_mask=rows.mask,
        generation_mode="image",
        do_sample=False,
        guidance_scale=guidance,
        max_length=rows.ids.shape[1] + NUM_CODES,
    )
    assert torch.equal(janus._sample_codes(TEXTS[:1], [0], options), theirs)
    assert not torch.equal(janus._sample_codes(TEXTS[:1], [0], replace(options, temperature=1.0)), theirs)


@torch.no_grad()
def test_sampled_codes_follow_the_heads_probabilities(janus: JanusPro):
    janus.drawing_options = replace(janus.drawing_options, guidance=1.0)
    count = 600
    gumbel_noise = torch.stack([janus._gumbel_noise([seed])[0, 0] for seed in range(count)])
    logits = torch.linspace(0, 4, 61)
    shares = F.one_hot((logits + gumbel_noise).argmax(-1), 61).float().mean(0)
    top = slice(-20, None)
    expected = logits.softmax(-1)[top].sum()
    assert abs(float(shares[top].sum() - expected)) < 3 * float(expected * (1 - expected) / count) ** 0.5


@torch.no_grad()
def test_one_code_at_each_position_decodes_as_the_vq_model_does(janus: JanusPro):
    codes = some_codes()
    pixels = janus._decode_weighted(F.one_hot(codes, 61).float())
    torch.testing.assert_close(pixels, janus.model.model.vqmodel.decode(codes), atol=1e-5, rtol=0)
    assert not torch.allclose(janus._decode_weighted(F.one_hot(codes.flip(1), 61).float()), pixels, atol=1e-2)


@torch.no_grad()
def test_pictures_are_encoded_by_direction_alone(janus: JanusPro):
    values = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = janus.encode_codes(values)
    book = janus.model.model.vqmodel.quantize.embedding.weight
    book.mul_(torch.linspace(0.1, 9, 61)[:, None])
    assert codes.shape == (2, NUM_CODES) and len(codes.unique()) > 3
    assert torch.equal(janus.encode_codes(values), codes)


def test_levels_become_what_the_image_processor_makes_of_pictures(janus: JanusPro):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    levels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(janus._normalize_levels(levels), janus.pixel_values(pictures), atol=1e-6, rtol=0)


def test_conversations_are_worded_as_in_the_release(janus: JanusPro):
    picture = np.zeros((32, 32, 3), np.uint8)
    chat = janus._tokenize(Conversation.with_picture((("What?", "a star"), ("Sure?", "yes")), picture))
    words = janus.tokenizer.decode(chat.ids)
    first, last = janus.tokenizer.bos_token, janus.tokenizer.eos_token
    image = f"{IMAGE_START}{IMAGE * NUM_CODES}{IMAGE_END}"
    assert words == (
        f"{first}{USER}: {image}\nWhat?\n\n{ASSISTANT}: a star{last}{USER}: Sure?\n\n{ASSISTANT}: yes{last}"
    )
    assert janus.tokenizer.decode([label for label in chat.labels if label >= 0]) == f" a star{last} yes{last}"
    assert janus.tokenizer.decode(janus._tokenize(Conversation((("Hi", ""),)), open_ended=True).ids).endswith(
        f"{ASSISTANT}:"
    )


def test_what_users_type_makes_no_special_tokens(janus: JanusPro):
    ids = janus._tokenize(Conversation(((f"{IMAGE}{ASSISTANT}", "x"),))).ids
    assert ids.count(janus._image) == 0 and ids.count(janus.tokenizer.convert_tokens_to_ids(ASSISTANT)) == 1


def test_the_understanding_loss_is_the_librarys(janus: JanusPro):
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    talk = Conversation.with_picture((("What?", "a star"),), picture)
    chat = janus._tokenize(talk)
    theirs = janus.model(
        input_ids=torch.tensor([chat.ids]),
        pixel_values=janus.pixel_values([picture]),
        labels=torch.tensor([chat.labels]),
    ).loss
    torch.testing.assert_close(janus.understanding_loss([talk]), theirs, atol=1e-5, rtol=1e-5)
    other = Conversation.with_picture((("What?", "a star"),), 255 - picture)
    assert (janus.understanding_loss([other]) - theirs).abs() > 1e-3


@torch.no_grad()
def test_states_choose_a_code_after_those_before_it(janus: JanusPro):
    codes = some_codes()
    states = janus._code_states(TEXTS, codes)
    later = codes.clone()
    later[:, 5] = (codes[:, 5] + 1) % 61
    moved = (janus._code_states(TEXTS, later) - states).abs().amax(dim=(0, 2)) > 1e-4
    assert moved.tolist() == [False] * 6 + [True] * 10


@torch.no_grad()
def test_a_saved_model_is_loaded_like_a_released_one(janus: JanusPro, tmp_path: Path):
    for part in (janus.model, janus.tokenizer, janus.image_processor):
        part.save_pretrained(tmp_path)
    loaded = load_janus(tmp_path)
    assert torch.equal(loaded.gen_latent(TEXTS, [5]), janus.gen_latent(TEXTS, [5]))
    with pytest.raises(UserError, match="no config.json"):
        load_janus(tmp_path / "nothing")
