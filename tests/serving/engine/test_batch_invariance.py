"""Bitwise batch invariance of the shipped model after `make_batch_invariant`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.models.checkpoint import load
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import numpy_rng
from latentbridge.serving.engine.batch_invariance import make_batch_invariant

DESCRIPTION = "large red circle left, small blue star right, on white"


@pytest.fixture(scope="module")
def model() -> OmniBridge:
    model = load("tiny")
    make_batch_invariant(model)
    return model


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_drawing_does_not_depend_on_the_batch_size(model: OmniBridge, guidance: float):
    with torch.inference_mode():
        condition = model.describe_condition([DESCRIPTION], "query")
        assert isinstance(condition, torch.Tensor)

        def latents(seeds: list[int]) -> torch.Tensor:
            return model.denoise(condition.repeat(len(seeds), 1, 1), seeds, 2, guidance)

        many = latents([3, 4, 5, 6, 7])
        for count in (1, 2, 3):
            assert torch.equal(latents([3, 4, 5, 6, 7][:count]), many[:count])


def test_an_embedding_does_not_depend_on_the_batch_size(model: OmniBridge):
    pictures = [render(scene) for scene in distinct_scenes("train", numpy_rng(0, "rows"), 5)]
    many = model.embed(images=pictures)
    words = ["a red star", "a blue star", "a green star", "a red circle", "a blue circle", "a green circle"]
    lengths = [len(model.tokenizer.encode(text)) for text in words]
    words = [text for text, length in zip(words, lengths, strict=True) if length == max(lengths, key=lengths.count)]
    texts = model.embed(texts=words)
    assert len(words) >= 4
    for count in (1, 2, 3, 4):
        assert np.array_equal(model.embed(images=pictures[:count]), many[:count])
    for row, text in enumerate(words):
        assert np.array_equal(model.embed(texts=text), texts[row])


def test_it_changes_results_by_rounding_only(model: OmniBridge):
    pictures = [render(scene) for scene in distinct_scenes("train", numpy_rng(0, "rows"), 3)]
    # unit vectors in float32 whose sums are taken in another order
    np.testing.assert_allclose(load("tiny").embed(images=pictures), model.embed(images=pictures), atol=2e-6)


class RowCounter(torch.nn.Linear):
    """A layer whose result depends on the number of rows."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + len(input)


def test_a_processor_without_batch_invariance_is_logged(caplog: pytest.LogCaptureFixture):
    make_batch_invariant(torch.nn.Sequential(torch.nn.Linear(29, 31), torch.nn.Linear(31, 37)))
    assert not caplog.records
    make_batch_invariant(torch.nn.Sequential(torch.nn.Linear(29, 31), RowCounter(31, 37)))
    assert "MKL_CBWR=AUTO,STRICT" in caplog.text
