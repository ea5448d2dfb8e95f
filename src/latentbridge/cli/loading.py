"""Loading of models for commands that run them and train nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentbridge.light_imports import import_model

if TYPE_CHECKING:
    from latentbridge.models.unified import UnifiedModel


def open_model(source: str, device: str = "cpu", draws: bool = True) -> UnifiedModel:
    """Load a model as `latentbridge.load` does, with as few imports as inference needs."""
    import_model(source, draws)
    from latentbridge.models.checkpoint import load

    return load(source, device=device, draws=draws)
