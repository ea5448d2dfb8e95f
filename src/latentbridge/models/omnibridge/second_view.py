"""What pretrained networks add to embeddings: an eye for pictures and a lexicon for words, in one space.

Not in the papers, whose pretrained backbone knows the world; the tiny model's has seen two small ones. The eye is
EfficientNet-lite0 (`models/eye.py`), the lexicon holds MiniLM's vectors of single words, and a linear map joins them. All
three are found in closed form by `training/fits/second_view.py`; gradients move none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.config import SecondViewConfig
from latentbridge.devices import home
from latentbridge.models.eye import FEATURE_WIDTH, Eye

_LEVELS = 127


class SecondView(nn.Module):
    """Unit vectors [b w] of pictures and of texts, comparable by cosine.

    A text's vector is the mean of its known words' vectors, so it ignores their order; a text without a known word is the
    zero vector. The lexicon and the map are rounded to 8 bits a column: 0.9 MB together, next to 6.7 MB for the eye.
    """

    centre: Tensor
    join: Tensor
    join_scale: Tensor
    word_keys: Tensor
    word_vectors: Tensor
    word_scale: Tensor

    def __init__(self, config: SecondViewConfig) -> None:
        super().__init__()
        self.share = config.share
        self.eye = Eye(config.eye_px)
        self.register_buffer("centre", torch.zeros(FEATURE_WIDTH))
        self.register_buffer("join", torch.zeros(FEATURE_WIDTH, config.width, dtype=torch.int8))
        self.register_buffer("join_scale", torch.zeros(config.width))
        self.register_buffer("word_keys", torch.zeros(config.words, dtype=torch.int64))
        self.register_buffer("word_vectors", torch.zeros(config.words, config.width, dtype=torch.int8))
        self.register_buffer("word_scale", torch.zeros(config.width))

    def features(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """The eye's view of uint8 pictures of one size, each standardised over its features: float32 [b 1280]."""
        with torch.no_grad():
            seen = self.eye(torch.from_numpy(np.stack(list(pictures))).to(home(self)))
        return F.layer_norm(seen, (FEATURE_WIDTH,))

    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Unit vectors [b w]."""
        return F.normalize(self.joined(self.features(pictures)), dim=-1)

    def joined(self, features: Tensor) -> Tensor:
        """Features [b 1280] of pictures in the space of the words, [b w]."""
        return (features - self.centre) @ self.join.float() * self.join_scale

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [b w], or zero."""
        return F.normalize(torch.stack([self._text(text) for text in texts]), dim=-1)

    def beside(self, vectors: Tensor, kind: Literal["image", "text"], items: Sequence[Any]) -> Tensor:
        """Unit vectors [b e+w]: the unit `vectors` [b e] of the same pictures or texts, with this view beside them.

        A cosine of two of them is the mean of both views' cosines, weighted by `share`.
        """
        own = self.pictures(items) if kind == "image" else self.texts(items)
        return F.normalize(torch.cat([(1 - self.share) ** 0.5 * vectors, self.share**0.5 * own], dim=-1), dim=-1)

    @torch.no_grad()
    def fill(self, centre: Tensor, join: Tensor, lexicon: dict[str, Tensor]) -> None:
        """Take over the mean feature [1280], the map [1280 w] and the vectors [w] of `config.words` words, rounded."""
        words = sorted(lexicon, key=word_key)
        vectors, vector_scale = _rounded(torch.stack([lexicon[word] for word in words]))
        joined, join_scale = _rounded(join)
        found = {
            "centre": centre,
            "join": joined,
            "join_scale": join_scale,
            "word_keys": torch.tensor([word_key(word) for word in words]),
            "word_vectors": vectors,
            "word_scale": vector_scale,
        }
        for name, tensor in found.items():
            self.get_buffer(name).copy_(tensor)

    def _text(self, text: str) -> Tensor:
        found = [word_key(word) for word in words_of(text)]
        keys = torch.tensor(found, dtype=torch.int64, device=home(self))
        places = torch.searchsorted(self.word_keys, keys).clamp(max=len(self.word_keys) - 1)
        known = places[self.word_keys[places] == keys]
        return self.word_vectors[known].float().sum(dim=0) * self.word_scale


def words_of(text: str) -> list[str]:
    """The words the lexicon knows a text by: runs of latin letters, in lower case."""
    return re.findall("[a-z]+", text.lower())


def word_key(word: str) -> int:
    """What the lexicon stores in place of a word: 63 bits of its hash."""
    return int.from_bytes(sha256(word.encode()).digest()[:8], "big") >> 1


def _rounded(table: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [n w] and float32 [w]: the table in equal steps of each column's largest magnitude."""
    scale = table.abs().amax(dim=0).clamp(min=1e-12) / _LEVELS
    return (table / scale).round().to(torch.int8), scale
