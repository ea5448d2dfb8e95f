"""Loading of released checkpoints: Qwen2-VL, and OmniBridge's 1,046 tensors (spec 1.2)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, Qwen2VLVisionRotaryEmbedding

from latentbridge.config import OMNIBRIDGE_8B, QWEN2_VL_7B, BackboneConfig, ModelConfig
from latentbridge.errors import UserError
from latentbridge.models import tensors
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.modeling_qwen_vl import Compat
from latentbridge.models.tokenization import load_tokenizer

_RENAMES = (
    ("model.visual.", "backbone.model.model.visual."),
    ("model.language_model.", "backbone.model.model.language_model."),
    ("visual.", "backbone.model.model.visual."),
    ("model.", "backbone.model.model.language_model."),
    ("lm_head.", "backbone.model.lm_head."),
    ("downsampling_linear_layer.", "projector."),
    ("bilm.", "aligner."),
)
_HEADS = ("image_queries", "text_queries", "image_proj", "text_proj", "logit_scale", "fusion_alpha")


def convert_key(released: str) -> str:
    """Return the state-dict key of a released tensor, in the layout of transformers before 4.52 (`visual.*`) or after."""
    for prefix, new_prefix in _RENAMES:
        if released.startswith(prefix):
            return new_prefix + released.removeprefix(prefix)
    return f"retrieval.{released}" if released.startswith(_HEADS) else released


def is_released(folder: Path) -> bool:
    """Return whether a folder holds a Qwen2-VL checkpoint in transformers' layout."""
    path = folder / "config.json"
    return path.exists() and json.loads(path.read_text()).get("model_type") == "qwen2_vl"


def set_compat(model: OmniBridge, compat: Compat) -> None:
    """Make `model` compute as corrected here, or as the released OmniBridge does (docs/recipes.md lists the differences)."""
    model.backbone.compat = compat
    if "bridge" in model.config.parts:
        model.retrieval.compat = compat


def load_released(folder: Path) -> OmniBridge:
    """Load a Qwen2-VL or OmniBridge from sharded safetensors in bfloat16; raises UserError if any tensor does not fit."""
    stored = {convert_key(name): tensor.bfloat16() for name, tensor in read_tensors(folder).items()}
    values = json.loads((folder / "config.json").read_text())
    config = OMNIBRIDGE_8B if any(name.startswith("aligner.") for name in stored) else ModelConfig(parts=("backbone",))
    config = replace(config, backbone=_backbone_config(values))
    with torch.device("meta"):
        model = OmniBridge(config, load_tokenizer(folder))
    if config.backbone.tied_embeddings:
        stored.setdefault(
            "backbone.model.lm_head.weight", stored["backbone.model.model.language_model.embed_tokens.weight"]
        )
    check_state_dict(model, stored, folder)
    model.load_state_dict(stored, assign=True)
    for module in model.modules():
        if isinstance(module, (Qwen2VLRotaryEmbedding, Qwen2VLVisionRotaryEmbedding)):
            # the frequencies are not in the checkpoint, so they are still on the meta device
            module.__init__(module.config)  # pyright: ignore[reportArgumentType]
    return model.eval()


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a folder's safetensors files, or of those that its index names."""
    files = tensors.shard_files(folder, "*.safetensors")
    if not files:
        raise UserError(f"{folder} holds no .safetensors files; download the safetensors version of the checkpoint.")
    return {name: tensor for path in files for name, tensor in tensors.read_tensors(path, tensors.REDOWNLOAD).items()}


def tensor_names(folder: Path) -> set[str]:
    """Return the names of the tensors in a folder's safetensors files without reading the tensors."""
    return {
        name
        for path in tensors.shard_files(folder, "*.safetensors")
        for name in tensors.read_header(path, tensors.REDOWNLOAD)
    }


def check_state_dict(model: nn.Module, stored: dict[str, torch.Tensor], folder: Path) -> None:
    """Raise UserError unless the names and shapes of `stored` are exactly the model's."""
    if mismatched := tensors.mismatched_tensors(model.state_dict(), stored):
        raise UserError(f"{folder} does not fit: {tensors.describe_mismatch(mismatched)}.")


def _backbone_config(values: dict[str, Any]) -> BackboneConfig:
    """Return the sizes in a checkpoint's config, which is flat (old) or nested (new)."""
    text, vision = {**values, **values.get("text_config", {})}, values["vision_config"]
    rope = text.get("rope_parameters") or {"rope_theta": text.get("rope_theta", 1e6)}
    return replace(
        QWEN2_VL_7B,
        hidden_size=text["hidden_size"],
        num_layers=text["num_hidden_layers"],
        num_heads=text["num_attention_heads"],
        num_kv_heads=text["num_key_value_heads"],
        intermediate_size=text["intermediate_size"],
        vocab_size=text["vocab_size"],
        rope_theta=rope["rope_theta"],
        tied_embeddings=bool(values.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        vision_width=vision["embed_dim"],
        vision_layers=vision["depth"],
        vision_heads=vision["num_heads"],
        patch_size_px=vision["patch_size"],
        merge_size=vision["spatial_merge_size"],
    )
