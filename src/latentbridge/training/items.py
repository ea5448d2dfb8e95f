"""The order in which a stage visits its finite set of items."""

from __future__ import annotations

from typing import cast

import numpy as np

from latentbridge.config import AlignConfig, PostTrainConfig, PretrainUnifiedConfig, RunConfig
from latentbridge.errors import UserError
from latentbridge.rng import numpy_rng


class ItemOrder:
    """A shuffled order of the items for each epoch; the last incomplete batch is dropped."""

    def __init__(self, config: RunConfig, purpose: str) -> None:
        """Shuffle with the random stream called `purpose`."""
        self.count = cast(PostTrainConfig | PretrainUnifiedConfig | AlignConfig, config.stage).items
        if self.count < config.batch_size:
            raise UserError(f"stage.items is {self.count}; it takes batch_size ({config.batch_size}) or more.")
        self._seed, self._purpose, self._batch_size = config.seed, purpose, config.batch_size

    def indices(self, step: int) -> list[int]:
        """Return the items of a step, ascending."""
        epoch, start = divmod(step * self._batch_size, self.count - self.count % self._batch_size)
        order = numpy_rng(self._seed, self._purpose, epoch).permutation(self.count)
        return np.sort(order[start : start + self._batch_size]).tolist()
