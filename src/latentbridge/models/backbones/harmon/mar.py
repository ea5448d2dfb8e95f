"""Masked autoregression over image latents (MAR, arXiv 2406.11838): an encoder of what is known, a decoder that completes
it, and a head that draws each missing latent by diffusion.

Axis letters: n places of the grid, row after row; k of them known; c channels. A token is the image latent of one place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentbridge.config import MarConfig
from latentbridge.models.time_embedding import TimeEmbedding

_NORM_EPS = 1e-6
_INIT_SPREAD = 0.02


class MaskedEncoder(nn.Module):
    """What is known of a picture as states that all attend to each other, buffers first: [b buffers + k d].

    Masked places take no part; buffers do always, so that there are states even of a picture of which nothing is known.
    They start alike in every picture (MAR puts the class there, Harmon one learned vector).
    """

    def __init__(self, config: MarConfig) -> None:
        super().__init__()
        self.num_buffers = config.num_buffers
        self.embed = nn.Linear(config.channels, config.width)
        self.buffer = _learned(config.width)
        self.positions = _learned(config.num_buffers + config.grid**2, config.width)
        self.input_norm = nn.LayerNorm(config.width, eps=_NORM_EPS)
        self.blocks = _blocks(config)
        self.norm = nn.LayerNorm(config.width, eps=_NORM_EPS)

    def forward(self, tokens: Tensor, known: Tensor) -> Tensor:
        """`tokens` [b n c], of which only those at the places `known`, int64 [b k] in ascending order, are read."""
        seen = torch.cat(
            [self.buffer.expand(len(tokens), self.num_buffers, -1), self.embed(pick(tokens, known))], dim=1
        )
        states = self.input_norm(
            seen + pick(self.positions.expand(len(tokens), -1, -1), _slots(known, self.num_buffers))
        )
        for block in self.blocks:
            states = block(states)
        return self.norm(states)


class MaskedDecoder(nn.Module):
    """States of all places [b n d], from each of which the head can draw the token of its place.

    Known places stand as the encoder's states, the others as one learned mask token with their position.
    """

    def __init__(self, config: MarConfig) -> None:
        super().__init__()
        self.num_buffers = config.num_buffers
        self.embed = nn.Linear(config.width, config.width)
        self.mask = _learned(config.width)
        self.positions = _learned(config.num_buffers + config.grid**2, config.width)
        self.blocks = _blocks(config)
        self.norm = nn.LayerNorm(config.width, eps=_NORM_EPS)
        self.head_positions = _learned(config.grid**2, config.width)

    def forward(self, encoded: Tensor, known: Tensor) -> Tensor:
        """`encoded` [b buffers + k d] and `known` as the encoder gives and takes them."""
        embedded = self.embed(encoded)
        masked = self.mask.to(embedded.dtype).expand(len(encoded), len(self.positions), -1)
        slots = _slots(known, self.num_buffers)
        states = masked.scatter(1, slots[..., None].expand_as(embedded), embedded) + self.positions
        for block in self.blocks:
            states = block(states)
        return self.norm(states)[:, self.num_buffers :] + self.head_positions


class TokenDenoiser(nn.Module):
    """The diffusion head: a residual MLP that reads one noisy token, its time and the state of its place.

    A token is a picture of one pixel to it, [m c 1 1], so that `models/diffusion.py` trains it and samples from it. The
    state and the time scale, shift and gate every block (adaLN, arXiv 2212.09748); gates start closed.
    Source: MAR section 3.2; its head also predicts variances, which only its own sampler reads.
    """

    def __init__(self, config: MarConfig) -> None:
        super().__init__()
        width = config.head_width
        self.embed = nn.Linear(config.channels, width)
        self.embed_state = nn.Linear(config.width, width)
        self.embed_time = TimeEmbedding(width)
        self.blocks = nn.ModuleList(_Modulated(width) for _ in range(config.head_layers))
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS, elementwise_affine=False)
        self.modulation = _closed(width, 2 * width)
        self.out = _closed(width, config.channels)

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """`noisy` [m c 1 1] at `timesteps` [m] under `states` [m d]; what is predicted is the scheduler's affair."""
        hidden = self.embed(noisy.flatten(1))
        condition = nn.functional.silu(self.embed_time(timesteps) + self.embed_state(states))
        for block in self.blocks:
            hidden = block(hidden, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.out(self.norm(hidden) * (1 + scale) + shift)[..., None, None]


class _Modulated(nn.Module):
    """A residual MLP block whose norm and gate follow the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.modulation = _closed(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return hidden + gate * self.mlp(self.norm(hidden) * (1 + scale) + shift)


def known_counts(num_tokens: int, steps: int) -> list[int]:
    """How many tokens are known before each step of drawing and after the last: from 0 to `num_tokens`, at least one more a step.

    What stays masked after step s of S is floor(n cos(pi s / 2 S)), so that few come first (MAR).
    """
    counts = [0]
    for step in range(1, steps):
        masked = math.floor(num_tokens * math.cos(math.pi / 2 * step / steps))
        counts.append(max(counts[-1] + 1, num_tokens - masked))
    return [count for count in counts if count < num_tokens] + [num_tokens]


def pick(values: Tensor, places: Tensor) -> Tensor:
    """The rows [b k d] of `values` [b n d] at `places` [b k]."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


def _slots(known: Tensor, num_buffers: int) -> Tensor:
    """Where buffers and the known places stand among buffers and all places: [b buffers + k]."""
    buffers = torch.arange(num_buffers, device=known.device)
    return torch.cat([buffers.expand(len(known), -1), known + num_buffers], dim=1)


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * _INIT_SPREAD)


def _closed(width_in: int, width_out: int) -> nn.Linear:
    """A layer that gives zero until it is trained."""
    layer = nn.Linear(width_in, width_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _blocks(config: MarConfig) -> nn.ModuleList:
    """Blocks of a vision transformer: norm, attention, norm, MLP of four times the width."""
    return nn.ModuleList(
        nn.TransformerEncoderLayer(
            config.width,
            config.num_heads,
            4 * config.width,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=_NORM_EPS,
            batch_first=True,
            norm_first=True,
        )
        for _ in range(config.num_layers)
    )
