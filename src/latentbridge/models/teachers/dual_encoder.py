"""Teachers that are dual encoders: CLIP and SigLIP in transformers' folder layout, and the SigLIP trained here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from latentbridge.errors import UserError
from latentbridge.files import file_digest
from latentbridge.models.checkpoint import fingerprint, load_model
from latentbridge.models.dual_encoder import DualEncoder
from latentbridge.models.load_dual_encoder import is_dual_encoder, load_dual_encoder
from latentbridge.types import EmbeddingSpace, Picture, Teacher

_DIGEST_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
"""Files of weights, settings and tokenizers."""


class DualEncoderTeacher(Teacher):
    """A teacher whose embeddings are a frozen dual encoder's unit vectors."""

    def __init__(self, network: DualEncoder, name: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.space = EmbeddingSpace(name, network.embedding_size, "unit")

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        return self.network.embed_pictures(pictures).cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.network.embed_texts(texts).cpu().numpy()


class _FromFolder(DualEncoderTeacher):
    """A dual encoder in transformers' folder layout."""

    kind: ClassVar[str]

    def __init__(self, folder: str) -> None:
        path = Path(folder)
        if not folder or not is_dual_encoder(path):
            raise UserError(f"There is no {self.kind} model in {folder or 'no folder'}; name it as {self.kind}:FOLDER.")
        network = load_dual_encoder(path)
        if not network.kind.startswith(self.kind):
            raise UserError(f"{folder} holds a {network.kind} model; name the teacher {network.kind}:{folder}.")
        super().__init__(network, f"{self.kind}:{folder_digest(path)}")


class Clip(_FromFolder):
    """A CLIP's projected features (arXiv:2103.00020)."""

    kind = "clip"


class Siglip(_FromFolder):
    """A SigLIP's or SigLIP 2's pooled features (arXiv:2303.15343, 2502.14786)."""

    kind = "siglip"


class Scene(DualEncoderTeacher):
    """The SigLIP in a run folder of the recipe `scene-teacher`.

    It covers all scenes, and the concepts and styles of training drawings.
    """

    def __init__(self, folder: str) -> None:
        network = load_model(Path(folder))
        if not isinstance(network, DualEncoder) or network.kind != "scene":
            raise UserError(f"{folder} holds another kind of model; name the run of a scene-teacher, as scene:FOLDER.")
        super().__init__(network, f"scene:{fingerprint(network)}")


def folder_digest(folder: Path) -> str:
    """Return a hash of the files in a model folder that determine its embeddings."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _DIGEST_SUFFIXES):
        digest.update(f"{path.name} {file_digest(path)} ".encode())
    return digest.hexdigest()[:16]
