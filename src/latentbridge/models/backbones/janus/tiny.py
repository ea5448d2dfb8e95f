"""Randomly initialised Janus-Pro models of any size, with the tiny tokenizer."""

from __future__ import annotations

from transformers import JanusConfig, JanusForConditionalGeneration, Qwen2Tokenizer
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from latentbridge.config import TinyJanusConfig
from latentbridge.models.backbones.janus.modeling_janus import IMAGE, SPECIAL_TOKENS, JanusPro
from latentbridge.models.tokenization import token_id

_CODE_WIDTH = 8
"""Width of a codebook entry, as in the release."""


def build_janus(config: TinyJanusConfig, tokenizer: Qwen2Tokenizer) -> JanusPro:
    """Build a Janus-Pro with random weights and add its special tokens to the tokenizer; pixels are in [-1, 1] as in the release.

    The VQ model is random too; train its codes first (the stage "pretrain_codes").
    """
    add_special_tokens(tokenizer)
    size_px, patch_px = config.image_size_px, config.patch_size_px
    halvings = patch_px.bit_length() - 1
    sizes = JanusConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": config.width,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "intermediate_size": 4 * config.width,
            "vocab_size": len(tokenizer),
            "tie_word_embeddings": True,
        },
        vision_config={
            "hidden_size": config.width,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "image_size": size_px,
            "patch_size": patch_px,
            "num_image_tokens": (size_px // patch_px) ** 2,
            "projection_dim": config.width,
        },
        vq_config={
            "embed_dim": _CODE_WIDTH,
            "num_embeddings": config.codebook_size,
            "latent_channels": 2 * config.vq_channels,
            "base_channels": config.vq_channels,
            "channel_multiplier": [1] * halvings + [2],
            "num_res_blocks": 1,
            "projection_dim": config.width,
            "image_token_embed_dim": config.width,
        },
        image_token_id=token_id(tokenizer, IMAGE),
    )
    return JanusPro(JanusForConditionalGeneration(sizes), tokenizer, image_processor(size_px), config=config)


def add_special_tokens(tokenizer: Qwen2Tokenizer) -> None:
    """Add a Janus-Pro's special tokens to the tiny tokenizer."""
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<|im_end|>"


def image_processor(size_px: int) -> JanusImageProcessorPil:
    """Return the release's image processor for squares of `size_px`, with outputs in [-1, 1]."""
    return JanusImageProcessorPil(size={"height": size_px, "width": size_px}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
