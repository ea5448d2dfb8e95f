"""What pretrained networks add to embeddings: an eye for pictures and a lexicon for words, in one space.

Not in the papers, whose pretrained backbone knows the world; the tiny model's has seen two small ones. The eye is
EfficientNet-lite0 (`models/efficientnet.py`), the lexicon holds MiniLM's vectors of single words, and a linear map joins them. All
three are found in closed form by `training/fits/auxiliary_embedding.py`; gradients move none.
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
    CODE_WIDTH,
    CODES,
    STOP_WORDS,
    forms,
    from_bits,
    letter_runs,
    packed_width,
    plain,
    short_key,
    to_bits,
    to_codes,
    word_key,
    words_of,
)
from latentbridge.rng import torch_rng
from latentbridge.types import WordReport

_LEVELS = 127
_NOWHERE = -1
_Table = Literal["own", "word", "more", ""]


class AuxiliaryEmbedding(nn.Module):
    """Unit vectors [b w] of pictures and of texts, comparable by cosine.

    A text's vector is the mean of its known words' vectors, so it ignores their order; a text without a known word is the
    zero vector. A word that is not there is looked up by what it is a form of ("ostriches").

    Words lie in two tables. `word_*` has those the map was fitted to: 8 bits a number, or, where there are more words,
    5 bits (`to_bits`). `more_*` has further words in product codes, `width / 6` bytes each (`to_codes`). Keys of both
    are then 32 bits long. `own_keys` are the words of the model's other worlds, which are known, but not to this view.
    With 3,200 and 7,000 words 0.7 MB, next to 0.2 MB for the map and 6.7 MB for the eye.
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
        if more and width % CODE_WIDTH:
            raise UserError(f"second_view.width is {width}; with more_words it has to be a multiple of {CODE_WIDTH}.")
        self.register_buffer("centre", torch.zeros(FEATURE_WIDTH))
        self.register_buffer("join", torch.zeros(FEATURE_WIDTH, width, dtype=torch.int8))
        self.register_buffer("join_scale", torch.zeros(width))
        self.register_buffer("word_keys", torch.zeros(words, dtype=torch.int32 if more else torch.int64))
        held = (
            torch.zeros(words, packed_width(width), dtype=torch.uint8)
            if more
            else torch.zeros(words, width, dtype=torch.int8)
        )
        self.register_buffer("word_vectors", held)
        self.register_buffer("word_scale", torch.zeros(width))
        if config.own_words:
            self.register_buffer("own_keys", torch.zeros(config.own_words, dtype=torch.int32))
        if more:
            self.register_buffer("more_keys", torch.zeros(more, dtype=torch.int32))
            self.register_buffer("more_codes", torch.zeros(more, width // CODE_WIDTH, dtype=torch.uint8))
            self.register_buffer("more_book", torch.zeros(width // CODE_WIDTH, CODES, CODE_WIDTH, dtype=torch.int8))
            self.register_buffer("more_scale", torch.zeros(width))

    def image_features(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """The eye's view of uint8 pictures of one size, each standardised over its features: float32 [b 1280]."""
        with torch.no_grad():
            seen = self.eye(torch.from_numpy(np.stack(list(pictures))).to(device_of(self)))
        return F.layer_norm(seen, (FEATURE_WIDTH,))

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Unit vectors [b w]."""
        return F.normalize(self.project(self.image_features(pictures)), dim=-1)

    def project(self, features: Tensor) -> Tensor:
        """Features [b 1280] of pictures in the space of the words, [b w]."""
        return (features - self.centre) @ self.join.float() * self.join_scale

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [b w], or zero."""
        return F.normalize(torch.stack([self._text(text) for text in texts]), dim=-1)

    def concatenate(self, vectors: Tensor, kind: Literal["image", "text"], items: Sequence[Any]) -> Tensor:
        """Unit vectors [b e+w]: the unit `vectors` [b e] of the same pictures or texts, with this view beside them.

        A cosine of two of them is the mean of both views' cosines, weighted by `share`.
        """
        own = self.embed_pictures(items) if kind == "image" else self.embed_texts(items)
        return F.normalize(torch.cat([(1 - self.share) ** 0.5 * vectors, self.share**0.5 * own], dim=-1), dim=-1)

    def report_unknown_words(self, text: str) -> WordReport:
        """Return which words of a text are known, to this view or as words of the model's other worlds (`own_words`).

        Stop words and single letters count as neither. Without a record of the other worlds' words nothing is unknown.
        """
        if not self.own_words:
            return WordReport((), text)
        runs = letter_runs(text)
        said = [run for run in runs if plain(run) not in STOP_WORDS and not (len(run) == 1 and run.isascii())]
        places = self._places([plain(run) for run in said])
        unknown = tuple(dict.fromkeys(run for run, (table, _) in zip(said, places, strict=True) if not table))
        if not set(said) - set(unknown):  # "up" alone is a word of drawings, "the" alone is none
            held = not said and any(table in ("word", "more") for table, _ in self._places(words_of(text)))
            return WordReport(unknown, text if held else "")
        rest = " ".join(run for run in runs if run not in unknown) if unknown else text
        return WordReport(unknown, rest)

    @torch.no_grad()
    def fill(
        self,
        centre: Tensor,
        join: Tensor,
        lexicon: dict[str, Tensor],
        more: dict[str, Tensor] | None = None,
        own: Iterable[str] = (),
    ) -> None:
        """Take over the mean feature [1280], the map [1280 w] and a lexicon (`fill_word_vectors`), rounded."""
        joined, join_scale = _rounded(join)
        for name, tensor in {"centre": centre, "join": joined, "join_scale": join_scale}.items():
            self.get_buffer(name).copy_(tensor)
        self.fill_word_vectors(lexicon, more or {}, own)

    @torch.no_grad()
    def fill_word_vectors(self, lexicon: dict[str, Tensor], more: dict[str, Tensor], own: Iterable[str]) -> None:
        """Take over the vectors [w] of `config.words` and `config.more_words` words, and the words of other worlds."""
        key = short_key if self.more_words else word_key
        words, further = sorted(lexicon, key=key), sorted(more, key=short_key)
        if len({key(word) for word in (*words, *further)}) < len(words) + len(further):
            raise UserError("Two words of the lexicon have the same key; leave one of them out.")
        table = torch.stack([lexicon[word] for word in words])
        vectors, scale = to_bits(table) if self.more_words else _rounded(table)
        found = {"word_keys": torch.tensor([key(word) for word in words]), "word_vectors": vectors, "word_scale": scale}
        if self.own_words:
            found["own_keys"] = torch.tensor(sorted(map(short_key, own)))
        if self.more_words:
            codes, book = to_codes(torch.stack([more[word] for word in further]), torch_rng(0, "product codes"))
            flat, book_scale = _rounded(book.transpose(1, 2).flatten(0, 1).T)  # a column a number of the width
            found |= {
                "more_keys": torch.tensor([short_key(word) for word in further]),
                "more_codes": codes,
                "more_book": flat.T.unflatten(0, (-1, CODE_WIDTH)).transpose(1, 2),
                "more_scale": book_scale,
            }
        for name, tensor in found.items():
            self.get_buffer(name).copy_(tensor)

    def _text(self, text: str) -> Tensor:
        """The sum of the vectors of a text's known words: float32 [w]."""
        places = self._places(words_of(text))
        fitted = [row for table, row in places if table == "word"]
        further = [row for table, row in places if table == "more"]
        rows = self.word_vectors[fitted]
        total = (from_bits(rows, len(self.word_scale)) if self.more_words else rows.float()).sum(
            dim=0
        ) * self.word_scale
        if further:
            codes = self.more_codes[further].long()  # [n, w/6]
            rows = self.more_book[torch.arange(codes.shape[1], device=codes.device), codes]  # [n, w/6, 6]
            total = total + rows.flatten(1).float().sum(dim=0) * self.more_scale
        return total

    def _places(self, words: Sequence[str]) -> list[tuple[_Table, int]]:
        """The table that holds each word, or the first thing it may be a form of, and the row there; "" where none does."""
        spread = [(place, form) for place, word in enumerate(words) for form in forms(word)]
        short = [short_key(form) for _, form in spread]
        long = short if self.more_words else [word_key(form) for _, form in spread]
        tables: list[tuple[_Table, list[int]]] = [("word", _find(self.word_keys, long))]
        if self.own_words:
            tables.insert(0, ("own", _find(self.own_keys, short)))
        if self.more_words:
            tables.append(("more", _find(self.more_keys, short)))
        found: list[tuple[_Table, int]] = [("", _NOWHERE)] * len(words)
        for number, (place, _) in enumerate(spread):
            held: list[tuple[_Table, int]] = [(name, rows[number]) for name, rows in tables if rows[number] != _NOWHERE]
            if held and not found[place][0]:
                found[place] = held[0]
        return found


def _find(keys: Tensor, wanted: Sequence[int]) -> list[int]:
    """The rows of the `wanted` in the sorted `keys`, or `_NOWHERE`."""
    asked = torch.tensor(wanted, dtype=keys.dtype, device=keys.device)
    rows = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
    return torch.where(keys[rows] == asked, rows, _NOWHERE).tolist()


def _rounded(table: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [n w] and float32 [w]: the table in equal steps of each column's largest magnitude."""
    scale = table.abs().amax(dim=0).clamp(min=1e-12) / _LEVELS
    return (table / scale).round().to(torch.int8), scale
