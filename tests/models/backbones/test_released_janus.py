"""Janus-Pro from its authors' folder: every layout of files, sizes never seen, and folders that are refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.backbones.release_layouts import authors_config, authors_tensors, write_pickles
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration

from latentbridge.config import ReleaseConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.janus.authors_layout import convert_tensor, transformers_config
from latentbridge.models.backbones.janus.load_janus import MAX_TOKENS, SYSTEM_PROMPT, is_janus, load_janus
from latentbridge.models.backbones.janus.modeling_janus import JanusPro
from latentbridge.models.checkpoint import load, outline
from latentbridge.models.stored_tensor import in_memory
from latentbridge.types import Conversation

FIXTURE = Path(__file__).parents[2] / "golden" / "janus"
TEXTS = ["a red circle left of a blue square", "two stars"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixture that tests may change, without what the authors' code computed."""
    copy = tmp_path / "Janus-Pro"
    shutil.copytree(FIXTURE, copy, ignore=shutil.ignore_patterns("expected*", "meta.json", "README*"))
    edit_config(copy, lambda config: config["vision_config"]["params"].update(heads=4))
    return copy


def edit_config(folder: Path, edit: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def as_pickles(folder: Path, with_index: bool) -> dict[str, Tensor]:
    """Replace the safetensors by two files as on the hub, and return their tensors."""
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stored["gen_vision_model.quantize.codebook_used"] = torch.zeros(65536)
    write_pickles(stored, folder, with_index)
    return stored


# --- layouts ---------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("with_index", [True, False])
def test_the_hubs_pickles_load_as_the_safetensors_do(folder: Path, with_index: bool):
    plain = load_janus(folder)
    as_pickles(folder, with_index)
    loaded = load(folder)
    assert isinstance(loaded, JanusPro) and loaded.dtype == torch.bfloat16 and not loaded.training
    ours, theirs = loaded.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(tensor.is_meta for tensor in [*loaded.buffers(), *loaded.parameters()])


def test_one_pickle_loads_too(folder: Path):
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(stored, folder / "pytorch_model.bin")
    head = load_janus(folder).model.lm_head.weight
    assert torch.equal(head, stored["language_model.lm_head.weight"])


@torch.no_grad()
def test_transformers_layout_loads_as_the_authors_does(folder: Path, tmp_path: Path):
    plain = load_janus(folder)
    for part in (plain.model, plain.tokenizer, plain.image_processor):
        part.save_pretrained(tmp_path / "hf")
    loaded = load_janus(tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "janus"
    assert torch.equal(loaded.gen_latent(TEXTS, [5, 6]), plain.gen_latent(TEXTS, [5, 6]))
    picture = np.random.default_rng(0).integers(0, 256, (61, 150, 3), np.uint8)
    talk = Conversation.with_picture((("What?", ""),), picture)
    assert loaded.reply([talk], max_tokens=6) == plain.reply([talk], max_tokens=6)
    assert loaded.reply_options.max_tokens == MAX_TOKENS == 512


def test_the_authors_defaults_come_with_their_folder(folder: Path):
    model = load_janus(folder)
    options = model.drawing_options
    assert (options.guidance, options.temperature, options.steps) == (5.0, 1.0, 16)
    assert (model.reply_options.max_tokens, model.reply_options.temperature) == (512, 0.0)
    ids = model._tokenize(Conversation((("Hi", ""),)), open_ended=True).ids
    assert (
        model.tokenizer.decode(ids) == f"{model.tokenizer.bos_token}{SYSTEM_PROMPT}\n\n<|User|>: Hi\n\n<|Assistant|>:"
    )
    told = model._tokenize(Conversation((("Hi", ""),), system="Be brief."), open_ended=True).ids
    assert model.tokenizer.decode(told).startswith(f"{model.tokenizer.bos_token}Be brief.\n\n<|User|>")
    drawn = model._tokenize_prompts(["Hi"]).ids[0]
    assert model.tokenizer.decode(drawn) == f"{model.tokenizer.bos_token}<|User|>: Hi\n\n<|Assistant|>:<begin_of_image>"


# --- sizes -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_size_never_seen_loads_by_its_config(folder: Path):
    tokenizer = load_janus(folder).tokenizer
    sizes = JanusConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 40,
            "vocab_size": 2060,
        },
        vision_config={
            "hidden_size": 40,
            "num_hidden_layers": 1,
            "num_attention_heads": 5,
            "image_size": 24,
            "patch_size": 4,
            "num_image_tokens": 36,
            "projection_dim": 48,
            "mlp_ratio": 2.51,
            "depth": 3,
        },
        vq_config={
            "embed_dim": 6,
            "num_embeddings": 33,
            "latent_channels": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 2, 3],
            "num_res_blocks": 2,
            "projection_dim": 48,
            "image_token_embed_dim": 48,
            "num_hidden_layers": 3,
        },
        tie_word_embeddings=False,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )
    torch.manual_seed(3)
    model = JanusForConditionalGeneration(sizes).eval()
    (folder / "model.safetensors").unlink()
    save_file(
        {name: tensor.contiguous() for name, tensor in authors_tensors(model).items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(authors_config(sizes, 3, "siglip_odd", heads=5)))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"image_size": 24, "min_size": 5}))
    loaded = load_janus(folder)
    ours, theirs = loaded.model.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert loaded.num_codes == 36 and loaded.pixel_values([np.zeros((9, 70, 3), np.uint8)]).shape == (1, 3, 24, 24)
    twin = JanusPro(model, loaded.tokenizer, loaded.image_processor, SYSTEM_PROMPT)
    assert torch.equal(loaded.gen_latent(TEXTS, [1, 2]), twin.gen_latent(TEXTS, [1, 2]))
    talk = Conversation.with_picture((("What?", ""),), np.full((9, 70, 3), 9, np.uint8))
    assert loaded.reply([talk], max_tokens=4) == twin.reply([talk], max_tokens=4)


@pytest.mark.parametrize("kind", ["janus-pro-1b", "janus-pro-7b"])
def test_the_released_configs_give_the_released_sizes(kind: Any):
    built = outline(ReleaseConfig(kind)).model
    expected: Any = built.config
    config = authors_config(expected, depth=2)
    if kind == "janus-pro-7b":  # its config leaves the language model's sizes to the defaults of LlamaConfig
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
            config["language_config"].pop(name)
    shapes = {name: tensor.shape for name, tensor in authors_tensors(built).items()}
    sizes: Any = JanusConfig(**transformers_config(config, shapes))
    with torch.device("meta"):
        read = JanusForConditionalGeneration(sizes)
    assert {name: t.shape for name, t in read.state_dict().items()} == {
        name: t.shape for name, t in built.state_dict().items()
    }
    assert sizes.vision_config.num_attention_heads == 16 and sizes.vision_config.num_image_tokens == 576
    assert sizes.text_config.num_attention_heads == expected.text_config.num_attention_heads
    assert sizes.vq_config.channel_multiplier == [1, 1, 2, 2, 4] and not sizes.tie_word_embeddings
    params = sum(tensor.numel() for tensor in read.state_dict().values())
    assert params == pytest.approx({"janus-pro-1b": 2.09e9, "janus-pro-7b": 7.42e9}[kind], rel=0.01)


def test_an_unknown_tower_without_heads_is_said_aloud(folder: Path):
    edit_config(folder, lambda config: config["vision_config"]["params"].pop("heads"))
    with pytest.warns(UserWarning, match="siglip_tiny.* not its number of heads.* language model's 4"):
        model = load_janus(folder)
    assert model.model.model.vision_model.config.num_attention_heads == 4
    assert load_janus(folder, vision_heads=8).model.model.vision_model.config.num_attention_heads == 8


def test_the_fused_attention_is_split_in_order():
    fused = torch.arange(12).view(6, 2)
    parts = dict(convert_tensor("vision_model.vision_tower.blocks.3.attn.qkv.weight", in_memory(fused)))
    assert [name.split(".")[-2] for name in parts] == ["q_proj", "k_proj", "v_proj"]
    assert torch.equal(torch.cat([part.read() for part in parts.values()]), fused)
    assert not list(convert_tensor("gen_vision_model.quantize.codebook_used", in_memory(fused)))


# --- strictness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["authors", "transformers"])
@pytest.mark.parametrize(
    "tensor",
    [
        ("gen_head.vision_head.weight", "model.generation_head.vision_head.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("gen_vision_model.encoder.conv_in.weight", "model.vqmodel.encoder.conv_in.weight"),
        ("vision_model.vision_tower.blocks.0.mlp.fc1.weight", "model.vision_model.encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_refused(folder: Path, layout: str, tensor: tuple[str, str]):
    name = tensor[0]
    if layout == "transformers":
        name = tensor[1]
        model = load_janus(folder)
        for part in (model.model, model.image_processor):
            part.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in stored.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(UserError, match=re.escape(tensor[0].split(".")[-2])) as missing:
        load_janus(folder)
    save_file(stored | {name: stored[name][..., :-1].contiguous()}, folder / "model.safetensors")
    with pytest.raises(UserError, match="another shape") as misshapen:
        load_janus(folder)
    assert all("\n" not in str(error.value) for error in (missing, misshapen))
    save_file(stored | {"model.surprise": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 tensors .* \(first: model.surprise\)"):
        load_janus(folder)


def without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def with_config(**values: Any) -> Any:
    return lambda folder: edit_config(folder, lambda config: config.update(values))


def with_pictures(**values: Any) -> Any:
    def edit(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("config.json"), "holds no Janus-Pro"),
        (without("model.safetensors"), "holds no weights"),
        (without("tokenizer.json"), "Cannot read the tokenizer"),
        (without("preprocessor_config.json"), "lacks preprocessor_config.json"),
        (with_config(language_config={"num_attention_heads": "many"}), "describes no Janus-Pro"),
        (with_config(aligner_config={"params": {"projector_type": "linear"}}), "only 'mlp_gelu'"),
        (lambda folder: edit_config(folder, lambda config: config.pop("gen_vision_config")), "JanusFlow"),
        (with_pictures(image_size=384), "resizes pictures to 384 px for an encoder of 64 px"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_in_a_sentence(folder: Path, damage: Any, message: str):
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        load_janus(folder)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_the_special_tokens_is_refused(folder: Path):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<begin_of_image>", "<begin>"))
    with pytest.raises(UserError, match="lacks <begin_of_image>; take that of the Janus-Pro release"):
        load_janus(folder)


def test_the_padding_token_comes_from_the_vocabulary(folder: Path):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    assert load_janus(folder).tokenizer.pad_token == "<｜▁pad▁｜>"


def test_other_folders_are_no_janus(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert not is_janus(tmp_path) and not is_janus(tmp_path / "nothing")
