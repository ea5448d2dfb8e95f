"""What two packages know, joined: EfficientNet-lite0 for pictures, MiniLM's words for texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from latentbridge.errors import UserError
from latentbridge.images import fit_square
from latentbridge.models.checkpoint import as_omnibridge, fingerprint, load
from latentbridge.types import EmbeddingSpace, Picture, Teacher


class Package(Teacher):
    """The second view of a model that has one (`models/omnibridge/auxiliary_embedding.py`); of the shipped model unless another is named.

    Unit vectors. A text is a bag of the lexicon's words, which leave out those of scenes: it can teach `drawings`, and
    refuses a text of which it knows no word.
    """

    def __init__(self, source: str = "") -> None:
        model = as_omnibridge(load(source or "tiny"), "embed words of a lexicon")
        if not model.config.second_view.words:
            raise UserError(f"The model {source} has no second view; name one that has, such as 'tiny'.")
        self.view = model.second_view
        self.space = EmbeddingSpace(f"package:{fingerprint(self.view)}", model.config.second_view.width, "unit")

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        square = [fit_square(picture, self.view.eye.size_px) for picture in pictures]
        return self.view.embed_pictures(square).numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        for text in texts:
            if not self.knows(text):
                raise UserError(
                    f"The teacher 'package' knows no word of {text!r}; leave it out or take another teacher."
                )
        return self.view.embed_texts(texts).numpy()

    @torch.no_grad()
    def knows(self, text: str) -> bool:
        return bool(self.view.embed_texts([text]).any())
