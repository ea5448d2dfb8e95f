"""Dual encoders of pictures and texts: transformers' CLIP and SigLIP, and a small SigLIP trained here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2Tokenizer, SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from latentbridge.config import SceneConfig
from latentbridge.devices import device_of
from latentbridge.types import Picture

SIGLIP_TOKENS: dict[str, Any] = {"padding": "max_length", "return_attention_mask": False}
"""SigLIP's tokenizer settings: it attends to padding and always pads to its context length."""
_INITIAL_SCALE = 1 / 0.07
"""CLIP's initial logit scale; SigLIP's belongs to its sigmoid loss."""


class DualEncoder(nn.Module):
    """transformers' CLIP or SigLIP with its processor and tokenizer; its embeddings are unit vectors."""

    def __init__(
        self, model: Any, processor: Any, tokenizer: Any, tokens: dict[str, Any], config: SceneConfig | None = None
    ) -> None:
        """`tokens` are tokenizer settings; `config` is given for models built here."""
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = tokenizer
        self.tokens = tokens
        self.config = config

    def embed_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Return float32 [b e] of pictures of any sizes."""
        images = [Image.fromarray(picture) for picture in pictures]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"].to(device_of(self))
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return float32 [b e] of texts, truncated at the context length."""
        length = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(list(texts), truncation=True, max_length=length, return_tensors="pt", **self.tokens)
        return F.normalize(self.model.get_text_features(**inputs.to(device_of(self))).pooler_output.float(), dim=-1)


def build_scene(config: SceneConfig, tokenizer: Qwen2Tokenizer) -> DualEncoder:
    """Build a SigLIP with random weights from the global generator."""
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), tokenizer.pad_token_id)
    sizes = SiglipConfig(
        text_config={
            "hidden_size": config.text_width,
            "intermediate_size": 4 * config.text_width,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.text_length,
            "projection_size": config.picture_width,
            "vocab_size": len(tokenizer),
            **ids,
        },
        vision_config={
            "hidden_size": config.picture_width,
            "intermediate_size": 4 * config.picture_width,
            "num_hidden_layers": config.picture_layers,
            "num_attention_heads": config.picture_heads,
            "image_size": config.image_size_px,
            "patch_size": config.patch_size_px,
        },
    )
    model = SiglipModel(sizes)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(_INITIAL_SCALE))
    side = {"height": config.image_size_px, "width": config.image_size_px}
    return DualEncoder(model, SiglipImageProcessorPil(size=side), tokenizer, SIGLIP_TOKENS, config)
