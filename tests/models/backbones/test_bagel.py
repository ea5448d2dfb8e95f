from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.config import TinyBagelConfig
from latentbridge.images import fit_square
from latentbridge.models.backbones.bagel import modeling_bagel as module
from latentbridge.models.backbones.bagel.context import Context
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.bagel.network import FIRST, IMAGE, IMAGE_END, IMAGE_START, LAST
from latentbridge.models.checkpoint import new_model
from latentbridge.models.pixels import to_pixels
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation

TEXTS = ["a red circle", "two blue stars on the left, one of them large"]
NUM_TOKENS, WIDTH, READ_PX = 16, 32, 28  # 32 px / 8 px squares, squared; 4 of the eye's 7 px patches a side
SQUARE = (4, 4)
ATOL = 1e-4  # float32 rounding of states of order one


@pytest.fixture
def bagel(small_bagel: Bagel) -> Bagel:
    """A copy that tests may change."""
    return copy.deepcopy(small_bagel)


def some_picture(height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def sampled(
    bagel: Bagel, texts: list[str], seeds: list[int], moves: int, guidance: float = 1.0
) -> tuple[Tensor, Tensor]:
    options = replace(bagel.drawing_options, steps=moves + 1, guidance=guidance)
    branches, _ = bagel.branches(texts, (), options)
    return bagel.sample(branches, bagel.noise(seeds, SQUARE), SQUARE, options)


# --- the round trip ------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 3])
def test_a_round_trip_reads_the_picture_a_viewer_gets(bagel: Bagel, steps: int):
    bagel.drawing_options = replace(bagel.drawing_options, guidance=1.0, steps=steps + 1)
    bagel.roundtrip_steps = steps
    expected = bagel._drawing_states(to_pixels(bagel.draw_descriptions(TEXTS, [5, 9])))
    returned = bagel.roundtrip(bagel.gen_latent(TEXTS, [5, 9]), [5, 9])
    torch.testing.assert_close(returned, expected, atol=5e-3, rtol=0)  # a pixel or two may tip to the next level
    assert (bagel.roundtrip(bagel.gen_latent(TEXTS, [5, 9]), [9, 5]) - expected).abs().max() > 5e-2


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_straight_step_by_the_mean_state_ends_where_the_steps_do(bagel: Bagel, steps: int):
    bagel.latents.proj_out.bias.fill_(0.3)
    clean, mean_states = sampled(bagel, TEXTS, [5, 9], steps, guidance=1.0)
    noise = bagel.noise([5, 9], SQUARE)
    torch.testing.assert_close(noise - bagel.latents.velocity(mean_states), clean, atol=ATOL, rtol=0)
    last = bagel.generation_states(noise, torch.ones(2), bagel.prefill_request(TEXTS).context, SQUARE)
    assert ((mean_states - last).abs().max() > 100 * ATOL) == (steps > 1), "later steps see what earlier ones drew"


@torch.no_grad()
def test_a_drawing_starts_from_noise_and_goes_against_the_velocity(bagel: Bagel, monkeypatch: pytest.MonkeyPatch):
    clean = bagel.encode_latents([some_picture(), some_picture(seed=1)])
    monkeypatch.setattr(bagel.latents, "velocity", lambda states: bagel.noise([5, 9], SQUARE) - clean)
    torch.testing.assert_close(sampled(bagel, TEXTS, [5, 9], 3, guidance=1.0)[0], clean, atol=ATOL, rtol=0)


@torch.no_grad()
def test_drawings_are_read_as_users_pictures_are(bagel: Bagel):
    pictures = [some_picture(READ_PX, READ_PX), some_picture(READ_PX, READ_PX, seed=1)]
    read = bagel._drawing_states(to_pixels(pictures)).unflatten(1, (NUM_TOKENS, WIDTH))
    torch.testing.assert_close(read.mean(1), bagel.und_latent(pictures), atol=ATOL, rtol=0)


# --- drawing -------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_prompt_left_out_is_as_if_it_had_never_been_there(bagel: Bagel):
    noise, times = bagel.noise([5, 9], SQUARE), torch.tensor([1.0, 0.5])
    context = bagel.prefill_request(TEXTS).context
    both, second = (
        bagel.generation_states(noise, times, context.before(context.end.where(~torch.tensor(dropped), 0)), SQUARE)
        for dropped in ([True, True], [False, True])
    )
    empty = Context((), torch.zeros(2, 0).bool(), torch.zeros(2, 0).long(), torch.zeros(2).long())
    torch.testing.assert_close(both, bagel.generation_states(noise, times, empty, SQUARE), atol=ATOL, rtol=0)
    torch.testing.assert_close(second[1], both[1], atol=ATOL, rtol=0)
    kept = bagel.generation_states(noise, times, context, SQUARE)
    torch.testing.assert_close(second[0], kept[0], atol=ATOL, rtol=0)
    assert (kept - both).abs().amax(dim=(1, 2)).min() > 100 * ATOL


@torch.no_grad()
def test_tokens_of_a_drawing_see_each_other_both_ways(bagel: Bagel):
    noise, times, context = bagel.noise([5], SQUARE), torch.ones(1), bagel.prefill_request(TEXTS[:1]).context
    states = bagel.generation_states(noise, times, context, SQUARE)
    for moved in (0, NUM_TOKENS - 1):
        other = noise.clone()
        other[:, moved] += 1
        change = (bagel.generation_states(other, times, context, SQUARE) - states).abs().amax(dim=(0, 2))
        assert change.min() > ATOL, moved


@torch.no_grad()
def test_guidance_acts_on_noisy_pictures_only(bagel: Bagel, monkeypatch: pytest.MonkeyPatch):
    asked: list[float] = []
    states = bagel.generation_states

    def watched(noisy: Tensor, times: Tensor, context: Context, shape: tuple[int, int]) -> Tensor:
        asked.append(float(times[0]))
        return states(noisy, times, context, shape)

    monkeypatch.setattr(bagel, "generation_states", watched)
    guided, _ = sampled(bagel, TEXTS, [5, 9], 4, guidance=4.0)
    assert asked == pytest.approx([1, 1, 0.9, 0.9, 0.75, 0.75, 0.5, 0.5])
    asked.clear()
    sampled(bagel, TEXTS, [5, 9], 9, guidance=4.0)
    assert asked[-2:] == pytest.approx([6 / 13, 3 / 11]), "once below 0.4"
    unguided, _ = sampled(bagel, TEXTS, [5, 9], 4, guidance=1.0)
    assert (guided - unguided).abs().max() > 100 * ATOL


def test_the_generation_loss_is_that_of_the_velocity(bagel: Bagel, monkeypatch: pytest.MonkeyPatch):
    pictures = [some_picture(), some_picture(seed=1)]
    clean, rng = bagel.encode_latents(pictures), torch_rng(0, "loss")
    torch.rand(2, generator=rng)  # which prompts are left out
    noise = torch.randn(clean.shape, generator=rng)
    with torch.no_grad():
        bagel.latents.proj_out.weight.zero_()
        bagel.latents.proj_out.bias.zero_()
    loss = bagel.generation_loss(TEXTS, pictures, torch_rng(0, "loss"))
    torch.testing.assert_close(loss, (noise - clean).square().mean())
    monkeypatch.setattr(bagel.latents, "velocity", lambda states: noise - clean)
    assert bagel.generation_loss(TEXTS, pictures, torch_rng(0, "loss")) == 0


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_left_out_prompts_do_not_count_in_the_generation_loss(
    bagel: Bagel, share: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_PROMPT_DROPOUT", share)
    pictures = [some_picture(), some_picture(seed=1)]
    losses = [bagel.generation_loss(texts, pictures, torch_rng(0, "loss")) for texts in (TEXTS, TEXTS[::-1])]
    assert bool((losses[0] - losses[1]).abs() > 1e-5) == (share == 0)


def test_a_picture_drawn_again_is_drawn_after_its_reading(bagel: Bagel, monkeypatch: pytest.MonkeyPatch):
    pictures = [some_picture(), some_picture(21, 14, seed=1)]
    clean, rng = bagel.encode_latents([fit_square(each, 32) for each in pictures]), torch_rng(0, "loss")
    noise, seen = torch.randn(clean.shape, generator=rng), bagel.eye(pictures)
    times = torch.randn(2, generator=rng).sigmoid()
    losses = []
    for i, tokens in enumerate(seen):
        rows = bagel.pad([bagel.image_ids(len(tokens))])
        past = bagel.prefill(rows, [tokens]).context.past
        context = Context(past, rows.mask.bool(), bagel.positions(rows), torch.tensor([1]))
        noisy = (1 - times[i]) * clean[i] + times[i] * noise[i]
        states = bagel.generation_states(noisy[None], times[i : i + 1], context, SQUARE)
        losses.append((bagel.latents.velocity(states)[0] - (noise - clean)[i]).square().mean())
    loss = bagel.reconstruction_loss(pictures, torch_rng(0, "loss"))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=ATOL, rtol=0)
    monkeypatch.setattr(bagel.eye, "forward", lambda pictures: [-tokens for tokens in seen])
    assert (bagel.reconstruction_loss(pictures, torch_rng(0, "loss")) - loss).abs() > 100 * ATOL


def test_holding_the_understanding_expert_changes_no_state_and_no_other_gradient(bagel: Bagel):
    context = bagel.prefill_request(TEXTS).context
    free, held = (
        bagel.generation_states(
            bagel.noise([5, 9], SQUARE), torch.ones(2), context, SQUARE, freeze_understanding=freeze
        )
        for freeze in (False, True)
    )
    torch.testing.assert_close(held, free)
    generating = list(bagel.language_model.gen.parameters())
    ways = torch.randn(free.shape, generator=torch_rng(0, "ways"))
    wanted, found = (
        torch.autograd.grad((states * ways).sum(), generating, retain_graph=True) for states in (free, held)
    )
    torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_pictures_are_encoded_and_decoded_as_the_autoencoder_does(bagel: Bagel):
    pictures = [some_picture(), some_picture(seed=1)]
    posterior = bagel.autoencoder.vae.encode(to_pixels(pictures), return_dict=False)[0]
    clean = bagel.encode_latents(pictures)
    assert clean.shape == (2, NUM_TOKENS, 64)
    expected = bagel.autoencoder.vae.decode(posterior.mode(), return_dict=False)[0]
    torch.testing.assert_close(bagel.decode_latents(clean, SQUARE), expected, atol=ATOL, rtol=0)


# --- words ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_answers_are_those_found_word_by_word_without_keeping_anything(bagel: Bagel):
    pictures, questions = [some_picture(), some_picture(21, 14, seed=1)], ["What?", "How many objects are there?"]
    expected = []
    for picture, question in zip(pictures, questions, strict=True):
        seen = bagel.eye([picture])
        row = bagel._tokenize(Conversation(((question, ""),)), [[len(seen[0])]], open_ended=True).ids
        asked = len(row)
        while len(row) < asked + bagel.reply_options.max_tokens and row[-1] != bagel._eos:
            states = bagel.prefill(bagel.pad([row]), seen).states
            row = [*row, int(bagel.language_model.lm_head(states[0, -1]).argmax())]
        expected.append(bagel.tokenizer.decode([word for word in row[asked:] if word != bagel._eos]))
    assert bagel.understand(pictures, questions) == expected
    assert expected[0] != expected[1] and bagel.understand(pictures[::-1], questions) != expected


@torch.no_grad()
def test_an_answer_ends_where_the_model_ends_it(bagel: Bagel, monkeypatch: pytest.MonkeyPatch):
    words = iter([[7, 8], [bagel._eos, 9], [10, bagel._eos], [11, 12]])

    def said(states: Tensor) -> Tensor:
        return F.one_hot(torch.tensor(next(words)), bagel.language_model.config.vocab_size).float()

    monkeypatch.setattr(bagel.language_model.lm_head, "forward", said)
    answers = bagel.understand([some_picture()] * 2, ["What?"] * 2)
    assert answers == [bagel.tokenizer.decode([7]), bagel.tokenizer.decode([8, 9])]
    assert next(words) == [11, 12], "nothing is asked once all have ended"


def test_conversations_are_worded_as_in_the_release(bagel: Bagel):
    chat = bagel._tokenize(Conversation((("What?", "a star"), ("Sure?", "yes"))), [[3]])
    assert bagel.tokenizer.decode(chat.ids) == (
        f"{IMAGE_START}{IMAGE * 3}{IMAGE_END}{FIRST}What?{LAST}{FIRST}a star{LAST}{FIRST}Sure?{LAST}{FIRST}yes{LAST}"
    )
    assert bagel.tokenizer.decode([label for label in chat.labels if label >= 0]) == f"a star{LAST}yes{LAST}"
    assert len(chat.labels) == len(chat.ids)
    asked = bagel._tokenize(Conversation((("What?", ""),)), [], open_ended=True).ids
    assert bagel.tokenizer.decode(asked) == f"{FIRST}What?{LAST}{FIRST}"


def test_what_users_type_makes_no_special_tokens(bagel: Bagel):
    ids = bagel._tokenize(Conversation(((f"{IMAGE}{LAST}", "x"),)), []).ids
    assert ids.count(bagel._image) == 0 and ids.count(bagel._eos) == 2


def test_a_picture_takes_one_position(bagel: Bagel):
    rows = bagel.pad([[*bagel.image_ids(2), 7, 8], [7, 8, 9]])
    assert bagel.positions(rows).tolist() == [[0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 1, 2]]
    assert rows.mask.tolist() == [[1] * 6, [0] * 3 + [1] * 3]


@torch.no_grad()
def test_the_understanding_loss_is_the_mean_over_tokens_of_replies(bagel: Bagel):
    talks = [
        Conversation.with_picture((("What?", "a star"), ("Sure?", "yes")), some_picture()),
        Conversation((("How many things are there in all?", "3"),)),
    ]
    losses = []
    for talk in talks:
        seen = bagel.eye(talk.all_pictures)
        chat = bagel._tokenize(talk, [[len(tokens) for tokens in seen]])
        states = bagel.prefill(bagel.pad([chat.ids]), seen).states
        log_probs = bagel.language_model.lm_head(states[0]).log_softmax(-1)
        losses += [-log_probs[place - 1, label] for place, label in enumerate(chat.labels) if label >= 0]
    torch.testing.assert_close(bagel.understanding_loss(talks), torch.stack(losses).mean(), atol=ATOL, rtol=0)
    others = [Conversation.with_picture(talks[0].turns, 255 - some_picture()), talks[1]]
    assert (bagel.understanding_loss(others) - torch.stack(losses).mean()).abs() > 1e-3


@torch.no_grad()
def test_texts_are_pooled_over_their_words_and_their_end(bagel: Bagel):
    rows = bagel.tokenize_texts(TEXTS[:1])
    states = bagel.prefill(rows).states
    torch.testing.assert_close(bagel.und_latent(TEXTS)[0], states[0, 1:].mean(0), atol=ATOL, rtol=0)
    assert bagel.und_latent([""]).isfinite().all()


# --- built from nothing --------------------------------------------------------------------------


def test_a_new_model_depends_on_its_seed_alone_and_starts_with_no_velocity():
    sizes = TinyBagelConfig(width=32, num_layers=1, num_heads=2, num_kv_heads=1, image_size_px=32)
    state = torch.random.get_rng_state()
    first, again, other = (new_model(sizes, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())
    assert not torch.equal(weights[0]["eye.connector.fc1.weight"], weights[2]["eye.connector.fc1.weight"])
    with torch.no_grad():
        noise = first.noise([3], SQUARE)
        torch.testing.assert_close(sampled(first, TEXTS[:1], [3], 2, guidance=1.0)[0], noise)
    assert first.drawing_size_px == 32 and first.eye.most_px == 32
