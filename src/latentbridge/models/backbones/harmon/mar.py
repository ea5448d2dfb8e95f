"""Masked autoregression over image latents (MAR, arXiv 2406.11838): encoder, decoder and diffusion head.

Axis letters: n positions of the grid, row-major; k of them known; c channels. A token is the image latent of one position.
Compared with wusize/Harmon at 4eb6087 (`src/models/mar`), in numbers by `tests/models/backbones/test_harmon_parity.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentbridge.config import MarConfig
from latentbridge.models.time_embedding import TimeEmbedding

_NORM_EPS = 1e-6
_INIT_STD = 0.02

Grid = tuple[int, int]
"""Rows and columns of tokens."""


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

    def forward(self, tokens: Tensor, known: Tensor, grid: Grid) -> Tensor:
        """Return states of `tokens` [b n c] on a grid at the positions `known`, int64 [b k] in ascending order."""
        embedded = self.embed(pick(tokens, known).to(self.embed.weight.dtype))
        inputs = torch.cat([self.buffer.expand(len(tokens), self.num_buffers, -1), embedded], dim=1)
        positions = resized_positions(self.positions, grid, self.num_buffers).expand(len(tokens), -1, -1)
        states = self.input_norm(inputs + pick(positions, _buffer_and_known(known, self.num_buffers)))
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

    def forward(self, encoded: Tensor, known: Tensor, grid: Grid) -> Tensor:
        """Return states [b n d] from the encoder's output [b buffers + k d] at the positions `known` [b k] of a grid."""
        embedded = self.embed(encoded)
        positions = resized_positions(self.positions, grid, self.num_buffers)
        masked = self.mask.to(embedded.dtype).expand(len(encoded), len(positions), -1)
        indices = _buffer_and_known(known, self.num_buffers)
        states = masked.scatter(1, indices[..., None].expand_as(embedded), embedded) + positions
        for block in self.blocks:
            states = block(states)
        return self.norm(states)[:, self.num_buffers :] + resized_positions(self.head_positions, grid)


class TokenDenoiser(nn.Module):
    """The diffusion head: a residual MLP over one noisy token, conditioned on its timestep and the state of its position.

    A token has the shape of a one-pixel picture, [m c 1 1], as `models/diffusion.py` takes it. State and timestep scale, shift
    and gate every block (adaLN, arXiv 2212.09748); gates are initialised to zero. Source: MAR section 3.2.
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
        self.out = _zero_linear(width, config.channels * (2 if config.learned_variances else 1))

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Return the prediction (in the scheduler's parametrisation) for `noisy` [m c 1 1] at `timesteps` [m] given `states` [m d].

        With learned variances it is [m 2c 1 1]: the second half says where each log variance lies between the smallest (-1) and
        the largest (1) possible one (arXiv 2102.09672).
        """
        dtype = self.embed.weight.dtype
        hidden = self.embed(noisy.flatten(1).to(dtype))
        condition = nn.functional.silu(self.embed_time(timesteps) + self.embed_state(states.to(dtype)))
        for block in self.blocks:
            hidden = block(hidden, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.out(self.norm(hidden) * (1 + scale) + shift)[..., None, None]


class _Block(nn.Module):
    """A pre-norm vision transformer block with an MLP of four times the width.

    torch's `TransformerEncoderLayer` reads the weights of its linear layers itself, so quantised ones break it.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=_NORM_EPS) for _ in range(2))
        self.qkv, self.proj = _xavier_linear(width, 3 * width), _xavier_linear(width, width)
        self.mlp = nn.Sequential(_xavier_linear(width, 4 * width), nn.GELU(), _xavier_linear(4 * width, width))

    def forward(self, states: Tensor) -> Tensor:
        heads = self.qkv(self.norm1(states)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*heads)
        states = states + self.proj(attended.transpose(1, 2).flatten(2))
        return states + self.mlp(self.norm2(states))


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
    """Return the number of known tokens before each generation step and after the last: from 0 to `num_tokens`.

    floor(n cos(pi s / 2 S)) tokens stay masked after step s of S, so that few come first (MAR), but at least one token is
    drawn in each step, and one is left for the last; with more steps than tokens some draw none.
    """
    counts = [0]
    for step in range(1, steps):
        masked = math.floor(num_tokens * math.cos(math.pi / 2 * step / steps))
        counts.append(min(max(counts[-1] + 1, num_tokens - masked), num_tokens - 1))
    return [*counts, num_tokens]


def resized_positions(positions: Tensor, grid: Grid, num_buffers: int = 0) -> Tensor:
    """Return learned embeddings [buffers + n d] of a square grid, interpolated bilinearly for a grid of another size.

    Those of buffers, which come first, stay as they are.
    """
    side = math.isqrt(len(positions) - num_buffers)
    if grid == (side, side):
        return positions
    buffers, learned = positions[:num_buffers], positions[num_buffers:]
    picture = learned.unflatten(0, (side, side)).permute(2, 0, 1)[None]
    resized = nn.functional.interpolate(picture, size=grid, mode="bilinear")
    return torch.cat([buffers, resized[0].flatten(1).mT])


def pick(values: Tensor, positions: Tensor) -> Tensor:
    """Return the rows [... k d] of `values` [... n d] at `positions` [... k]."""
    return values.gather(-2, positions[..., None].expand(*positions.shape, values.shape[-1]))


def _buffer_and_known(known: Tensor, num_buffers: int) -> Tensor:
    """Return the indices of buffers and known positions among buffers and all positions: [b buffers + k]."""
    buffers = torch.arange(num_buffers, device=known.device)
    return torch.cat([buffers.expand(len(known), -1), known + num_buffers], dim=1)


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * _INIT_STD)


def _xavier_linear(width_in: int, width_out: int) -> nn.Linear:
    """Return a linear layer initialised as by MAR."""
    layer = nn.Linear(width_in, width_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _zero_linear(width_in: int, width_out: int) -> nn.Linear:
    """Return a linear layer initialised to zero."""
    layer = nn.Linear(width_in, width_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _blocks(config: MarConfig) -> nn.ModuleList:
    return nn.ModuleList(_Block(config.width, config.num_heads) for _ in range(config.num_layers))
