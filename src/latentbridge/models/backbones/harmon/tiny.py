"""Randomly initialised Harmon models of any size, with the tiny tokenizer."""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from latentbridge.config import AutoencoderConfig, TinyHarmonConfig
from latentbridge.models.autoencoder import Autoencoder, KLAutoencoder, PatchAutoencoder, kl_network
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.harmon.options import HarmonDrawingOptions, HarmonReplyOptions
from latentbridge.models.diffusion import make_scheduler

_TRAIN_TIMESTEPS = 1000


def build_harmon(config: TinyHarmonConfig, tokenizer: Qwen2Tokenizer) -> Harmon:
    """Build a Harmon with random weights.

    Its head predicts velocities under the tiny model's noise schedule, which needs few deterministic denoising steps; the
    release's head predicts noise and variances.
    """
    sizes = Qwen2Config(
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        intermediate_size=4 * config.width,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
    )
    scheduler = make_scheduler(_TRAIN_TIMESTEPS)
    return Harmon(
        Qwen2ForCausalLM(sizes),
        config.mar,
        _autoencoder(config),
        scheduler,
        tokenizer,
        HarmonDrawingOptions(steps=8, sampler="ddim", denoising_steps=8),
        HarmonReplyOptions(),
        config=config,
    )


def _autoencoder(config: TinyHarmonConfig) -> Autoencoder:
    if config.autoencoder == "linear":
        return PatchAutoencoder(AutoencoderConfig(config.patch_size_px, config.mar.channels))
    network = kl_network(
        (config.vae_channels,) * config.patch_size_px.bit_length(),
        config.mar.channels,
        norm_num_groups=config.vae_channels // 4,
        scaling_factor=1.0,
    )
    return KLAutoencoder(network)
