"""A teacher of our own: a SigLIP built from nothing, trained on the worlds by the recipe `scene-teacher`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from latentbridge.errors import UserError
from latentbridge.models.checkpoint import fingerprint, load_model
from latentbridge.models.dual_encoder import DualEncoder
from latentbridge.types import EmbeddingSpace, Picture, Teacher


class Scene(Teacher):
    """What the recipe left in a run folder. Unit vectors.

    It knows every scene, and of drawings the concepts and the hands of its training.
    """

    def __init__(self, folder: str) -> None:
        network = load_model(Path(folder))
        if not isinstance(network, DualEncoder):
            raise UserError(f"{folder} holds another kind of model; name the run of a scene-teacher, as scene:FOLDER.")
        self.network = network.requires_grad_(False)
        self.space = EmbeddingSpace(
            f"scene:{fingerprint(network)}", network.model.config.vision_config.hidden_size, "unit"
        )

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        return self.network.pictures(pictures).numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.network.texts(texts).numpy()
