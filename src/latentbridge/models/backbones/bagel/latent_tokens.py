"""Image latents as input tokens of a language model, and its output states as velocities."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn

from latentbridge.models.time_embedding import TimeEmbedding

Shape = tuple[int, int]
"""Rows and columns of a picture's latent tokens, or of its patches."""


class LatentTokens(nn.Module):
    """Squares of `patch` x `patch` image latents as tokens: at most `grid` rows and columns of them make a picture.

    A token is the projected latents plus a time embedding plus a fixed 2-D sine-cosine position embedding; the language
    model's output state is projected to the velocity. Times from 0 to 1 enter the sinusoids unscaled. A picture smaller than
    the grid has the positions of its upper left part.
    """

    places: Tensor

    def __init__(self, channels: int, width: int, grid: int, patch: int = 2):
        super().__init__()
        self.channels, self.grid, self.patch = channels, grid, patch
        self.size = patch * patch * channels
        self.proj_in = nn.Linear(self.size, width)
        self.time_embedder = TimeEmbedding(width)
        self.proj_out = nn.Linear(width, self.size)
        self.register_buffer("places", place_table(grid, width))

    def enter(self, noisy: Tensor, t: Tensor, shape: Shape) -> Tensor:
        """Return the tokens [b n h] of noisy latents [b n c] of pictures of one shape at times `t` [b]."""
        latents = self.proj_in(noisy.to(self.proj_in.weight.dtype))
        places = self.places.unflatten(0, (self.grid, self.grid))[: shape[0], : shape[1]].flatten(0, 1)
        return latents + self.time_embedder(t)[:, None] + places

    def velocity(self, states: Tensor) -> Tensor:
        """Return velocities, float32 [b n c], from the generation expert's states [b n h]."""
        return self.proj_out(states).float()

    def split(self, latents: Tensor) -> Tensor:
        """Return image latents [b c h w] as tokens [b n p * p * c]; channels are innermost, as in the release."""
        p = self.patch
        squares = latents.unflatten(3, (-1, p)).unflatten(2, (-1, p))
        return squares.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def join(self, tokens: Tensor, shape: Shape) -> Tensor:
        """Return the image latents [b c h w] of tokens: the inverse of `split`."""
        p, (rows, columns) = self.patch, shape
        squares = tokens.view(-1, rows, columns, p, p, self.channels)
        return squares.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.channels, rows * p, columns * p)


def place_table(side: int, width: int) -> Tensor:
    """Return fixed sine-cosine position embeddings of a grid, row-major, float32 [side * side, width] (arXiv 2111.06377)."""
    return get_2d_sincos_pos_embed(width, side, base_size=side).to(torch.float32)
