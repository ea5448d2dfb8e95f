"""Encoders of pictures that grade: CLIP, Long-CLIP, SigLIP, DINOv2 and DINOv3 from folders in transformers' layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from latentbridge.errors import UserError, unknown_name
from latentbridge.models.teachers import load_teacher
from latentbridge.models.teachers.dual_encoder import folder_digest
from latentbridge.types import Picture

DINO = ("dinov2", "dinov3")
KINDS = ("clip", "longclip", "siglip", *DINO, "package")
_BATCH = 16


@dataclass(frozen=True)
class PictureEncoder:
    """A named function from pictures of any sizes to features, float32 [n e]."""

    name: str
    """Kind and hash of the weights, such as "clip:0123456789abcdef"."""
    embed: Callable[[Sequence[Picture]], np.ndarray]

    def unit_vectors(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Return features of length 1, float32 [n e]."""
        features = self.features(pictures)
        return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)

    def features(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Return features in batches."""
        parts = [self.embed(pictures[start : start + _BATCH]) for start in range(0, len(pictures), _BATCH)]
        return np.concatenate(parts)


def load_encoder(source: str) -> PictureEncoder:
    """Load KIND:FOLDER; Long-CLIP is a CLIP whose texts are longer, so its picture encoder is read as CLIP's."""
    kind, _, folder = source.partition(":")
    if kind not in KINDS:
        raise unknown_name("encoder", kind, KINDS)
    if kind in DINO:
        return _load_dino(kind, Path(folder))
    teacher = load_teacher(f"clip:{folder}" if kind == "longclip" else source)
    return PictureEncoder(f"{kind}:{teacher.space.model.partition(':')[2]}", teacher.embed_pictures)


def _load_dino(kind: str, folder: Path) -> PictureEncoder:
    """Load a DINO's last state of its class token, in float32."""
    from transformers import AutoImageProcessor, AutoModel

    if not any(folder.glob("*.safetensors")):
        raise UserError(f"There is no safetensors model in {folder}; give --encoder {kind}:FOLDER.")
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder} cannot be read as a {kind} model ({error}); give its complete folder.") from error
    model.eval()

    @torch.no_grad()
    def embed(pictures: Sequence[Picture]) -> np.ndarray:
        images = [Image.fromarray(picture) for picture in pictures]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        return model(pixel_values=pixels).last_hidden_state[:, 0].float().numpy()

    return PictureEncoder(f"{kind}:{folder_digest(folder)}", embed)
