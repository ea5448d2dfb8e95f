"""A Harmon built from nothing at any size, with the tiny tokenizer."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from latentbridge.config import TinyHarmonConfig
from latentbridge.models.autoencoder import KLAutoencoder, kl_network
from latentbridge.models.backbones.harmon.model import Harmon
from latentbridge.models.checkpoint import ASSETS
from latentbridge.models.diffusion import make_scheduler
from latentbridge.models.vocabulary import load_tokenizer

_TRAIN_TIMESTEPS = 1000


def new_harmon(config: TinyHarmonConfig, seed: int) -> Harmon:
    """A Harmon whose random weights depend on nothing but config and seed.

    Its head predicts velocities under the tiny model's schedule, which few steps of denoising need; the release's
    predicts noise.
    """
    tokenizer = load_tokenizer(ASSETS / "tokenizer")
    sizes = Qwen2Config(
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        intermediate_size=4 * config.width,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
    )
    halvings = config.patch_size_px.bit_length() - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = kl_network(
            (config.vae_channels,) * (halvings + 1),
            config.mar.channels,
            norm_num_groups=config.vae_channels // 4,
            scaling_factor=1.0,
        )
        harmon = Harmon(
            Qwen2ForCausalLM(sizes),
            config.mar,
            KLAutoencoder(autoencoder),
            make_scheduler(_TRAIN_TIMESTEPS),
            tokenizer,
        )
    return harmon.eval()
