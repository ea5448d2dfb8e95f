"""Key names as far as they are publicly known; the folder is written here, because no released weights are at hand."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.backbones.release_layouts import PATCHES, write_bagel
from torch import Tensor, nn

from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.load_bagel import convert_key, load_bagel
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.checkpoint import load
from latentbridge.models.weights import Placement


@pytest.mark.parametrize(
    ("released", "ours"),
    [
        ("language_model.lm_head.weight", "language_model.lm_head.weight"),
        ("language_model.model.embed_tokens.weight", "language_model.embed_tokens.weight"),
        ("language_model.model.norm.weight", "language_model.und.norm.weight"),
        ("language_model.model.norm_moe_gen.weight", "language_model.gen.norm.weight"),
        ("language_model.model.layers.7.self_attn.k_proj.bias", "language_model.und.layers.7.k_proj.bias"),
        ("language_model.model.layers.7.self_attn.q_norm_moe_gen.weight", "language_model.gen.layers.7.q_norm.weight"),
        ("language_model.model.layers.0.mlp_moe_gen.up_proj.weight", "language_model.gen.layers.0.mlp.up_proj.weight"),
        (
            "language_model.model.layers.0.post_attention_layernorm_moe_gen.weight",
            "language_model.gen.layers.0.post_attention_layernorm.weight",
        ),
        (
            "vit_model.vision_model.encoder.layers.3.self_attn.q_proj.bias",
            "eye.vision.encoder.layers.3.self_attn.q_proj.bias",
        ),
        ("connector.fc2.weight", "eye.connector.fc2.weight"),
        ("vae2llm.bias", "latents.proj_in.bias"),
        ("time_embedder.mlp.2.weight", "latents.time_embedder.linear_2.weight"),
        ("something.new", "something.new"),
    ],
)
def test_names_of_the_release(released: str, ours: str):
    assert convert_key(released) == ours


@pytest.fixture(scope="module")
def untied(small_bagel: Bagel) -> Bagel:
    """The small model with a head of its own, as in the release."""
    model = copy.deepcopy(small_bagel)
    model.language_model.lm_head.weight = nn.Parameter(small_bagel.language_model.lm_head.weight.detach() * 2)
    return model


@pytest.fixture(scope="module")
def folder(untied: Bagel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the layout of the release."""
    folder = tmp_path_factory.mktemp("released")
    write_bagel(untied, folder)
    return folder


@torch.no_grad()
def test_every_tensor_of_the_release_finds_its_place(untied: Bagel, folder: Path, three_pictures):
    loaded = load_bagel(folder, Placement(torch.float32))
    expected = untied.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    frequencies = loaded.language_model.rotary_emb.inv_freq
    assert float(frequencies[1]) == pytest.approx(500 ** (-2 / 16))
    assert (loaded.autoencoder.scale, loaded.autoencoder.shift) == (0.3611, 0.1159)
    untied.language_model.rotary_emb, untied.autoencoder = loaded.language_model.rotary_emb, loaded.autoencoder
    loaded.roundtrip_steps = untied.roundtrip_steps
    assert (loaded.resize, loaded.reply_options.max_tokens) == ("app", 512), "as in the authors' app"
    untied.resize = "app"
    latents = loaded.gen_latent(["a red circle"])
    torch.testing.assert_close(latents, untied.gen_latent(["a red circle"]))
    torch.testing.assert_close(loaded.roundtrip(latents), untied.roundtrip(latents))
    torch.testing.assert_close(loaded.und_latent(three_pictures), untied.und_latent(three_pictures))


def test_weights_are_rounded_and_the_autoencoder_is_not(folder: Path):
    loaded = load_bagel(folder)
    assert loaded.latents.proj_in.weight.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in loaded.autoencoder.parameters())
    loaded.roundtrip_steps = 1
    latents = loaded.gen_latent(["a red circle"])
    assert latents.dtype == torch.float32 and loaded.roundtrip(latents).isfinite().all()


def changed(folder: Path, target: Path, file: str, edit: dict[str, Tensor | None]) -> Path:
    """A copy of the folder in which tensors of one file are set, or removed where None."""
    shutil.copytree(folder, target)
    tensors = {**load_file(target / file), **edit}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, target / file)
    return target


@pytest.mark.parametrize(
    ("file", "edit", "named"),
    [
        ("ema.safetensors", {"language_model.model.norm_moe_gen.weight": None}, "1 tensors .*language_model.gen.norm"),
        ("ema.safetensors", {"something.new": torch.zeros(1)}, "1 tensors .*something.new"),
        ("ema.safetensors", {"connector.fc1.bias": torch.zeros(3)}, "1 tensors .*eye.connector.fc1.bias"),
        ("ema.safetensors", {"vae2llm.weight": None}, "latents.proj_in.weight is missing"),
        ("ema.safetensors", {PATCHES: None}, "patch_embedding.weight is missing"),
        (
            "ae.safetensors",
            {"encoder.down.0.downsample.conv.bias": None},
            "1 tensors .*autoencoder.vae.encoder.down_blocks",
        ),
        ("ae.safetensors", {"decoder.new": torch.zeros(1)}, "1 tensors .*autoencoder.vae.decoder.new"),
        ("ae.safetensors", {"decoder.mid.block_1.conv1.bias": None}, "1 tensors .*autoencoder.vae.decoder.mid_block"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    folder: Path, tmp_path: Path, file: str, edit: dict[str, Tensor | None], named: str
):
    with pytest.raises(UserError, match=named):
        load_bagel(changed(folder, tmp_path / "changed", file, edit))


def test_commands_find_it_by_its_files(folder: Path):
    assert isinstance(load(folder), Bagel)


def test_other_folders_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no llm_config.json"):
        load_bagel(tmp_path)
    for file, named in (("ae.safetensors", "Cannot read .*ae.safetensors"), ("vit_config.json", "no vit_config.json")):
        shutil.copytree(folder, tmp_path / file, ignore=shutil.ignore_patterns(file))
        with pytest.raises(UserError, match=named):
            load_bagel(tmp_path / file)
