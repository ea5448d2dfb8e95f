from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbridge.config import AuxiliaryEmbeddingConfig
from latentbridge.data.drawings.catalogue import Drawing
from latentbridge.models.efficientnet import FEATURE_WIDTH, EfficientNetLite0
from latentbridge.models.omnibridge.auxiliary_embedding import AuxiliaryEmbedding
from latentbridge.training.fits import auxiliary_embedding as fit


def test_ridge_solves_the_normal_equations():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(11, 5, generator=generator), torch.randn(11, 3, generator=generator)
    found = fit._ridge(inputs, targets)
    gradient = inputs.T @ (inputs @ found - targets) + fit._RIDGE * 11 * found
    assert float(gradient.abs().max()) < 1e-4
    assert float((inputs.T @ (inputs @ found - targets)).abs().max()) > 0.1


def test_whitening_reduces_the_spread_of_directions():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(101, 7, generator=generator) * torch.tensor([13.0, 11, 7, 5, 3, 2, 1])
    centre, basis = fit._whitening(rows, 5)
    spread = ((rows - centre) @ basis).std(dim=0)
    assert basis.shape == (7, 5) and float(((rows - centre) @ basis).mean(dim=0).abs().max()) < 1e-5
    assert 1.0 < float(spread.max() / spread.min()) < 2.0 < float(rows.std(dim=0).max() / rows.std(dim=0).min())


@pytest.fixture
def two_concepts(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Replace the training drawings by two concepts with four noisy images each; features are the first pixels."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(20, 230, (2, 64, 64, 3)).repeat(4, axis=0)
    pictures = list((patterns + rng.integers(-20, 20, patterns.shape)).astype(np.uint8))
    names = [("rose", ("flower",)), ("sea", ("water",))]

    class Few:
        def split(self, name: str) -> list[Drawing]:
            fields = dict.fromkeys(Drawing.__dataclass_fields__, "")
            return [
                Drawing(**{**fields, "index": i, "tier": "object", "label": names[i // 4][0], "tags": names[i // 4][1]})
                for i in range(8)
            ]  # pyright: ignore

        def on_background(self, index: int, rgb: tuple[int, int, int]) -> np.ndarray:
            return pictures[index]

    vectors = torch.nn.functional.normalize(torch.randn(4, 384, generator=torch.Generator().manual_seed(2)), dim=-1)

    def features(view: AuxiliaryEmbedding, pictures: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(pictures)).float().flatten(1)[:, :FEATURE_WIDTH]

    monkeypatch.setattr(EfficientNetLite0, "from_package", EfficientNetLite0)
    monkeypatch.setattr(AuxiliaryEmbedding, "image_features", features)
    monkeypatch.setattr(fit, "load_drawings", lambda: Few())
    monkeypatch.setattr(fit, "embed_words", lambda words: vectors[: len(words)])
    return pictures


def test_a_fitted_embedding_retrieves_the_right_concept(two_concepts: list[np.ndarray]):
    view = AuxiliaryEmbedding(AuxiliaryEmbeddingConfig(words=4, width=1, eye_px=32))
    fit.fit_auxiliary_embedding(view)
    pictures, texts = view.embed_pictures(two_concepts), view.embed_texts(["rose, flower", "water sea"])
    assert (pictures @ texts.T).argmax(dim=1).tolist() == [0] * 4 + [1] * 4


def test_a_lexicon_larger_than_the_drawings_words_is_an_error(two_concepts: list[np.ndarray]):
    with pytest.raises(fit.UserError, match="name 4 words; set model.second_view.words"):
        fit.fit_auxiliary_embedding(AuxiliaryEmbedding(AuxiliaryEmbeddingConfig(words=5, width=1, eye_px=32)))


def test_additional_words_are_in_the_same_space(two_concepts: list[np.ndarray], monkeypatch: pytest.MonkeyPatch):
    vectors = torch.nn.functional.normalize(torch.randn(7, 384, generator=torch.Generator().manual_seed(3)), dim=-1)
    table = dict(zip(["rose", "sea", "flower", "water", "tulip", "pond", "lake"], vectors, strict=True))
    monkeypatch.setattr(fit, "embed_words", lambda words: torch.stack([table[word] for word in words]))
    monkeypatch.setattr(fit, "common_words", lambda count, without, folder: ["tulip", "pond", "lake"][:count])
    view = AuxiliaryEmbedding(AuxiliaryEmbeddingConfig(words=4, more_words=3, own_words=54, width=6, eye_px=32))
    monkeypatch.setattr(fit, "_whitening", lambda rows, width: (rows.mean(dim=0), torch.eye(384)[:, :width]))
    fit.fit_auxiliary_embedding(view)
    centre = torch.stack([(table["rose"] + table["flower"]) / 2, (table["sea"] + table["water"]) / 2]).mean(dim=0)
    for word, vector in zip(table, view.embed_texts(list(table)), strict=True):
        assert float(torch.nn.functional.cosine_similarity(vector, (table[word] - centre)[:6], dim=0)) > 0.98
    assert view.report_unknown_words("a red circle").unknown == () and view.report_unknown_words("a zebra").unknown == (
        "zebra",
    )


def test_words_of_scenes_are_those_of_captions():
    words = fit._words_of_scenes()
    assert {"red", "circle", "rhombus", "left", "of"} < words and not words & {"rose", "sea", "guitar"}
