"""The order in which a stage visits its finite set of items."""

from __future__ import annotations

import numpy as np

from latentbridge.config import RunConfig
from latentbridge.errors import UserError
from latentbridge.rng import numpy_rng


class ItemOrder:
    """A shuffled order of the items for each epoch; the last incomplete batch is dropped."""

    def __init__(self, config: RunConfig, purpose: str) -> None:
        """Shuffle with the random stream called `purpose`."""
        if config.stage.items < config.batch_size:
            raise UserError(f"stage.items is {config.stage.items}; it takes batch_size ({config.batch_size}) or more.")
        self._seed, self._purpose = config.seed, purpose
        self._batch_size, self._count = config.batch_size, config.stage.items

    def indices(self, step: int) -> list[int]:
        """Return the items of a step, ascending."""
        epoch, start = divmod(step * self._batch_size, self._count - self._count % self._batch_size)
        order = numpy_rng(self._seed, self._purpose, epoch).permutation(self._count)
        return np.sort(order[start : start + self._batch_size]).tolist()
