"""Building of transformers' Qwen-VL models and image processors from our configs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import PreTrainedConfig, Qwen2Tokenizer, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from latentbridge.config import BackboneConfig
from latentbridge.models.tokenization import token_id

if TYPE_CHECKING:
    from transformers import (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLForConditionalGeneration,
        Qwen3VLForConditionalGeneration,
    )

    QwenModel = Qwen2VLForConditionalGeneration | Qwen2_5_VLForConditionalGeneration | Qwen3VLForConditionalGeneration
ARCHITECTURES = {
    "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration"),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration"),
    "qwen3_vl": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
}
"""Config and model of transformers, imported on use, by the `model_type` of a config.json."""


def build_model(config: BackboneConfig, tokenizer: Qwen2Tokenizer) -> QwenModel:
    """Build the network of a config with random weights of the default data type."""
    library = parse_config(json.loads(config.release.config)) if config.release.config else _sized(config, tokenizer)
    kind = getattr(transformers, ARCHITECTURES[library.model_type][1])
    return kind._from_config(library, attn_implementation="sdpa", dtype=torch.get_default_dtype())


def parse_config(values: dict[str, Any]) -> Any:
    """Return transformers' config of a release's config.json."""
    kind = getattr(transformers, ARCHITECTURES[values["model_type"]][0])
    return kind.from_dict(values)


def build_processor(config: BackboneConfig) -> Qwen2VLImageProcessorPil:
    """Build the image processor of a config."""
    if config.release.processor:
        processor: Any = Qwen2VLImageProcessorPil.from_dict(json.loads(config.release.processor))
        return processor
    min_area, max_area = (config.image_size_px**2,) * 2 if config.image_size_px else config.pixel_range
    return Qwen2VLImageProcessorPil(
        patch_size=config.patch_size_px,
        merge_size=config.merge_size,
        size={"shortest_edge": min_area, "longest_edge": max_area},
    )


def _sized(config: BackboneConfig, tokenizer: Qwen2Tokenizer) -> PreTrainedConfig:
    """Return the config of a Qwen2-VL of the configured sizes."""
    head_dim = config.hidden_size // config.num_heads
    temporal = head_dim // 8
    spatial = (head_dim // 2 - temporal) // 2
    return Qwen2VLConfig(
        text_config={
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "intermediate_size": config.intermediate_size,
            "vocab_size": config.vocab_size or len(tokenizer),
            "tie_word_embeddings": config.tied_embeddings,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": config.rope_theta,
                "mrope_section": [head_dim // 2 - 2 * spatial, spatial, spatial],
            },
            "bos_token_id": token_id(tokenizer, "<|endoftext|>"),
            "eos_token_id": token_id(tokenizer, "<|im_end|>"),
            "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
        },
        vision_config={
            "depth": config.vision_layers,
            "embed_dim": config.vision_width,
            "num_heads": config.vision_heads,
            "hidden_size": config.hidden_size,
            "patch_size": config.patch_size_px,
            "spatial_merge_size": config.merge_size,
        },
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=config.tied_embeddings,
    )
