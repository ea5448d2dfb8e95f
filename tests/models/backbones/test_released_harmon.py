from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from latentbridge.config import MarConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.harmon.load_harmon import HARMON_0_5B, HARMON_1_5B, Sizes, convert_key, load_harmon
from latentbridge.models.backbones.harmon.mar import MaskedDecoder, MaskedEncoder, TokenDenoiser
from latentbridge.models.checkpoint import ASSETS, load
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.rng import torch_rng

CHANNELS, WIDTH, HEAD, VAE = 5, 28, 31, 32
SIZES = Sizes(
    Qwen2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        vocab_size=len(load_tokenizer(ASSETS / "tokenizer")),
        tie_word_embeddings=True,
    ),
    MarConfig(width=WIDTH, num_layers=1, num_heads=2, channels=CHANNELS, num_buffers=3, head_width=HEAD, head_layers=1),
    VAE,
)


def layer(name: str, out: int, into: int, *kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into, *kernel)
    yield f"{name}.bias", (out,)


def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.{end}", (width,)) for end in ("weight", "bias"))


def resnet(name: str, into: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm1", into)
    yield from layer(f"{name}.conv1", out, into, 3, 3)
    yield from norm(f"{name}.norm2", out)
    yield from layer(f"{name}.conv2", out, out, 3, 3)
    if into != out:
        yield from layer(f"{name}.nin_shortcut", out, into, 1, 1)


def attention(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from layer(f"{name}.{part}", width, width, 1, 1)


def mar_layout() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of MAR's own checkpoint, a grid of 2 x 2 and buffers."""
    yield "mar.fake_latent", (1, WIDTH)
    yield "mar.mask_token", (1, 1, WIDTH)
    yield "mar.encoder_pos_embed_learned", (1, 4 + 3, WIDTH)
    yield "mar.decoder_pos_embed_learned", (1, 4 + 3, WIDTH)
    yield "mar.diffusion_pos_embed_learned", (1, 4, WIDTH)
    yield from layer("mar.z_proj", WIDTH, CHANNELS)
    yield from norm("mar.z_proj_ln", WIDTH)
    yield from layer("mar.decoder_embed", WIDTH, WIDTH)
    for half in ("encoder", "decoder"):
        yield from norm(f"mar.{half}_norm", WIDTH)
        block = f"mar.{half}_blocks.0"
        for one in ("norm1", "norm2"):
            yield from norm(f"{block}.{one}", WIDTH)
        yield from layer(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        yield from layer(f"{block}.attn.proj", WIDTH, WIDTH)
        yield from layer(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH)
        yield from layer(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    net = "mar.diffloss.net"
    yield from layer(f"{net}.time_embed.mlp.0", HEAD, 256)
    yield from layer(f"{net}.time_embed.mlp.2", HEAD, HEAD)
    yield from layer(f"{net}.cond_embed", HEAD, WIDTH)
    yield from layer(f"{net}.input_proj", HEAD, CHANNELS)
    yield from norm(f"{net}.res_blocks.0.in_ln", HEAD)
    yield from layer(f"{net}.res_blocks.0.mlp.0", HEAD, HEAD)
    yield from layer(f"{net}.res_blocks.0.mlp.2", HEAD, HEAD)
    yield from layer(f"{net}.res_blocks.0.adaLN_modulation.1", 3 * HEAD, HEAD)
    yield from layer(f"{net}.final_layer.adaLN_modulation.1", 2 * HEAD, HEAD)
    yield from layer(f"{net}.final_layer.linear", 2 * CHANNELS, HEAD)


def vae_layout() -> Iterator[tuple[str, tuple[int, ...]]]:
    """KL-16 in the names of latent diffusion."""
    widths = [VAE, VAE, 2 * VAE, 2 * VAE, 4 * VAE]
    for half, out in (("encoder", 2 * CHANNELS), ("decoder", 3)):
        edge = widths[0]
        yield from layer(f"vae.{half}.conv_in", *((edge, 3) if half == "encoder" else (widths[-1], CHANNELS)), 3, 3)
        yield from norm(f"vae.{half}.norm_out", widths[-1] if half == "encoder" else edge)
        yield from layer(f"vae.{half}.conv_out", out, widths[-1] if half == "encoder" else edge, 3, 3)
        for place in ("block_1", "block_2"):
            yield from resnet(f"vae.{half}.mid.{place}", widths[-1], widths[-1])
        yield from attention(f"vae.{half}.mid.attn_1", widths[-1])
    for level, width in enumerate(widths):
        finer, coarser = widths[max(level - 1, 0)], widths[min(level + 1, 4)]
        for block in range(2):
            yield from resnet(f"vae.encoder.down.{level}.block.{block}", width if block else finer, width)
        for block in range(3):
            yield from resnet(f"vae.decoder.up.{level}.block.{block}", width if block else coarser, width)
        if level < 4:
            yield from layer(f"vae.encoder.down.{level}.downsample.conv", width, width, 3, 3)
        if level > 0:
            yield from layer(f"vae.decoder.up.{level}.upsample.conv", width, width, 3, 3)
    for part, count in (("encoder.down", 2), ("decoder.up", 3)):
        for block in range(count):
            yield from attention(f"vae.{part}.4.attn.{block}", widths[-1])
    yield from layer("vae.quant_conv", 2 * CHANNELS, 2 * CHANNELS, 1, 1)
    yield from layer("vae.post_quant_conv", CHANNELS, CHANNELS, 1, 1)


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """Random tensors in the released layout; the language model's come from a model of that size."""
    with torch.device("meta"):
        words = Qwen2ForCausalLM(SIZES.language_model).state_dict()
    shapes = {f"llm.{name}": tuple(tensor.shape) for name, tensor in words.items() if name != "lm_head.weight"}
    shapes |= dict(mar_layout()) | dict(vae_layout())
    for name, (out, into) in {"proj_in": (32, WIDTH), "proj_out": (WIDTH, 32)}.items():
        shapes |= (
            dict(layer(f"{name}.0", 32, into)) | dict(layer(f"{name}.2", 32, 32)) | dict(layer(f"{name}.4", out, 32))
        )
    rng = torch_rng(0, "released")
    return {
        name: torch.randn(shape, generator=rng) * (1 if len(shape) < 2 else shape[1:].numel() ** -0.5)
        for name, shape in ((name, torch.Size(shape)) for name, shape in shapes.items())
    }


@pytest.fixture
def folder(released: dict[str, Tensor], tmp_path: Path) -> Path:
    names = sorted(released)
    for index, part in enumerate((names[::2], names[1::2])):
        save_file({name: released[name] for name in part}, tmp_path / f"model-{index}.safetensors")
    load_tokenizer(ASSETS / "tokenizer").save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_a_released_folder_is_read_whole(folder: Path, released: dict[str, Tensor]):
    harmon = load_harmon(folder, [HARMON_1_5B, SIZES])
    state = harmon.state_dict()
    assert len({convert_key(name) for name in released}) == len(released)
    assert set(state) == {convert_key(name) for name in released} | {"language_model.lm_head.weight"}
    assert torch.equal(
        state["encoder.blocks.0.self_attn.in_proj_weight"], released["mar.encoder_blocks.0.attn.qkv.weight"]
    )
    assert torch.equal(state["head.out.weight"], released["mar.diffloss.net.final_layer.linear.weight"][:CHANNELS])
    assert torch.equal(
        state["autoencoder.vae.decoder.up_blocks.1.resnets.2.conv1.weight"],
        released["vae.decoder.up.3.block.2.conv1.weight"],
    )
    assert harmon.language_model.lm_head.weight is harmon.language_model.model.embed_tokens.weight
    harmon.drawing_options = replace(harmon.drawing_options, steps=2)
    harmon.denoising_steps = 2
    latents = harmon.gen_latent(["a star"])
    assert latents.shape == (1, 4 * WIDTH) and harmon.roundtrip(latents).isfinite().all()
    assert harmon.generate("a star").picture.shape == (32, 32, 3)


def test_a_tensor_too_few_or_too_many_is_refused_by_name(folder: Path, released: dict[str, Tensor]):
    save_file({"mar.surprise": torch.zeros(1)}, folder / "more.safetensors")
    with pytest.raises(UserError, match=r"1 tensors .* \(first: mar.surprise\)"):
        load_harmon(folder, [SIZES])
    less = {name: tensor for name, tensor in released.items() if name != "mar.mask_token"}
    for path in folder.glob("*.safetensors"):
        path.unlink()
    save_file(less, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 tensors .* \(first: decoder.mask\)"):
        load_harmon(folder, [SIZES])


def test_commands_find_it_by_its_tensors(folder: Path):
    with pytest.raises(UserError, match="holds no Harmon of 0.5 or 1.5"):  # one, but of a size that was never released
        load(folder)


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="holds no Harmon of 0.5 or 1.5"):
        load_harmon(folder)
    with pytest.raises(UserError, match="holds no .safetensors"):
        load_harmon(tmp_path / "nothing")


@pytest.mark.parametrize(("sizes", "published"), [(HARMON_0_5B, 208e6), (HARMON_1_5B, 943e6)])
def test_sizes_add_up_to_those_published(sizes: Sizes, published: float):
    """MAR-B and MAR-H have 208 and 943 million parameters (MAR), a thousand class embeddings among them."""
    mar = replace(sizes.mar, grid=16)
    with torch.device("meta"):
        parts = [MaskedEncoder(mar), MaskedDecoder(mar), TokenDenoiser(mar)]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters()) + 1000 * mar.width
    assert count == pytest.approx(published, rel=0.003)
