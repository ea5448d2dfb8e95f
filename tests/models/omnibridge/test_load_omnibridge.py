"""Released checkpoints: all of OmniBridge's keys are mapped, and a Qwen2-VL saved by transformers gives the same outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.qwen_vl.tiny_releases import save_release

import latentbridge
from latentbridge.config import OMNIBRIDGE_8B, AlignerConfig, ModelConfig, RetrievalConfig
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import ASSETS, new_model, save_model
from latentbridge.models.omnibridge.load_omnibridge import convert_key, set_compat
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation, Reply

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
    assert model.embed(texts="a red circle").shape == (model.backbone.width,)


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


# --- a whole release, small --------------------------------------------------------------------------


def released_name(name: str) -> str:
    """The inverse of `convert_key`, in transformers' old layout."""
    for ours, theirs in (
        ("backbone.model.model.visual.", "visual."),
        ("backbone.model.model.language_model.", "model."),
        ("backbone.model.lm_head.", "lm_head."),
        ("projector.", "downsampling_linear_layer."),
        ("aligner.", "bilm."),
        ("retrieval.", ""),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(name)


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A Qwen2-VL with a bridge of its own sizes, under the released names."""
    folder = save_release("qwen2_vl", tmp_path_factory.mktemp("omnibridge"))
    qwen = latentbridge.load(folder)
    assert isinstance(qwen, OmniBridge)
    sizes = AlignerConfig(d_model=32, d_ff=40, d_kv=8, num_heads=2, num_layers=3, num_queries=7, cross_layers=(0, 2))
    retrieval = RetrievalConfig(num_image_queries=5, num_text_queries=3, embedding_size=16, num_heads=16)
    config = ModelConfig(
        parts=("backbone", "bridge"), backbone=qwen.config.backbone, aligner=sizes, retrieval=retrieval, text_length=7
    )
    model = new_model(config, 2, folder)
    model.backbone.load_state_dict(qwen.backbone.state_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("projector.", "aligner.", "retrieval.")) and parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=torch_rng(7, name))
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    stored = {released_name(name): tensor.bfloat16().contiguous() for name, tensor in model.state_dict().items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_release_has_its_authors_sizes_prompts_and_sampling(release: Path):
    model = latentbridge.load(release)
    assert isinstance(model, OmniBridge)
    aligner = model.config.aligner
    assert (aligner.d_model, aligner.num_layers, aligner.cross_layers, aligner.num_queries) == (32, 3, (0, 2), 7)
    assert (model.drawing_options.steps, model.drawing_options.guidance) == (100, 6.0)
    assert (model.edit_options.steps, model.edit_options.guidance) == (100, 6.0)
    assert model.reply_options.max_tokens == 1024
    requests: list[str] = []
    model.reply = lambda conversations, *_, **__: requests.extend(c.turns[0][0] for c in conversations) or [Reply("x", (), "stop")]  # fmt: skip
    model.rewrite("a {} star")
    model.understand(np.zeros((8, 8, 3), np.uint8), "How many?", reasoning=True)
    assert requests[0].startswith('Please rewrite the image caption of "a {} star". Generate a single-paragraph')
    assert requests[1].endswith("### The final answer is: \n\nHow many?")
    assert model.templates.edit_request("make it red").endswith("\nModification instruction: \nmake it red")
    # the processor has the limits of the authors' scripts, not the folder's (spec 2)
    assert model.backbone.image_processor.size["shortest_edge"] == 256 * 28 * 28


def test_a_damaged_bridge_is_named(release: Path, tmp_path: Path):
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    stored = load_file(copy / "model.safetensors")
    del stored["image_queries"]
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no retrieval\.image_queries"):
        latentbridge.load(copy)


@torch.no_grad()
def test_reference_positions_are_the_releases(release: Path):
    """Replies are given 1-D positions; states of pictures alone M-RoPE's, by the release too (spec 2.1, 2.3, 2.4)."""
    corrected, reference = (latentbridge.load(release, compat=compat) for compat in ("corrected", "reference"))
    assert isinstance(corrected, OmniBridge) and isinstance(reference, OmniBridge)
    picture = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    for model in (corrected, reference):
        model.float().backbone.image_processor.size = {"shortest_edge": 900, "longest_edge": 1800}  # pyright: ignore[reportAttributeAccessIssue]
    first, second = (model.image_hidden([picture])[0] for model in (corrected, reference))
    assert torch.equal(first, second)
    batch = corrected.backbone.tokenize([Conversation.with_picture((("What?", "a"),), picture)])
    assert (corrected.backbone.hidden(batch) - reference.backbone.hidden(batch)).abs().max() > 1e-3


@torch.no_grad()
def test_reference_text_states_are_those_of_the_caption_alone(release: Path):
    model = latentbridge.load(release, compat="reference")
    assert isinstance(model, OmniBridge)
    texts = ["a red circle", "two large blue stars on white"]
    _, mask = model.text_hidden(texts)
    ids = model.backbone.tokenize([Conversation(((text, ""),)) for text in texts], open_ended=True).input_ids
    for row, text in enumerate(texts):
        assert model.tokenizer.decode(ids[row, mask[row]]) == text
    both, alone = model.embed(texts=texts), model.embed(texts=texts[1])
    assert both.shape == (2, 16) and np.isfinite(alone).all()
