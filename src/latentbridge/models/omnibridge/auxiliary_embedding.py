"""The auxiliary pretrained embedding: EfficientNet-lite0 for pictures and MiniLM word vectors for texts, in one space.

Not in the papers, whose pretrained backbone has seen much of the world; the tiny model's has seen two small datasets. A
linear map joins the features of EfficientNet-lite0 (`models/efficientnet.py`) to MiniLM's vectors of single words. Both
are frozen; `training/fits/auxiliary_embedding.py` fits the map in closed form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.config import AuxiliaryEmbeddingConfig
from latentbridge.devices import device_of
from latentbridge.errors import UserError
from latentbridge.models.efficientnet import FEATURE_WIDTH, EfficientNetLite0
from latentbridge.models.omnibridge.word_vectors import (
    CENTROIDS,
    STOP_WORDS,
    SUBVECTOR_WIDTH,
    base_forms,
    letter_runs,
    normalize,
    pack_5bit,
    packed_bytes,
    product_quantize,
    quantize_8bit,
    short_key,
    unpack_5bit,
    word_key,
    words_of,
)
from latentbridge.rng import torch_rng
from latentbridge.types import WordReport

_MISSING = -1


class AuxiliaryEmbedding(nn.Module):
    """Unit vectors [b w] of pictures and of texts, comparable by cosine.

    A text's vector is the mean of its known words' vectors, which ignores their order; a text without a known word has
    the zero vector. An unknown word is replaced by a known one that it may be a form of ("ostriches").

    There are two tables of words. `word_*` has those that the map was fitted to, with 8 bits a number, or 5 if there
    are more words (`pack_5bit`). `more_*` has further words, product-quantized to `width / 6` bytes each; keys of both
    then have 32 bits. `own_keys` are words of the model's other training data: known, but without a vector. With 3,200
    and 7,000 words the tables take 0.7 MB, the map 0.2 MB and the vision encoder (`eye`) 6.7 MB.
    """

    centre: Tensor
    join: Tensor
    join_scale: Tensor
    word_keys: Tensor
    word_vectors: Tensor
    word_scale: Tensor
    own_keys: Tensor
    more_keys: Tensor
    more_codes: Tensor
    more_book: Tensor
    more_scale: Tensor

    def __init__(self, config: AuxiliaryEmbeddingConfig) -> None:
        super().__init__()
        self.share = config.share
        self.own_words, self.more_words = config.own_words, config.more_words
        self.eye = EfficientNetLite0(config.eye_px)
        width, words, more = config.width, config.words, config.more_words
        if more and width % SUBVECTOR_WIDTH:
            raise UserError(
                f"second_view.width is {width}; with more_words it has to be a multiple of {SUBVECTOR_WIDTH}."
            )
        subvectors = width // SUBVECTOR_WIDTH
        packed = (packed_bytes(width), torch.uint8) if more else (width, torch.int8)
        buffers = {
            "centre": torch.zeros(FEATURE_WIDTH),
            "join": torch.zeros(FEATURE_WIDTH, width, dtype=torch.int8),
            "join_scale": torch.zeros(width),
            "word_keys": torch.zeros(words, dtype=torch.int32 if more else torch.int64),
            "word_vectors": torch.zeros(words, packed[0], dtype=packed[1]),
            "word_scale": torch.zeros(width),
        }
        if config.own_words:
            buffers["own_keys"] = torch.zeros(config.own_words, dtype=torch.int32)
        if more:
            buffers |= {
                "more_keys": torch.zeros(more, dtype=torch.int32),
                "more_codes": torch.zeros(more, subvectors, dtype=torch.uint8),
                "more_book": torch.zeros(subvectors, CENTROIDS, SUBVECTOR_WIDTH, dtype=torch.int8),
                "more_scale": torch.zeros(width),
            }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def image_features(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Return EfficientNet's features of uint8 pictures of one size, each vector standardised: float32 [b 1280]."""
        with torch.no_grad():
            features = self.eye(torch.from_numpy(np.stack(list(pictures))).to(device_of(self)))
        return F.layer_norm(features, (FEATURE_WIDTH,))

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Return unit vectors [b w] of uint8 pictures of one size."""
        return F.normalize(self.project(self.image_features(pictures)), dim=-1)

    def project(self, features: Tensor) -> Tensor:
        """Return features [b 1280] of pictures in the space of the word vectors, [b w]."""
        return (features - self.centre) @ self.join.float() * self.join_scale

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors [b w], zero for a text without a known word."""
        return F.normalize(torch.stack([self._sum_of_words(text) for text in texts]), dim=-1)

    def concatenate(self, vectors: Tensor, kind: Literal["image", "text"], items: Sequence[Any]) -> Tensor:
        """Return unit vectors [b e+w]: unit `vectors` [b e] of `items` followed by their auxiliary embeddings.

        A cosine of two results is the mean of both embeddings' cosines; the auxiliary one has the weight `share`.
        """
        auxiliary = self.embed_pictures(items) if kind == "image" else self.embed_texts(items)
        return F.normalize(torch.cat([(1 - self.share) ** 0.5 * vectors, self.share**0.5 * auxiliary], dim=-1), dim=-1)

    def report_unknown_words(self, text: str) -> WordReport:
        """Return which words of a text neither have a vector nor occur in the model's other training data (`own_words`).

        Stop words and single letters are never reported. Without `own_words` no word is.
        """
        if not self.own_words:
            return WordReport((), text)
        runs = letter_runs(text)
        words = [run for run in runs if normalize(run) not in STOP_WORDS and not (len(run) == 1 and run.isascii())]
        rows = self._look_up([normalize(word) for word in words])
        unknown = tuple(dict.fromkeys(word for word, (table, _) in zip(words, rows, strict=True) if not table))
        if not set(words) - set(unknown):  # a text of stop words: "up" alone has a vector, "the" alone has none
            has_vector = not words and any(table in ("word", "more") for table, _ in self._look_up(words_of(text)))
            return WordReport(unknown, text if has_vector else "")
        return WordReport(unknown, " ".join(run for run in runs if run not in unknown) if unknown else text)

    @torch.no_grad()
    def fill(
        self,
        centre: Tensor,
        join: Tensor,
        vectors: dict[str, Tensor],
        more: dict[str, Tensor] | None = None,
        own: Iterable[str] = (),
    ) -> None:
        """Set the mean feature [1280], the map [1280 w], the word vectors [w] of both tables, and the own words.

        Map and vectors are quantized. Raises UserError if two words have the same key.
        """
        key, more = short_key if self.more_words else word_key, more or {}
        words, more_words = sorted(vectors, key=key), sorted(more, key=short_key)
        if len({key(word) for word in (*words, *more_words)}) < len(words) + len(more_words):
            raise UserError("Two words of the vocabulary have the same key; leave one of them out.")
        join, join_scale = quantize_8bit(join)
        table = torch.stack([vectors[word] for word in words])
        packed, scale = pack_5bit(table) if self.more_words else quantize_8bit(table)
        values = {
            "centre": centre,
            "join": join,
            "join_scale": join_scale,
            "word_keys": torch.tensor([key(word) for word in words]),
            "word_vectors": packed,
            "word_scale": scale,
        }
        if self.own_words:
            values["own_keys"] = torch.tensor(sorted(map(short_key, own)))
        if self.more_words:
            rng = torch_rng(0, "product codes")
            codes, book = product_quantize(torch.stack([more[word] for word in more_words]), rng)
            columns, book_scale = quantize_8bit(book.transpose(1, 2).flatten(0, 1).T)  # [256, w]
            values |= {
                "more_keys": torch.tensor([short_key(word) for word in more_words]),
                "more_codes": codes,
                "more_book": columns.T.unflatten(0, (-1, SUBVECTOR_WIDTH)).transpose(1, 2),
                "more_scale": book_scale,
            }
        for name, tensor in values.items():
            self.get_buffer(name).copy_(tensor)

    def _sum_of_words(self, text: str) -> Tensor:
        """Return the sum of the vectors of a text's known words, float32 [w]."""
        rows = self._look_up(words_of(text))
        word_rows = self.word_vectors[[row for table, row in rows if table == "word"]]
        levels = unpack_5bit(word_rows, len(self.word_scale)) if self.more_words else word_rows.float()
        total = levels.sum(dim=0) * self.word_scale
        if more_rows := [row for table, row in rows if table == "more"]:
            codes = self.more_codes[more_rows].long()  # [n, w/6]
            levels = self.more_book[torch.arange(codes.shape[1], device=codes.device), codes]  # [n, w/6, 6]
            total = total + levels.flatten(1).float().sum(dim=0) * self.more_scale
        return total

    def _look_up(self, words: Sequence[str]) -> list[tuple[str, int]]:
        """Return the table and row of each word or of its first base form that is known; the table is "" if none is."""
        candidates = [(index, form) for index, word in enumerate(words) for form in base_forms(word)]
        short = [short_key(form) for _, form in candidates]
        keys = short if self.more_words else [word_key(form) for _, form in candidates]
        tables: list[tuple[str, list[int]]] = [("word", _rows_of(self.word_keys, keys))]
        if self.own_words:
            tables.insert(0, ("own", _rows_of(self.own_keys, short)))
        if self.more_words:
            tables.append(("more", _rows_of(self.more_keys, short)))
        results: list[tuple[str, int]] = [("", _MISSING)] * len(words)
        for candidate, (index, _) in enumerate(candidates):
            if not results[index][0]:
                hits = ((name, rows[candidate]) for name, rows in tables if rows[candidate] != _MISSING)
                results[index] = next(hits, results[index])
        return results


def _rows_of(sorted_keys: Tensor, keys: Sequence[int]) -> list[int]:
    """Return the row of each key in `sorted_keys`, or `_MISSING`."""
    targets = torch.tensor(keys, dtype=sorted_keys.dtype, device=sorted_keys.device)
    rows = torch.searchsorted(sorted_keys, targets).clamp(max=len(sorted_keys) - 1)
    return torch.where(sorted_keys[rows] == targets, rows, _MISSING).tolist()
