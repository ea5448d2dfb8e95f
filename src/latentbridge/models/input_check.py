"""A check that tells inputs unlike a model's training data: pictures by their statistics, words by a list.

The record of a model, `input_check.safetensors` in its folder, holds a small classifier and hashed words. It is made by
`training/fits/input_check.py`. It uses no weights of the model, so a check costs less than a millisecond a picture.
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
"""Pictures are judged at the size the shipped model reads; a photograph keeps its texture there."""
_STEPS = (2, 6, 12, 24, 48)
_SAME_COLOUR = 12
_FEWEST_PIXELS = 20
_FARTHEST = 8.0
"""Statistics are cut off at so many standard deviations, so that no picture leaves the range the classifier knows."""
_FUNCTION_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        """
    a about after again all also am an and any are as at be been before being but by can could did do does doing
    down for from had has have having he her here him his how i if in into is it its just like may me might more
    most much must my no nor not now of off on one only onto or other our out over please shall she should so some
    such than that the their them then there these they this those through to too under up us very was we were what
    when where which while who whom whose why will with would you your
        """,
    )
)
"""Words that carry no content, and so are never warned of."""


class Use(IntFlag):
    """The kinds of text in which training used a word."""

    QUESTION = 1
    PROMPT = 2
    """Requests to draw."""
    INSTRUCTION = 4
    """Requests to edit."""
    TEXT = 8
    """Captions, which are embedded."""
    UNSAID = 16
    """The word stood in prompts whose description may leave it out, such as "photo"."""


ANY_REQUEST = Use.QUESTION | Use.PROMPT | Use.INSTRUCTION
ANY_TEXT = ANY_REQUEST | Use.TEXT
_NAMES = {ANY_REQUEST: "questions", Use.PROMPT: "prompts", Use.INSTRUCTION: "instructions", ANY_TEXT: "texts"}


@dataclass(frozen=True)
class InputCheck:
    """What is known of a model's training data; empty, which warns of nothing, where a model has no record.

    Every method returns warnings: sentences without a full stop at the end of what they quote, empty where there is none.
    """

    model: str = ""
    pictures_like: str = ""
    """What pictures of the training data show, in words."""
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    """float32: `mean` and `scale` of the statistics [f], `weight_1` [h f], `bias_1` [h], `weight_2` [h], `threshold` [1]."""
    word_keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [n], sorted: `word_key` of each word."""
    word_uses: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    """uint8 [n]: the `Use` of each word."""

    def scores(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Return how far pictures of any size lie outside the training data: float32 [b], above `threshold` outside."""
        return self.score_statistics(np.stack([picture_statistics(picture) for picture in pictures]))

    def score_statistics(self, statistics: np.ndarray) -> np.ndarray:
        """Return the `scores` [b] of pictures whose `picture_statistics` [b f] are known."""
        seen = self.cut_off((statistics - self.layers["mean"]) / self.layers["scale"])
        return np.tanh(seen @ self.layers["weight_1"].T + self.layers["bias_1"]) @ self.layers["weight_2"]

    @staticmethod
    def cut_off(standardised: np.ndarray) -> np.ndarray:
        """Return standardised statistics kept within the range that the classifier learns from."""
        return np.clip(standardised, -_FARTHEST, _FARTHEST)

    def picture_warnings(self, picture: Picture) -> list[str]:
        """Return a warning where a picture of any size is unlike the training pictures."""
        if not self.layers or self.scores([picture])[0] <= self.layers["threshold"][0]:
            return []
        return [
            f'this picture is unlike the {self.pictures_like} that "{self.model}" was trained on; what it makes of the picture is probably wrong.'
        ]

    def text_warnings(self, text: str, use: Use = ANY_REQUEST) -> list[str]:
        """Return a warning that names the content words of `text` which training never used in texts of this kind."""
        unknown = self._unknown(text, use)
        if not unknown or not len(self.word_keys):
            return []
        return [f'"{self.model}" was not trained on {_NAMES[use]} with the {_quoted(unknown)}.']

    def description_warnings(self, prompt: str, description: str) -> list[str]:
        """Return a warning that names the known words of `prompt` which the description to draw should say and does not."""
        words = [word for word in words_of(prompt) if word not in _FUNCTION_WORDS]
        literal = [word for word in words if self._use(word) & (Use.PROMPT | Use.UNSAID) == Use.PROMPT]
        left_out = [word for word in literal if not says(description, word)]
        return [f"the description drawn leaves out the {_quoted(left_out)}."] if left_out else []

    def warnings_by_name(self, pictures: Mapping[str, Picture], texts: Sequence[str]) -> list[str]:
        """Return the warnings about pictures by name and about texts to embed, each after what it is about."""
        about_pictures = [
            f"{name}: {each}" for name, picture in pictures.items() for each in self.picture_warnings(picture)
        ]
        return about_pictures + [f"{text!r}: {each}" for text in texts for each in self.text_warnings(text, ANY_TEXT)]

    def save(self, folder: Path) -> None:
        """Write the record into a model's folder."""
        tensors = {**self.layers, "word_keys": self.word_keys, "word_uses": self.word_uses}
        metadata = {"model": self.model, "pictures_like": self.pictures_like}
        with atomic_write(folder / FILE) as temporary:
            save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, metadata)

    def _unknown(self, text: str, use: Use) -> list[str]:
        return [word for word in words_of(text) if word not in _FUNCTION_WORDS and not self._use(word) & use]

    def _use(self, word: str) -> int:
        place = int(np.searchsorted(self.word_keys, word_key(word)))
        found = place < len(self.word_keys) and self.word_keys[place] == word_key(word)
        return int(self.word_uses[place]) if found else 0


def read_input_check(folder: Path) -> InputCheck:
    """Return the record in a model's folder, an empty one where there is none; raises UserError where it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return InputCheck()
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            metadata = file.metadata() or {}
        keys, uses = tensors.pop("word_keys"), tensors.pop("word_uses")
        return InputCheck(metadata["model"], metadata["pictures_like"], tensors, keys, uses)
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"Cannot read {path} ({error}); delete it, or make it again with `latentbridge calibrate`."
        ) from error


def size_warnings(source: Picture, side_px: int) -> list[str]:
    """Return a warning where a picture is no square of the size that it comes back at after an edit."""
    return [] if source.shape[:2] == (side_px, side_px) else [f"the picture comes back at {side_px} x {side_px} px."]


def words_of(text: str) -> list[str]:
    """Return the distinct words and numbers of a text of any script, in lower case and in order; single letters are left out."""
    found = re.findall(r"[^\W_]+", text.lower())
    return list(dict.fromkeys(word for word in found if len(word) > 1 or not word.isascii() or word.isdigit()))


def word_key(word: str) -> int:
    """Return what is stored in place of a word: 63 bits of its hash."""
    return int.from_bytes(sha256(word.encode()).digest()[:8], "big") >> 1


def says(description: str, word: str) -> bool:
    """Return whether a description holds a word, be it in the singular or in the plural."""
    return _singular(word) in {_singular(each) for each in words_of(description)}


def picture_statistics(picture: Picture) -> np.ndarray:
    """Return float32 [25]: flatness, colours, ground, texture and sharpness of a picture at 64 px.

    Drawings have few colours, flat areas and sharp edges on a plain ground, whatever they show; photographs have noise,
    shading and texture up to the frame. Letterbox bars are a plain ground too, so the ground is also measured inside the
    box that holds everything else.
    """
    small = fit_square(picture, _SIDE_PX)
    levels = small.astype(np.float32)
    right, down = (np.abs(np.diff(levels, axis=axis)).max(axis=-1) for axis in (1, 0))
    flat = [((right <= step).mean() + (down <= step).mean()) / 2 for step in _STEPS]
    near, ground = _ground(levels)
    top = levels.max(axis=-1)
    light = [(top - levels.min(axis=-1)).mean() / 255, levels.mean() / 255, top.std() / 255]
    texture = _texture(~ground, np.maximum(right[:-1], down[:, :-1]))
    return np.array(
        [*flat, *_colours(small), near, *_inside(ground), *texture, *light, *_sharpness(levels)], np.float32
    )


def _colours(small: Picture) -> list[float]:
    """Number (log), entropy and shares of the 1, 2, 4 and 8 commonest colours, at 4 bits a channel."""
    coarse = (small >> 4).astype(np.int64)
    counts = np.bincount((coarse[..., 0] << 8 | coarse[..., 1] << 4 | coarse[..., 2]).ravel(), minlength=4096)
    shares = np.sort(counts[counts > 0])[::-1] / counts.sum()
    return [np.log(len(shares)), -(shares * np.log(shares)).sum(), *(shares[:most].sum() for most in (1, 2, 4, 8))]


def _ground(levels: np.ndarray) -> tuple[float, np.ndarray]:
    """The share of the frame's pixels that have about its median colour, and bool [h w]: all pixels that have."""
    frame = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    colour = np.median(frame, axis=0)
    near = np.abs(frame - colour).max(axis=-1) <= _SAME_COLOUR
    return near.mean(), np.abs(levels - colour).max(axis=-1) <= _SAME_COLOUR


def _inside(ground: np.ndarray) -> tuple[float, float, float, float]:
    """The share of ground in all, in the box around the rest, and along its rim; and the share of the picture it fills."""
    rows, columns = np.flatnonzero(~ground.all(axis=1)), np.flatnonzero(~ground.all(axis=0))
    if not len(rows):
        return 1.0, 1.0, 1.0, 0.0
    box = ground[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rim = np.concatenate([box[0], box[-1], box[:, 0], box[:, -1]])
    return ground.mean(), box.mean(), rim.mean(), box.size / ground.size


def _texture(figure: np.ndarray, steps: np.ndarray) -> tuple[float, float, float]:
    """Quartile and median (log) of the steps between pixels of the figure, and the share of small ones."""
    within = figure[:-1, :-1] & figure[1:, :-1] & figure[:-1, 1:]
    found = steps[within]
    if len(found) < _FEWEST_PIXELS:
        return 0.0, 0.0, 1.0
    low, middle = np.percentile(found, [25, 50])
    return np.log1p(low), np.log1p(middle), (found <= 4).mean()


def _sharpness(levels: np.ndarray) -> list[float]:
    """Mean, median and third quartile (log) of the Laplacian's magnitude."""
    grey = levels.mean(axis=-1)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    bend = np.abs(4 * grey[1:-1, 1:-1] - around)
    return [np.log1p(bend.mean()), *np.log1p(np.percentile(bend, [50, 75]))]


def _singular(word: str) -> str:
    """The word without a plural's ending, as far as two forms of one word become alike."""
    if word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _quoted(words: Sequence[str]) -> str:
    quoted = ", ".join(f'"{word}"' for word in words)
    return f"word{'s' * (len(words) > 1)} {quoted}"
