"""Which unified backbone a folder holds, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from latentbridge.models.backbones.bagel.released import is_bagel, load_bagel
from latentbridge.models.backbones.contract import UnifiedBackbone
from latentbridge.models.backbones.harmon.released import is_harmon, load_harmon
from latentbridge.models.backbones.janus.model import JanusPro, is_janus
from latentbridge.models.backbones.omnibridge import OmniBridge
from latentbridge.models.checkpoint import load, shipped


class Kind(NamedTuple):
    """How folders of one backbone are told, and loaded."""

    holds: Callable[[Path], bool]
    load: Callable[[Path], UnifiedBackbone]


BACKBONES = (
    Kind(is_janus, JanusPro.load),
    Kind(is_bagel, load_bagel),
    Kind(is_harmon, load_harmon),
)
"""In the order in which they are asked; any other folder is an OmniBridge."""


def load_backbone(source: str | Path) -> UnifiedBackbone:
    """The backbone called `source`: "tiny", a run or model folder of ours, or a released checkpoint's folder."""
    folder = shipped(source)
    for kind in BACKBONES:
        if kind.holds(folder):
            return kind.load(folder)
    return OmniBridge(load(folder))
