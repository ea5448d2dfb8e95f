"""The order of a user's samples, computed from the seed and the position alone, so that a resumed run needs no state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from latentbridge.data.own.manifest import Record, load_manifest
from latentbridge.data.own.shards import USES, Shard, count_fit
from latentbridge.errors import UserError
from latentbridge.rng import numpy_rng

_CACHED_SHARDS = 4
"""Shards kept in memory; runs over a finite set read the same few again."""
_ROUND = 10_000
"""Samples in which each source has its exact share, to the nearest ten-thousandth."""


class Shards(Protocol):
    """Samples in files that are read as a whole."""

    shards: list[Shard]
    digest: str
    """A hash of the samples."""

    def read(self, shard: Shard) -> list[Record]:
        """Return all samples of a shard."""
        ...


class ManifestShards:
    """The training samples of a manifest as one shard."""

    def __init__(self, path: Path) -> None:
        self._records = [record for record in load_manifest(path) if record.split == "train"]
        self.digest = sha256(repr(self._records).encode()).hexdigest()
        self.shards = [Shard(path.name, "train", 0, self.digest, len(self._records), count_fit(self._records))]

    def read(self, shard: Shard) -> list[Record]:
        return self._records


class Stream:
    """Endless samples with random access, each once per epoch; each epoch shuffles the shards and the rows of each.

    A shard is read once per epoch.
    """

    def __init__(self, source: Shards, name: str, seed: int) -> None:
        """`name` is the source's name in errors."""
        self._shards, self._name, self._seed = source.shards, name, seed
        self._counts = {use: np.array([shard.fit[use] for shard in source.shards], dtype=np.int64) for use in USES}
        self._epoch_order = lru_cache(maxsize=4)(self._shuffle_shards)
        self._read = lru_cache(_CACHED_SHARDS)(lambda index: source.read(source.shards[index]))
        self._fit = lru_cache(_CACHED_SHARDS)(lambda index, use: list(filter(USES[use], self._read(index))))

    def record(self, position: int, use: str) -> Record:
        """Return the sample at a position among those fit for a use (`USES`)."""
        counts = self._counts[use]
        if not (total := counts.sum()):
            raise missing_use(self._name, use)
        epoch, offset = divmod(position, int(total))
        order, ends = self._epoch_order(epoch, use)
        rank = np.searchsorted(ends, offset, side="right")
        index = int(order[rank])
        rows = _permutation(self._seed, f"rows of {self._shards[index].name}", epoch, int(counts[index]))
        return self._fit(index, use)[rows[offset - ends[rank] + counts[index]]]

    def has(self, use: str) -> bool:
        """Return whether any sample is fit for a use (`USES`)."""
        return bool(self._counts[use].sum())

    def _shuffle_shards(self, epoch: int, use: str) -> tuple[np.ndarray, np.ndarray]:
        """Return an epoch's order of shards and the cumulative number of their samples."""
        order = _permutation(self._seed, "order of shards", epoch, len(self._shards))
        return order, self._counts[use][order].cumsum()


class InterleavedReader:
    """The interleaved order of sources, in which each has its share at any moment."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """`weights` are above zero and need not sum to one."""
        exact = np.array(weights, dtype=np.float64) / sum(weights) * _ROUND
        self._shares = np.floor(exact).astype(int)
        largest_remainders = np.argsort(self._shares - exact, kind="stable")[: _ROUND - self._shares.sum()]
        self._shares[largest_remainders] += 1
        if not self._shares.all():
            raise UserError(
                f"The weights of stage.sources are too uneven; give each source a share of 1 in {_ROUND:,}."
            )
        self._seed = seed
        self._round = lru_cache(maxsize=2)(self._make_round)

    def at(self, number: int) -> tuple[int, int]:
        """Return (source, position within the source) of the sample at position `number`."""
        turn, offset = divmod(number, _ROUND)
        sources, positions = self._round(turn)
        source = int(sources[offset])
        return source, turn * int(self._shares[source]) + int(positions[offset])

    def _make_round(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sources of a round's samples and their positions within the round, both int [_ROUND].

        A source with n samples has one at a random moment of each n-th part of the round.
        """
        rng = numpy_rng(self._seed, "turns of sources", turn)
        moments = np.concatenate([(np.arange(share) + rng.random(share)) / share for share in self._shares])
        order = np.argsort(moments, kind="stable")
        sources = np.repeat(np.arange(len(self._shares)), self._shares)
        positions = np.concatenate([np.arange(share) for share in self._shares])
        return sources[order], positions[order]


def missing_use(name: str, use: str) -> UserError:
    """Return the error of a source without a training record that is fit for a use (`USES`)."""
    return UserError(f'{name} has no training record with {use}; add that to some lines of the split "train".')


@lru_cache(maxsize=16)
def _permutation(seed: int, purpose: str, epoch: int, count: int) -> np.ndarray:
    return numpy_rng(seed, purpose, epoch).permutation(count)
