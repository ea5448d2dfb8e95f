"""Randomly initialised BAGEL models of any size, with the tiny tokenizer."""

from __future__ import annotations

from torch import nn
from transformers import Qwen2Config, Qwen2Tokenizer, SiglipVisionConfig

from latentbridge.config import AutoencoderConfig, TinyBagelConfig
from latentbridge.models.autoencoder import Autoencoder, KLAutoencoder, PatchAutoencoder, kl_network
from latentbridge.models.backbones.bagel.latent_tokens import LatentTokens
from latentbridge.models.backbones.bagel.mixture_of_transformers import MixtureOfTransformers
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.bagel.navit_encoder import NaViTEncoder

_LATENT_CHANNELS, _LATENT_PATCH = 16, 2
"""Channels and patch size of image latents, as in the release."""
_INIT_STD = 0.02
"""Standard deviation of new weight matrices, as in Qwen2."""


def build_bagel(config: TinyBagelConfig, tokenizer: Qwen2Tokenizer) -> Bagel:
    """Build a BAGEL with random weights and zero velocities.

    The autoencoder is random too; fit or train it before the model is trained to generate.
    """
    language = Qwen2Config(
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        intermediate_size=4 * config.width,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
    )
    most_px = config.image_size_px // config.eye_patch_px * config.eye_patch_px
    vision = SiglipVisionConfig(
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=4 * config.width,
        image_size=most_px,
        patch_size=config.eye_patch_px,
        vision_use_head=False,
    )
    language_model = MixtureOfTransformers(language)
    eye = NaViTEncoder(vision, config.width, shortest_px=most_px // 4)
    latents = LatentTokens(_LATENT_CHANNELS, config.width, config.image_size_px // config.patch_size_px, _LATENT_PATCH)
    for part in (language_model, eye.connector, latents):
        part.apply(_initialise)
    nn.init.zeros_(latents.proj_out.weight)
    model = Bagel(language_model, eye, latents, _autoencoder(config), tokenizer, config=config)
    model.max_pictures, model.takes_system_message = 1, False  # as in the conversations it is trained on
    return model


def _autoencoder(config: TinyBagelConfig) -> Autoencoder:
    side_px = config.patch_size_px // _LATENT_PATCH
    if config.autoencoder == "linear":
        return PatchAutoencoder(AutoencoderConfig(side_px, _LATENT_CHANNELS))
    network = kl_network(
        (config.vae_channels,) * (side_px.bit_length() - 1) + (2 * config.vae_channels,),
        _LATENT_CHANNELS,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return KLAutoencoder(network)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=_INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
