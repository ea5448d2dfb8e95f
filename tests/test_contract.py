"""Every command on a tiny model of every kind: it answers, or refuses in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import latentbridge as lb
from latentbridge.cli import main
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import save_model
from latentbridge.models.trainable import TrainableModel
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, GenerationResult

KINDS = ("omnibridge", "janus", "bagel", "harmon")
EDITORS = ("omnibridge", "bagel")
TEXTS = ["a red circle", "two blue stars, one of them large"]
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def model(request: pytest.FixtureRequest, kind: str) -> TrainableModel:
    return request.getfixturevalue("small_model" if kind == "omnibridge" else f"small_{kind}")


@pytest.fixture
def folder(model: TrainableModel, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def image(tmp_path: Path, three_pictures: list[np.ndarray]) -> Path:
    Image.fromarray(three_pictures[0]).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    """Run a command with --json in this process; return its exit code, and what it printed."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.err if ended.value.code else output.out


@kinds
def test_each_command_answers_or_refuses(
    kind: str, model: TrainableModel, folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, out = run(capsys, "understand", image, "What?", "--model", folder)
    assert code == 0 and isinstance(json.loads(out)["answer"], str)

    drawing = tmp_path / "drawing.png"
    code, out = run(capsys, "generate", TEXTS[0], "--out", drawing, "--steps", 2, "--model", folder)
    result = json.loads(out)
    assert code == 0 and Image.open(drawing).size == (model.drawing_size_px,) * 2
    assert (result["steps"], result["guidance"]) == (2, model.drawing_options.guidance)
    if kind == "omnibridge":
        assert result["description"] == model.rewrite(TEXTS[0], 7)
    else:
        assert result["description"] == TEXTS[0], "these models draw prompts as they are"

    code, out = run(capsys, "embed", image, "--text", TEXTS[0], "--model", folder)
    (vector,) = (row["embedding"] for row in json.loads(out)["images"])
    assert code == 0 and len(vector) == model.embedding_size
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)

    edited = tmp_path / "edited.png"
    code, out = run(capsys, "edit", image, "make it red", "--out", edited, "--steps", 2, "--model", folder)
    if kind in EDITORS:
        assert code == 0 and edited.exists()
    else:
        assert code == 2 and f"This {kind} model cannot edit; load a model that can (OmniBridge and BAGEL)" in out
        assert len(out.strip().splitlines()) == 1 and not edited.exists()


@kinds
def test_an_index_is_built_and_searched(kind: str, folder: Path, image: Path, tmp_path: Path, capsys: Any):
    (tmp_path / "images").mkdir()
    image.rename(tmp_path / "images" / "image.png")
    code, _ = run(capsys, "index", "build", tmp_path / "images", "--out", tmp_path / "index", "--model", folder)
    assert code == 0
    code, out = run(capsys, "search", tmp_path / "index", TEXTS[0], "--model", folder)
    assert code == 0 and "image.png" in out


@kinds
def test_a_loaded_model_has_its_kind_and_skills(kind: str, model: TrainableModel, folder: Path):
    loaded = lb.load(folder)
    assert loaded.kind == kind and loaded.skills == model.skills
    assert loaded.context_length > 100 and loaded.device.type == "cpu" and loaded.dtype == model.dtype
    assert ("edit" in loaded.skills) == (kind in EDITORS)
    if kind not in EDITORS:
        with pytest.raises(UserError, match="cannot edit"):
            loaded.edit(np.zeros((32, 32, 3), np.uint8), "x")


@kinds
def test_one_in_one_out_and_a_list_for_a_list(kind: str, model: TrainableModel, three_pictures: list[np.ndarray]):
    assert isinstance(model.understand(three_pictures[0], "What?", max_tokens=3), str)
    assert len(model.understand(three_pictures, "What?", max_tokens=3)) == 3
    one, listed = model.generate(TEXTS[0], 3, steps=2), model.generate(TEXTS[:1], 3, steps=2)
    assert isinstance(one, GenerationResult) and one.seed == listed[0].seed == 3
    assert one.description == listed[0].description and np.array_equal(one.picture, listed[0].picture)
    assert model.embed(texts=TEXTS).shape == (2, model.embedding_size)


@kinds
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_are_the_same_alone_and_in_a_batch(
    kind: str, model: TrainableModel, three_pictures: list[np.ndarray], temperature: float
):
    conversations = [
        Conversation.with_picture((("What is there?", ""),), three_pictures[0]),
        Conversation((("How many things are there in the picture?", ""),)),
    ]

    def replies(rows: list[int]) -> list[str]:
        generators = [torch_rng(row, "reply") for row in rows]
        asked = [conversations[row] for row in rows]
        replies = model.reply(asked, generators, max_tokens=6, temperature=temperature)
        return [reply.text for reply in replies]

    assert replies([0, 1]) == [*replies([0]), *replies([1])]


@kinds
def test_pictures_and_embeddings_are_the_same_alone_and_in_a_batch(kind: str, model: TrainableModel):
    together = model.draw_descriptions(TEXTS, [3, 5], steps=2)
    alone = [model.draw_descriptions([text], [seed], steps=2)[0] for text, seed in zip(TEXTS, [3, 5], strict=True)]
    for first, second in zip(together, alone, strict=True):
        assert np.abs(first.astype(int) - second).max() <= 1  # batched sums differ in their last bits
    vectors = model.embed(texts=TEXTS)
    for vector, text in zip(vectors, TEXTS, strict=True):
        np.testing.assert_allclose(model.embed(texts=text), vector, atol=1e-5)
