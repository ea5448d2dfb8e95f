"""Out-of-distribution warnings: pictures are classified by image statistics, words are looked up in a hashed vocabulary.

`training/fits/input_check.py` fits both and stores them in a model's folder as `input_check.safetensors`. The model's
weights are not used; a check takes less than a millisecond per picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from latentbridge.errors import UserError
from latentbridge.files import atomic_write
from latentbridge.images import fit_square
from latentbridge.types import Picture

FILE = "input_check.safetensors"
_SIDE_PX = 64
"""Size at which pictures are checked, the shipped model's input size; photographs keep their texture at it."""
_STEPS = (2, 6, 12, 24, 48)
_SAME_COLOUR = 12
_MIN_PIXELS = 20
_MAX_DEVIATION = 8.0
"""Standard deviations at which statistics are clipped, to stay within the classifier's training range."""
_STOP = """
a about after again all also am an and any are as at be been before being but by can could did do does doing down for from
had has have having he her here him his how i if in into is it its just like may me might more most much must my no nor not
now of off on one only onto or other our out over please shall she should so some such than that the their them then there
these they this those through to too under up us very was we were what when where which while who whom whose why will with
would you your
"""
_STOP_WORDS = frozenset(_STOP.split())
"""Stop words, which never cause a warning."""


class WordUse(IntFlag):
    """The kinds of training text that contained a word, as flags."""

    QUESTION = 1
    PROMPT = 2
    """Requests to draw."""
    INSTRUCTION = 4
    """Requests to edit."""
    TEXT = 8
    """Captions, which are embedded."""
    UNSAID = 16
    """The word occurred in prompts whose description may omit it, such as "photo"."""


ANY_REQUEST = WordUse.QUESTION | WordUse.PROMPT | WordUse.INSTRUCTION
ANY_TEXT = ANY_REQUEST | WordUse.TEXT
_NAMES = {ANY_REQUEST: "questions", WordUse.PROMPT: "prompts", WordUse.INSTRUCTION: "instructions", ANY_TEXT: "texts"}


@dataclass(frozen=True)
class InputCheck:
    """A model's input check; an empty one never warns. Methods named `*_warnings` return a list of sentences."""

    model: str = ""
    pictures_like: str = ""
    """The content of the training pictures, in words."""
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    """float32: `mean` and `scale` of the statistics [f], `weight_1` [h f], `bias_1` [h], `weight_2` [h], `threshold` [1]."""
    word_keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [n], sorted: `word_key` of each word."""
    word_uses: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    """uint8 [n]: the `WordUse` of each word."""

    def scores(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Return the out-of-distribution scores of pictures of any size, float32 [b], to compare with `threshold`."""
        return self.score_statistics(np.stack([picture_statistics(picture) for picture in pictures]))

    def score_statistics(self, statistics: np.ndarray) -> np.ndarray:
        """Return the `scores` [b] of `picture_statistics` [b f]."""
        inputs = self.clip_statistics((statistics - self.layers["mean"]) / self.layers["scale"])
        return np.tanh(inputs @ self.layers["weight_1"].T + self.layers["bias_1"]) @ self.layers["weight_2"]

    @staticmethod
    def clip_statistics(standardized: np.ndarray) -> np.ndarray:
        """Clip standardized statistics to the classifier's training range."""
        return np.clip(standardized, -_MAX_DEVIATION, _MAX_DEVIATION)

    def picture_warnings(self, picture: Picture) -> list[str]:
        """Return a warning if a picture of any size is unlike the training pictures."""
        if not self.layers or self.scores([picture])[0] <= self.layers["threshold"][0]:
            return []
        return [
            f'this picture is unlike the {self.pictures_like} that "{self.model}" was trained on; what it makes of the picture is probably wrong.'
        ]

    def text_warnings(self, text: str, use: WordUse = ANY_REQUEST) -> list[str]:
        """Return a warning that names the content words of `text` that never occurred in training texts of this kind."""
        unknown = [word for word in words_of(text) if word not in _STOP_WORDS and not self._use(word) & use]
        if not unknown or not len(self.word_keys):
            return []
        return [f'"{self.model}" was not trained on {_NAMES[use]} with the {_quoted(unknown)}.']

    def description_warnings(self, prompt: str, description: str) -> list[str]:
        """Return a warning that names the known words of `prompt` that the description to draw omits."""
        words = [word for word in words_of(prompt) if word not in _STOP_WORDS]
        literal = [word for word in words if self._use(word) & (WordUse.PROMPT | WordUse.UNSAID) == WordUse.PROMPT]
        omitted = [word for word in literal if not mentions(description, word)]
        return [f"the description drawn leaves out the {_quoted(omitted)}."] if omitted else []

    def warnings_by_name(self, pictures: Mapping[str, Picture], texts: Sequence[str]) -> list[str]:
        """Return the warnings about named pictures and about texts to embed, each prefixed with the name or text."""
        return [
            *(f"{name}: {warning}" for name, picture in pictures.items() for warning in self.picture_warnings(picture)),
            *(f"{text!r}: {warning}" for text in texts for warning in self.text_warnings(text, ANY_TEXT)),
        ]

    def save(self, folder: Path) -> None:
        """Write the input check into a model's folder."""
        tensors = {**self.layers, "word_keys": self.word_keys, "word_uses": self.word_uses}
        metadata = {"model": self.model, "pictures_like": self.pictures_like}
        with atomic_write(folder / FILE) as temporary:
            save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, metadata)

    def _use(self, word: str) -> int:
        row = int(np.searchsorted(self.word_keys, word_key(word)))
        known = row < len(self.word_keys) and self.word_keys[row] == word_key(word)
        return int(self.word_uses[row]) if known else 0


def read_input_check(folder: Path) -> InputCheck:
    """Read the input check in a model's folder, or return an empty one; raises UserError if it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return InputCheck()
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
        keys, uses = tensors.pop("word_keys"), tensors.pop("word_uses")
        return InputCheck(metadata["model"], metadata["pictures_like"], tensors, keys, uses)
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"Cannot read {path} ({error}); delete it, or make it again with `latentbridge calibrate`."
        ) from error


def size_warnings(source: Picture, edited: Picture, drawn_px: int | None) -> list[str]:
    """Return a warning if an edit has another size than its picture, or was drawn smaller: a square of `drawn_px`."""
    height, width = edited.shape[:2]
    if edited.shape != source.shape:
        return [f"the picture comes back at {width} x {height} px."]
    if drawn_px is not None and max(height, width) > drawn_px:
        return [f"the change was drawn at {drawn_px} x {drawn_px} px and scaled up; the rest keeps its own pixels."]
    return []


def words_of(text: str) -> list[str]:
    """Return the distinct words and numbers of a text in any script, in lower case, without single ASCII letters."""
    words = re.findall(r"[^\W_]+", text.lower())
    return list(dict.fromkeys(word for word in words if len(word) > 1 or not word.isascii() or word.isdigit()))


def word_key(word: str) -> int:
    """Return 63 bits of a word's hash, which are stored instead of the word."""
    return int.from_bytes(sha256(word.encode()).digest()[:8], "big") >> 1


def mentions(description: str, word: str) -> bool:
    """Return whether a description contains a word in singular or plural."""
    return _singular(word) in map(_singular, words_of(description))


def picture_statistics(picture: Picture) -> np.ndarray:
    """Return float32 [25]: flatness, colours, background, texture and sharpness of a picture at 64 px.

    Drawings have few colours, flat areas and sharp edges on a plain background; photographs have noise, shading and texture
    up to the frame. Letterbox bars are a plain background too, so it is also measured within the bounding box of the rest.
    """
    small = fit_square(picture, _SIDE_PX)
    levels = small.astype(np.float32)
    right, down = (np.abs(np.diff(levels, axis=axis)).max(axis=-1) for axis in (1, 0))
    flat = [((right <= step).mean() + (down <= step).mean()) / 2 for step in _STEPS]
    frame_share, background = _background(levels)
    value = levels.max(axis=-1)
    light = [(value - levels.min(axis=-1)).mean() / 255, levels.mean() / 255, value.std() / 255]
    texture = _texture(~background, np.maximum(right[:-1], down[:, :-1]))
    return np.array(
        [*flat, *_colours(small), frame_share, *_inside(background), *texture, *light, *_sharpness(levels)], np.float32
    )


def _colours(small: Picture) -> list[float]:
    """Return number (log), entropy, and shares of the 1, 2, 4 and 8 most common colours, at 4 bits a channel."""
    coarse = (small >> 4).astype(np.int64)
    counts = np.bincount((coarse[..., 0] << 8 | coarse[..., 1] << 4 | coarse[..., 2]).ravel(), minlength=4096)
    shares = np.sort(counts[counts > 0])[::-1] / counts.sum()
    return [np.log(len(shares)), -(shares * np.log(shares)).sum(), *(shares[:count].sum() for count in (1, 2, 4, 8))]


def _background(levels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the share of frame pixels close to the frame's median colour, and bool [h w] of all pixels close to it."""
    frame = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    colour = np.median(frame, axis=0)
    near = np.abs(frame - colour).max(axis=-1) <= _SAME_COLOUR
    return near.mean(), np.abs(levels - colour).max(axis=-1) <= _SAME_COLOUR


def _inside(background: np.ndarray) -> tuple[float, float, float, float]:
    """Return background shares of the picture, of the foreground's bounding box and of its rim, and the box's area share."""
    rows, columns = np.flatnonzero(~background.all(axis=1)), np.flatnonzero(~background.all(axis=0))
    if not len(rows):
        return 1.0, 1.0, 1.0, 0.0
    box = background[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rim = np.concatenate([box[0], box[-1], box[:, 0], box[:, -1]])
    return background.mean(), box.mean(), rim.mean(), box.size / background.size


def _texture(foreground: np.ndarray, steps: np.ndarray) -> tuple[float, float, float]:
    """Return quartile and median (log) of the steps between foreground pixels, and the share of small ones."""
    inside = foreground[:-1, :-1] & foreground[1:, :-1] & foreground[:-1, 1:]
    steps = steps[inside]
    if len(steps) < _MIN_PIXELS:
        return 0.0, 0.0, 1.0
    low, middle = np.percentile(steps, [25, 50])
    return np.log1p(low), np.log1p(middle), (steps <= 4).mean()


def _sharpness(levels: np.ndarray) -> list[float]:
    """Return mean, median and third quartile (log) of the Laplacian's magnitude."""
    grey = levels.mean(axis=-1)
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = np.abs(4 * grey[1:-1, 1:-1] - neighbours)
    return [np.log1p(laplacian.mean()), *np.log1p(np.percentile(laplacian, [50, 75]))]


def _singular(word: str) -> str:
    """Strip a plural ending, well enough to match both forms of a word."""
    if word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _quoted(words: Sequence[str]) -> str:
    quoted = ", ".join(f'"{word}"' for word in words)
    return f"word{'s' * (len(words) > 1)} {quoted}"
