"""What any unified backbone must fulfil: add a case and its table of what reaches what (docs/backbones.md)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latentbridge.models.trainable import TrainableModel, masked_mean
from latentbridge.rng import repeat_seeds, torch_rng
from latentbridge.types import Conversation

TEXTS = ["a red circle", "two blue stars on the left, one of them large, and nothing else at all", "x"]
SEEDS = [5, 9, 2]
ATOL = 2e-4  # float32 rounding through up to four networks on states of order one


@dataclass(frozen=True)
class Case:
    backbone: Any
    """A `TrainableModel`."""
    reached: dict[str, set[str]]
    """For each call the parts, by the prefix of their parameters' names, that its gradient reaches."""
    parts: set[str]
    """All parts; every parameter belongs to one."""
    frozen: set[str]


def omnibridge(request: pytest.FixtureRequest) -> Case:
    model = copy.deepcopy(request.getfixturevalue("small_model"))
    model.roundtrip_steps = 2
    eye, words = "backbone.model.model.visual.", "backbone.model.model.language_model."
    bridge = {"projector.", "aligner."}
    frozen = {"text_encoder.", "retrieval."}
    return Case(
        model,
        {
            "und_latent of pictures": {eye, words},
            "und_latent of texts": {words},
            "gen_latent": {words, *bridge},
            "draw": {"decoder."},
            "roundtrip": {"decoder.", eye, words, *bridge},
            "understanding_loss": {eye, words},
            "understanding_loss of drawings": {"decoder.", eye, words},
            "generation_loss": {words, *bridge, "decoder."},
            "reconstruction_loss": {*bridge, "decoder."},
        },
        {eye, words, *bridge, "decoder.", *frozen},
        frozen,
    )


def janus(request: pytest.FixtureRequest) -> Case:
    eye = {"model.model.vision_model.", "model.model.aligner."}
    words, head, vq = "model.model.language_model.", "model.model.generation_head.", "model.model.vqmodel."
    codes = {"model.model.generation_embeddings.", "model.model.generation_aligner."}
    return Case(
        copy.deepcopy(request.getfixturevalue("small_janus")),
        {
            "und_latent of pictures": {*eye, words},
            "und_latent of texts": {words},
            "gen_latent": {words, *codes},
            "draw": {head, vq},
            "roundtrip": {head, vq, *eye, words},
            "understanding_loss": {*eye, words},
            "understanding_loss of drawings": {head, vq, *eye, words},
            "generation_loss": {words, *codes, head},
            "reconstruction_loss": {words, *codes, head},
        },
        {*eye, words, head, vq, *codes},
        {vq},
    )


def harmon(request: pytest.FixtureRequest) -> Case:
    eye, words = {"encoder.", "proj_in."}, "language_model."
    drawn_from = {*eye, words, "proj_out.", "decoder."}
    return Case(
        copy.deepcopy(request.getfixturevalue("small_harmon")),
        {
            "und_latent of pictures": {*eye, words},
            "und_latent of texts": {words},
            "gen_latent": drawn_from,
            "draw": {"head."},
            "roundtrip": {"head.", *drawn_from},
            "understanding_loss": {*eye, words},
            "understanding_loss of drawings": {"head.", *eye, words},
            "generation_loss": {*drawn_from, "head."},
            "reconstruction_loss": {*drawn_from, "head."},
        },
        {*drawn_from, "head.", "autoencoder."},
        {"autoencoder."},
    )


def bagel(request: pytest.FixtureRequest) -> Case:
    eye, table, und = "eye.", "language_model.embed_tokens.", "language_model.und."
    gen, out, vae = "language_model.gen.", "latents.proj_out.", "autoencoder."
    noisy = {"latents.proj_in.", "latents.time_embedder."}
    return Case(
        copy.deepcopy(request.getfixturevalue("small_bagel")),
        {
            "und_latent of pictures": {eye, table, und},
            "und_latent of texts": {table, und},
            "gen_latent": {table, und, *noisy, gen, out},
            "draw": {out, vae},
            "roundtrip": {out, vae, eye, table, und},
            "understanding_loss": {eye, table, und},
            "understanding_loss of drawings": {out, vae, eye, table, und},
            "generation_loss": {table, und, *noisy, gen, out},
            "reconstruction_loss": {*noisy, gen, out},
        },
        {eye, table, und, *noisy, gen, out, vae},
        {vae},
    )


CASES = {"omnibridge": omnibridge, "janus": janus, "bagel": bagel, "harmon": harmon}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param](request)


@pytest.fixture
def backbone(case: Case) -> TrainableModel:
    return case.backbone


@pytest.fixture(scope="module")
def latents(case: Case) -> Tensor:
    with torch.no_grad():
        return case.backbone.gen_latent(TEXTS, SEEDS)


@pytest.fixture(scope="module")
def trips(case: Case, latents: Tensor) -> Tensor:
    """The round trips of three latents and of two perturbed copies of each, as LatentUMM asks for them: [3 * 3, d]."""
    noise = torch.randn(2, *latents.shape, generator=torch_rng(0, "rollouts"))
    with torch.no_grad():
        return case.backbone.roundtrip(torch.cat([latents[None], latents + 0.3 * noise]).flatten(0, 1), SEEDS)


# --- shapes --------------------------------------------------------------------------------------


def test_latents_are_float32_rows_and_a_round_trip_keeps_their_shape(
    backbone: TrainableModel, latents: Tensor, trips: Tensor, three_pictures
):
    seen, read = backbone.und_latent(three_pictures), backbone.und_latent(TEXTS[:2])
    assert seen.shape[0] == 3 and read.shape == (2, seen.shape[1]), "one space for pictures and texts"
    assert latents.shape[0] == 3 and trips.shape == (9, latents.shape[1])
    for rows in (seen, read, latents, trips):
        assert rows.dtype == torch.float32 and rows.isfinite().all()
        assert (rows[0] - rows[1]).abs().max() > 100 * ATOL, "different things have different latents"


def test_pictures_and_answers_come_one_for_each(backbone: TrainableModel, three_pictures):
    drawn = backbone.draw_descriptions(TEXTS[:2], SEEDS[:2])
    assert all(picture.dtype == np.uint8 and picture.shape[2:] == (3,) for picture in drawn) and len(drawn) == 2
    answers = backbone.understand(three_pictures[:2], ["What?", "How many objects are there?"])
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)


# --- seeds ---------------------------------------------------------------------------------------


def test_seeds_and_nothing_else_decide(backbone: TrainableModel, latents: Tensor):
    with torch.no_grad():
        first = backbone.roundtrip(latents, [3])
        torch.manual_seed(7)
        assert torch.equal(backbone.roundtrip(latents, [3]), first)
        assert torch.equal(backbone.gen_latent(TEXTS, SEEDS), latents)
        assert (backbone.roundtrip(latents, [4]) - first).abs().max() > 100 * ATOL
    pictures = [backbone.draw_descriptions(TEXTS[:1], [seed])[0].astype(int) for seed in (1, 1, 2)]
    assert np.array_equal(pictures[0], pictures[1]) and np.abs(pictures[0] - pictures[2]).max() > 8


def test_seeds_go_round(backbone: TrainableModel, latents: Tensor):
    assert repeat_seeds([5, 9], 5) == [5, 9, 5, 9, 5]
    with torch.no_grad():
        together = backbone.roundtrip(latents, SEEDS[:2])
        torch.testing.assert_close(together, backbone.roundtrip(latents, [5, 9, 5]), atol=ATOL, rtol=0)


# --- an item does not depend on its batch-mates ---------------------------------------------------


def test_latents_are_the_same_alone_and_among_others(backbone: TrainableModel, latents: Tensor, three_pictures):
    with torch.no_grad():
        for items in (three_pictures, TEXTS):
            together = backbone.und_latent(items)
            for i in range(3):
                torch.testing.assert_close(backbone.und_latent(items[i : i + 1])[0], together[i], atol=ATOL, rtol=0)
        for i in range(3):
            alone = backbone.gen_latent(TEXTS[i : i + 1], SEEDS[i : i + 1])[0]
            torch.testing.assert_close(alone, latents[i], atol=ATOL, rtol=0)


def test_a_round_trip_is_the_same_alone_and_among_rollouts(backbone: TrainableModel, latents: Tensor, trips: Tensor):
    with torch.no_grad():
        for i in range(3):
            alone = backbone.roundtrip(latents[i : i + 1], SEEDS[i : i + 1])[0]
            torch.testing.assert_close(alone, trips[i], atol=rounded(trips), rtol=0)


def rounded(trips: Tensor) -> float:
    """What one pixel that tips to the next level may move; far below what parts two rows."""
    return 0.02 * float((trips[0] - trips[1]).abs().max()) + ATOL


# --- gradients -----------------------------------------------------------------------------------


def calls(backbone: TrainableModel, latents: Tensor, pictures: Sequence[np.ndarray]) -> dict[str, Callable[[], Tensor]]:
    talks = [Conversation.with_picture((("What?", "a red circle"),), pictures[0]), Conversation((("Hello", "yes"),))]
    untold = [replace(talk, pictures=()) for talk in talks]
    return {
        "und_latent of pictures": lambda: backbone.und_latent(pictures[:2]),
        "und_latent of texts": lambda: backbone.und_latent(TEXTS),
        "gen_latent": lambda: backbone.gen_latent(TEXTS[:2], SEEDS),
        "roundtrip": lambda: backbone.roundtrip(latents[:2], SEEDS),
        "draw": lambda: backbone.draw(latents[:2], SEEDS),
        "understanding_loss": lambda: backbone.understanding_loss(talks),
        "understanding_loss of drawings": lambda: backbone.understanding_loss(
            untold, backbone.draw(latents[:2], SEEDS)
        ),
        "generation_loss": lambda: backbone.generation_loss(TEXTS[:2], pictures[:2], torch_rng(0, "loss")),
        "reconstruction_loss": lambda: backbone.reconstruction_loss(pictures[:2], torch_rng(0, "loss")),
    }


def test_gradients_reach_what_they_should_and_nothing_else(case: Case, latents: Tensor, three_pictures):
    for name, call in calls(case.backbone, latents, three_pictures).items():
        case.backbone.zero_grad()
        output = call()
        (output * torch.randn(output.shape, generator=torch_rng(0, "weights of outputs"))).sum().backward()
        moved = [n for n, p in case.backbone.named_parameters() if p.grad is not None and bool(p.grad.any())]
        assert {part for part in case.parts if any(n.startswith(part) for n in moved)} == case.reached[name], name
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in case.backbone.parameters())
    case.backbone.zero_grad()


def test_what_may_move_is_whole_parts_that_something_reaches(case: Case):
    owners = {
        name: [part for part in case.parts if name.startswith(part)] for name, _ in case.backbone.named_parameters()
    }
    assert all(len(parts) == 1 for parts in owners.values())
    for name, (part,) in owners.items():
        assert case.backbone.trainable(name) == (part not in case.frozen), name
    assert case.parts - case.frozen == set().union(*case.reached.values()) - case.frozen


def test_each_latent_moves_its_own_round_trip_only(backbone: TrainableModel, latents: Tensor):
    start = latents.clone().requires_grad_()
    returned = backbone.roundtrip(start, SEEDS)
    weights = torch.randn(returned.shape[1:], generator=torch_rng(0, "weights of outputs"))
    (gradient,) = torch.autograd.grad((returned[1] * weights).sum(), start)
    assert gradient[1].abs().max() > 0 and gradient[[0, 2]].abs().max() == 0


def test_native_losses_know_the_right_answer(backbone: TrainableModel, three_pictures):
    talk = Conversation.with_picture((("What?", "a red circle"),), three_pictures[0])
    losses = [
        backbone.understanding_loss([talk]),
        backbone.generation_loss(TEXTS, three_pictures, torch_rng(0, "loss")),
        backbone.reconstruction_loss(three_pictures, torch_rng(0, "loss")),
    ]
    assert all(loss.ndim == 0 and loss.item() > 0 for loss in losses)
    again = backbone.generation_loss(TEXTS, three_pictures, torch_rng(0, "loss"))
    assert torch.equal(again, losses[1])
    others = backbone.generation_loss(TEXTS, three_pictures[::-1], torch_rng(0, "loss"))
    assert not torch.equal(others, losses[1])


def test_drawings_are_told_as_users_pictures_are(backbone: TrainableModel, latents: Tensor):
    talks = [Conversation((("What?", text),)) for text in TEXTS[:2]]
    with torch.no_grad():
        drawn = backbone.draw(latents[:2], SEEDS)
        told = backbone.understanding_loss(talks, drawn)
        assert (told - backbone.understanding_loss(talks, drawn.flip(0))).abs() > ATOL
        if drawn.ndim == 4:  # a picture, not Harmon's image latents
            levels = drawn if drawn.max() > 2 else (drawn + 1) * 127.5
            pictures = [level.permute(1, 2, 0).round().to(torch.uint8).numpy() for level in levels]
            seen = [replace(talk, pictures=((picture,),)) for talk, picture in zip(talks, pictures, strict=True)]
            torch.testing.assert_close(told, backbone.understanding_loss(seen), atol=ATOL, rtol=0)


# --- the arithmetic they share --------------------------------------------------------------------


def test_a_masked_mean_counts_what_the_mask_shows():
    states = torch.arange(2 * 3 * 5).view(2, 3, 5).float()
    mask = torch.tensor([[True, False, True], [False, False, True]])
    assert masked_mean(states, mask).tolist() == [[5, 6, 7, 8, 9], [25, 26, 27, 28, 29]]
