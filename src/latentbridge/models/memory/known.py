"""Outlines of models by name or folder: what is planned before anything is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

from latentbridge.config import (
    OMNIBRIDGE_8B,
    QWEN2_VL_7B,
    ModelConfig,
    NetworkConfig,
    ReleaseConfig,
    TinyBagelConfig,
    TinyHarmonConfig,
    TinyJanusConfig,
    from_dict,
)
from latentbridge.errors import UserError, unknown_name
from latentbridge.files import read_json
from latentbridge.light_imports import holds_saved_model
from latentbridge.models.checkpoint import model_folder, outline, shipped
from latentbridge.models.memory.trace import META
from latentbridge.models.omnibridge.load_hunyuan_dit import attach_meta_captions, attach_meta_decoder
from latentbridge.models.omnibridge.load_omnibridge import set_release_defaults
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.unified import UnifiedModel
from latentbridge.models.weights import Placement

_WITH_DECODER = "omnibridge-8b"
RELEASES: dict[str, NetworkConfig] = {
    **{kind: ReleaseConfig(kind) for kind in get_args(get_type_hints(ReleaseConfig)["kind"])},
    _WITH_DECODER: OMNIBRIDGE_8B,
    "qwen2-vl-7b": ModelConfig(parts=("backbone",), backbone=QWEN2_VL_7B),
}
"""Published sizes by the names of releases."""
UNTRAINED: dict[str, NetworkConfig] = {
    "omnibridge": ModelConfig(),
    "janus": TinyJanusConfig(),
    "bagel": TinyBagelConfig(),
    "harmon": TinyHarmonConfig(),
}
"""Sizes of models that are built here, by their kind."""


def known_name(source: str) -> str | None:
    """Return the name of a release or kind in lower case; None for a folder."""
    name = source if Path(source).exists() else source.lower()
    return name if name in {**RELEASES, **UNTRAINED} else None


def known_config(source: str) -> NetworkConfig | None:
    """Return the config of a named model, or of a folder of ours; None for the folder of a release."""
    name, folder = known_name(source), shipped(source)
    if name is not None:
        return {**RELEASES, **UNTRAINED}[name]
    if holds_saved_model(folder):
        return from_dict(NetworkConfig, read_json(model_folder(folder) / "config.json"))
    return None


def outlined(source: str) -> UnifiedModel:
    """Return a model on the meta device: a named one, "tiny", or one in a folder; raise UserError if there is none."""
    config, name, folder = known_config(source), known_name(source), shipped(source)
    if config is None:
        return _outlined_release(source, folder)
    network = outline(config) if name else outline(config, model_folder(folder))
    if not isinstance(network, UnifiedModel):
        raise UserError(f"{source} is no model that understands, draws or embeds; give another.")
    if name == _WITH_DECODER and isinstance(network, OmniBridge):
        attach_meta_decoder(network)
        attach_meta_captions(network)
        set_release_defaults(network)
    return network


def _outlined_release(source: str, folder: Path) -> UnifiedModel:
    from latentbridge.models.backbones.loading import load_release

    if not folder.exists():
        raise unknown_name("model", source, ("tiny", *RELEASES, *UNTRAINED, "FOLDER"))
    network = load_release(folder, Placement(device=META))
    if network is None:
        from latentbridge.models.backbones.recognise import describe_folder

        raise UserError(f"{folder} {describe_folder(folder)}.")
    return network.to(META)  # with the buffers that are computed
