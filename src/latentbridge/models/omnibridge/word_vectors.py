"""Words as the second view looks them up: how a text is split, what forms a word has, and how vectors are stored tightly."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from hashlib import sha256

import torch
from torch import Tensor
from torch.nn import functional as F

_STOP = """
a about above across after all along alongside am among an and another any are around as at be been before behind being
below beneath beside between beyond both but by can could did do does doing during each every for from goes going had
has have having he her here herself him himself his how i if in into is it its itself just may me might must my near no
nor not of off on onto or other others our out over shall she should since so some someone something such than that the
their them themselves then there these they this those to too toward towards under until up upon us very via was we
were what when where which while whilst who whom whose why will with without would you your
"""
STOP_WORDS = frozenset(_STOP.split())
"""Words that say nothing of what a picture shows. They are neither known nor unknown, and no form of another word."""
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
"""What words end in, and what stands there in the word they are a form of."""
_LEAST_STEM = 3
BITS = 5
"""Of a number of a vector that is packed."""
CODE_WIDTH = 6
"""Numbers that one byte of a product code stands for."""
CODES = 256
_KMEANS_ROUNDS = 20


def words_of(text: str) -> list[str]:
    """Return the words a lexicon may hold: runs of latin letters in lower case, without accents."""
    return [word for word in map(plain, letter_runs(text)) if re.fullmatch("[a-z]+", word)]


def letter_runs(text: str) -> list[str]:
    """Return the runs of letters of any script, with the marks that belong to them, as they are written."""
    kept = (char if unicodedata.category(char)[0] in "LM" else " " for char in unicodedata.normalize("NFC", text))
    return "".join(kept).split()


def plain(word: str) -> str:
    """Return the word in lower case without accents and other marks."""
    parts = unicodedata.normalize("NFKD", word.lower())
    return "".join(char for char in parts if not unicodedata.combining(char))


def forms(word: str) -> Iterator[str]:
    """Yield the word, and then what it may be an inflected form of: "foxes" of "foxe" or "fox", "running" of "run"."""
    yield word
    if word in STOP_WORDS:
        return
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    for ending, replacements in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem == word or word.endswith("ss") or len(stem) < _LEAST_STEM:
            continue
        yield from (stem + replacement for replacement in replacements)
        if ending in ("ing", "ed") and stem[-1] == stem[-2]:
            yield stem[:-1]


def word_key(word: str) -> int:
    """Return what a lexicon stores in place of a word: 63 bits of its hash."""
    return int.from_bytes(sha256(word.encode()).digest()[:8], "big") >> 1


def short_key(word: str) -> int:
    """Return the first 32 bits of a word's hash, as a signed number."""
    return (word_key(word) >> 31) - 2**31


def to_bits(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return uint8 [n, bytes] and float32 [w]: the table [n, w] in 5 bits a number, from -15 to 15, packed.

    A column's step is the one of a few that leaves the least squared error; what lies beyond is clipped.
    """
    most = 2 ** (BITS - 1) - 1
    largest = table.abs().amax(dim=0).clamp(min=1e-12)
    steps = largest * torch.linspace(0.3, 1, 15)[:, None] / most  # [15, w]
    levels = (table / steps[:, None]).round().clamp(-most, most)
    best = (levels * steps[:, None] - table).square().sum(dim=1).argmin(dim=0)  # [w]
    columns = torch.arange(table.shape[1])
    coded = (levels[best, :, columns].T + most).int()
    bits = (coded[..., None] >> torch.arange(BITS) & 1).flatten(1)
    bits = F.pad(bits, (0, 8 * packed_width(table.shape[1]) - bits.shape[1])).unflatten(1, (-1, 8))
    return (bits << torch.arange(8)).sum(dim=-1).to(torch.uint8), steps[best, columns]


def from_bits(packed: Tensor, width: int) -> Tensor:
    """Return float32 [n, width]: the whole numbers from -15 to 15 in `packed` [n, bytes]."""
    bits = (packed[..., None].int() >> torch.arange(8, device=packed.device) & 1).flatten(1)[:, : width * BITS]
    levels = (bits.unflatten(1, (width, BITS)) << torch.arange(BITS, device=packed.device)).sum(dim=-1)
    return levels.float() - (2 ** (BITS - 1) - 1)


def packed_width(width: int) -> int:
    """Return the bytes that `width` numbers take."""
    return -(-width * BITS // 8)


def to_codes(table: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return uint8 [n, w/6] and float32 [w/6, 256, 6]: product codes of the table [n, w] and their book (k-means).

    Jegou et al., Product Quantization for Nearest Neighbor Search, 2011: every 6 columns have 256 centres of their own.
    """
    codes: list[Tensor] = []
    book: list[Tensor] = []
    for part in table.split(CODE_WIDTH, dim=1):
        start = (
            torch.randint(len(part), (CODES,), generator=rng)
            if len(part) < CODES
            else torch.randperm(len(part), generator=rng)[:CODES]
        )
        centres = part[start]
        for _ in range(_KMEANS_ROUNDS):
            nearest = torch.cdist(part, centres).argmin(dim=1)
            counts = F.one_hot(nearest, CODES).sum(dim=0)[:, None]
            sums = torch.zeros_like(centres).index_add_(0, nearest, part)
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        codes.append(torch.cdist(part, centres).argmin(dim=1).to(torch.uint8))
        book.append(centres)
    return torch.stack(codes, dim=1), torch.stack(book)
