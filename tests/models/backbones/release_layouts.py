"""Writers of the layouts in which models are released, apart from the loaders that read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import JanusForConditionalGeneration, Qwen2ForCausalLM

from latentbridge.config import MarConfig
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.harmon.load_harmon import Sizes
from latentbridge.models.checkpoint import ASSETS
from latentbridge.models.tokenization import load_tokenizer

PATCHES = "vit_model.vision_model.embeddings.patch_embedding.weight"
PLAIN = "harmon_1.5b.pth"
BACK = (
    (r"model\.vision_model\.embeddings\.patch_embedding", "vision_model.vision_tower.patch_embed.proj"),
    (r"model\.vision_model\.embeddings\.position_embedding\.weight", "vision_model.vision_tower.pos_embed"),
    (r"model\.vision_model\.post_layernorm", "vision_model.vision_tower.norm"),
    (r"model\.vision_model\.encoder\.layers", "vision_model.vision_tower.blocks"),
    (r"layer_norm(\d)", r"norm\1"),
    (r"self_attn\.projection_layer", "attn.proj"),
    (r"model\.language_model", "language_model.model"),
    (r"^lm_head", "language_model.lm_head"),
    (r"model\.generation_embeddings", "gen_embed"),
    (r"model\.generation_head\.proj_out", "gen_head.output_mlp_projector"),
    (r"model\.generation_head", "gen_head"),
    (r"model\.(?:generation_)?vqmodel", "gen_vision_model"),
    (r"\.(?:down|up)\.(\d)", r".conv_blocks.\1"),
    (r"\.block\.", ".res."),
    (r"mid\.block_1", "mid.0"),
    (r"mid\.attn_1", "mid.1"),
    (r"mid\.block_2", "mid.2"),
    (r"model\.generation_aligner\.", "gen_aligner."),
    (r"model\.aligner\.", "aligner."),
    (r"aligner\.fc1", "aligner.layers.0"),
)
"""The authors' names of transformers' tensors, but for aligners' later layers and the fused qkv."""


# --- BAGEL ---


def released_name(ours: str) -> str:
    """The other way round, written apart from `convert_key`."""
    attention = re.fullmatch(r"language_model\.(und|gen)\.layers\.(\d+)\.([qkvo]_(?:proj|norm))\.(\w+)", ours)
    rest = re.fullmatch(r"language_model\.(und|gen)\.((?:layers\.\d+\.)?\w+)\.(.+)", ours)
    if attention:
        expert, layer, part, kind = attention.groups()
        return f"language_model.model.layers.{layer}.self_attn.{part}{'_moe_gen' * (expert == 'gen')}.{kind}"
    if rest:
        expert, part, kind = rest.groups()
        return f"language_model.model.{part}{'_moe_gen' * (expert == 'gen')}.{kind}"
    for mine, theirs in (
        ("language_model.embed_tokens", "language_model.model.embed_tokens"),
        ("eye.vision", "vit_model.vision_model"),
        ("eye.connector", "connector"),
        ("eye.places", "vit_pos_embed.pos_embed"),
        ("latents.places", "latent_pos_embed.pos_embed"),
        ("latents.time_embedder.linear_1", "time_embedder.mlp.0"),
        ("latents.time_embedder.linear_2", "time_embedder.mlp.2"),
        ("latents.proj_in", "vae2llm"),
        ("latents.proj_out", "llm2vae"),
    ):
        ours = ours.replace(mine, theirs)
    return ours


def flux_name(name: str, levels: int) -> str:
    """The name of a tensor of diffusers' autoencoder in the layout of Flux and of latent diffusion before it."""
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for diffusers, flux in (
        ("down_blocks", "down"),
        (".resnets", ".block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("to_out.0", "proj_out"),
        (".to_", "."),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):
        name = name.replace(diffusers, flux)
    return name


def write_bagel(model: Bagel, folder: Path) -> None:
    """Write a model with output embeddings of its own as BAGEL's authors publish theirs."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    vae = {name.removeprefix("autoencoder.vae."): state.pop(name) for name in list(state) if "autoencoder." in name}
    weights = {released_name(name): tensor for name, tensor in state.items()}
    weights[PATCHES] = weights[PATCHES].permute(0, 2, 3, 1).flatten(1).contiguous()
    save_file(weights, folder / "ema.safetensors")
    flux = {
        flux_name(name, levels=len(model.autoencoder.vae.config.block_out_channels)): tensor[..., None, None]
        if "attentions" in name and tensor.ndim == 2
        else tensor
        for name, tensor in vae.items()
    }
    save_file(flux, folder / "ae.safetensors")
    language = model.language_model.config.to_dict()
    del language["rope_parameters"]
    language |= {
        "tie_word_embeddings": False,
        "rope_theta": 500.0,
        "qk_norm": True,
        "layer_module": "Qwen2MoTDecoderLayer",
    }
    (folder / "llm_config.json").write_text(json.dumps(language))
    vision = model.eye.vision.config.to_dict()
    vision |= {"num_hidden_layers": vision["num_hidden_layers"] + 1, "vision_use_head": True, "rope": False}
    (folder / "vit_config.json").write_text(json.dumps(vision))
    model.tokenizer.save_pretrained(folder)


# --- Harmon ---


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


def mar_layout(sizes: MarConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of MAR's own checkpoint."""
    width, channels, head, places = sizes.width, sizes.channels, sizes.head_width, sizes.grid**2
    yield "mar.class_emb.weight", (1000, width)
    yield "mar.fake_latent", (1, width)
    yield "mar.mask_token", (1, 1, width)
    yield "mar.encoder_pos_embed_learned", (1, places + sizes.num_buffers, width)
    yield "mar.decoder_pos_embed_learned", (1, places + sizes.num_buffers, width)
    yield "mar.diffusion_pos_embed_learned", (1, places, width)
    yield from layer("mar.z_proj", width, channels)
    yield from norm("mar.z_proj_ln", width)
    yield from layer("mar.decoder_embed", width, width)
    for half in ("encoder", "decoder"):
        yield from norm(f"mar.{half}_norm", width)
        for block in (f"mar.{half}_blocks.{index}" for index in range(sizes.num_layers)):
            for one in ("norm1", "norm2"):
                yield from norm(f"{block}.{one}", width)
            yield from layer(f"{block}.attn.qkv", 3 * width, width)
            yield from layer(f"{block}.attn.proj", width, width)
            yield from layer(f"{block}.mlp.fc1", 4 * width, width)
            yield from layer(f"{block}.mlp.fc2", width, 4 * width)
    net = "mar.diffloss.net"
    yield from layer(f"{net}.time_embed.mlp.0", head, 256)
    yield from layer(f"{net}.time_embed.mlp.2", head, head)
    yield from layer(f"{net}.cond_embed", head, width)
    yield from layer(f"{net}.input_proj", head, channels)
    for block in (f"{net}.res_blocks.{index}" for index in range(sizes.head_layers)):
        yield from norm(f"{block}.in_ln", head)
        yield from layer(f"{block}.mlp.0", head, head)
        yield from layer(f"{block}.mlp.2", head, head)
        yield from layer(f"{block}.adaLN_modulation.1", 3 * head, head)
    yield from layer(f"{net}.final_layer.adaLN_modulation.1", 2 * head, head)
    yield from layer(f"{net}.final_layer.linear", 2 * channels, head)


def vae_layout(width: int, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """KL-16 in the names of latent diffusion."""
    widths = [width * times for times in (1, 1, 2, 2, 4)]
    for half, out in (("encoder", 2 * channels), ("decoder", 3)):
        edge = widths[0]
        yield from layer(f"vae.{half}.conv_in", *((edge, 3) if half == "encoder" else (widths[-1], channels)), 3, 3)
        yield from norm(f"vae.{half}.norm_out", widths[-1] if half == "encoder" else edge)
        yield from layer(f"vae.{half}.conv_out", out, widths[-1] if half == "encoder" else edge, 3, 3)
        for place in ("block_1", "block_2"):
            yield from resnet(f"vae.{half}.mid.{place}", widths[-1], widths[-1])
        yield from attention(f"vae.{half}.mid.attn_1", widths[-1])
    for level, wide in enumerate(widths):
        finer, coarser = widths[max(level - 1, 0)], widths[min(level + 1, 4)]
        for block in range(2):
            yield from resnet(f"vae.encoder.down.{level}.block.{block}", wide if block else finer, wide)
        for block in range(3):
            yield from resnet(f"vae.decoder.up.{level}.block.{block}", wide if block else coarser, wide)
        if level < 4:
            yield from layer(f"vae.encoder.down.{level}.downsample.conv", wide, wide, 3, 3)
        if level > 0:
            yield from layer(f"vae.decoder.up.{level}.upsample.conv", wide, wide, 3, 3)
    for block in range(2):
        yield from attention(f"vae.encoder.down.4.attn.{block}", widths[-1])
    yield from layer("vae.quant_conv", 2 * channels, 2 * channels, 1, 1)
    yield from layer("vae.post_quant_conv", channels, channels, 1, 1)


def harmon_shapes(sizes: Sizes) -> dict[str, torch.Size]:
    """The names and shapes of a released Harmon, whose output embeddings are not stored."""
    width, hidden = sizes.mar.width, sizes.language_model.hidden_size
    with torch.device("meta"):
        words = Qwen2ForCausalLM(sizes.language_model).state_dict()
    shapes = {f"llm.{name}": tuple(tensor.shape) for name, tensor in words.items() if name != "lm_head.weight"}
    shapes |= dict(mar_layout(sizes.mar)) | dict(vae_layout(sizes.vae_channels, sizes.mar.channels))
    for name, (out, into) in {"proj_in": (hidden, width), "proj_out": (width, hidden)}.items():
        shapes |= dict(layer(f"{name}.0", hidden, into)) | dict(layer(f"{name}.2", out, hidden))
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def write_harmon(tensors: dict[str, Tensor], folder: Path, plain: bool) -> None:
    """Write the tensors of a Harmon in GitHub's layout if `plain`, otherwise in that of the hub."""
    load_tokenizer(ASSETS / "tokenizer").save_pretrained(folder)
    if not plain:
        names = sorted(tensors)
        for index, part in enumerate((names[::2], names[1::2])):
            save_file({name: tensors[name] for name in part}, folder / f"model-{index}.safetensors")
        return
    vae = {name.removeprefix("vae."): tensor for name, tensor in tensors.items() if name.startswith("vae.")}
    torch.save({name: tensor for name, tensor in tensors.items() if not name.startswith("vae.")}, folder / PLAIN)
    torch.save({"model": vae}, folder / "kl16.ckpt")


# --- Janus-Pro ---


def authors_tensors(model: JanusForConditionalGeneration) -> dict[str, Tensor]:
    """The state of a model under its authors' names."""
    stored: dict[str, Tensor] = {}
    state = model.state_dict()
    for name, tensor in state.items():
        if re.search(r"vision_model.*\.[kv]_proj", name):
            continue
        if "vision_model" in name and ".q_proj." in name:
            tensor = torch.cat([state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            name = name.replace("self_attn.q_proj", "attn.qkv")
        for pattern, replacement in BACK:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"hidden_layers\.(\d)", lambda match: f"layers.{2 * int(match[1]) + 2}", name)
        stored[name] = tensor[None] if name.endswith("pos_embed") else tensor
    return stored


def authors_config(
    sizes: Any, depth: int, tower: str = "siglip_large_patch16_384", **tower_params: Any
) -> dict[str, Any]:
    """The config of a model, with only what the authors' files say."""
    width, entries = sizes.text_config.hidden_size, sizes.vq_config.num_embeddings
    params = {
        "vision_config": {"image_size": sizes.vision_config.image_size, "model_name": tower, "select_layer": -1},
        "aligner_config": {"depth": depth, "projector_type": "mlp_gelu", "n_embed": width},
        "gen_aligner_config": {"depth": depth, "projector_type": "mlp_gelu", "n_embed": width},
        "gen_vision_config": {"image_token_size": entries, "n_embed": sizes.vq_config.embed_dim},
        "gen_head_config": {"n_embed": width, "image_token_embed": width, "image_token_size": entries},
    }
    params["vision_config"] |= tower_params
    words = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    language = {name: getattr(sizes.text_config, name) for name in (*words, "vocab_size", "max_position_embeddings")}
    return {
        "model_type": "multi_modality",
        "language_config": language | {"torch_dtype": "bfloat16", "_attn_implementation": "eager"},
        **{part: {"params": values} for part, values in params.items()},
    }


def write_pickles(stored: dict[str, Tensor], folder: Path, with_index: bool) -> None:
    """Write tensors to two files as on the hub."""
    names = sorted(stored)
    weight_map: dict[str, str] = {}
    for index, part in enumerate((names[::2], names[1::2]), start=1):
        path = folder / f"pytorch_model-{index:05}-of-00002.bin"
        torch.save({name: stored[name] for name in part}, path)
        weight_map |= dict.fromkeys(part, path.name)
    if with_index:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
