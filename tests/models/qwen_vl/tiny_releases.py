"""Tiny Qwen-VL models with random weights, saved by transformers as released folders are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from latentbridge.models.checkpoint import ASSETS
from latentbridge.models.qwen_vl.build import ARCHITECTURES
from latentbridge.models.tokenization import load_tokenizer, token_id
from latentbridge.rng import torch_rng

KINDS = tuple(ARCHITECTURES)
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + _IMAGE + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
)
_DEFAULT = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
)


def template(default_system: bool, prefix: str = "") -> str:
    """ChatML as the releases write it; Qwen3-VL's has no system prompt of its own."""
    return (
        "{% for message in messages %}" + (_DEFAULT if default_system else "") + "<|im_start|>{{ message['role'] }}\n"
        + _CONTENT + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n" + prefix
        + "{% endif %}"
    )  # fmt: skip


def save_release(kind: str, folder: Path, prefix: str = "", **generation: Any) -> Path:
    """Save a model of `kind` with its processor, tokenizer, chat template and generation settings."""
    tokenizer = load_tokenizer(ASSETS / "tokenizer")
    model = _model(kind, tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=torch_rng(4, name))
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    ends = [token_id(tokenizer, "<|im_end|>"), token_id(tokenizer, "<|endoftext|>")]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1], **generation)
    model.save_pretrained(folder)
    tokenizer.chat_template = template(kind != "qwen3_vl", prefix)
    tokenizer.save_pretrained(folder)
    mean = [0.5, 0.4, 0.3] if kind == "qwen3_vl" else [0.48, 0.45, 0.41]
    patch = model.config.vision_config.patch_size
    size = {"shortest_edge": 20 * 30, "longest_edge": 40 * 50}
    Qwen2VLImageProcessorPil(patch_size=patch, merge_size=2, size=size, image_mean=mean).save_pretrained(folder)
    return folder


def _model(kind: str, tokenizer: Qwen2Tokenizer) -> Any:
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    ids = {f"{name.removesuffix('_pad')}_token_id": token_id(tokenizer, f"<|{name}|>") for name in names}
    text: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 56,
        "vocab_size": len(tokenizer),
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 777,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e4, "mrope_section": [2, 2, 2]},
    }
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "spatial_merge_size": 2, "patch_size": 4}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 48}
    if kind == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    if kind == "qwen3_vl":
        vision |= {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1], "patch_size": 5}
        text |= {"head_dim": 16, "rope_parameters": {**text["rope_parameters"], "mrope_section": [4, 2, 2]}}
    config, model = (getattr(transformers, name) for name in ARCHITECTURES[kind])
    return model(config(text_config=text, vision_config=vision, tie_word_embeddings=kind == "qwen3_vl", **ids)).eval()
