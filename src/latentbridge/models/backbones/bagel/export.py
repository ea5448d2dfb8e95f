"""A BAGEL in the layout of its release: the inverse of `load_bagel.py`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from latentbridge.errors import UserError
from latentbridge.models.autoencoder import KLAutoencoder
from latentbridge.models.backbones.bagel.load_bagel import LANGUAGE, NAMES, PATCHES, VAE, VISION, autoencoder_names
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.names import attention_to_convolution
from latentbridge.models.backbones.release_files import ReleaseFiles

_UNUSED_LAYERS = 1
"""Layers that the authors' code takes off `vit_config.json` (`app.py` at 056b5fd)."""


def release_files(model: Bagel) -> ReleaseFiles:
    """Return a BAGEL as its authors' files; raise UserError for an autoencoder that is not Flux's."""
    if not isinstance(model.autoencoder, KLAutoencoder):
        raise UserError("This BAGEL has an autoencoder of its own, which the authors' layout cannot hold.")
    names = autoencoder_names(model.autoencoder)
    experts: dict[str, Tensor] = {}
    flux: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(VAE):
            flux[names.to_theirs(name)] = attention_to_convolution(name, tensor)
        else:
            experts[NAMES.to_theirs(name)] = tensor.permute(0, 2, 3, 1).flatten(1) if name == PATCHES else tensor
    return ReleaseFiles({"ema.safetensors": experts, "ae.safetensors": flux}, _configs(model))


def _configs(model: Bagel) -> dict[str, Any]:
    language: dict[str, Any] = model.language_model.config.to_dict()
    rope = language.pop("rope_parameters")
    vision: dict[str, Any] = model.eye.vision.config.to_dict()
    layers = vision["num_hidden_layers"] + _UNUSED_LAYERS
    return {
        LANGUAGE: {**language, "rope_theta": rope["rope_theta"], "tie_word_embeddings": False},
        VISION: {**vision, "num_hidden_layers": layers},
    }
