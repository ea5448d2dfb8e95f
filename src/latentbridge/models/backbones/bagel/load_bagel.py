"""Loading of BAGEL's release: experts, SigLIP and flow in `ema.safetensors`, Flux's VAE in `ae.safetensors`.

Verified against ByteDance-Seed/Bagel at 056b5fd, by reading and by a fixture of its numbers (`parity.py`): all tensor names, the
linear patch embedding over (row, column, channel), the order of a latent token's numbers (row, column, channel), times from
0 to 1 in the sinusoids, the range of input sizes, that `vit_config.json` counts one layer more than is used, Flux's
layout of `ae.safetensors` with scale 0.3611 and shift 0.1159, and the config values that the authors' code sets itself. Its dtype is
float32 in the release and may be any. Not verified, without the weights at hand: that the released files hold just these
names. Unexpected names and shapes are refused.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import Qwen2Config, Qwen2Tokenizer, SiglipVisionConfig

from latentbridge.config import ReleaseConfig
from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.autoencoder import KLAutoencoder, kl_network
from latentbridge.models.backbones.bagel.latent_tokens import LatentTokens
from latentbridge.models.backbones.bagel.mixture_of_transformers import MixtureOfTransformers
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.bagel.navit_encoder import NaViTEncoder
from latentbridge.models.backbones.bagel.options import BagelReplyOptions
from latentbridge.models.backbones.names import NameTable, attention_to_linear, vae_rules
from latentbridge.models.omnibridge.load_omnibridge import check_state_dict
from latentbridge.models.stored_tensor import StoredTensor
from latentbridge.models.tensors import open_tensors
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.models.weights import AS_STORED, Placement, assign_weights, empty_weights

LANGUAGE, VISION = "llm_config.json", "vit_config.json"
_ATTENTION = "{[qkvo]_proj|[qk]_norm}"
NAMES = NameTable(
    (
        ("language_model.model.embed_tokens.", "language_model.embed_tokens."),
        (
            rf"language_model.model.layers.{{\d+}}.self_attn.{_ATTENTION}_moe_gen.",
            rf"language_model.gen.layers.{{\d+}}.{_ATTENTION}.",
        ),
        (r"language_model.model.layers.{\d+}.{\w+}_moe_gen.", r"language_model.gen.layers.{\d+}.{\w+}."),
        ("language_model.model.norm_moe_gen.", "language_model.gen.norm."),
        (
            rf"language_model.model.layers.{{\d+}}.self_attn.{_ATTENTION}.",
            rf"language_model.und.layers.{{\d+}}.{_ATTENTION}.",
        ),
        ("language_model.model.", "language_model.und."),
        ("vit_model.vision_model.", "eye.vision."),
        ("connector.", "eye.connector."),
        ("vit_pos_embed.pos_embed$", "eye.places$"),
        ("latent_pos_embed.pos_embed$", "latents.places$"),
        ("time_embedder.mlp.0.", "latents.time_embedder.linear_1."),
        ("time_embedder.mlp.2.", "latents.time_embedder.linear_2."),
        ("vae2llm.", "latents.proj_in."),
        ("llm2vae.", "latents.proj_out."),
    )
)
"""The authors' names in `ema.safetensors` and ours; `_moe_gen` marks the generation expert."""
VAE = "autoencoder.vae."
PATCHES = "eye.vision.embeddings.patch_embedding.weight"
_FIX = "download it again"
_LEAST_PX = 224
"""Shortest side at which SigLIP reads images; the longest is its own, 980."""
_FLUX_SCALE, _FLUX_SHIFT = 0.3611, 0.1159
"""Scale and shift of image latents (`modeling/autoencoder.py` at 056b5fd); the file does not hold them."""
_REPLY_OPTIONS = BagelReplyOptions(max_tokens=512)
"""The default of the authors' `app.py`."""


_LANGUAGE_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False,
}
_VISION_7B: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 980,
    "patch_size": 14,
    "vision_use_head": False,
}
_LATENT_CHANNELS, _LATENT_GRID, _LATENT_PATCH = 16, 64, 2
_FLUX_WIDTHS, _FLUX_LAYERS = [128, 256, 512, 512], 2
"""BAGEL-7B-MoT: twice Qwen2.5-7B, SigLIP-so400m without its last layer, Flux's autoencoder (spec LatentUMM 6)."""


def build_bagel_7b(config: ReleaseConfig, tokenizer: Qwen2Tokenizer) -> Bagel:
    """Build BAGEL-7B-MoT with random weights."""
    width = _LANGUAGE_7B["hidden_size"]
    model = Bagel(
        MixtureOfTransformers(Qwen2Config.from_dict(_LANGUAGE_7B)),
        NaViTEncoder(SiglipVisionConfig.from_dict(_VISION_7B), width, _LEAST_PX),
        LatentTokens(_LATENT_CHANNELS, width, _LATENT_GRID, _LATENT_PATCH),
        KLAutoencoder(_flux_network(_FLUX_WIDTHS, _LATENT_CHANNELS, _FLUX_LAYERS)),
        tokenizer,
        resize="app",
        config=config,
    )
    model.reply_options = _REPLY_OPTIONS
    return model


def convert_key(released: str) -> str:
    """Return our state-dict name of a tensor in `ema.safetensors`, or the name itself if it is unknown."""
    return NAMES.to_ours(released)


def is_bagel(folder: Path) -> bool:
    """Return whether a folder has the config that only BAGEL's releases have."""
    return (folder / LANGUAGE).is_file()


def load_bagel(folder: Path, placement: Placement = AS_STORED) -> Bagel:
    """Load BAGEL-7B-MoT from the folder of its release; every tensor must be known, present and of the right shape.

    Weights are by default in bfloat16, the autoencoder's in float32.
    """
    for name in (LANGUAGE, VISION):
        if not (folder / name).exists():
            raise UserError(f"{folder} holds no BAGEL (no {name}); give the folder of the release.")
    stored = {convert_key(name): tensor for name, tensor in open_tensors(folder / "ema.safetensors", _FIX).items()}
    flux = open_tensors(folder / "ae.safetensors", _FIX)
    try:
        model = _build_empty(folder, stored, flux)
        stored[PATCHES] = stored[PATCHES].converted(partial(_as_convolution, patch_px=model.eye.patch_px))
    except KeyError as error:
        raise UserError(f"{folder} does not fit: {error.args[0]} is missing; {_FIX}.") from error
    stored |= _diffusers_names(flux, model)
    check_state_dict(model, stored, folder)
    assign_weights(model, stored, placement, torch.bfloat16)
    model.reply_options = _REPLY_OPTIONS
    return model.eval()


def _diffusers_names(flux: dict[str, StoredTensor], model: Bagel) -> dict[str, StoredTensor]:
    """Return the tensors of Flux's VAE under diffusers' names; unknown ones keep theirs and are refused later."""
    names = autoencoder_names(cast(KLAutoencoder, model.autoencoder))
    renamed = {names.to_ours(name): tensor for name, tensor in flux.items()}
    return {name: attention_to_linear(name, tensor) for name, tensor in renamed.items()}


def autoencoder_names(autoencoder: KLAutoencoder) -> NameTable:
    """Return the names in `ae.safetensors` and ours."""
    return NameTable(vae_rules(len(autoencoder.vae.config["block_out_channels"]), ours=VAE))


def _build_empty(folder: Path, stored: dict[str, StoredTensor], flux: dict[str, StoredTensor]) -> Bagel:
    """Build the model without weights, sized by its configs and tensors; raise KeyError for a missing tensor."""
    language = Qwen2Config.from_dict({**read_json(folder / LANGUAGE), "tie_word_embeddings": False})
    vision: Any = SiglipVisionConfig.from_dict(_siglip_sizes(folder / VISION))
    width, token_size = stored["latents.proj_in.weight"].shape
    grid = math.isqrt(stored["latents.places"].shape[0])
    channels = flux["decoder.conv_in.weight"].shape[1]
    with empty_weights():
        return Bagel(
            MixtureOfTransformers(language),
            NaViTEncoder(vision, width, _LEAST_PX),
            LatentTokens(channels, width, grid, math.isqrt(token_size // channels)),
            KLAutoencoder(_flux_autoencoder(flux)),
            load_tokenizer(folder),
            resize="app",
        )


def _as_convolution(weight: Tensor, patch_px: int) -> Tensor:
    """Return the patch embedding as a convolution [h 3 p p]; the release may hold a matrix over a patch's numbers."""
    if weight.shape[1:] != (3 * patch_px**2,):
        return weight
    return weight.unflatten(1, (patch_px, patch_px, 3)).permute(0, 3, 1, 2)


def _siglip_sizes(path: Path) -> dict[str, Any]:
    """Return SigLIP's config without its last layer and its head, which BAGEL leaves out (`app.py` at 056b5fd)."""
    sizes = read_json(path)
    return {**sizes, "num_hidden_layers": sizes["num_hidden_layers"] - 1, "vision_use_head": False}


def _flux_autoencoder(flux: dict[str, StoredTensor]) -> AutoencoderKL:
    """Build Flux's VAE, sized by its tensors."""
    blocks = [name.split(".") for name in flux if name.startswith("encoder.down.") and name.endswith("conv1.weight")]
    levels, layers = (1 + max(int(parts[place]) for parts in blocks) for place in (2, 4))
    widths = [flux[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    return _flux_network(widths, flux["decoder.conv_in.weight"].shape[1], layers)


def _flux_network(widths: list[int], channels: int, layers: int) -> AutoencoderKL:
    return kl_network(
        widths,
        channels,
        layers_per_block=layers,
        scaling_factor=_FLUX_SCALE,
        shift_factor=_FLUX_SHIFT,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
