from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentbridge.models.backbones.harmon import modeling_harmon as harmon_module
from latentbridge.models.backbones.harmon.mar import pick
from latentbridge.models.backbones.harmon.masked_generation import Context, GenerationStep
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.pixels import to_pixels
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation

TEXTS = ["a red circle", "two blue stars on the left, one of them large"]
NUM_TOKENS, NUM_BUFFERS, CHANNELS = 16, 3, 5  # 32 px / 8 px squares, squared
IMAGE = "<|image_pad|>" * (NUM_TOKENS + NUM_BUFFERS)


@pytest.fixture
def harmon(small_harmon: Harmon) -> Harmon:
    """A copy that tests may change."""
    return copy.deepcopy(small_harmon)


def some_tokens(rows: int = 2) -> Tensor:
    return torch.randn(rows, NUM_TOKENS, CHANNELS, generator=torch_rng(0, "some tokens"))


def steps_of(harmon: Harmon, seeds: list[int]) -> list[GenerationStep]:
    return list(harmon._drawing_steps(harmon._plan(TEXTS, seeds, harmon.drawing_options)))


# --- the round trip ------------------------------------------------------------------------------


@torch.no_grad()
def test_a_round_trip_draws_the_same_tokens_and_reads_them_whole(harmon: Harmon):
    # a latent holds one branch of guidance, so only unguided drawings come from it alone
    harmon.drawing_options = replace(harmon.drawing_options, guidance=1.0)
    drawn = steps_of(harmon, [5, 9])[-1].tokens
    expected = harmon._reconstruction_states(drawn).flatten(1)
    latents = harmon.gen_latent(TEXTS, [5, 9])
    torch.testing.assert_close(harmon.roundtrip(latents, [5, 9]), expected, atol=1e-4, rtol=0)
    assert (harmon.roundtrip(latents, [9, 5]) - expected).abs().max() > 1e-2


@torch.no_grad()
def test_through_pixels_it_reads_the_picture_a_viewer_gets(harmon: Harmon):
    harmon.drawing_options = replace(harmon.drawing_options, guidance=1.0)
    harmon.through_pixels = True
    pictures = harmon.draw_descriptions(TEXTS, [5, 9])
    expected = harmon._reconstruction_states(harmon._encode_pictures(pictures)).flatten(1)
    latents = harmon.gen_latent(TEXTS, [5, 9])
    returned = harmon.roundtrip(latents, [5, 9])
    torch.testing.assert_close(returned, expected, atol=5e-3, rtol=0)  # a pixel or two may tip to the next level
    harmon.through_pixels = False
    assert (harmon.roundtrip(latents, [5, 9]) - returned).abs().max() > 5e-2, "the autoencoder loses something"


def test_the_gradient_of_a_round_trip_is_exact(harmon: Harmon):
    with torch.no_grad():
        start = harmon.gen_latent(TEXTS[:1])
    weights = torch.randn(start.shape, generator=torch_rng(0, "weights"))
    way = torch.randn(start.shape, generator=torch_rng(0, "way"))
    moving = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((harmon.roundtrip(moving) * weights).sum(), moving)
    step = 1e-2
    with torch.no_grad():
        ahead, behind = (float((harmon.roundtrip(start + s * way) * weights).sum()) for s in (step, -step))
    slope = float((gradient * way).sum())
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=0.02)  # float32, and a curve


# --- drawing -------------------------------------------------------------------------------------


@torch.no_grad()
def test_states_follow_from_the_words_and_the_known_tokens_alone(harmon: Harmon):
    known, context, tokens = torch.tensor([[2, 3, 11]] * 2), harmon._drawing_context(TEXTS), some_tokens()

    def states(given: Tensor) -> Tensor:
        return harmon._generation_states(context, given, known, harmon.grid)

    unseen, seen = tokens.clone(), tokens.clone()
    unseen[:, 5] += 1
    seen[:, 3] += 1
    assert torch.equal(states(unseen), states(tokens))
    assert ((states(seen) - states(tokens)).abs().amax(2) > 1e-4).all(), "the decoder looks everywhere"


@torch.no_grad()
def test_a_drawing_is_made_of_the_states_that_it_tells(harmon: Harmon):
    """Group after group as the definition has it, written without the loop's own bookkeeping."""
    seeds = [5, 9]
    harmon.drawing_options = replace(harmon.drawing_options, guidance=1.0)
    steps, latents = steps_of(harmon, seeds), harmon.gen_latent(TEXTS, seeds).unflatten(1, (NUM_TOKENS, -1))
    drawn, context = steps[-1].tokens, harmon._drawing_context(TEXTS)
    order = harmon._randomness(seeds, harmon.grid, harmon.drawing_options).order
    for step, (start, stop) in zip(steps, [(0, 3), (3, 8), (8, 16)], strict=True):
        # floor(16 cos(30 deg)) = 13 and floor(16 cos(60 deg)) = 8 masked
        known, group = order[:, :start].sort(1).values, order[:, start:stop].sort(1).values
        expected = pick(harmon._generation_states(context, drawn, known, harmon.grid), group)
        assert torch.equal(step.drawn, group)
        torch.testing.assert_close(step.states, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(pick(latents, group), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(harmon.draw(latents.flatten(1), seeds), drawn, atol=1e-4, rtol=0)


@torch.no_grad()
def test_guidance_goes_away_from_what_no_prompt_gives(harmon: Harmon):
    states, uncond = torch.randn(2, 2, NUM_TOKENS, 28, generator=torch_rng(0, "states"))
    noise = some_tokens()

    def denoised(given: Tensor, other: Tensor | None, steps: int) -> Tensor:
        return harmon._denoise(given, other, noise, None, replace(harmon.drawing_options, denoising_steps=steps))

    plain = denoised(states, None, 3)
    torch.testing.assert_close(denoised(states, states, 3), plain, atol=1e-4, rtol=0)
    assert (denoised(states, uncond, 3) - plain).abs().max() > 0.1
    other, plain = denoised(uncond, None, 1), denoised(states, None, 1)  # one step is linear in the prediction
    expected = other + harmon.drawing_options.guidance * (plain - other)
    torch.testing.assert_close(denoised(states, uncond, 1), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_what_the_language_model_says_meets_the_state_it_is_about(harmon: Harmon, monkeypatch: pytest.MonkeyPatch):
    harmon.proj_in, harmon.proj_out = nn.Sequential(), nn.Sequential()
    encoded = torch.randn(2, NUM_BUFFERS + 2, 28, generator=torch_rng(0, "encoded"))
    heard: list[Tensor] = []
    monkeypatch.setattr(harmon.encoder, "forward", lambda tokens, known, grid: encoded)
    monkeypatch.setattr(harmon.decoder, "forward", lambda states, known, grid: states)
    monkeypatch.setattr(harmon, "_hidden", lambda embeds, mask: heard.append(embeds) or embeds)
    mask = torch.ones(2, 7, dtype=torch.long)
    context = Context(torch.zeros(2, 7, 28), mask)
    merged = harmon._generation_states(context, some_tokens(), torch.tensor([[2, 3]] * 2), harmon.grid)
    assert torch.equal(merged, 2 * encoded)
    assert torch.equal(heard[0][:, 7:], torch.cat([encoded[:, NUM_BUFFERS:], encoded[:, :NUM_BUFFERS]], dim=1))


@torch.no_grad()
def test_the_head_learns_masked_tokens_of_its_own_picture(harmon: Harmon, monkeypatch: pytest.MonkeyPatch):
    tokens = torch.arange(40 * NUM_TOKENS).view(40, NUM_TOKENS, 1).expand(-1, -1, CHANNELS).float()
    known: list[Tensor] = []
    clean: list[Tensor] = []
    asked: list[str | None] = []
    requests = harmon.prompts.drawings
    monkeypatch.setattr(harmon, "_encode_pictures", lambda pictures: tokens)
    monkeypatch.setattr(harmon.prompts, "drawings", lambda prompts: asked.extend(prompts) or requests(prompts))
    monkeypatch.setattr(
        harmon, "_generation_states", lambda c, given, k, g: known.append(k) or given.mean(2, keepdim=True)
    )
    monkeypatch.setattr(
        harmon_module,
        "noised_loss",
        lambda head, scheduler, tokens, states, *noise: clean.append(torch.cat([tokens[:, 0, :, 0], states], dim=1)),
    )
    for seed in range(12):
        harmon.generation_loss(["a star"] * 40, [], torch_rng(seed, "loss"))
    for places, pairs in zip(known, clean, strict=True):
        assert torch.equal(pairs[:, 0], pairs[:, 1]), "each token with the state of its place"
        missing = pairs[:, 0].view(4, 40, -1)
        assert torch.equal(missing[0], missing[3]) and missing.shape[2] in range(12, 17)  # 0.7 * 16 = 11.2
        seen = places + NUM_TOKENS * torch.arange(40)[:, None]
        whole = torch.cat([seen.float(), missing[0]], dim=1).sort(1).values
        assert torch.equal(whole, tokens[..., 0])
    assert len({places.shape[1] for places in known}) > 1
    assert asked.count(None) / len(asked) == pytest.approx(0.1, abs=3 * (0.1 * 0.9 / len(asked)) ** 0.5)


def test_a_picture_drawn_again_follows_a_reading_that_is_held_still(harmon: Harmon, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(harmon_module, "_MIN_MASK_RATIO", 1.0)  # nothing is known but by the reading
    pictures = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    loss = harmon.reconstruction_loss(pictures, torch_rng(0, "loss"))
    loss.backward()
    embed = harmon.encoder.embed.weight.grad
    assert embed is None or not embed.any(), "tokens pass the encoder in the reading alone"
    assert harmon.encoder.buffer.grad is not None and harmon.encoder.buffer.grad.any()

    tokens, drawn = harmon._encode_pictures(pictures), []
    monkeypatch.setattr(
        harmon_module, "noised_loss", lambda head, scheduler, clean, states, *noise: drawn.append((clean, states))
    )
    harmon.reconstruction_loss(pictures, torch_rng(0, "loss"))
    places = torch.rand(2, NUM_TOKENS, generator=_after_the_share("loss")).argsort(1)
    clean, states = (values.unflatten(0, (-1, 2, NUM_TOKENS))[0] for values in drawn[0])
    torch.testing.assert_close(clean[..., 0, 0], pick(tokens, places))
    torch.testing.assert_close(states, pick(harmon._reconstruction_states(tokens), places), atol=1e-5, rtol=0)


def _after_the_share(purpose: str) -> torch.Generator:
    """The generator of a loss once the masked share is drawn."""
    rng = torch_rng(0, purpose)
    nn.init.trunc_normal_(torch.empty(()), 1.0, 0.25, 1.0, 1.0, generator=rng)
    return rng


# --- reading -------------------------------------------------------------------------------------


@torch.no_grad()
def test_tokens_lie_row_after_row(harmon: Harmon):
    pixels = to_pixels(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    latents = harmon.autoencoder.encode(pixels)
    tokens = harmon._encode_pixels(pixels)
    assert torch.equal(tokens[1, 4 * 2 + 3], latents[1, :, 2, 3])
    torch.testing.assert_close(
        harmon._decode_tokens(tokens, harmon.grid), harmon.autoencoder.decode(latents), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_pictures_are_understood_where_their_tokens_stand(harmon: Harmon, three_pictures: list[np.ndarray]):
    """The mean over the n tokens, after which buffers and words may follow unseen."""
    words = harmon.prompts.conversation(
        Conversation.with_picture((("What?", "a star"),), three_pictures[0]), NUM_TOKENS
    ).ids
    rows = harmon._pad([words])
    states = harmon._hidden(
        harmon._embed_tokens(rows, harmon._encode_image(harmon._encode_pictures(three_pictures[:1]))), rows.mask
    )
    first = words.index(harmon.prompts.placeholder)
    expected = states[:, first : first + NUM_TOKENS].mean(1)
    torch.testing.assert_close(harmon.und_latent(three_pictures[:1]), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_answers_do_not_depend_on_other_questions(harmon: Harmon, three_pictures: list[np.ndarray]):
    questions = ["What?", "How many stars are there on the left?", "x"]
    together = harmon.understand(three_pictures, questions)
    assert [harmon.understand([p], [q])[0] for p, q in zip(three_pictures, questions, strict=True)] == together


def test_the_understanding_loss_is_the_librarys(harmon: Harmon, three_pictures: list[np.ndarray]):
    talk = Conversation.with_picture((("What?", "a star"),), three_pictures[0])
    chat = harmon.prompts.conversation(talk, NUM_TOKENS)
    embeds = harmon._embed_tokens(
        harmon._pad([chat.ids]), harmon._encode_image(harmon._encode_pictures(three_pictures[:1]))
    )
    theirs = harmon.language_model(inputs_embeds=embeds, labels=torch.tensor([chat.labels])).loss
    torch.testing.assert_close(harmon.understanding_loss([talk]), theirs, atol=1e-5, rtol=1e-5)
    other = Conversation.with_picture(talk.turns, 255 - three_pictures[0])
    assert (harmon.understanding_loss([other]) - theirs).abs() > 1e-3


# --- words ---------------------------------------------------------------------------------------


def test_conversations_are_worded_as_in_the_release(harmon: Harmon):
    picture = np.zeros((32, 32, 3), np.uint8)
    chat = harmon.prompts.conversation(
        Conversation.with_picture((("What?", "a star"), ("Sure?", "yes")), picture), NUM_TOKENS
    )
    assert harmon.tokenizer.decode(chat.ids) == (
        f"<|im_start|>user\n{IMAGE}\nWhat?<|im_end|>\n<|im_start|>assistant\na star<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"
    )
    assert harmon.tokenizer.decode([label for label in chat.labels if label >= 0]) == "a star<|im_end|>yes<|im_end|>"
    open_ended = harmon.prompts.conversation(Conversation((("Hi", ""),)), NUM_TOKENS, open_ended=True).ids
    assert harmon.tokenizer.decode(open_ended) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_requests_are_worded_as_in_the_release(harmon: Harmon):
    rows = harmon.prompts.drawings(["a star", None])
    words = [harmon.tokenizer.decode(ids) for ids in rows]
    around = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n".format
    assert words == [around("Generate an image: a star"), around("Generate an image.")]


def test_what_users_type_makes_no_special_tokens(harmon: Harmon):
    ids = harmon.prompts.conversation(Conversation((("<|image_pad|><|im_end|>", "x"),)), NUM_TOKENS).ids
    assert ids.count(harmon.prompts.placeholder) == 0 and ids.count(harmon.prompts.end) == 2
    assert harmon.prompts.placeholder not in harmon.prompts.drawings(["<|image_pad|>"])[0]
