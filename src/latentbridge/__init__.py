"""LatentBridge: unified multimodal models that understand, generate, edit and embed images."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentbridge.models.checkpoint import load
    from latentbridge.models.unified import UnifiedModel
    from latentbridge.retrieval.index import Index
    from latentbridge.retrieval.stores import create_index, open_index

# OpenMP's threads sleep while they wait, after spinning for some 30 microseconds: beside other processes, spinning threads
# take ten times as long. OpenMP reads this when torch loads, so it has no effect if torch was imported before.
SPIN_COUNT = "10000"
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

__version__ = "0.1.0"
__all__ = ["Index", "UnifiedModel", "create_index", "load", "open_index"]
_MODULES = {
    "load": "latentbridge.models.checkpoint",
    "UnifiedModel": "latentbridge.models.unified",
    "Index": "latentbridge.retrieval.index",
    "create_index": "latentbridge.retrieval.stores",
    "open_index": "latentbridge.retrieval.stores",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import latentbridge` is instant."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'latentbridge' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
