from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latentbridge.config import SceneConfig
from latentbridge.data.stores.embeddings import EmbeddingStore
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import new_model, save_model
from latentbridge.models.dual_encoder import DualEncoder
from latentbridge.models.teachers import load_teacher
from latentbridge.rng import torch_rng
from latentbridge.types import Teacher

SMALL = SceneConfig(
    picture_width=28, picture_layers=1, picture_heads=2, text_width=20, text_layers=2, text_heads=2, text_length=13
)
TEXTS = ["large red circle top left, on white", "cat", "small blue star bottom right, large green cross top, on sand"]


def saved(folder: Path, seed: int) -> DualEncoder:
    """A network of random weights in a run's folder; positions and padding count in it as much as words and pixels."""
    network = new_model(SMALL, seed)
    assert isinstance(network, DualEncoder)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=torch_rng(seed, "wide"))
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    save_model(network, folder / "model")
    return network


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "scene-teacher"


@pytest.fixture(scope="module")
def network(run: Path) -> DualEncoder:
    return saved(run, seed=0)


@pytest.fixture(scope="module")
def teacher(network: DualEncoder, run: Path) -> Teacher:
    return load_teacher("scene", run.parent)


def test_vectors_equal_transformers(network, teacher, three_pictures: list[np.ndarray]):
    tokenizer, siglip = network.tokenizer, network.model
    with torch.no_grad():
        for text in TEXTS:
            ids = tokenizer.encode(text)[:13]
            padded = torch.tensor([[*ids, *[tokenizer.pad_token_id] * (13 - len(ids))]])
            state = siglip.text_model(input_ids=padded).last_hidden_state[0, -1]
            expected = siglip.text_model.head(state)
            np.testing.assert_allclose(teacher.embed_texts([text])[0], expected / expected.norm(), atol=1e-5)
        for picture in three_pictures:
            pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
            expected = siglip.vision_model(pixel_values=pixels).pooler_output[0]
            np.testing.assert_allclose(teacher.embed_pictures([picture])[0], expected / expected.norm(), atol=1e-5)


def test_vectors_depend_on_the_item_and_not_on_the_batch(teacher: Teacher, three_pictures: list[np.ndarray]):
    for embed, items in ((teacher.embed_pictures, three_pictures), (teacher.embed_texts, TEXTS)):
        together = embed(items)
        assert together.shape == (3, 28) and together.dtype == np.float32
        np.testing.assert_allclose(np.concatenate([embed([item]) for item in items]), together, atol=1e-5)
        assert np.abs(together - together[[1, 2, 0]]).max(axis=1).min() > 1e-2


def test_other_weights_are_another_space_and_their_store_is_refused(teacher: Teacher, run: Path, tmp_path: Path):
    saved(tmp_path / "other", seed=1)
    other = load_teacher(f"scene:{tmp_path / 'other'}")
    assert load_teacher(f"scene:{run}").space == teacher.space != other.space
    EmbeddingStore(tmp_path / "store", teacher.space).fill(teacher, texts=TEXTS, progress=False)
    with pytest.raises(UserError, match="was made with model 'scene:.*, not 'scene:"):
        EmbeddingStore(tmp_path / "store", other.space)


def test_a_missing_teacher_names_the_command_that_trains_it(small_model, tmp_path: Path):
    with pytest.raises(UserError, match=f"latentbridge train scene-teacher --out {tmp_path}/scene-teacher"):
        load_teacher("scene", tmp_path)
    with pytest.raises(UserError, match="holds no model"):
        load_teacher(f"scene:{tmp_path}")
    save_model(small_model, tmp_path / "unified")
    with pytest.raises(UserError, match="holds another kind of model"):
        load_teacher(f"scene:{tmp_path / 'unified'}")


def test_the_teacher_is_larger_than_the_model_it_teaches():
    sizes = [sum(p.numel() for p in new_model(config, 0).parameters()) for config in (SceneConfig(),)]
    assert 14.5e6 < sizes[0] < 18e6
