"""Loading of released checkpoints by what their folders hold, and the model a training run starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from latentbridge.config import BackboneConfig, ModelConfig, NetworkConfig, from_dict
from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.light_imports import holds_saved_model
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
from latentbridge.models.load_dual_encoder import is_dual_encoder, load_dual_encoder
from latentbridge.models.omnibridge.load_hunyuan_dit import attach_decoder, is_decoder
from latentbridge.models.omnibridge.load_omnibridge import check_state_dict, load_released
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.release import is_qwen_vl, read_backbone_config
from latentbridge.models.tensors import describe_mismatch, mismatched_tensors
from latentbridge.models.tokenization import add_image_markers, load_tokenizer
from latentbridge.models.trainable import TrainableModel
from latentbridge.models.unified import UnifiedModel
from latentbridge.models.weights import AS_STORED, Placement


class ReleaseKind(NamedTuple):
    """The test for, and the loader of, the release folders of one model; the loader takes a folder and `placement`."""

    holds: Callable[[Path], bool]
    load: Callable[..., UnifiedModel]


RELEASES = (
    ReleaseKind(is_janus, load_janus),
    ReleaseKind(is_bagel, load_bagel),
    ReleaseKind(is_harmon, load_harmon),
    ReleaseKind(is_qwen_vl, load_released),
    ReleaseKind(is_dual_encoder, load_dual_encoder),
)
"""Kinds of release in the order in which they are tried."""
UNIFIED = tuple(kind for kind in BUILDERS if kind != "scene")
"""Config kinds of models that understand and generate."""


def load_release(folder: Path, placement: Placement = AS_STORED) -> UnifiedModel | None:
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
    of a HunyuanDiT is attached as the decoder. A backbone whose config fixes the size of its vocabulary takes tokenizer and
    settings of the checkpoint that it starts from, and of a released one all sizes: a recipe for Qwen2-VL-7B trains any
    Qwen-VL. Its tokenizer gets the markers of a description to draw.
    """
    folders = dict(init)
    whole = folders.get("")
    source, words = folders.get("backbone.", whole), ASSETS / "tokenizer"
    if source and isinstance(config, ModelConfig) and config.backbone.vocab_size:
        config, words = replace(config, backbone=_stored_backbone(source, config.backbone)), model_folder(source)
    if whole and (release := load_release(whole, Placement(torch.float32))):
        check_state_dict(outline(config), release.state_dict(), whole)
        release.config = config
        if isinstance(release, OmniBridge):
            add_image_markers(release.tokenizer)
        return release
    network = new_model(config, seed, words)
    if isinstance(network, OmniBridge):
        add_image_markers(network.tokenizer)
    for part, folder in init:
        if isinstance(network, OmniBridge) and part == "decoder." and is_decoder(folder):
            attach_decoder(network, folder, torch.float32)
        elif is_qwen_vl(folder):
            _copy_parts(load_released(folder), network, part, folder)
        else:
            load_parts(network, folder, [part])
    return network


def _stored_backbone(folder: Path, default: BackboneConfig) -> BackboneConfig:
    """Return the backbone's config of a release, or of a model of ours that was trained from one; otherwise `default`."""
    if is_qwen_vl(folder):
        return read_backbone_config(folder, load_tokenizer(folder))
    path = model_folder(folder) / "config.json"
    stored = from_dict(NetworkConfig, read_json(path)) if path.is_file() and holds_saved_model(folder) else None
    return stored.backbone if isinstance(stored, ModelConfig) and stored.backbone.release.config else default


@torch.no_grad()
def _copy_parts(release: OmniBridge, network: Network, part: str, folder: Path) -> None:
    """Copy the tensors of a part from a release; raise UserError unless all exist and fit."""
    stored, expected = (
        {name: tensor for name, tensor in model.state_dict().items() if name.startswith(part)}
        for model in (release, network)
    )
    if mismatched := mismatched_tensors(expected, stored):
        raise UserError(f"{folder} does not fit: {describe_mismatch(mismatched)}.")
    for name, tensor in expected.items():
        tensor.copy_(stored[name])


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
