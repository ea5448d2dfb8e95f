"""The auxiliary embedding of a model (EfficientNet-lite0 and MiniLM word vectors) as a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from latentbridge.errors import UserError
from latentbridge.images import fit_square
from latentbridge.models.checkpoint import as_omnibridge, fingerprint, load
from latentbridge.types import EmbeddingSpace, Picture, Teacher


class Package(Teacher):
    """The auxiliary embedding of the shipped model or of another (`models/omnibridge/auxiliary_embedding.py`).

    Unit vectors. A text is a bag of words of the embedding's vocabulary, which excludes those of scenes, so this can
    teach `drawings`; a text without a known word is refused.
    """

    def __init__(self, source: str = "") -> None:
        model = as_omnibridge(load(source or "tiny"), "embed words of a lexicon")
        if not model.config.second_view.words:
            raise UserError(f"The model {source} has no auxiliary embedding; name one that has, such as 'tiny'.")
        self.embedding = model.second_view
        self.space = EmbeddingSpace(f"package:{fingerprint(self.embedding)}", model.config.second_view.width, "unit")

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        size_px = self.embedding.eye.size_px
        return self.embedding.embed_pictures([fit_square(picture, size_px) for picture in pictures]).numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        vectors = self.embedding.embed_texts(texts)
        for text, vector in zip(texts, vectors, strict=True):
            if not vector.any():
                raise UserError(
                    f"The teacher 'package' knows no word of {text!r}; leave it out or take another teacher."
                )
        return vectors.numpy()

    @torch.no_grad()
    def knows(self, text: str) -> bool:
        return bool(self.embedding.embed_texts([text]).any())
