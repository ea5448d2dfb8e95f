"""CLIP, SigLIP and SigLIP 2 from transformers' folders: vectors, commands and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.models.tiny_dual_encoders import CONTEXT, KINDS, save_dual_encoder
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

import latentbridge as lb
from latentbridge.cli import main
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import save_model
from latentbridge.models.dual_encoder import DualEncoder

TEXTS = ["red circle", "blue star left of red circle red star", "star", ""]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dual_encoder(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> DualEncoder:
    loaded = lb.load(folder)
    assert isinstance(loaded, DualEncoder)
    return loaded


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((19, 23), (14, 14), (31, 11))]


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.err if ended.value.code else output.out


def test_a_dual_encoder_only_embeds(folder: Path, model: DualEncoder, pictures: list[np.ndarray], tmp_path: Path):
    assert (model.kind, model.skills, model.context_length) == (folder.name, {"embed"}, CONTEXT)
    assert model.embedding_size == (13 if folder.name == "clip" else 24)
    for act in (lambda: model.understand(pictures[0]), lambda: model.generate("a star")):
        with pytest.raises(UserError, match=rf"This {model.kind} model cannot \w+; load a model that can"):
            act()
    with pytest.raises(UserError, match="stays in the folder of its release"):
        save_model(model, tmp_path)


@torch.no_grad()
def test_vectors_equal_transformers(folder: Path, model: DualEncoder, pictures: list[np.ndarray]):
    reference = AutoModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        if folder.name == "clip":
            inputs = tokenizer(text, truncation=True, max_length=CONTEXT, return_tensors="pt")
        else:
            ids = tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"]
            inputs = {"input_ids": torch.tensor([ids + [0] * (CONTEXT - len(ids))])}
        expected = reference.get_text_features(**inputs).pooler_output[0]
        np.testing.assert_allclose(model.embed(texts=text), expected / expected.norm(), atol=1e-5)
    for picture in pictures:
        expected = reference.get_image_features(**processor(images=picture, return_tensors="pt")).pooler_output[0]
        np.testing.assert_allclose(model.embed(images=picture), expected / expected.norm(), atol=1e-5)


def test_vectors_do_not_depend_on_the_batch(model: DualEncoder, pictures: list[np.ndarray]):
    for name, items in (("texts", TEXTS), ("images", pictures)):
        together = model.embed(**{name: items})  # pyright: ignore[reportArgumentType]
        alone = np.stack([model.embed(**{name: item}) for item in items])  # pyright: ignore[reportArgumentType]
        assert together.dtype == np.float32
        np.testing.assert_allclose(together, alone, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
        assert np.abs(together - np.roll(together, 1, axis=0)).max(axis=1).min() > 1e-3


def test_loading_is_strict(folder: Path, tmp_path: Path):
    stored = load_file(folder / "model.safetensors")
    name = "text_model.final_layer_norm.weight"
    changes: dict[str, dict[str, torch.Tensor]] = {
        name: {key: tensor for key, tensor in stored.items() if key != name},
        "text_model.extra.weight": {**stored, "text_model.extra.weight": torch.zeros(1)},
        "logit_scale": {**stored, "logit_scale": torch.zeros(3, 2)},
    }
    for index, (first, tensors) in enumerate(changes.items()):
        copy = shutil.copytree(folder, tmp_path / str(index))
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=rf"does not fit: 1 tensors .*first: {first}"):
            lb.load(copy)
    copy = shutil.copytree(folder, tmp_path / "old")
    save_file(
        {**stored, "text_model.embeddings.position_ids": torch.arange(CONTEXT)[None]},
        copy / "model.safetensors",
        metadata={"format": "pt"},
    )
    lb.load(copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors model"):
        lb.load(copy)
    (folder / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match="Cannot read"):
        lb.load(copy)


def test_commands_build_and_search_an_index(
    folder: Path, model: DualEncoder, pictures: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(photographs / f"{index}.png")
    code, out = run(capsys, "index", "build", photographs, "--model", folder)
    assert code == 0 and json.loads(out)["items"] == 3
    code, out = run(capsys, "search", photographs, "red circle", "--model", folder)
    scores = {hit["id"]: hit["score"] for hit in json.loads(out)["hits"]}
    expected = model.embed(images=pictures) @ model.embed(texts="red circle")
    assert [scores[f"{index}.png"] for index in range(3)] == pytest.approx(expected.tolist(), abs=2e-6)
    code, out = run(capsys, "search", photographs, "--image", photographs / "1.png", "--model", folder)
    best = json.loads(out)["hits"][0]
    assert best["id"] == "1.png" and best["score"] == pytest.approx(1, abs=1e-5)
    code, out = run(capsys, "embed", photographs / "2.png", "--text", "star", "--model", folder)
    (row,) = json.loads(out)["images"]
    np.testing.assert_allclose(row["embedding"], model.embed(images=pictures[2]), atol=1e-6)


def test_commands_refuse_what_it_cannot_do(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = tmp_path / "image.png"
    Image.new("RGB", (20, 20)).save(image)
    for arguments in (
        ("understand", image),
        ("generate", "a star", "--out", tmp_path / "out.png"),
        ("edit", image, "make it red", "--out", tmp_path / "out.png"),
        ("loopback", image),
        ("consistency", "--size", 2),
        ("eval", "--size", 2),
    ):
        code, err = run(capsys, *arguments, "--model", folder)
        assert code == 2 and f"This {folder.name} model" in err and len(err.strip().splitlines()) == 1, arguments
