"""Weights others released, under their own key names: Qwen2-VL, and OmniBridge's 1,046 tensors (spec 1.2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, Qwen2VLVisionRotaryEmbedding

from latentbridge.config import OMNIBRIDGE_8B, QWEN2_VL_7B, BackboneConfig, ModelConfig
from latentbridge.errors import UserError
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
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
    """Our state-dict name of a released tensor, in the old layout (`visual.*`, `model.*`) or that of transformers 4.52 and later."""
    for prefix, ours in _RENAMES:
        if released.startswith(prefix):
            return ours + released.removeprefix(prefix)
    return f"retrieval.{released}" if released.startswith(_HEADS) else released


def is_released(folder: Path) -> bool:
    """Whether a folder holds a Qwen2-VL checkpoint as others save it."""
    path = folder / "config.json"
    return path.exists() and json.loads(path.read_text()).get("model_type") == "qwen2_vl"


def load_released(folder: Path, dtype: torch.dtype = torch.bfloat16) -> OmniBridge:
    """A Qwen2-VL, or OmniBridge on one, from sharded safetensors; every tensor must be known, present and of the right shape."""
    stored = {convert_key(name): tensor.to(dtype) for name, tensor in read_tensors(folder).items()}
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
            # its frequencies are no weights, so they are still on the meta device
            module.__init__(module.config)  # pyright: ignore[reportArgumentType]
    return model.eval()


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors files, under the names they have there."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors files; download the safetensors version of the checkpoint.")
    stored: dict[str, torch.Tensor] = {}
    for path in files:
        with _opened(path) as shard:
            stored.update({name: shard.get_tensor(name) for name in shard.keys()})  # noqa: SIM118
    return stored


def tensor_names(folder: Path) -> set[str]:
    """The names in a folder's safetensors files; no tensor is read."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with _opened(path) as shard:
            names.update(shard.keys())
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as shard:
            yield shard
    except (OSError, SafetensorError) as error:
        raise UserError(f"Cannot read {path} ({error}); download it again.") from error


def check_state_dict(model: nn.Module, stored: dict[str, torch.Tensor], folder: Path) -> None:
    """Refuse tensors that are not the model's, all of them and in its shapes."""
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in stored.items()}
    odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if odd:
        raise UserError(
            f"{folder} does not fit: {len(odd)} tensors are missing, unexpected or of another shape (first: {odd[0]})."
        )


def _backbone_config(values: dict[str, Any]) -> BackboneConfig:
    """Sizes read from a checkpoint's own config, in its flat (old) or nested (new) form."""
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
