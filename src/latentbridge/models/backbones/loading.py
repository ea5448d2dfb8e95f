"""Loading of released checkpoints by what their folders hold, and the model a training run starts from."""

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
from latentbridge.models.backbones.janus.load_janus import is_janus, load_janus
from latentbridge.models.checkpoint import (
    ASSETS,
    BUILDERS,
    Network,
    load_model,
    load_parts,
    model_folder,
    new_model,
    outline,
    shipped,
)
from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder, is_decoder
from latentbridge.models.omnibridge.load_omnibridge import check_state_dict, is_released, load_released
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.trainable import TrainableModel
from latentbridge.models.weights import AS_STORED, Placement


class ReleaseKind(NamedTuple):
    """The test for, and the loader of, the release folders of one model; the loader takes a folder and `placement`."""

    holds: Callable[[Path], bool]
    load: Callable[..., TrainableModel]


RELEASES = (
    ReleaseKind(is_janus, load_janus),
    ReleaseKind(is_bagel, load_bagel),
    ReleaseKind(is_harmon, load_harmon),
    ReleaseKind(is_released, load_released),
)
"""Kinds of release in the order in which they are tried."""
UNIFIED = tuple(kind for kind in BUILDERS if kind != "scene")
"""Config kinds of models that understand and generate."""


def load_release(folder: Path, placement: Placement = AS_STORED) -> TrainableModel | None:
    """Return the model of a release folder, or None if the folder holds no release."""
    return next((kind.load(folder, placement=placement) for kind in RELEASES if kind.holds(folder)), None)


def load_network(source: str | Path, draws: bool = True) -> Network:
    """Return the network called `source`: "tiny", a run or model folder of ours, or a release folder.

    `draws=False` leaves out what an OmniBridge of ours needs for drawing alone.
    """
    folder = shipped(source)
    return load_release(folder) or load_model(folder, draws)


def starting_network(config: NetworkConfig, seed: int, init: Sequence[tuple[str, Path]]) -> Network:
    """Return a run's network before its first step: built from `config`, each part read from its folder in `init`.

    A whole release is taken as it is, with its own tokenizer and in float32, in which the loop keeps what it trains; the folder
    of a HunyuanDiT is attached as the decoder. A backbone whose config fixes the size of its vocabulary takes the tokenizer
    of the checkpoint that it starts from.
    """
    folders = dict(init)
    whole = folders.get("")
    if whole and (release := load_release(whole, Placement(torch.float32))):
        check_state_dict(outline(config), release.state_dict(), whole)
        release.config = config  # pyright: ignore[reportAttributeAccessIssue]
        return release  # pyright: ignore[reportReturnType]
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


def prepare_for_training(network: Network, roundtrip_steps: int = 4, through_pixels: bool = False) -> TrainableModel:
    """Set how a model makes round trips, and return it; raise UserError for a network that cannot understand and generate.

    `roundtrip_steps` are denoising steps of whole drawings (OmniBridge, BAGEL); `through_pixels` is Harmon's.
    """
    if not isinstance(network, TrainableModel):
        raise UserError("A dual encoder neither answers nor generates; give the folder of another model.")
    network.require("generate")
    if isinstance(network, (OmniBridge, Bagel)):
        network.roundtrip_steps = roundtrip_steps
    if isinstance(network, Harmon):
        network.through_pixels = through_pixels
    return network
