"""Janus-Pro-7B at its released sizes (arXiv 2501.17811; spec LatentUMM 6); transformers loads its weights."""

from __future__ import annotations

from typing import Any

from transformers import JanusConfig, JanusForConditionalGeneration, Qwen2Tokenizer

from latentbridge.config import ReleaseConfig
from latentbridge.models.backbones.janus.modeling_janus import IMAGE, SPECIAL_TOKENS, JanusPro
from latentbridge.models.backbones.janus.tiny import image_processor
from latentbridge.models.tokenization import token_id

_SIZE_PX = 384
_WIDTH = 4096
_JANUS_PRO_7B: Any = {
    "text_config": {
        "model_type": "llama",
        "hidden_size": _WIDTH,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 102400,
        "max_position_embeddings": 16384,
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": _SIZE_PX,
        "patch_size": 16,
        "num_image_tokens": 576,
        "projection_dim": _WIDTH,
    },
    "vq_config": {
        "embed_dim": 8,
        "num_embeddings": 16384,
        "latent_channels": 256,
        "base_channels": 128,
        "channel_multiplier": [1, 1, 2, 2, 4],
        "num_res_blocks": 2,
        "projection_dim": _WIDTH,
        "image_token_embed_dim": _WIDTH,
    },
}
"""A DeepSeek-LLM of 7 billion parameters, SigLIP-L/16 at 384 px, LlamaGen's VQ-16."""


def build_janus_pro_7b(config: ReleaseConfig, tokenizer: Qwen2Tokenizer) -> JanusPro:
    """Build Janus-Pro-7B with random weights, and add its special tokens to the tokenizer if they are missing."""
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    sizes = JanusConfig(**_JANUS_PRO_7B, image_token_id=token_id(tokenizer, IMAGE), tie_word_embeddings=False)
    return JanusPro(JanusForConditionalGeneration(sizes), tokenizer, image_processor(_SIZE_PX), config=config)
