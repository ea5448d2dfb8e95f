"""Random generators as a function of (seed, purpose, step, rank).

The library never draws from a global generator, so a resumed run is bitwise reproducible from its step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    import torch


def repeat_seeds(seeds: Sequence[int], rows: int) -> list[int]:
    """Return the seed of each row: row j has `seeds[j % len(seeds)]`."""
    return [seeds[row % len(seeds)] for row in range(rows)]


def numpy_rng(seed: int, purpose: str, step: int = 0, rank: int = 0) -> np.random.Generator:
    """Return a NumPy generator that depends on its arguments only."""
    return np.random.default_rng([seed, step, rank, crc32(purpose.encode())])


def torch_rng(seed: int, purpose: str, step: int = 0, rank: int = 0) -> torch.Generator:
    """Return a torch CPU generator that depends on its arguments only."""
    import torch

    state = np.random.SeedSequence([seed, step, rank, crc32(purpose.encode())]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
