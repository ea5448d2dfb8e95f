from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.models.tiny_dual_encoders import save_dual_encoder
from transformers import CLIPModel, SiglipModel

from latentbridge.errors import UserError
from latentbridge.models.teachers import load_teacher
from latentbridge.types import Teacher

TEXTS = ["red circle", "blue star left of red circle red star", "star"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dual_encoder(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return load_teacher(f"{folder.name}:{folder}")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((19, 23), (14, 14), (31, 11))]


def test_vectors_have_unit_norm_and_do_not_depend_on_the_batch(teacher: Teacher, pictures: list[np.ndarray]):
    for embed, items in ((teacher.embed_pictures, pictures), (teacher.embed_texts, TEXTS)):
        together = embed(items)
        assert together.shape == (3, teacher.space.dimension) and together.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.concatenate([embed([item]) for item in items]), together, atol=1e-5)
        assert np.abs(together - together[[1, 2, 0]]).max(axis=1).min() > 1e-2
    assert teacher.space.normalisation == "unit" and teacher.cost(5, TEXTS) == ""


def test_vectors_equal_transformers(folder: Path, teacher: Teacher, pictures: list[np.ndarray]):
    kind = CLIPModel if folder.name == "clip" else SiglipModel
    model = kind.from_pretrained(folder).eval()
    ids = [5, 2] if folder.name == "clip" else [5, 2, 0, 0, 0, 0, 0]
    with torch.no_grad():
        text = model.get_text_features(input_ids=torch.tensor([ids])).pooler_output[0]
        # 14 x 14 needs no resizing; both released processors map 0..255 linearly
        mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
        if folder.name == "siglip":
            mean, std = [0.5] * 3, [0.5] * 3
        pixels = (torch.tensor(pictures[1]) / 255 - torch.tensor(mean)) / torch.tensor(std)
        picture = model.get_image_features(pixel_values=pixels.permute(2, 0, 1)[None]).pooler_output[0]
    np.testing.assert_allclose(teacher.embed_texts(["circle"])[0], text / text.norm(), atol=1e-5)
    np.testing.assert_allclose(teacher.embed_pictures([pictures[1]])[0], picture / picture.norm(), atol=1e-4)


def test_the_space_is_named_after_weights_and_settings(folder: Path, teacher: Teacher, tmp_path: Path):
    names = {teacher.space.model}
    for file, change in (("model.safetensors", "weight"), ("config.json", "space")):
        copy = shutil.copytree(folder, tmp_path / change)
        if change == "weight":
            tensors = load_file(copy / file)
            tensors["logit_scale"] += 1
            save_file(tensors, copy / file, metadata={"format": "pt"})
        else:
            (copy / file).write_text((copy / file).read_text() + " ")
        names.add(load_teacher(f"{folder.name}:{copy}").space.model)
    assert len(names) == 3 and all(name.startswith(f"{folder.name}:") for name in names)
    (folder / "README.md").write_text("more words")
    assert load_teacher(f"{folder.name}:{folder}").space == teacher.space


def test_incomplete_folders_are_refused(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "twin")
    tensors = load_file(copy / "model.safetensors")
    tensors.pop(name := "text_model.final_layer_norm.weight")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"1 tensors are missing.*first: {name}"):
        load_teacher(f"{folder.name}:{copy}")
    torch.save(tensors, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors model"):
        load_teacher(f"{folder.name}:{copy}")


def test_unknown_teachers_are_refused():
    with pytest.raises(UserError, match="did you mean 'siglip'"):
        load_teacher("siglib:here")
    with pytest.raises(UserError, match="name it as clip:FOLDER"):
        load_teacher("clip")


def test_package_embeds_pictures_and_known_words():
    teacher = load_teacher("package")
    noise = np.random.default_rng(3).integers(0, 256, (41, 67, 3), dtype=np.uint8)
    pictures = teacher.embed_pictures([noise, np.asarray(Image.fromarray(noise).resize((128, 64)))])
    guitar, cat, guitars = teacher.embed_texts(["a guitar", "cat", "Guitar!"])
    assert pictures.shape == (2, 192) and np.allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-5)
    assert guitar @ guitars == pytest.approx(1, abs=1e-5) and guitar @ cat < 0.9
    with pytest.raises(UserError, match="knows no word of 'qqq xqx'"):
        teacher.embed_texts(["cat", "qqq xqx"])
    assert teacher.knows("cat") and not teacher.knows("qqq xqx")
