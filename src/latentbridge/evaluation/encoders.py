"""Encoders that measure the similarity of pictures and of texts: an external one, and the model's own latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latentbridge.evaluation.shapes import embed_batched
from latentbridge.models.trainable import TrainableModel
from latentbridge.types import Picture, Teacher

Items = Sequence[Picture] | Sequence[str]


@dataclass(frozen=True)
class ItemEncoder:
    """A named encoder of pictures, and of texts if it has `texts`, as vectors [n e] of any length."""

    name: str
    pictures: Callable[[Any], np.ndarray]
    texts: Callable[[Any], np.ndarray] | None = None

    def supports(self, items: Items) -> bool:
        """Return whether it encodes items of this kind."""
        return self.texts is not None or not isinstance(items[0], str)

    def encode(self, items: Items) -> np.ndarray:
        """Return unit vectors [n e] of at least one item, all of one supported kind."""
        encode = self.texts if isinstance(items[0], str) else self.pictures
        assert encode is not None, self.name
        vectors = embed_batched(encode, items)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def model_encoder(backbone: TrainableModel) -> ItemEncoder:
    """Return the encoder that takes the model's understanding latent."""

    @torch.no_grad()
    def encode(items: Items) -> np.ndarray:
        return backbone.und_latent(items).cpu().numpy()

    return ItemEncoder("own", encode, encode)


def external_encoder(name: str, teacher: Teacher) -> ItemEncoder:
    """Return a teacher's picture encoder. Its texts are left out: "package" refuses unknown words, which a bad model may say."""
    return ItemEncoder(name, teacher.embed_pictures)
