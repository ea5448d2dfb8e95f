"""Masked autoregression over image latents (MAR, arXiv 2406.11838): encoder, decoder and diffusion head.

Axis letters: n positions of the grid, row-major; k of them known; c channels. A token is the image latent of one position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentbridge.config import MarConfig
from latentbridge.models.time_embedding import TimeEmbedding

_NORM_EPS = 1e-6
_INIT_STD = 0.02


class MaskedEncoder(nn.Module):
    """The transformer over the known tokens of a picture and a few buffer tokens, which come first: [b buffers + k d].

    Masked tokens are left out; buffers are always there, so that a picture with no known token has states too. All buffers
    of all pictures start as one learned vector (MAR puts the class there).
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
        """Return states of `tokens` [b n c] at the positions `known`, int64 [b k] in ascending order."""
        inputs = torch.cat(
            [self.buffer.expand(len(tokens), self.num_buffers, -1), self.embed(pick(tokens, known))], dim=1
        )
        states = self.input_norm(
            inputs + pick(self.positions.expand(len(tokens), -1, -1), _buffer_and_known(known, self.num_buffers))
        )
        for block in self.blocks:
            states = block(states)
        return self.norm(states)


class MaskedDecoder(nn.Module):
    """The transformer over all positions, whose states [b n d] condition the diffusion head.

    Known positions enter as the encoder's states, all others as one learned mask token; each gets its position embedding.
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
        """Return states [b n d] from the encoder's output [b buffers + k d] at the positions `known` [b k]."""
        embedded = self.embed(encoded)
        masked = self.mask.to(embedded.dtype).expand(len(encoded), len(self.positions), -1)
        indices = _buffer_and_known(known, self.num_buffers)
        states = masked.scatter(1, indices[..., None].expand_as(embedded), embedded) + self.positions
        for block in self.blocks:
            states = block(states)
        return self.norm(states)[:, self.num_buffers :] + self.head_positions


class TokenDenoiser(nn.Module):
    """The diffusion head: a residual MLP over one noisy token, conditioned on its timestep and the state of its position.

    A token has the shape of a one-pixel picture, [m c 1 1], as `models/diffusion.py` takes it. State and timestep scale, shift
    and gate every block (adaLN, arXiv 2212.09748); gates are initialised to zero.
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
        self.modulation = _zero_linear(width, 2 * width)
        self.out = _zero_linear(width, config.channels)

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Return the prediction (in the scheduler's parametrisation) for `noisy` [m c 1 1] at `timesteps` [m] given `states` [m d]."""
        hidden = self.embed(noisy.flatten(1))
        condition = nn.functional.silu(self.embed_time(timesteps) + self.embed_state(states))
        for block in self.blocks:
            hidden = block(hidden, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.out(self.norm(hidden) * (1 + scale) + shift)[..., None, None]


class _Modulated(nn.Module):
    """A residual MLP block with adaLN modulation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.modulation = _zero_linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return hidden + gate * self.mlp(self.norm(hidden) * (1 + scale) + shift)


def known_counts(num_tokens: int, steps: int) -> list[int]:
    """Return the number of known tokens before each generation step and after the last: from 0 to `num_tokens`, rising.

    floor(n cos(pi s / 2 S)) tokens stay masked after step s of S, so that few come first (MAR).
    """
    counts = [0]
    for step in range(1, steps):
        masked = math.floor(num_tokens * math.cos(math.pi / 2 * step / steps))
        counts.append(max(counts[-1] + 1, num_tokens - masked))
    return [count for count in counts if count < num_tokens] + [num_tokens]


def pick(values: Tensor, positions: Tensor) -> Tensor:
    """Return the rows [b k d] of `values` [b n d] at `positions` [b k]."""
    return values.gather(1, positions[..., None].expand(-1, -1, values.shape[-1]))


def _buffer_and_known(known: Tensor, num_buffers: int) -> Tensor:
    """Return the indices of buffers and known positions among buffers and all positions: [b buffers + k]."""
    buffers = torch.arange(num_buffers, device=known.device)
    return torch.cat([buffers.expand(len(known), -1), known + num_buffers], dim=1)


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * _INIT_STD)


def _zero_linear(width_in: int, width_out: int) -> nn.Linear:
    """Return a linear layer initialised to zero."""
    layer = nn.Linear(width_in, width_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _blocks(config: MarConfig) -> nn.ModuleList:
    """Return pre-norm vision transformer blocks with an MLP of four times the width."""
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
