"""What a benchmark may use beside its files: the model under test, and models that grade."""

from __future__ import annotations

from dataclasses import dataclass

from latentbridge.evaluation.bench.cached_model import CachedModel


@dataclass(frozen=True)
class Tools:
    """The model under test, and what grades its pictures and replies."""

    model: CachedModel
