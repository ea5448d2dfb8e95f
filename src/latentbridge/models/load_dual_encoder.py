"""Loading of dual encoders (CLIP, SigLIP, SigLIP 2 and their kin) from folders in transformers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.models.dual_encoder import DualEncoder
from latentbridge.models.library_logging import quiet
from latentbridge.models.tensors import describe_mismatch
from latentbridge.models.weights import AS_STORED, Placement

_BUFFERS = "position_ids"
"""Last part of the names of tensors in older files that transformers computes now."""


def is_dual_encoder(folder: Path) -> bool:
    """Return whether a folder's config names a model of transformers that has text and picture features."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    name = MODEL_MAPPING_NAMES.get(config.get("model_type", "")) if isinstance(config, dict) else None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    return hasattr(kind, "get_text_features") and hasattr(kind, "get_image_features")


@torch.no_grad()
def load_dual_encoder(folder: Path, placement: Placement = AS_STORED) -> DualEncoder:
    """Load a dual encoder, in float32 by default; raise UserError unless its safetensors fit exactly and its features are vectors."""
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"There is no safetensors model in {folder}; download the safetensors version of the model.")
    try:
        with quiet(transformers.logging):
            model, report = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=placement.dtype or torch.float32,
                ignore_mismatched_sizes=True,  # reported below; the library's error names no tensor
                output_loading_info=True,
            )
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust parsers of tensors and tokenizers raise bare Exception
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Cannot read {folder} ({reason}); give the complete folder of a dual encoder.") from error
    _check_report(report, folder)
    encoder = DualEncoder(model.eval(), processor, tokenizer)
    try:
        fits = encoder.embed_texts(["a"]).shape == (1, encoder.embedding_size)
    except (AttributeError, TypeError, ValueError):  # features that are no pooled output, or inputs of another kind
        fits = False
    if not fits:
        raise UserError(
            f"The {encoder.kind} model in {folder} has no text features of one vector each; use CLIP or SigLIP."
        )
    return encoder


def _check_report(report: dict[str, Any], folder: Path) -> None:
    """Raise UserError if transformers reports tensors that are missing, unexpected or of another shape."""
    names = {*report["missing_keys"], *report["unexpected_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if mismatched := sorted(name for name in names if not name.endswith(_BUFFERS)):
        raise UserError(f"{folder} does not fit: {describe_mismatch(mismatched)}.")
