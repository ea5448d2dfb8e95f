"""The finite set of items that a stage goes through, epoch after epoch."""

from __future__ import annotations

from typing import cast

import numpy as np

from latentbridge.config import AlignConfig, PostTrainConfig, PretrainUnifiedConfig, RunConfig
from latentbridge.errors import UserError
from latentbridge.rng import numpy_rng


class ItemOrder:
    """Which items each step takes: every epoch visits each once, in its own random order; a remainder is left out."""

    def __init__(self, config: RunConfig, purpose: str) -> None:
        """`purpose` names the random stream of the order."""
        self.count = cast(PostTrainConfig | PretrainUnifiedConfig | AlignConfig, config.stage).items
        if self.count < config.batch_size:
            raise UserError(f"stage.items is {self.count}; it takes batch_size ({config.batch_size}) or more.")
        self._seed, self._purpose, self._size = config.seed, purpose, config.batch_size

    def indices(self, step: int) -> list[int]:
        """The items of a step, ascending."""
        epoch, place = divmod(step * self._size, self.count - self.count % self._size)
        order = numpy_rng(self._seed, self._purpose, epoch).permutation(self.count)
        return np.sort(order[place : place + self._size]).tolist()
