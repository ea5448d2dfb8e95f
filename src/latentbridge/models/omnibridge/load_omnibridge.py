"""Loading of released checkpoints: Qwen2-VL, and OmniBridge's 1,046 tensors (spec 1.2)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentbridge.config import OMNIBRIDGE_8B, QWEN2_VL_7B, BackboneConfig, ModelConfig
from latentbridge.errors import UserError
from latentbridge.models import tensors
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.modeling_qwen_vl import Compat
from latentbridge.models.stored_tensor import StoredTensor
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.models.weights import AS_STORED, Placement, assign_weights, empty_weights

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


def load_released(folder: Path, placement: Placement = AS_STORED) -> OmniBridge:
    """Load a Qwen2-VL or OmniBridge from sharded safetensors, in bfloat16 by default; raises UserError if any tensor does not fit."""
    stored = {convert_key(name): tensor for name, tensor in open_tensors(folder).items()}
    values = json.loads((folder / "config.json").read_text())
    config = OMNIBRIDGE_8B if any(name.startswith("aligner.") for name in stored) else ModelConfig(parts=("backbone",))
    config = replace(config, backbone=_backbone_config(values))
    with empty_weights():
        model = OmniBridge(config, load_tokenizer(folder))
    if config.backbone.tied_embeddings:
        stored.setdefault(
            "backbone.model.lm_head.weight", stored["backbone.model.model.language_model.embed_tokens.weight"]
        )
    check_state_dict(model, stored, folder)
    assign_weights(model, stored, placement, torch.bfloat16)
    return model.eval()


def open_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors in a folder's safetensors files, or in those that its index names."""
    files = tensors.shard_files(folder, "*.safetensors")
    if not files:
        raise UserError(f"{folder} holds no .safetensors files; download the safetensors version of the checkpoint.")
    return {name: tensor for path in files for name, tensor in tensors.open_tensors(path, tensors.REDOWNLOAD).items()}


def tensor_names(folder: Path) -> set[str]:
    """Return the names of the tensors in a folder's safetensors files, of which there may be none."""
    return {
        name
        for path in tensors.shard_files(folder, "*.safetensors")
        for name in tensors.open_tensors(path, tensors.REDOWNLOAD)
    }


def check_state_dict(model: nn.Module, stored: tensors.Tensors, folder: Path) -> None:
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
