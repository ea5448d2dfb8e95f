"""The timestep embedding of diffusion transformers (arXiv 2212.09748)."""

from __future__ import annotations

from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor

_FEATURES = 256


class TimeEmbedding(TimestepEmbedding):
    """diffusers' two layers over cosines and sines of the time."""

    def __init__(self, width: int):
        super().__init__(_FEATURES, width)

    def forward(self, t: Tensor) -> Tensor:
        """Return embeddings [b width] of times `t` [b], which are not rescaled."""
        features = get_timestep_embedding(t, _FEATURES, flip_sin_to_cos=True, downscale_freq_shift=0)
        return super().forward(features.to(self.linear_1.weight.dtype))
