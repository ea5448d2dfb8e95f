"""Text normalisation for the auxiliary embedding's word vectors, and their compression (5 bits, product codes)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.models.input_check import word_key

_STOP = """
a about above across after all along alongside am among an and another any are around as at be been before behind being
below beneath beside between beyond both but by can could did do does doing during each every for from goes going had
has have having he her here herself him himself his how i if in into is it its itself just may me might must my near no
nor not of off on onto or other others our out over shall she should since so some someone something such than that the
their them themselves then there these they this those to too toward towards under until up upon us very via was we
were what when where which while whilst who whom whose why will with without would you your
"""
STOP_WORDS = frozenset(_STOP.split())
"""Words that do not describe a picture; they are neither reported as unknown nor reduced to a base form."""
_IRREGULAR = {
    "children": "child", "feet": "foot", "geese": "goose", "men": "man", "mice": "mouse", "people": "person",
    "teeth": "tooth", "women": "woman",
}  # fmt: skip
_ENDINGS = (
    ("men", ("man",)),
    ("ves", ("f", "fe")),
    ("ies", ("y", "ie")),
    ("es", ("",)),
    ("s", ("",)),
    ("ing", ("", "e")),
    ("ed", ("", "e")),
)
"""Suffixes, each with its replacements in the base form."""
_MIN_STEM = 3
_BITS = 5
_MAX_LEVEL = 2 ** (_BITS - 1) - 1
SUBVECTOR_WIDTH = 6
"""Numbers per byte of a product code."""
CENTROIDS = 256
"""Centroids per product codebook."""
_KMEANS_ITERATIONS = 20


def words_of(text: str) -> list[str]:
    """Return the words of a text that may have a vector: runs of Latin letters in lower case, without accents."""
    return [word for word in map(normalize, letter_runs(text)) if re.fullmatch("[a-z]+", word)]


def letter_runs(text: str) -> list[str]:
    """Return the runs of letters of any script with their combining marks, unchanged."""
    text = unicodedata.normalize("NFC", text)
    return "".join(char if unicodedata.category(char)[0] in "LM" else " " for char in text).split()


def normalize(word: str) -> str:
    """Return the word in lower case without accents and other marks."""
    return "".join(char for char in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(char))


def base_forms(word: str) -> Iterator[str]:
    """Yield the word, then the words it may be an inflected form of: "foxe" and "fox" for "foxes", "run" for "running"."""
    yield word
    if word in STOP_WORDS:
        return
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    for ending, replacements in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem == word or word.endswith("ss") or len(stem) < _MIN_STEM:
            continue
        yield from (stem + replacement for replacement in replacements)
        if ending in ("ing", "ed") and stem[-1] == stem[-2]:
            yield stem[:-1]


def short_key(word: str) -> int:
    """Return the first 32 bits of a word's hash as a signed integer."""
    return (word_key(word) >> 31) - 2**31


def quantize_8bit(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 levels [n w] and float32 scales [w] of a table [n w], each column scaled to its largest magnitude."""
    scale = table.abs().amax(dim=0).clamp(min=1e-12) / 127
    return (table / scale).round().to(torch.int8), scale


def pack_5bit(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return packed 5-bit levels, uint8 [n, bytes], from -15 to 15, and float32 scales [w] of a table [n w].

    Each column takes the scale of 15 with the least squared error; larger values are clipped.
    """
    max_magnitude = table.abs().amax(dim=0).clamp(min=1e-12)
    scales = max_magnitude * torch.linspace(0.3, 1, 15)[:, None] / _MAX_LEVEL  # [15, w]
    levels = (table / scales[:, None]).round().clamp(-_MAX_LEVEL, _MAX_LEVEL)
    best = (levels * scales[:, None] - table).square().sum(dim=1).argmin(dim=0)  # [w]
    columns = torch.arange(table.shape[1])
    codes = (levels[best, :, columns].T + _MAX_LEVEL).int()
    bits = (codes[..., None] >> torch.arange(_BITS) & 1).flatten(1)
    bits = F.pad(bits, (0, 8 * packed_bytes(table.shape[1]) - bits.shape[1])).unflatten(1, (-1, 8))
    return (bits << torch.arange(8)).sum(dim=-1).to(torch.uint8), scales[best, columns]


def unpack_5bit(packed: Tensor, width: int) -> Tensor:
    """Return the levels from -15 to 15, float32 [n, width], in `packed` [n, bytes]."""
    bits = (packed[..., None].int() >> torch.arange(8, device=packed.device) & 1).flatten(1)[:, : width * _BITS]
    codes = (bits.unflatten(1, (width, _BITS)) << torch.arange(_BITS, device=packed.device)).sum(dim=-1)
    return codes.float() - _MAX_LEVEL


def packed_bytes(width: int) -> int:
    """Return the bytes that `width` 5-bit numbers take."""
    return -(-width * _BITS // 8)


def product_quantize(table: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return product codes, uint8 [n, w/6], and their codebooks, float32 [w/6, 256, 6], of a table [n w] by k-means.

    Source: Jegou et al., Product Quantization for Nearest Neighbor Search, 2011.
    """
    codes: list[Tensor] = []
    books: list[Tensor] = []
    for part in table.split(SUBVECTOR_WIDTH, dim=1):
        count = len(part)
        if count < CENTROIDS:
            initial = torch.randint(count, (CENTROIDS,), generator=rng)
        else:
            initial = torch.randperm(count, generator=rng)[:CENTROIDS]
        centroids = part[initial]
        for _ in range(_KMEANS_ITERATIONS):
            nearest = torch.cdist(part, centroids).argmin(dim=1)
            counts = F.one_hot(nearest, CENTROIDS).sum(dim=0)[:, None]
            sums = torch.zeros_like(centroids).index_add_(0, nearest, part)
            centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
        codes.append(torch.cdist(part, centroids).argmin(dim=1).to(torch.uint8))
        books.append(centroids)
    return torch.stack(codes, dim=1), torch.stack(books)
