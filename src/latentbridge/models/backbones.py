"""Which unified backbone a folder holds, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latentbridge.models.checkpoint import load, shipped
from latentbridge.models.janus import JanusPro
from latentbridge.models.omnibridge import OmniBridge
from latentbridge.models.unified_backbone import UnifiedBackbone
from latentbridge.rundir import read_json

BACKBONES: dict[str, Callable[[Path], UnifiedBackbone]] = {"janus": JanusPro.load}
"""By the `model_type` of a `config.json` in transformers' layout; any other folder is an OmniBridge."""


def load_backbone(source: str | Path) -> UnifiedBackbone:
    """The backbone called `source`: "tiny", a run or model folder of ours, or a released checkpoint's folder."""
    folder = shipped(source)
    config = folder / "config.json"
    found = read_json(config) if config.is_file() else {}
    kind = found.get("model_type") if isinstance(found, dict) else None
    return BACKBONES[kind](folder) if kind in BACKBONES else OmniBridge(load(folder))
