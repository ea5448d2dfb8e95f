"""Loading of released checkpoints: Qwen2-VL, Qwen2.5-VL and Qwen3-VL, and OmniBridge's 1,046 tensors (spec 1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from latentbridge import prompts
from latentbridge.config import OMNIBRIDGE_8B, ModelConfig
from latentbridge.errors import UserError
from latentbridge.models import tensors
from latentbridge.models.backbones.names import NameTable, Rule
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.modeling_qwen_vl import Compat
from latentbridge.models.qwen_vl.release import read_backbone_config
from latentbridge.models.stored_tensor import StoredTensor
from latentbridge.models.tokenization import load_tokenizer
from latentbridge.models.weights import AS_STORED, Placement, assign_weights, empty_weights

_LIBRARY: tuple[Rule, ...] = (
    ("model.visual.", "backbone.model.model.visual."),
    ("model.language_model.", "backbone.model.model.language_model."),
)
_AUTHORS: tuple[Rule, ...] = (
    ("visual.", "backbone.model.model.visual."),
    ("model.", "backbone.model.model.language_model."),
)
_HEADS = "{image_queries|text_queries|image_proj|text_proj|logit_scale|fusion_alpha}"
_SHARED: tuple[Rule, ...] = (
    ("lm_head.", "backbone.model.lm_head."),
    ("downsampling_linear_layer.", "projector."),
    ("bilm.", "aligner."),
    (_HEADS, f"retrieval.{_HEADS}"),
)
AUTHORS_NAMES = NameTable((*_AUTHORS, *_SHARED))
"""Names of transformers before 4.52, which the authors' code has, and ours."""
NAMES = NameTable((*_LIBRARY, *_AUTHORS, *_SHARED))
"""Names of either layout and ours; the other way, those of transformers from 4.52."""
_STEPS, _GUIDANCE = 100, 6.0


def convert_key(released: str) -> str:
    """Return the state-dict key of a released tensor, in the layout of transformers before 4.52 (`visual.*`) or after."""
    return NAMES.to_ours(released)


def set_compat(model: OmniBridge, compat: Compat) -> None:
    """Make `model` compute as corrected here, or as the released OmniBridge does (docs/recipes.md lists the differences)."""
    model.backbone.compat = compat
    if "bridge" in model.config.parts:
        model.retrieval.compat = compat


def load_released(folder: Path, placement: Placement = AS_STORED) -> OmniBridge:
    """Load a Qwen-VL or OmniBridge from sharded safetensors, in bfloat16 by default; raises UserError if any tensor does not fit.

    The image processor of an OmniBridge has the limits of its authors' scripts, not those of its folder (spec 2).
    """
    tokenizer = load_tokenizer(folder)
    backbone = read_backbone_config(folder, tokenizer)
    stored = {convert_key(name): tensor for name, tensor in open_tensors(folder).items()}
    if any(name.startswith("aligner.") for name in stored):
        backbone = replace(backbone, release=replace(backbone.release, processor=""))
        config = replace(bridge_config(stored), backbone=backbone)
    else:
        config = ModelConfig(parts=("backbone",), backbone=backbone)
    with empty_weights():
        model = OmniBridge(config, tokenizer)
    if backbone.tied_embeddings:
        stored.setdefault(
            "backbone.model.lm_head.weight", stored["backbone.model.model.language_model.embed_tokens.weight"]
        )
    check_state_dict(model, stored, folder)
    assign_weights(model, stored, placement, torch.bfloat16)
    if "bridge" in config.parts:
        set_release_defaults(model)
    return model.eval()


def bridge_config(stored: Mapping[str, StoredTensor]) -> ModelConfig:
    """Return the sizes of the bridge in a checkpoint, with our names; what no shape tells is OmniBridge-8B's."""

    def size(name: str, axis: int) -> int:
        if name not in stored:
            raise UserError(f"The checkpoint has an aligner, but no {name}; download it again.")
        return stored[name].shape[axis]

    blocks = {int(name.split(".")[2]) for name in stored if name.startswith("aligner.block.")}
    cross = {int(name.split(".")[2]) for name in stored if name.endswith("EncDecAttention.q.weight")}
    buckets, heads = (
        size("aligner.block.0.layer.0.SelfAttention.relative_attention_bias.weight", axis) for axis in (0, 1)
    )
    queries = size("aligner.query_tokens", 1)
    last = "layer.2" if 0 in cross else "layer.1"
    aligner = replace(
        OMNIBRIDGE_8B.aligner,
        d_model=size("aligner.query_tokens", 2),
        d_ff=size(f"aligner.block.0.{last}.DenseReluDense.wo.weight", 1),
        d_kv=size("aligner.block.0.layer.0.SelfAttention.q.weight", 0) // heads,
        num_heads=heads,
        num_layers=len(blocks),
        num_queries=queries,
        num_buckets=buckets,
        cross_layers=tuple(sorted(cross)),
    )
    retrieval = replace(
        OMNIBRIDGE_8B.retrieval,
        num_image_queries=size("retrieval.image_queries", 1),
        num_text_queries=size("retrieval.text_queries", 1),
        embedding_size=size("retrieval.image_proj.cross_attn.proj.weight", 0),
    )
    return replace(OMNIBRIDGE_8B, aligner=aligner, retrieval=retrieval, text_length=queries)


def set_release_defaults(model: OmniBridge) -> None:
    """Give an OmniBridge the prompts and sampling defaults of its authors' scripts (spec 2.2 step 7, 2.3)."""
    model.templates = prompts.OMNIBRIDGE_RELEASE
    model.drawing_options = replace(model.drawing_options, steps=_STEPS, guidance=_GUIDANCE)
    model.edit_options = replace(model.edit_options, steps=_STEPS, guidance=_GUIDANCE)


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
