"""Released checkpoints: all of OmniBridge's keys are mapped, and a Qwen2-VL saved by transformers gives the same outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import latentbridge
from latentbridge.config import OMNIBRIDGE_8B, ModelConfig
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import ASSETS, new_model, save_model
from latentbridge.models.omnibridge.load_omnibridge import convert_key, set_compat
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.types import Conversation

GOLDEN = Path(__file__).parents[2] / "golden" / "omnibridge"


def test_every_released_tensor_is_mapped_with_its_shape():
    released = json.loads((GOLDEN / "full_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        model = OmniBridge(OMNIBRIDGE_8B, load_tokenizer(ASSETS / "tokenizer"))
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(released) == 1046
    assert {convert_key(name): shape for name, shape in released.items()} == ours


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory) -> tuple[Path, OmniBridge]:
    """A small Qwen2-VL saved by transformers itself, with our model it came from."""
    folder = tmp_path_factory.mktemp("qwen")
    model = new_model(ModelConfig(parts=("backbone",)), seed=3)
    model.backbone.model.save_pretrained(folder)
    model.backbone.tokenizer.save_pretrained(folder)
    return folder, model


def test_a_qwen2_vl_folder_loads_and_agrees(qwen_folder):
    folder, model = qwen_folder
    loaded = latentbridge.load(folder)
    assert loaded.config.backbone.system_prompt == "You are a helpful assistant."
    ours, theirs = model.backbone.model.state_dict(), loaded.backbone.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].bfloat16(), theirs[name]) for name in ours)
    batch = model.backbone.tokenize([_conversation()])
    expected, got = model.backbone.hidden(batch), loaded.float().backbone.hidden(batch)
    # bfloat16 weights keep 8 bits: relative steps of 2^-8 over a few layers stay below 5 % of the states' unit scale
    assert (expected - got).abs().max() < 0.05 * expected.abs().max()


def test_a_missing_decoder_is_reported(qwen_folder):
    model = latentbridge.load(qwen_folder[0])
    with pytest.raises(UserError, match="no decoder"):
        model.generate("a red circle")
    with pytest.raises(UserError, match="no bridge"):
        model.embed(texts="a red circle")


def test_a_decoder_inside_the_folder_is_attached(qwen_folder, tmp_path):
    shutil.copytree(qwen_folder[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "decoder").mkdir()
    with pytest.raises(UserError, match="no bridge that a decoder could read"):
        latentbridge.load(tmp_path)


def test_a_missing_tensor_is_named(qwen_folder, tmp_path):
    source = qwen_folder[0]
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(source / "model.safetensors")
    weights.pop(sorted(weights)[5])
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 tensors are missing"):
        latentbridge.load(tmp_path)


def test_compat_switches_between_corrected_and_reference(small_model: OmniBridge, three_pictures):
    def embed() -> np.ndarray:
        return small_model.embed(images=three_pictures[0])

    corrected = embed()
    set_compat(small_model, "reference")
    try:
        assert not np.allclose(embed(), corrected, atol=1e-4)
    finally:
        set_compat(small_model, "corrected")
    assert np.array_equal(embed(), corrected)


def test_load_takes_compat_and_draws_from_the_states_that_predict_the_caption(small_model: OmniBridge, tmp_path: Path):
    save_model(small_model, tmp_path)
    drawing = [Conversation((("Draw: a star", "<img>red star left, on white</img>"),))]
    _, corrected = latentbridge.load(tmp_path).drawing_hidden(drawing)
    _, reference = latentbridge.load(tmp_path, compat="reference").drawing_hidden(drawing)
    (kept,) = corrected.nonzero(as_tuple=True)[1:]
    (released,) = reference.nonzero(as_tuple=True)[1:]
    assert released.tolist() == kept.tolist()[:-2]  # without the caption's last token and </img>


def _conversation():

    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Conversation.with_picture((("What is this?", "star"),), picture)
