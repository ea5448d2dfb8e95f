"""A Janus-Pro in its authors' layout or in transformers': the inverse of `load_janus.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latentbridge.models.backbones.janus.authors_layout import MODEL_TYPE, NAMES, TOWERS, UNUSED
from latentbridge.models.backbones.janus.modeling_janus import IMAGE, JanusPro
from latentbridge.models.backbones.release_files import ReleaseFiles

_WEIGHTS = "model.safetensors"
_PART = re.compile(r"(model\.vision_model\..+\.self_attn\.)([qkv])_proj\.(\w+)")
_POSITIONS = "model.vision_model.embeddings.position_embedding.weight"
_RELEASED_TOWER = "siglip_large_patch16_384"
_MIN_SIZE_PX = 14


def release_files(model: JanusPro, authors: bool) -> ReleaseFiles:
    """Return a Janus-Pro as its authors' files, or as transformers'."""
    state = dict(model.model.state_dict())
    if authors:
        return ReleaseFiles({_WEIGHTS: authors_tensors(state)}, _authors_configs(model), UNUSED)
    if model.model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    processor = {"processor_class": "JanusProcessor", **model.image_processor.to_dict()}
    return ReleaseFiles(
        {_WEIGHTS: state},
        {
            "preprocessor_config.json": processor,
            "processor_config.json": {"processor_class": "JanusProcessor", "num_image_tokens": model.num_codes},
            "config.json": {**model.model.config.to_dict(), "architectures": ["JanusForConditionalGeneration"]},
        },
    )


def authors_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of transformers' state dict under the authors' names, with query, key and value in one `qkv`."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if part := _PART.fullmatch(name):
            stem, letter, kind = part.groups()
            if letter == "q":
                parts = [state[f"{stem}{each}_proj.{kind}"] for each in "qkv"]
                tensors[NAMES.to_theirs(f"{stem}qkv.{kind}")] = torch.cat(parts)
        else:
            tensors[NAMES.to_theirs(name)] = tensor[None] if name == _POSITIONS else tensor
    return tensors


def _authors_configs(model: JanusPro) -> dict[str, Any]:
    config: Any = model.model.config
    words, vision, vq = config.text_config, config.vision_config, config.vq_config
    width, codes = words.hidden_size, vq.num_embeddings
    tower = {"layers": vision.num_hidden_layers, "heads": vision.num_attention_heads}
    is_released = tower == TOWERS[_RELEASED_TOWER] and vision.patch_size == 16
    named = {"model_name": _RELEASED_TOWER} if is_released else {"model_name": "siglip", "heads": tower["heads"]}
    language = {
        name: getattr(words, name)
        for name in (
            "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "vocab_size", "max_position_embeddings", "rms_norm_eps",
        )
    }  # fmt: skip
    parts: dict[str, tuple[str, dict[str, Any]]] = {
        "vision": (
            "CLIPVisionTower",
            {"image_size": vision.image_size, "select_feature": "same", "select_layer": -1, **named},
        ),
        "aligner": (
            "MlpProjector",
            {"depth": vision.depth, "input_dim": vision.hidden_size, "n_embed": width, "projector_type": "mlp_gelu"},
        ),
        "gen_vision": ("VQ-16", {"image_token_size": codes, "n_embed": vq.embed_dim}),
        "gen_aligner": (
            "MlpProjector",
            {
                "depth": vq.num_hidden_layers,
                "input_dim": vq.embed_dim,
                "n_embed": width,
                "projector_type": "mlp_gelu",
            },
        ),
        "gen_head": (
            "vision_head",
            {"image_token_embed": vq.image_token_embed_dim, "image_token_size": codes, "n_embed": width},
        ),
    }
    return {
        "preprocessor_config.json": _authors_preprocessor(model),
        "processor_config.json": {
            "processor_class": "VLChatProcessor",
            "image_tag": IMAGE,
            "num_image_tokens": model.num_codes,
            "sft_format": "deepseek",
            "add_special_token": False,
            "ignore_id": -100,
            "mask_prompt": True,
        },
        "config.json": {
            "model_type": MODEL_TYPE,
            "architectures": ["MultiModalityCausalLM"],
            "language_config": {**language, "rope_theta": words.rope_parameters["rope_theta"]},
            **{
                f"{name}_config": {"cls": kind, "model_type": name, "params": params}
                for name, (kind, params) in parts.items()
            },
        },
    }


def _authors_preprocessor(model: JanusPro) -> dict[str, Any]:
    processor = model.image_processor
    mean = list(processor.image_mean)
    return {
        "image_processor_type": "VLMImageProcessor",
        "processor_class": "VLChatProcessor",
        "background_color": [int(255 * value) for value in mean],
        "do_normalize": processor.do_normalize,
        "image_mean": mean,
        "image_std": list(processor.image_std),
        "image_size": processor.size["height"],
        "min_size": getattr(processor, "min_size", _MIN_SIZE_PX),
        "rescale_factor": processor.rescale_factor,
    }
