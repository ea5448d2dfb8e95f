"""Which sample comes when: a function of the seed and of how many came before, so that a resumed run needs only its step."""

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

_HELD_SHARDS = 4
"""How many shards are kept in memory; runs over a finite set come back to the same few."""
_ROUND = 10_000
"""Samples after which every source has had exactly its share, to the nearest ten-thousandth."""


class Shards(Protocol):
    """Samples in files that are read whole."""

    shards: list[Shard]
    digest: str
    """What the samples depend on."""

    def read(self, shard: Shard) -> list[Record]:
        """All samples of a shard."""
        ...


class ManifestShards:
    """The training samples of a manifest, as one shard."""

    def __init__(self, path: Path) -> None:
        self._records = [record for record in load_manifest(path) if record.split == "train"]
        self.digest = sha256(repr(self._records).encode()).hexdigest()
        self.shards = [Shard(path.name, "train", 0, self.digest, len(self._records), count_fit(self._records))]

    def read(self, shard: Shard) -> list[Record]:
        """All of them."""
        return self._records


class Stream:
    """Samples epoch after epoch, each once an epoch: shards in an order of the epoch's own, rows of each in another.

    A shard is read once an epoch, and any place can be gone to at once.
    """

    def __init__(self, source: Shards, name: str, seed: int) -> None:
        """`name` is what an error calls the source."""
        self._shards, self._name, self._seed = source.shards, name, seed
        self._counts = {use: np.array([shard.fit[use] for shard in source.shards], dtype=np.int64) for use in USES}
        self._laid_out = lru_cache(maxsize=4)(self._lay_out)
        self._read = lru_cache(_HELD_SHARDS)(lambda index: source.read(source.shards[index]))
        self._fit = lru_cache(_HELD_SHARDS)(lambda index, use: list(filter(USES[use], self._read(index))))

    def record(self, place: int, use: str) -> Record:
        """The sample that comes after `place` others, of those that are fit for a use (`USES`)."""
        counts = self._counts[use]
        if not (total := counts.sum()):
            raise UserError(f'{self._name} has no training record with {use}; give some, in the split "train".')
        epoch, rest = divmod(place, int(total))
        order, ends = self._laid_out(epoch, use)
        turn = np.searchsorted(ends, rest, side="right")
        index = int(order[turn])
        rows = _permutation(self._seed, f"rows of {self._shards[index].name}", epoch, int(counts[index]))
        return self._fit(index, use)[rows[rest - ends[turn] + counts[index]]]

    def has(self, use: str) -> bool:
        """Return whether any sample is fit for a use (`USES`)."""
        return bool(self._counts[use].sum())

    def _lay_out(self, epoch: int, use: str) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's shards in their order, and how many samples there are up to the end of each."""
        order = _permutation(self._seed, "order of shards", epoch, len(self._shards))
        return order, self._counts[use][order].cumsum()


class InterleavedReader:
    """Which source the n-th sample comes from: each gets its share, spread evenly, whatever n."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """`weights` are above zero and need not sum to one."""
        exact = np.array(weights, dtype=np.float64) / sum(weights) * _ROUND
        self._shares = np.floor(exact).astype(int)
        most = np.argsort(self._shares - exact, kind="stable")[: _ROUND - self._shares.sum()]
        self._shares[most] += 1  # what rounding left over goes to the largest remainders
        if not self._shares.all():
            raise UserError(
                f"The weights of stage.sources are too uneven; give each source a share of 1 in {_ROUND:,}."
            )
        self._seed = seed
        self._dealt = lru_cache(maxsize=2)(self._deal)

    def at(self, number: int) -> tuple[int, int]:
        """(source, how many samples it gave before) of the sample that comes after `number` others."""
        turn, within = divmod(number, _ROUND)
        sources, given = self._dealt(turn)
        source = int(sources[within])
        return source, turn * int(self._shares[source]) + int(given[within])

    def _deal(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """The sources of a round's samples, and how many each has given before in the round: int [_ROUND] both.

        A source with n samples has one at a random moment of each n-th part of the round.
        """
        rng = numpy_rng(self._seed, "turns of sources", turn)
        moments = np.concatenate([(np.arange(share) + rng.random(share)) / share for share in self._shares])
        order = np.argsort(moments, kind="stable")
        sources = np.repeat(np.arange(len(self._shares)), self._shares)
        given = np.concatenate([np.arange(share) for share in self._shares])
        return sources[order], given[order]


@lru_cache(maxsize=16)
def _permutation(seed: int, purpose: str, epoch: int, count: int) -> np.ndarray:
    return numpy_rng(seed, purpose, epoch).permutation(count)
