"""CLIP and SigLIP as transformers has them, read from a local folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPModel, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from latentbridge.errors import UserError
from latentbridge.files import file_digest
from latentbridge.models.dual_encoder import SIGLIP_TOKENS, DualEncoder
from latentbridge.types import EmbeddingSpace, Picture, Teacher

_WHAT_COUNTS = (".safetensors", ".json", ".txt", ".model")
"""Files of weights, of settings and of tokenizers."""


class DualEncoderTeacher(Teacher):
    """What a frozen dual encoder says: unit vectors."""

    network: DualEncoder

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        return self.network.pictures(pictures).cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.network.texts(texts).cpu().numpy()


class _FromFolder(DualEncoderTeacher):
    """A dual encoder of the library's, read from a folder of its own format."""

    model_class: ClassVar[Any]
    processor_class: ClassVar[Any]
    tokens: ClassVar[dict[str, Any]]

    def __init__(self, folder: str) -> None:
        kind = type(self).__name__.lower()
        home = Path(folder)
        if not folder or not any(home.glob("*.safetensors")):
            raise UserError(
                f"There is no safetensors model in {folder or 'no folder'}; name the teacher {kind}:FOLDER."
            )
        try:
            model, found = self.model_class.from_pretrained(
                home, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            processor = self.processor_class.from_pretrained(home, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(home, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{folder} cannot be read as a {kind} model ({error}); give its complete folder."
            ) from error
        if found["missing_keys"]:
            first = sorted(found["missing_keys"])[0]
            raise UserError(f"{folder} is no {kind} model: {first} is missing; give the folder of one.")
        self.network = DualEncoder(model, processor, tokenizer, self.tokens).eval().requires_grad_(False)
        self.space = EmbeddingSpace(f"{kind}:{_digest(home)}", self.dimension, "unit")

    @property
    def dimension(self) -> int:
        raise NotImplementedError


class Clip(_FromFolder):
    """A CLIPModel's projected features (arXiv:2103.00020)."""

    model_class, processor_class = CLIPModel, CLIPImageProcessorPil
    tokens: ClassVar[dict[str, Any]] = {"padding": True}

    @property
    def dimension(self) -> int:
        return self.network.model.config.projection_dim


class Siglip(_FromFolder):
    """A SiglipModel's pooled features (arXiv:2303.15343)."""

    model_class, processor_class = SiglipModel, SiglipImageProcessorPil
    tokens = SIGLIP_TOKENS

    @property
    def dimension(self) -> int:
        return self.network.model.config.vision_config.hidden_size


def _digest(folder: Path) -> str:
    """A hash of everything in a model folder that its embeddings depend on."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _WHAT_COUNTS):
        digest.update(f"{path.name} {file_digest(path)} ".encode())
    return digest.hexdigest()[:16]
