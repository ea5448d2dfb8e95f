"""A Harmon in both published layouts: the inverse of `load_harmon.py`."""

from __future__ import annotations

from torch import Tensor

from latentbridge.errors import UserError
from latentbridge.models.autoencoder import KLAutoencoder
from latentbridge.models.backbones.harmon.load_harmon import AUTOENCODER_FILE, NAMES, TIED, UNUSED
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.backbones.names import attention_to_convolution
from latentbridge.models.backbones.release_files import ReleaseFiles

_PLAIN, _HUB = "harmon.pth", "model.safetensors"
_VAE = "vae."


def release_files(model: Harmon, plain: bool) -> ReleaseFiles:
    """Return a Harmon as GitHub's files of torch.save (`plain`), or as the hub's safetensors with the autoencoder as `vae.`.

    Raise UserError for a model whose head or autoencoder is not the release's.
    """
    if not model.learned_variances or not isinstance(model.autoencoder, KLAutoencoder):
        raise UserError(
            "This Harmon predicts no variances or has an autoencoder of its own, which the authors' layout cannot hold."
        )
    tensors = {NAMES.to_theirs(name): _in_their_shape(name, tensor) for name, tensor in model.state_dict().items()}
    vae = {name: tensor for name, tensor in tensors.items() if name.startswith(_VAE)}
    weights = {name: tensor for name, tensor in tensors.items() if name not in vae}
    if plain:
        autoencoder = {name.removeprefix(_VAE): tensor for name, tensor in vae.items()}
        return ReleaseFiles({_PLAIN: weights, AUTOENCODER_FILE: autoencoder}, {}, unused=(UNUSED,))
    del weights[NAMES.to_theirs(TIED)]  # a transformers class saves tied weights once
    return ReleaseFiles({_HUB: {**weights, **vae}}, {}, unused=(UNUSED,))


def _in_their_shape(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor with the leading dimensions of size 1 that learned positions and tokens have in the release."""
    if name.endswith("positions") or name == "encoder.buffer":
        return tensor[None]
    if name == "decoder.mask":
        return tensor[None, None]
    return attention_to_convolution(name, tensor)
