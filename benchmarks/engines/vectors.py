"""Vectors as the shipped model makes them, as many as are asked for: made, stored and read again by blocks.

A million take 1.3 GB of disk and never more than a block of memory, beside each query's ten best so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from latentbridge.rng import numpy_rng

DIMENSION = 320
BLOCK = 8192


@dataclass(frozen=True)
class Vectors:
    """What `write_vectors` left in a folder."""

    folder: Path
    count: int

    @property
    def queries(self) -> np.ndarray:
        """float32 [q, 320]: in turns between pictures, and of words."""
        return np.load(self.folder / "queries.npy")

    @property
    def best(self) -> np.ndarray:
        """int64 [q, k]: the numbers of each query's best, best first."""
        return np.load(self.folder / "best.npy")

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The number of the first vector of each block, and its vectors, float32 [up to `BLOCK`, 320]."""
        with (self.folder / "vectors.f32").open("rb") as file:
            for first in range(0, self.count, BLOCK):
                yield first, np.frombuffer(file.read(BLOCK * DIMENSION * 4), np.float32).reshape(-1, DIMENSION)

    def sample(self, count: int) -> np.ndarray:
        """float32 [count or all, 320], from anywhere."""
        chosen = np.sort(numpy_rng(0, "train").permutation(self.count)[:count])
        return np.concatenate(
            [block[chosen[(chosen >= first) & (chosen < first + BLOCK)] - first] for first, block in self.blocks()]
        )


def write_vectors(folder: Path, count: int, queries: int, k: int) -> Vectors:
    """`vectors.f32`, `queries.npy` and `best.npy`."""
    pictures, words = embedded()
    asked = np.empty((queries, DIMENSION), np.float32)
    asked[::2], asked[1::2] = between(pictures, queries // 2, 0), words[: queries // 2]
    scores, numbers = np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)
    with (folder / "vectors.f32").open("wb") as file:
        for first in range(0, count, BLOCK):
            block = between(pictures, min(BLOCK, count - first), first + 1)
            file.write(block.tobytes())
            scores = np.append(scores, asked @ block.T, axis=1)
            numbers = np.append(numbers, np.tile(np.arange(first, first + len(block)), (queries, 1)), axis=1)
            best = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
            scores, numbers = np.take_along_axis(scores, best, 1), np.take_along_axis(numbers, best, 1)
    np.save(folder / "queries.npy", asked)
    np.save(folder / "best.npy", np.take_along_axis(numbers, np.argsort(-scores, axis=1), 1))
    return Vectors(folder, count)


def embedded() -> tuple[np.ndarray, np.ndarray]:
    """The shipped model's vectors of 1,024 scenes, and of the descriptions of 128 others."""
    from latentbridge.data.shapes.language import describe
    from latentbridge.data.shapes.render import render
    from latentbridge.data.shapes.scenes import scenes
    from latentbridge.models.checkpoint import load

    model, drawn = load("tiny"), list(islice(scenes("train", numpy_rng(0, "engines")), 1152))
    pictures = [
        model.embed(images=[render(scene) for scene in part])
        for part in (drawn[i : i + 64] for i in range(0, 1024, 64))
    ]
    return np.concatenate(pictures), model.embed(texts=[describe(scene) for scene in drawn[1024:]])


def between(pictures: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Unit vectors, float32 [count, 320], each between three of the pictures'."""
    rng = numpy_rng(seed, "between")
    weights = rng.dirichlet([0.6] * 3, size=count).astype(np.float32)
    mixed = np.einsum("nk,nkd->nd", weights, pictures[rng.integers(len(pictures), size=(count, 3))])
    mixed += rng.normal(size=mixed.shape).astype(np.float32) * np.float32(0.25 / DIMENSION**0.5)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
