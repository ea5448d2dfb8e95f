"""The record of a model's training data that `models/input_check.py` checks inputs against, found from samples of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from latentbridge import prompts
from latentbridge.config import StageConfig
from latentbridge.data.outside import outside_picture
from latentbridge.data.worlds import Mixture
from latentbridge.images import fit_square
from latentbridge.models.input_check import InputCheck, WordUse, mentions, picture_statistics, word_key, words_of
from latentbridge.rng import numpy_rng, torch_rng
from latentbridge.types import Conversation, Picture

_INSIDE, _OUTSIDE = 8_000, 4_000
"""Pictures of the data and others that the classifier learns from; as many more of the data's set the threshold."""
_FALSE_ALARMS = 0.0015
"""Share of training pictures, changed as users change them, above the threshold; more of unseen artists' are, and 1 % may be."""
_MOST_MISSED = 0.3
"""Share of outside pictures missed above which pictures are not judged: the training data is too much like them."""
_HIDDEN, _STEPS, _RATE, _DECAY = 24, 1500, 1e-2, 1e-3
_UNSAID = 0.002
"""Share of prompts whose description leaves a word out, above which that is no reason for a warning."""
_WORLDS = {"shapes": "coloured shapes", "drawings": "simple drawings"}


@dataclass
class _Samples:
    """What was met in the training data."""

    pictures: list[Picture] = field(default_factory=list)
    uses: dict[str, WordUse] = field(default_factory=dict)
    prompted: Counter[str] = field(default_factory=Counter)
    unsaid: Counter[str] = field(default_factory=Counter)
    """Prompts that hold a word, and those whose description leaves it out."""

    def add_words(self, text: str, use: WordUse) -> None:
        for word in words_of(text):
            self.uses[word] = self.uses.get(word, WordUse(0)) | use

    def add_conversation(self, talk: Conversation) -> None:
        if talk.picture is not None:
            self.pictures.append(talk.picture)
        for asked, reply in talk.turns:
            if asked.startswith(opening := prompts.draw_request("")):
                self.add_words(asked, WordUse.PROMPT)
                description = prompts.undrawable(reply)
                for word in words_of(asked.removeprefix(opening)):
                    self.prompted[word] += 1
                    self.unsaid[word] += not mentions(description, word)
            elif asked.startswith(prompts.edit_request("")):
                self.add_words(asked, WordUse.INSTRUCTION)
            else:
                self.add_words(asked, WordUse.QUESTION)
                self.add_words(reply, WordUse.TEXT)


def fit_input_check(model: str, data: Sequence[str], *, samples: int = 12_000, seed: int = 0) -> InputCheck:
    """Return the record of a model called `model` that was trained on `data`: "shapes", "drawings", manifests, shards.

    `samples` conversations and captioned pictures are looked at; the words of 12,000 are those of nearly all there are.
    The classifier is a network of one hidden layer over `picture_statistics`, trained on the data's pictures against
    `outside_picture`. Its threshold is where `_FALSE_ALARMS` of further pictures of the data lie above. Pictures of the
    data are changed as users change them: saved as JPEG, resized, letterboxed, of other colours. The same arguments give
    the same record on the same machine.
    """
    found = _look(data, samples, seed)
    layers = _fit_pictures(found.pictures, seed)
    for word, count in found.unsaid.items():
        if count > _UNSAID * found.prompted[word]:
            found.uses[word] |= WordUse.UNSAID
    words = sorted(found.uses, key=word_key)
    return InputCheck(
        model=model,
        pictures_like=" and ".join(_WORLDS.get(name, f"pictures of {Path(name).name}") for name in data),
        layers=layers,
        word_keys=np.array([word_key(word) for word in words], np.int64),
        word_uses=np.array([int(found.uses[word]) for word in words], np.uint8),
    )


def _look(data: Sequence[str], samples: int, seed: int) -> _Samples:
    """Samples of all data in equal parts."""
    mixture = Mixture(StageConfig("sft", sources=tuple((name, 1.0) for name in data)), seed)
    found = _Samples()
    for number in tqdm(range(samples), desc="looking at the data", mininterval=2):
        rng = numpy_rng(seed, "input check", number)
        world = mixture.pick(rng, number)
        found.add_conversation(world.converse(rng))
        item = world.align(rng)
        found.add_conversation(item.drawing)
        found.add_words(item.caption, WordUse.TEXT)
        found.pictures.append(item.picture)
    if mixture.drawings:  # rare names, and what the lexicon of the second view is made of
        for drawing in mixture.drawings.drawings.split("train"):
            found.add_words(" ".join([drawing.label, *drawing.tags]), WordUse.TEXT)
    return found


def _fit_pictures(pictures: Sequence[Picture], seed: int) -> dict[str, np.ndarray]:
    """The classifier's layers and threshold, or nothing where it cannot tell the pictures from others."""
    rng = numpy_rng(seed, "input check pictures")
    order = rng.permutation(len(pictures))[: 2 * _INSIDE]
    inside = _statistics([_as_users_have_it(pictures[index], rng) for index in order])
    learned, held = inside[: len(inside) // 2], inside[len(inside) // 2 :]
    outside = _statistics([outside_picture(rng) for _ in range(min(_OUTSIDE, len(learned)))])
    mean, scale = learned.mean(axis=0), learned.std(axis=0) + 1e-6
    layers = {"mean": mean, "scale": scale, **_train((learned - mean) / scale, (outside - mean) / scale, seed)}
    check = InputCheck(layers=layers)
    threshold = np.quantile(check.score_statistics(held), 1 - _FALSE_ALARMS)
    if (check.score_statistics(outside) <= threshold).mean() > _MOST_MISSED:
        return {}
    return layers | {"threshold": np.array([threshold], np.float32)}


def _train(inside: np.ndarray, outside: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Layers that tell standardised statistics [n f] of the two kinds apart; both kinds count alike."""
    rng = torch_rng(seed, "input check")
    network = nn.Sequential(nn.Linear(inside.shape[1], _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, 1))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=rng)
    inputs = torch.from_numpy(InputCheck.clip_statistics(np.concatenate([inside, outside])))
    wanted = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    weights = torch.cat([torch.full((len(rows),), 0.5 / len(rows)) for rows in (inside, outside)])
    optimizer = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    with torch.enable_grad():
        for _ in range(_STEPS):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(network(inputs)[:, 0], wanted, weights, reduction="sum").backward()
            optimizer.step()
            schedule.step()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return {"weight_1": state["0.weight"], "bias_1": state["0.bias"], "weight_2": state["2.weight"][0]}


def _statistics(pictures: Sequence[Picture]) -> np.ndarray:
    return np.stack([picture_statistics(picture) for picture in pictures])


def _as_users_have_it(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture as it is, of other colours, letterboxed, enlarged, or saved as JPEG at its size or enlarged."""
    kind = rng.random()
    if kind < 0.4:
        return picture
    if kind < 0.5:
        return _recoloured(picture, rng)
    if kind < 0.7:
        return _framed(picture, rng)
    if kind < 0.85:
        side = int(rng.integers(len(picture), 513))
        how = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[rng.integers(3)]
        picture = np.asarray(Image.fromarray(picture).resize((side, side), how))
        if kind < 0.8:
            return picture
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=int(rng.integers(85, 98)))
    return np.asarray(Image.open(file))


def _recoloured(picture: Picture, rng: np.random.Generator) -> Picture:
    """Each channel stretched over another range, turned around half of the time."""
    low, high = rng.uniform(0, 90, 3), rng.uniform(165, 255, 3)
    swapped = rng.random(3) < 0.5
    start, end = np.where(swapped, high, low), np.where(swapped, low, high)
    return np.rint(start + (end - start) * picture / 255.0).astype(np.uint8)


def _framed(picture: Picture, rng: np.random.Generator) -> Picture:
    """More ground on two sides: of the picture's own corner or white."""
    ground = picture[0, 0] if rng.random() < 0.7 else np.full(3, 255)
    side = len(picture)
    margins = [int(side * rng.uniform(0, 0.4)) for _ in range(2)]
    shape = (sum(margins) + side, side, 3) if rng.random() < 0.5 else (side, sum(margins) + side, 3)
    framed = np.broadcast_to(ground.astype(np.uint8), shape).copy()
    start = (margins[0], 0) if shape[0] > side else (0, margins[0])
    framed[start[0] : start[0] + side, start[1] : start[1] + side] = picture
    return fit_square(framed, max(shape[:2]))
