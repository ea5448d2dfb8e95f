"""Teachers that are dual encoders: CLIP and SigLIP in transformers' folder layout, and the SigLIP trained here."""

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
from latentbridge.models.checkpoint import fingerprint, load_model
from latentbridge.models.dual_encoder import SIGLIP_TOKENS, DualEncoder
from latentbridge.types import EmbeddingSpace, Picture, Teacher

_DIGEST_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
"""Files of weights, settings and tokenizers."""


class DualEncoderTeacher(Teacher):
    """A teacher whose embeddings are a frozen dual encoder's unit vectors."""

    def __init__(self, network: DualEncoder, name: str) -> None:
        self.network = network.eval().requires_grad_(False)
        config = network.model.config
        width = config.projection_dim if hasattr(config, "projection_dim") else config.vision_config.hidden_size
        self.space = EmbeddingSpace(name, width, "unit")

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        return self.network.embed_pictures(pictures).cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.network.embed_texts(texts).cpu().numpy()


class _FromFolder(DualEncoderTeacher):
    """A dual encoder in transformers' folder layout."""

    model_class: ClassVar[Any]
    processor_class: ClassVar[Any]
    tokens: ClassVar[dict[str, Any]]

    def __init__(self, folder: str) -> None:
        kind = type(self).__name__.lower()
        path = Path(folder)
        if not folder or not any(path.glob("*.safetensors")):
            raise UserError(
                f"There is no safetensors model in {folder or 'no folder'}; name the teacher {kind}:FOLDER."
            )
        try:
            model, report = self.model_class.from_pretrained(
                path, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            processor = self.processor_class.from_pretrained(path, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{folder} cannot be read as a {kind} model ({error}); give its complete folder."
            ) from error
        if report["missing_keys"]:
            first = min(report["missing_keys"])
            raise UserError(f"{folder} is no {kind} model: {first} is missing; give the folder of one.")
        super().__init__(DualEncoder(model, processor, tokenizer, self.tokens), f"{kind}:{folder_digest(path)}")


class Clip(_FromFolder):
    """A CLIPModel's projected features (arXiv:2103.00020)."""

    model_class, processor_class = CLIPModel, CLIPImageProcessorPil
    tokens: ClassVar[dict[str, Any]] = {"padding": True}


class Siglip(_FromFolder):
    """A SiglipModel's pooled features (arXiv:2303.15343)."""

    model_class, processor_class = SiglipModel, SiglipImageProcessorPil
    tokens = SIGLIP_TOKENS


class Scene(DualEncoderTeacher):
    """The SigLIP in a run folder of the recipe `scene-teacher`.

    It covers all scenes, and the concepts and styles of training drawings.
    """

    def __init__(self, folder: str) -> None:
        network = load_model(Path(folder))
        if not isinstance(network, DualEncoder):
            raise UserError(f"{folder} holds another kind of model; name the run of a scene-teacher, as scene:FOLDER.")
        super().__init__(network, f"scene:{fingerprint(network)}")


def folder_digest(folder: Path) -> str:
    """Return a hash of the files in a model folder that determine its embeddings."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _DIGEST_SUFFIXES):
        digest.update(f"{path.name} {file_digest(path)} ".encode())
    return digest.hexdigest()[:16]
