"""A picture tower and a text tower that meet in one space: the library's CLIP or SigLIP, and a small SigLIP of our own."""

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
"""SigLIP reads padding as text, always to its full context."""
_FIRST_SCALE = 1 / 0.07
"""What similarities are multiplied by before training; CLIP's, for SigLIP's belongs to its sigmoid."""


class DualEncoder(nn.Module):
    """A library's two-tower model with how it is fed; what comes out are unit vectors, texts cut at the context."""

    def __init__(
        self, model: Any, processor: Any, tokenizer: Any, tokens: dict[str, Any], config: SceneConfig | None = None
    ) -> None:
        """`tokens` is how the text tower was trained to be fed, `config` what the model was built from, where built here."""
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = tokenizer
        self.tokens = tokens
        self.config = config

    @property
    def context(self) -> int:
        """Tokens the text tower reads."""
        return self.model.config.text_config.max_position_embeddings

    def embed_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """float32 [b e]; the pictures may differ in size."""
        images = [Image.fromarray(picture) for picture in pictures]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"].to(device_of(self))
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """float32 [b e]."""
        fed = self.tokenizer(list(texts), truncation=True, max_length=self.context, return_tensors="pt", **self.tokens)
        return F.normalize(self.model.get_text_features(**fed.to(device_of(self))).pooler_output.float(), dim=-1)


def build_scene(config: SceneConfig, tokenizer: Qwen2Tokenizer) -> DualEncoder:
    """A SigLIP with random weights from the global generator."""
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
        model.logit_scale.fill_(math.log(_FIRST_SCALE))
    side = {"height": config.image_size_px, "width": config.image_size_px}
    return DualEncoder(model, SiglipImageProcessorPil(size=side), tokenizer, SIGLIP_TOKENS, config)
