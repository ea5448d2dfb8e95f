"""The embedding of a time on the way from noise to picture, as diffusion transformers have it (arXiv 2212.09748)."""

from __future__ import annotations

from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional as F

_FEATURES = 256


class TimeEmbedding(nn.Module):
    """Two layers over cosines and sines of the time, named as diffusers names them."""

    def __init__(self, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(_FEATURES, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Embeddings [b width] of times `t` [b], which enter the sinusoids as they are."""
        features = get_timestep_embedding(t, _FEATURES, flip_sin_to_cos=True, downscale_freq_shift=0)
        return self.linear_2(F.silu(self.linear_1(features.to(self.linear_1.weight.dtype))))
