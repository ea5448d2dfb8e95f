"""Loading of Harmon's releases.

No released file was at hand. The groups `llm`, `mar`, `proj_in`, `proj_out` and the sizes follow the papers and spec
LatentUMM section 6. Unverified, from memory of the public code: every name inside `mar`; that the autoencoder lies
beside them as `vae`, as MAR publishes it (KL-16 in the names of latent diffusion, `_VAE_SCALE`, attention at its
coarsest level); the wording of prompts in `models/backbones/harmon/modeling_harmon.py`. Loading is strict, so a wrong
name is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from latentbridge.config import MarConfig, ReleaseConfig
from latentbridge.errors import UserError
from latentbridge.models.autoencoder import KLAutoencoder, kl_network
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.diffusion import Scheduler
from latentbridge.models.omnibridge.load_omnibridge import check_state_dict, read_tensors, tensor_names
from latentbridge.models.tokenization import load_tokenizer


class Sizes(NamedTuple):
    """Sizes of one released Harmon; the grid follows from its position embeddings."""

    language_model: Qwen2Config
    mar: MarConfig
    vae_channels: int = 128


def _qwen2_5(width: int, num_layers: int, num_heads: int, intermediate_size: int) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=2,
        intermediate_size=intermediate_size,
        vocab_size=151936,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )


HARMON_0_5B = Sizes(
    _qwen2_5(896, 24, 14, 4864),
    MarConfig(width=768, num_layers=12, num_heads=12, num_buffers=64, head_width=1024, head_layers=6),
)
HARMON_1_5B = Sizes(
    _qwen2_5(1536, 28, 12, 8960),
    MarConfig(width=1280, num_layers=20, num_heads=16, num_buffers=64, head_width=1536, head_layers=12),
)
"""Qwen2.5 of 1.5 billion parameters with MAR-H (0.5 billion with MAR-B above)."""

_GRID = 32
"""Side of the grid of image latents: 512 px in squares of 16."""
_VAE_SCALE = 0.2325
_VAE_LEVELS = 5
_RENAMES = (
    (r"^llm\.", "language_model."),
    (r"^mar\.z_proj\.", "encoder.embed."),
    (r"^mar\.z_proj_ln\.", "encoder.input_norm."),
    (r"^mar\.fake_latent$", "encoder.buffer"),
    (r"^mar\.mask_token$", "decoder.mask"),
    (r"^mar\.decoder_embed\.", "decoder.embed."),
    (r"^mar\.diffusion_pos_embed_learned$", "decoder.head_positions"),
    (r"^mar\.(en|de)coder_pos_embed_learned$", r"\1coder.positions"),
    (r"^mar\.(en|de)coder_(blocks|norm)\.", r"\1coder.\2."),
    (r"\.attn\.qkv\.", ".self_attn.in_proj_"),
    (r"\.attn\.proj\.", ".self_attn.out_proj."),
    (r"^((?:en|de)coder\..*)\.mlp\.fc", r"\1.linear"),
    (r"^mar\.diffloss\.net\.", "head."),
    (r"^head\.input_proj\.", "head.embed."),
    (r"^head\.cond_embed\.", "head.embed_state."),
    (r"^head\.time_embed\.mlp\.0\.", "head.embed_time.linear_1."),
    (r"^head\.time_embed\.mlp\.2\.", "head.embed_time.linear_2."),
    (r"^head\.res_blocks\.", "head.blocks."),
    (r"^head\.final_layer\.linear\.", "head.out."),
    (r"^head\.final_layer\.adaLN", "head.adaLN"),
    (r"^(head\..*)in_ln\.", r"\1norm."),
    (r"^(head\..*)adaLN_modulation\.1\.", r"\1modulation."),
    (r"^vae\.", "autoencoder.vae."),
    (r"\.(en|de)coder\.norm_out\.", r".\1coder.conv_norm_out."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.encoder\.down\.(\d)\.", r".encoder.down_blocks.\1."),
    (r"\.decoder\.up\.(\d)\.", lambda match: f".decoder.up_blocks.{_VAE_LEVELS - 1 - int(match[1])}."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"_blocks\.(\d)\.block\.", r"_blocks.\1.resnets."),
    (r"_blocks\.(\d)\.attn\.", r"_blocks.\1.attentions."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(\.attentions\.\d)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d)\.([qkv])\.", r"\1.to_\2."),
    (r"(\.attentions\.\d)\.proj_out\.", r"\1.to_out.0."),
)
"""Applied in this order: later patterns see the results of earlier ones."""


def convert_key(released: str) -> str:
    """Return our state-dict name of a released tensor, or the name itself if no rule matches."""
    for pattern, ours in _RENAMES:
        released = re.sub(pattern, ours, released)
    return released


def is_harmon(folder: Path) -> bool:
    """Return whether the tensor names in a folder are those of a language model and a MAR."""
    groups = {name.partition(".")[0] for name in tensor_names(folder)}
    return {"llm", "mar"} <= groups


def load_harmon(folder: Path, known: Sequence[Sizes] = (HARMON_0_5B, HARMON_1_5B)) -> Harmon:
    """Load a released Harmon in float32 from safetensors and its tokenizer; every tensor must be known and present.

    It generates 64 groups of tokens, each denoised in 25 deterministic steps; the release takes 100 stochastic ones.
    """
    stored = {convert_key(name): tensor.float() for name, tensor in read_tensors(folder).items()}
    embeddings = stored.get("language_model.model.embed_tokens.weight")
    sizes = next(
        (s for s in known if embeddings is not None and s.language_model.hidden_size == embeddings.shape[1]), None
    )
    if embeddings is None or sizes is None or "encoder.positions" not in stored:
        raise UserError(f"{folder} holds no Harmon of 0.5 or 1.5 billion parameters; give the folder of one.")
    num_positions = stored["encoder.positions"].shape[-2] - sizes.mar.num_buffers
    mar = replace(sizes.mar, grid=math.isqrt(max(num_positions, 1)))
    scheduler = _scheduler()  # built outside the meta device: its schedule is not in the checkpoint
    with torch.device("meta"):
        harmon = _build(sizes._replace(mar=mar), scheduler, load_tokenizer(folder))
    stored.setdefault("language_model.lm_head.weight", embeddings)
    stored = {name: _convert_tensor(name, tensor, mar.channels) for name, tensor in stored.items()}
    check_state_dict(harmon, stored, folder)
    harmon.load_state_dict(stored, assign=True)
    harmon.language_model.tie_weights()
    rotary = harmon.language_model.model.rotary_emb
    rotary.__init__(rotary.config)  # frequencies are not in the checkpoint, so they are still on the meta device
    return harmon.eval()


def build_harmon_1_5b(config: ReleaseConfig, tokenizer: Qwen2Tokenizer) -> Harmon:
    """Build Harmon-1.5B with random weights, for pictures of 512 px."""
    sizes = HARMON_1_5B._replace(mar=replace(HARMON_1_5B.mar, grid=_GRID))
    return _build(sizes, _scheduler(), tokenizer, config)


def _build(
    sizes: Sizes, scheduler: Scheduler, tokenizer: Qwen2Tokenizer, config: ReleaseConfig | None = None
) -> Harmon:
    return Harmon(
        Qwen2ForCausalLM(sizes.language_model),
        sizes.mar,
        KLAutoencoder(_kl16(sizes.vae_channels, sizes.mar.channels)),
        scheduler,
        tokenizer,
        drawing_steps=64,
        denoising_steps=25,
        config=config,
    )


def _convert_tensor(name: str, tensor: Tensor, channels: int) -> Tensor:
    """Return a released tensor in our shape.

    Learned positions and tokens lose their leading dimensions of size 1, the autoencoder's attention is a linear layer
    instead of a convolution, and the head drops the variances that only the release's sampler reads.
    """
    if name.startswith("head.out."):
        return tensor[:channels]
    if ".attentions." in name and tensor.ndim == 4:
        return tensor[:, :, 0, 0]
    if name.endswith(("positions", "encoder.buffer", "decoder.mask")):
        return tensor.reshape([size for size in tensor.shape if size > 1])
    return tensor


def _kl16(channels: int, latent_channels: int) -> AutoencoderKL:
    widths = [channels * times for times in (1, 1, 2, 2, 4)]
    return kl_network(widths, latent_channels, attention=True, layers_per_block=2, scaling_factor=_VAE_SCALE)


def _scheduler() -> Scheduler:
    """Return the scheduler of MAR's head (arXiv 2406.11838): a cosine schedule of 1000 steps, noise prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        timestep_spacing="trailing",
        clip_sample=False,
    )
