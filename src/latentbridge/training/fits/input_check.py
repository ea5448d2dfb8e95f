"""Fit of an input check (`models/input_check.py`) to samples of a model's training data."""

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
from latentbridge.config import SftConfig
from latentbridge.data.ood_pictures import sample_ood_picture
from latentbridge.data.worlds import Mixture
from latentbridge.images import fit_square
from latentbridge.models.input_check import InputCheck, WordUse, mentions, picture_statistics, word_key, words_of
from latentbridge.rng import numpy_rng, torch_rng
from latentbridge.types import Conversation, Picture

_INSIDE, _OUTSIDE = 8_000, 4_000
"""Training images and out-of-distribution images that train the classifier; as many more training images set the threshold."""
_FALSE_ALARMS = 0.0015
"""False positive rate on augmented training images; it is higher for unseen artists, and may be 1 % there."""
_MAX_MISSED = 0.3
"""False negative rate above which there is no classifier: the training data is too similar to other images."""
_HIDDEN, _STEPS, _RATE, _DECAY = 24, 1500, 1e-2, 1e-3
_UNSAID = 0.002
"""Fraction of training prompts whose description omits a word above which its omission causes no warning."""
_WORLDS = {"shapes": "coloured shapes", "drawings": "simple drawings"}


@dataclass
class _Samples:
    """Images and word statistics of the training data."""

    pictures: list[Picture] = field(default_factory=list)
    uses: dict[str, WordUse] = field(default_factory=dict)
    prompted: Counter[str] = field(default_factory=Counter)
    """Number of prompts with a word."""
    unsaid: Counter[str] = field(default_factory=Counter)
    """Number of prompts with a word that their description omits."""

    def add_words(self, text: str, use: WordUse) -> None:
        for word in words_of(text):
            self.uses[word] = self.uses.get(word, WordUse(0)) | use

    def add_conversation(self, talk: Conversation) -> None:
        self.pictures += talk.all_pictures
        for request, reply in talk.turns:
            if request.startswith(prefix := prompts.draw_request("")):
                self.add_words(request, WordUse.PROMPT)
                description = prompts.unwrap_description(reply)
                for word in words_of(request.removeprefix(prefix)):
                    self.prompted[word] += 1
                    self.unsaid[word] += not mentions(description, word)
            elif request.startswith(prompts.edit_request("")):
                self.add_words(request, WordUse.INSTRUCTION)
            else:
                self.add_words(request, WordUse.QUESTION)
                self.add_words(reply, WordUse.TEXT)


def fit_input_check(model: str, data: Sequence[str], *, samples: int = 12_000, seed: int = 0) -> InputCheck:
    """Return the input check of a model called `model` that was trained on `data`: "shapes", "drawings", manifests, shards.

    Samples `samples` conversations and captioned images; 12,000 contain nearly all words. The classifier is an MLP with one
    hidden layer over `picture_statistics`, trained on augmented training images against `sample_ood_picture`, with a false
    positive rate of `_FALSE_ALARMS` on further training images. Deterministic on one machine.
    """
    statistics = _sample(data, samples, seed)
    layers = _fit_classifier(statistics.pictures, seed)
    for word, count in statistics.unsaid.items():
        if count > _UNSAID * statistics.prompted[word]:
            statistics.uses[word] |= WordUse.UNSAID
    words = sorted(statistics.uses, key=word_key)
    return InputCheck(
        model=model,
        pictures_like=" and ".join(_WORLDS.get(name, f"pictures of {Path(name).name}") for name in data),
        layers=layers,
        word_keys=np.array([word_key(word) for word in words], np.int64),
        word_uses=np.array([int(statistics.uses[word]) for word in words], np.uint8),
    )


def _sample(data: Sequence[str], count: int, seed: int) -> _Samples:
    """Sample all data in equal parts."""
    mixture = Mixture(SftConfig(sources=tuple((name, 1.0) for name in data), interleave=True), seed)
    samples = _Samples()
    for number in tqdm(range(count), desc="sampling the data", mininterval=2):
        rng = numpy_rng(seed, "input check", number)
        world = mixture.world_at(rng, number)
        samples.add_conversation(world.sample_conversation(rng))
        item = world.sample_align_item(rng)
        samples.add_conversation(item.conversation)
        samples.add_words(item.caption, WordUse.TEXT)
        samples.pictures.append(item.picture)
    if mixture.drawings:  # rare names, and the lexicon of the auxiliary embedding
        for drawing in mixture.drawings.drawings.split("train"):
            samples.add_words(" ".join([drawing.label, *drawing.tags]), WordUse.TEXT)
    return samples


def _fit_classifier(pictures: Sequence[Picture], seed: int) -> dict[str, np.ndarray]:
    """Return the classifier's layers and threshold, or nothing if it misses too many other images."""
    rng = numpy_rng(seed, "input check pictures")
    order = rng.permutation(len(pictures))[: 2 * _INSIDE]
    inside = _statistics([_augment(pictures[index], rng) for index in order])
    train, held_out = inside[: len(inside) // 2], inside[len(inside) // 2 :]
    outside = _statistics([sample_ood_picture(rng) for _ in range(min(_OUTSIDE, len(train)))])
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    layers = {"mean": mean, "scale": scale, **_train((train - mean) / scale, (outside - mean) / scale, seed)}
    check = InputCheck(layers=layers)
    threshold = np.quantile(check.score_statistics(held_out), 1 - _FALSE_ALARMS)
    if (check.score_statistics(outside) <= threshold).mean() > _MAX_MISSED:
        return {}
    return layers | {"threshold": np.array([threshold], np.float32)}


def _train(inside: np.ndarray, outside: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the MLP's layers after training on standardized statistics [n f] of both classes, with equal class weights."""
    rng = torch_rng(seed, "input check")
    network = nn.Sequential(nn.Linear(inside.shape[1], _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, 1))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=rng)
    inputs = torch.from_numpy(InputCheck.clip_statistics(np.concatenate([inside, outside])))
    labels = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    weights = torch.cat([torch.full((len(rows),), 0.5 / len(rows)) for rows in (inside, outside)])
    optimizer = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    with torch.enable_grad():
        for _ in range(_STEPS):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(network(inputs)[:, 0], labels, weights, reduction="sum").backward()
            optimizer.step()
            schedule.step()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return {"weight_1": state["0.weight"], "bias_1": state["0.bias"], "weight_2": state["2.weight"][0]}


def _statistics(pictures: Sequence[Picture]) -> np.ndarray:
    return np.stack([picture_statistics(picture) for picture in pictures])


def _augment(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return the image unchanged, recoloured, letterboxed, upscaled, or JPEG-compressed with or without upscaling."""
    kind = rng.random()
    if kind < 0.4:
        return picture
    if kind < 0.5:
        return _recolour(picture, rng)
    if kind < 0.7:
        return _letterbox(picture, rng)
    if kind < 0.85:
        side = int(rng.integers(len(picture), 513))
        resample = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[rng.integers(3)]
        picture = np.asarray(Image.fromarray(picture).resize((side, side), resample))
        if kind < 0.8:
            return picture
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=int(rng.integers(85, 98)))
    return np.asarray(Image.open(file))


def _recolour(picture: Picture, rng: np.random.Generator) -> Picture:
    """Map each channel linearly to a random range, inverted half of the time."""
    low, high = rng.uniform(0, 90, 3), rng.uniform(165, 255, 3)
    inverted = rng.random(3) < 0.5
    start, end = np.where(inverted, high, low), np.where(inverted, low, high)
    return np.rint(start + (end - start) * picture / 255.0).astype(np.uint8)


def _letterbox(picture: Picture, rng: np.random.Generator) -> Picture:
    """Add margins on two opposite sides, in the colour of the image's corner or white."""
    colour = picture[0, 0] if rng.random() < 0.7 else np.full(3, 255)
    side = len(picture)
    margins = [int(side * rng.uniform(0, 0.4)) for _ in range(2)]
    shape = (sum(margins) + side, side, 3) if rng.random() < 0.5 else (side, sum(margins) + side, 3)
    padded = np.broadcast_to(colour.astype(np.uint8), shape).copy()
    top, left = (margins[0], 0) if shape[0] > side else (0, margins[0])
    padded[top : top + side, left : left + side] = picture
    return fit_square(padded, max(shape[:2]))
