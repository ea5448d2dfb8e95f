"""Which unified backbone a folder holds, how it is loaded, and what makes a network of ours one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from latentbridge.config import ModelConfig, NetworkConfig
from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.load_bagel import is_bagel, load_bagel
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.harmon.load_harmon import is_harmon, load_harmon
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.janus.modeling_janus import JanusPro, is_janus
from latentbridge.models.backbones.omnibridge import OmniBridgeAdapter
from latentbridge.models.checkpoint import (
    ASSETS,
    BUILDERS,
    Network,
    load,
    load_model,
    load_parts,
    model_folder,
    new_model,
    outline,
    shipped,
)
from latentbridge.models.dual_encoder import DualEncoder
from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder, is_decoder
from latentbridge.models.omnibridge.load_omnibridge import is_released, require_fit
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.trainable import TrainableModel


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


def load_backbone(source: str | Path) -> TrainableModel:
    """The backbone called `source`: "tiny", a run or model folder of ours, or a released checkpoint's folder."""
    return as_backbone(load_network(source))


def load_network(source: str | Path) -> Network:
    """What `load_backbone` loads, as it is: an OmniBridge as the whole `OmniBridge`, which can do more than the contract asks."""
    folder = shipped(source)
    for kind in BACKBONES:
        if kind.holds(folder):
            return kind.load(folder)
    return load(folder) if is_released(folder) else load_model(folder)


def starting_network(config: NetworkConfig, seed: int, init: Sequence[tuple[str, Path]]) -> Network:
    """A run's network before its first step, from (part, folder) pairs: built anew, each part read from its folder.

    A whole release is taken as it is, with its own tokenizer and in float32, in which the loop keeps what it trains; a
    HunyuanDiT's folder is attached as the decoder. A backbone whose config fixes the size of its vocabulary reads with
    the tokenizer of what it starts from.
    """
    folders = dict(init)
    whole = folders.get("")
    if whole and (is_released(whole) or any(kind.holds(whole) for kind in BACKBONES)):
        release = load_network(whole).float()
        require_fit(outline(config), release.state_dict(), whole)
        release.config = config  # pyright: ignore[reportAttributeAccessIssue]
        return release
    source = folders.get("backbone.", whole)
    own_words = isinstance(config, ModelConfig) and config.backbone.vocab_size > 0
    words = model_folder(source) if source and own_words else ASSETS / "tokenizer"
    network = new_model(config, seed, words)
    for part, folder in init:
        if isinstance(network, OmniBridge) and part == "decoder." and is_decoder(folder):
            attach_decoder(network, folder, torch.float32)
        else:
            load_parts(network, folder, [part])
    return network


def as_backbone(network: Network, roundtrip_steps: int = 4, through_pixels: bool = False) -> TrainableModel:
    """A network under the contract; `roundtrip_steps` are of the denoising of whole drawings, in backbones that do it, and
    `through_pixels` is Harmon's."""
    if isinstance(network, DualEncoder):
        raise UserError("A dual encoder neither answers nor draws; give the folder of another model.")
    if isinstance(network, OmniBridge):
        return OmniBridgeAdapter(network, roundtrip_steps)
    if isinstance(network, Bagel):
        network.roundtrip_steps = roundtrip_steps
    if isinstance(network, Harmon):
        network.through_pixels = through_pixels
    return network
