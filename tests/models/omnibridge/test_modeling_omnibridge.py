from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from latentbridge import prompts
from latentbridge.errors import UserError
from latentbridge.models.omnibridge.aligner import init_from_t5
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.types import Conversation, Reply

TEXTS = ["a red circle", "two blue stars on the left, one of them large, and nothing else at all", "x"]
STEPS = 3


def near(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal to one level: batched products differ in their last bits, which may tip a rounding."""
    return int(np.abs(first.astype(int) - second.astype(int)).max()) <= 1


# --- an item does not depend on its batch-mates ---------------------------------------------------


def test_understanding_is_the_same_alone_and_among_others(small_model: OmniBridge, three_pictures):
    questions = ["What?", "How many objects are there in this picture?", "Is there a red star?"]
    together = small_model.understand(three_pictures, questions, max_tokens=10)
    alone = [small_model.understand(p, q, max_tokens=10) for p, q in zip(three_pictures, questions, strict=True)]
    assert together == alone and len(set(together)) == 3


@pytest.mark.parametrize("conditioning", ["query", "text"])
def test_drawing_is_the_same_alone_and_among_others(small_model: OmniBridge, conditioning):
    def draw(texts: list[str], seeds: list[int]) -> list[np.ndarray]:
        descriptions = small_model.rewrite(texts, seeds)
        return small_model.draw_descriptions(descriptions, seeds, steps=STEPS, conditioning=conditioning)

    together = draw(TEXTS, [5, 9, 2])
    for text, seed, picture in zip(TEXTS, [5, 9, 2], together, strict=True):
        assert near(draw([text], [seed])[0], picture)
    assert all(not near(a, b) for a, b in pairwise(together))


def test_editing_is_the_same_alone_and_among_others(small_model: OmniBridge, three_pictures):
    together = small_model.edit(three_pictures, TEXTS, seed=3, steps=STEPS)
    for index, trace in enumerate(together):
        alone = small_model.edit(three_pictures[index], TEXTS[index], seed=3 + index, steps=STEPS)
        assert (alone.before, alone.after) == (trace.before, trace.after)
        assert np.array_equal(alone.mask, trace.mask) and near(alone.picture, trace.picture)


def test_embeddings_are_the_same_alone_and_among_others(small_model: OmniBridge, three_pictures):
    for given in ({"texts": TEXTS}, {"images": three_pictures}):
        together = small_model.embed(**given)
        ((name, items),) = given.items()
        for item, vector in zip(items, together, strict=True):
            assert np.abs(small_model.embed(**{name: item}) - vector).max() < 1e-5  # float32 rounding of unit vectors
        assert together.shape == (3, 16) and together.dtype == np.float32
        assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-6
        assert np.abs(together[0] - together[1]).max() > 1e-3


# --- seeds ---------------------------------------------------------------------------------------


def test_a_seed_decides_the_picture(small_model: OmniBridge):
    first = small_model.generate(TEXTS[0], seed=1, steps=STEPS).picture
    torch.manual_seed(7)
    assert np.array_equal(small_model.generate(TEXTS[0], seed=1, steps=STEPS).picture, first)
    assert not near(small_model.generate(TEXTS[0], seed=2, steps=STEPS).picture, first)


def test_item_i_of_a_list_uses_the_seed_plus_i(small_model: OmniBridge):
    results = small_model.generate([TEXTS[0]] * 2, seed=1, steps=STEPS)
    listed = [result.picture for result in results]
    alone = small_model.generate(TEXTS[0], seed=2, steps=STEPS)
    assert near(listed[1], alone.picture) and not near(*listed)
    assert (results[1].description, results[1].seed) == (alone.description, 2)


def test_a_rewriting_is_sampled_by_its_seed(small_model: OmniBridge):
    written = [small_model.rewrite("a star", seed) for seed in (1, 1, 2)]
    assert written[0] == written[1] != written[2]


# --- conditioning --------------------------------------------------------------------------------


def talks() -> list[Conversation]:
    return [Conversation(((prompts.draw_request(t), prompts.wrap_description(t)),)) for t in TEXTS]


@torch.no_grad()
def test_the_caption_reaches_the_decoder_through_the_aligner_alone(
    small_model: OmniBridge, monkeypatch: pytest.MonkeyPatch
):
    negative = small_model.text_condition([""])
    expected = small_model.draw_descriptions(TEXTS[:1], [1], steps=STEPS)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the text encoder read a caption")

    def only_nothing(texts: list[str]) -> torch.Tensor:
        assert texts == [""]
        return negative

    monkeypatch.setattr(small_model.text_encoder, "forward", refuse)
    monkeypatch.setattr(small_model, "text_condition", only_nothing)
    assert np.array_equal(small_model.draw_descriptions(TEXTS[:1], [1], steps=STEPS), expected)
    with pytest.raises(AssertionError):
        small_model.draw_descriptions(TEXTS[:1], [1], steps=STEPS, conditioning="text")


def test_a_prompt_is_drawn_as_its_description_would_be(small_model: OmniBridge):
    described = small_model.rewrite(TEXTS[0], 5)
    assert described != TEXTS[0]
    expected = small_model.generate(described, seed=5, steps=STEPS, rewrite=False)
    result = small_model.generate(TEXTS[0], seed=5, steps=STEPS)
    assert result.description == expected.description == described
    assert np.array_equal(result.picture, expected.picture)


@torch.no_grad()
def test_captions_change_the_query_condition(small_model: OmniBridge):
    condition = small_model.query_condition(talks())
    assert condition.shape == (3, 32, 32)
    assert (condition[0] - condition[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_bridge_reads_from_marker_to_marker(small_model: OmniBridge):
    hidden, mask = small_model.drawing_hidden(talks())
    ids = small_model.backbone.tokenize(talks()).input_ids
    read = [small_model.backbone.tokenizer.decode(row[keep]) for row, keep in zip(ids, mask, strict=True)]
    assert read == [prompts.wrap_description(text) for text in TEXTS]
    assert hidden.shape == (*mask.shape, 32)
    typed = [Conversation(((prompts.draw_request("<img>no</img>"), prompts.wrap_description("yes")),))]
    ids, (_, mask) = small_model.backbone.tokenize(typed).input_ids, small_model.drawing_hidden(typed)
    assert small_model.backbone.tokenizer.decode(ids[mask]) == "<img>yes</img>"


@torch.no_grad()
def test_an_initialised_aligner_repeats_the_text_encoder(small_model: OmniBridge, small_config):
    from latentbridge.models.checkpoint import new_model

    model = new_model(small_config, seed=0)
    init_from_t5(model.aligner, model.text_encoder)
    hidden, mask = model.drawing_hidden(talks())
    inputs = model.text_encoder.shared(model.text_ids(TEXTS))
    states = model.aligner(inputs, model.projector(hidden), mask)
    assert (states - model.text_condition(TEXTS)).abs().max() < 1e-5  # float32 rounding of states of order 1
    assert (small_model.aligner(inputs, model.projector(hidden), mask) - states).abs().max() > 0.1


def test_text_ids_are_cut_or_padded_to_the_slot(small_model: OmniBridge):
    ids = small_model.text_ids(["", "star " * 50])
    assert ids.shape == (2, 32)
    assert (ids[0] == small_model.backbone.padding).all() and not (ids[1] == small_model.backbone.padding).any()


# --- editing -------------------------------------------------------------------------------------


def test_an_edit_leaves_what_lies_outside_its_mask(small_model: OmniBridge, three_pictures):
    traces = small_model.edit(three_pictures, "make the background gray", steps=STEPS)
    changed = 0
    for before, trace in zip(three_pictures, traces, strict=True):
        assert trace.mask.shape == (64, 64) and trace.mask.dtype == bool
        assert np.array_equal(trace.picture[~trace.mask], before[~trace.mask])
        changed += int((trace.picture != before).any())
    assert changed


def test_an_edit_that_changes_nothing_returns_the_picture(small_model: OmniBridge, three_pictures, monkeypatch):
    twin = copy.deepcopy(small_model)
    with torch.no_grad():
        twin.projector.weight.zero_()  # an aligner that reads nothing gives both descriptions one condition
    (trace,) = twin.edit_pictures(three_pictures[:1], ["remove the star"], [0], steps=STEPS, conditioning="query")
    assert not trace.mask.any() and np.array_equal(trace.picture, three_pictures[0])


def test_a_reference_edit_draws_the_description_anew(small_model: OmniBridge, small_config, three_pictures):
    """With an aligner that still equals the text encoder, the release's edit is a drawing of the description."""
    twin = copy.deepcopy(small_model)
    init_from_t5(twin.aligner, twin.text_encoder)
    for module in twin.aligner.block:
        if module.has_cross_attention:
            torch.nn.init.zeros_(module.layer[1].EncDecAttention.o.weight)
    traces = twin.edit(three_pictures[:2], TEXTS[:2], seed=3, steps=STEPS, method="reference")
    for index, trace in enumerate(traces):
        (drawn,) = twin.draw_descriptions([trace.after], [3 + index], steps=STEPS, conditioning="text")
        assert near(trace.picture, drawn) and trace.mask.all() and trace.before == ""


def test_a_reference_edit_sees_the_picture_but_not_the_instruction(
    small_model: OmniBridge, three_pictures, monkeypatch
):
    patched = "latentbridge.models.omnibridge.modeling_omnibridge.generate_replies"
    monkeypatch.setattr(patched, lambda backbone, talks, *_: [Reply("a red star", (), "stop")] * len(talks))
    options = {"seed": 3, "steps": STEPS, "method": "reference"}
    first, again = (small_model.edit(three_pictures[0], text, **options).picture for text in TEXTS[:2])
    assert np.array_equal(first, again)
    results = small_model.edit(three_pictures[:2], TEXTS[0], **options | {"seed": [3, 3]})
    together = [result.picture for result in results]
    assert near(together[0], first) and not near(*together)


def test_an_unknown_edit_method_is_refused(small_model: OmniBridge, three_pictures):
    with pytest.raises(UserError, match="Unknown value for method 'maskd'; did you mean 'masked'"):
        small_model.edit(three_pictures[0], "x", method="maskd")  # pyright: ignore[reportArgumentType]


# --- what goes in and comes out -------------------------------------------------------------------


def test_one_in_one_out_and_a_list_for_a_list(small_model: OmniBridge, three_pictures):
    picture = three_pictures[0]
    assert isinstance(small_model.understand(picture, "x", max_tokens=2), str)
    assert len(small_model.understand([picture], "x", max_tokens=2)) == 1
    assert len(small_model.understand(picture, ["x", "y"], max_tokens=2)) == 2
    assert len(small_model.understand(np.stack(three_pictures), "x", max_tokens=2)) == 3
    assert small_model.generate("x", steps=1).picture.shape == (64, 64, 3)
    assert [each.picture.shape for each in small_model.generate(["x"], steps=1)] == [(64, 64, 3)]
    assert small_model.edit(picture, "x", steps=1).picture.dtype == np.uint8
    assert len(small_model.edit([picture], "x", steps=1)) == 1
    assert small_model.embed(texts="x").shape == (16,) and small_model.embed(texts=["x"]).shape == (1, 16)
    assert small_model.embed(images=picture).shape == (16,) and small_model.embed(images=[picture]).shape == (1, 16)


def test_lists_that_do_not_match_are_refused(small_model: OmniBridge, three_pictures):
    with pytest.raises(UserError, match="3 pictures but 2 texts"):
        small_model.understand(three_pictures, ["x", "y"])
    with pytest.raises(UserError, match="3 pictures but 2 texts"):
        small_model.edit(three_pictures, ["x", "y"])
    with pytest.raises(UserError, match="2 seeds but 3"):
        small_model.generate(TEXTS, seed=[1, 2])
    with pytest.raises(UserError, match="either images or texts"):
        small_model.embed()
    with pytest.raises(UserError, match="either images or texts"):
        small_model.embed(images=three_pictures, texts=TEXTS)
    for call in (
        lambda: small_model.generate([]),
        lambda: small_model.embed(texts=[]),
        lambda: small_model.embed(images=[]),
    ):
        with pytest.raises(UserError, match="empty"):
            call()
