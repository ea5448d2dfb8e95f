"""Which unified backbone a folder holds, how it is loaded, and what makes a network of ours one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.model import Bagel
from latentbridge.models.backbones.bagel.released import is_bagel, load_bagel
from latentbridge.models.backbones.contract import UnifiedBackbone
from latentbridge.models.backbones.harmon.model import Harmon
from latentbridge.models.backbones.harmon.released import is_harmon, load_harmon
from latentbridge.models.backbones.janus.model import JanusPro, is_janus
from latentbridge.models.backbones.omnibridge import OmniBridge
from latentbridge.models.checkpoint import BUILDERS, Network, load, load_model, shipped
from latentbridge.models.dual_encoder import DualEncoder
from latentbridge.models.released import is_released
from latentbridge.models.unified import Model


class Kind(NamedTuple):
    """How folders of one backbone are told, and loaded."""

    holds: Callable[[Path], bool]
    load: Callable[[Path], Network]


BACKBONES = (
    Kind(is_janus, JanusPro.load),
    Kind(is_bagel, load_bagel),
    Kind(is_harmon, load_harmon),
)
"""Releases, in the order in which they are asked; any other folder is of ours, or an OmniBridge's release."""


UNIFIED = tuple(kind for kind in BUILDERS if kind != "scene")
"""Kinds of network that understand and draw."""


def load_backbone(source: str | Path) -> UnifiedBackbone:
    """The backbone called `source`: "tiny", a run or model folder of ours, or a released checkpoint's folder."""
    return as_backbone(load_network(source))


def load_network(source: str | Path) -> Network:
    """What `load_backbone` loads, as it is: an OmniBridge as the whole `Model`, which can do more than the contract asks."""
    folder = shipped(source)
    for kind in BACKBONES:
        if kind.holds(folder):
            return kind.load(folder)
    return load(folder) if is_released(folder) else load_model(folder)


def as_backbone(network: Network, roundtrip_steps: int = 4, through_pixels: bool = False) -> UnifiedBackbone:
    """A network under the contract; `roundtrip_steps` are of the denoising of whole drawings, in backbones that do it, and
    `through_pixels` is Harmon's."""
    if isinstance(network, DualEncoder):
        raise UserError("A dual encoder neither answers nor draws; give the folder of another model.")
    if isinstance(network, Model):
        return OmniBridge(network, roundtrip_steps)
    if isinstance(network, Bagel):
        network.roundtrip_steps = roundtrip_steps
    if isinstance(network, Harmon):
        network.through_pixels = through_pixels
    return network
