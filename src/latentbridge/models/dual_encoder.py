"""Dual encoders of pictures and texts: transformers' CLIP, SigLIP and their kin, and a small SigLIP trained here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer, SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from latentbridge.config import SceneConfig
from latentbridge.devices import device_of
from latentbridge.images import ImageLike, open_picture
from latentbridge.models.unified import UnifiedModel
from latentbridge.types import Picture, Skill

_UNMASKED = ("siglip", "siglip2")
"""Kinds whose text encoders attend to padding, as they were trained."""
_INITIAL_SCALE = 1 / 0.07
"""CLIP's initial logit scale; SigLIP's belongs to its sigmoid loss."""


class DualEncoder(UnifiedModel):
    """A model of transformers with text and picture features, which it gives as unit vectors of one space.

    Texts are cut at the context length and always padded to it, as these models were trained; so a vector does not depend on
    the batch. Pictures go through the model's own processor, on Pillow.
    """

    def __init__(
        self, model: Any, processor: Any, tokenizer: PreTrainedTokenizerBase, config: SceneConfig | None = None
    ) -> None:
        """`model` is transformers', `processor` its picture processor; `config` is given for models built here."""
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = tokenizer
        self.config = config
        self.kind = model.config.model_type if config is None else config.kind
        positions = getattr(model.config.text_config, "max_position_embeddings", tokenizer.model_max_length)
        self.context_length = min(positions, tokenizer.model_max_length)
        self.image_size_px = None
        self.drawing_size_px = None

    @property
    def skills(self) -> frozenset[Skill]:
        return frozenset(("embed",))

    @property
    def embedding_size(self) -> int:
        config = self.model.config
        return config.projection_dim if hasattr(config, "projection_dim") else config.vision_config.hidden_size

    def fit(self, image: ImageLike) -> Picture:
        """Return an image as the processor resizes and crops it, which it leaves unchanged when it gets it again.

        A processor whose output keeps the aspect ratio (SigLIP 2's NaFlex) gets the image at its own size.
        """
        picture = open_picture(image)
        if "spatial_shapes" in self.processor.model_input_names:
            return picture
        plain = self._process([picture], do_rescale=False, do_normalize=False)["pixel_values"][0]
        return plain.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()

    def embedding(self, kind: Literal["image", "text"], items: Sequence[Picture] | Sequence[str]) -> Tensor:
        if kind == "image":
            return self.embed_pictures(cast(Sequence[Picture], items))
        return self.embed_texts(cast(Sequence[str], items))

    def embed_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Return float32 [b e] of pictures of any sizes."""
        inputs = self._process(pictures).to(device_of(self), self.dtype)
        return _unit(self.model.get_image_features(**inputs))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return float32 [b e] of texts."""
        inputs = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_attention_mask=None if self.model.config.model_type not in _UNMASKED else False,
            return_tensors="pt",
        )
        return _unit(self.model.get_text_features(**inputs.to(device_of(self))))

    def _process(self, pictures: Sequence[Picture], **options: bool) -> Any:
        return self.processor(images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt", **options)


def _unit(features: Any) -> Tensor:
    return F.normalize(features.pooler_output.float(), dim=-1)


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
    return DualEncoder(model, SiglipImageProcessorPil(size=side), tokenizer, config)
