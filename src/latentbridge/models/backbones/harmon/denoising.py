"""Stochastic denoising of tokens with learned variances, and the loss that trains them (arXiv 2102.09672), as in MAR.

Written here rather than taken from diffusers: its `DDPMScheduler` keeps the schedule in float32, where the last of the 1000 steps
is off by 6e-5, has no temperature, and draws its noise itself, while here each token's noise follows the seed of its picture.
Read in wusize/Harmon at 4eb6087 (`src/models/mar/diffusion`, `diffloss.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate, pairwise
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from latentbridge.models.backbones.harmon.mar import pick
from latentbridge.models.backbones.harmon.options import HarmonDrawingOptions
from latentbridge.models.diffusion import Scheduler, sample
from latentbridge.rng import torch_rng

NUM_TIMESTEPS = 1000
_MAX_BETA = 0.999
_HALF_LEVEL = 1 / 255
"""Half the distance of 8-bit levels in [-1, 1]: the width by which the likelihood at timestep 0 is discretised."""
_LEAST_PROBABILITY = 1e-12


class LearnedVarianceDiffusion:
    """A cosine diffusion process of noise-predicting networks at `steps` of its 1000 timesteps, first and last included.

    Tokens are [m c]; an index [m] counts the kept timesteps from the least noisy one. The network's variances say where the log
    variance of a step lies between that of the posterior (-1) and the step's beta (1).
    """

    def __init__(self, steps: int):
        stride = (NUM_TIMESTEPS - 1) / (steps - 1)
        self.timesteps = [round(timestep) for timestep in accumulate([stride] * (steps - 1), initial=0.0)]
        """Kept timesteps, ascending."""
        remaining = torch.tensor(_remaining_signal(), dtype=torch.float64)[self.timesteps]
        before = torch.cat([remaining.new_ones(1), remaining[:-1]])
        self.betas = 1 - remaining / before
        smallest = self.betas * (1 - before) / (1 - remaining)
        smallest[0] = smallest[1]  # it would be zero
        self._table = torch.stack(
            [
                (1 / remaining).sqrt(),
                (1 / remaining - 1).sqrt(),
                self.betas * before.sqrt() / (1 - remaining),
                (1 - before) * (1 - self.betas).sqrt() / (1 - remaining),
                smallest.log(),
                self.betas.log(),
                remaining.sqrt(),
                (1 - remaining).sqrt(),
            ]
        ).float()

    def sample(
        self, predict: Callable[[Tensor, int], Tensor], noise: Tensor, step_noise: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """Return tokens from unit `noise` [m c] and the noise of each step but the last, [steps m c], noisiest step first.

        `predict` maps noisy tokens and a timestep to noise and variances, [m 2c]; `temperature` scales the steps' noise.
        """
        tokens = noise
        for row, index in enumerate(reversed(range(len(self.timesteps)))):
            prediction, variances = predict(tokens, self.timesteps[index]).chunk(2, dim=1)
            indices = torch.full((len(tokens),), index, device=tokens.device)
            tokens, log_variance = self._step(tokens, prediction, variances, indices)
            if index:
                tokens = tokens + (0.5 * log_variance).exp() * step_noise[row] * temperature
        return tokens

    def add_noise(self, clean: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """Return `clean` [m c] noised to the timesteps of `index`."""
        *_, signal, spread = self._coefficients(index)
        return signal * clean + spread * noise

    def variance_loss(
        self, clean: Tensor, noisy: Tensor, prediction: Tensor, variances: Tensor, index: Tensor
    ) -> Tensor:
        """Return the variational bound of each token, [m], in bits per channel; at timestep 0 it is the discretised likelihood.

        Give a detached `prediction`: the bound is to train the variances alone.
        """
        mean, log_variance = self._step(noisy, prediction, variances, index)
        step = Normal(mean, (0.5 * log_variance).exp())
        _, _, clean_share, noisy_share, smallest, *_ = self._coefficients(index)
        posterior = Normal(clean_share * clean + noisy_share * noisy, (0.5 * smallest).exp().expand_as(mean))
        levels = step.cdf(clean + _HALF_LEVEL) - step.cdf(clean - _HALF_LEVEL)
        likelihood = levels.clamp_min(_LEAST_PROBABILITY).log()
        bound = torch.where(index[:, None] == 0, -likelihood, kl_divergence(posterior, step))
        return bound.mean(1) / math.log(2)

    def _step(self, noisy: Tensor, prediction: Tensor, variances: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance [m c] of the next less noisy tokens."""
        scale, share, clean_share, noisy_share, smallest, largest, *_ = self._coefficients(index)
        clean = scale * noisy - share * prediction
        fraction = (variances + 1) / 2
        return clean_share * clean + noisy_share * noisy, fraction * largest + (1 - fraction) * smallest

    def _coefficients(self, index: Tensor) -> Tensor:
        """Return the rows of the table at `index` [m], float32 [rows m 1]."""
        return self._table.to(index.device)[:, index, None]


def learned_variance_loss(head: nn.Module, clean: Tensor, states: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the mean squared error of the predicted noise plus `variance_loss`, for tokens [m c] and their states [m d].

    Noise [m c] and `timesteps` [m] of 1000 may be on the CPU.
    """
    process = LearnedVarianceDiffusion(NUM_TIMESTEPS)
    noise, index = noise.to(clean.device), timesteps.to(clean.device)
    noisy = process.add_noise(clean, noise, index)
    prediction, variances = head(noisy[..., None, None], index, states)[..., 0, 0].float().chunk(2, dim=1)
    bound = process.variance_loss(clean, noisy, prediction.detach(), variances, index)
    return (prediction - noise).square().mean() + bound.mean()


def guided_prediction(
    head: nn.Module, noisy: Tensor, timestep: int, states: Tensor, uncond: Tensor | None, guidance: float
) -> Tensor:
    """Return noise, guided away from the states `uncond` [m d], and the variances given `states` [m d] alone: [m 2c]."""
    both = states if uncond is None else torch.cat([states, uncond])
    tokens = (noisy if uncond is None else noisy.repeat(2, 1))[..., None, None]
    output = head(tokens, torch.full((len(tokens),), timestep, device=noisy.device), both)[..., 0, 0].float()
    if uncond is None:
        return output
    (prediction, variances), (other, _) = (rows.chunk(2, dim=1) for rows in output.chunk(2))
    return torch.cat([other + guidance * (prediction - other), variances], dim=1)


def denoise(
    head: nn.Module,
    scheduler: Scheduler,
    states: Tensor,
    uncond: Tensor | None,
    noise: Tensor,
    step_noise: Tensor | None,
    options: HarmonDrawingOptions,
) -> Tensor:
    """Return tokens [m c] from states [m d] and unit noise [m c], guided away from the states `uncond` [m d] if given.

    With `step_noise` [steps m c] denoising is stochastic; otherwise it is deterministic, by `scheduler` and without variances.
    """
    if step_noise is not None:
        predict = partial(guided_prediction, head, states=states, uncond=uncond, guidance=options.guidance)
        process = LearnedVarianceDiffusion(len(step_noise))
        return process.sample(predict, noise, step_noise, options.temperature)
    drawn = sample(
        lambda *inputs: head(*inputs)[:, : noise.shape[-1]],
        scheduler,
        states,
        states if uncond is None else uncond,
        noise[..., None, None],
        [],
        steps=options.num_denoising_steps,
        guidance=1.0 if uncond is None else options.guidance,
    )
    return drawn[..., 0, 0]


class Randomness(NamedTuple):
    """All random numbers of a batch of drawings, by position: each row follows from the seed of its picture."""

    order: Tensor
    """Positions in the order of generation, int64 [b n]."""
    noise: Tensor
    """[b n c]."""
    step_noise: Tensor | None
    """Noise of each stochastic denoising step, noisiest first, [b steps n c]."""

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return `noise` and `step_noise` at positions [b j]."""
        if self.step_noise is None:
            return pick(self.noise, positions), None
        every_step = positions[:, None].expand(-1, self.step_noise.shape[1], -1)
        return pick(self.noise, positions), pick(self.step_noise, every_step)


def draw_randomness(
    seeds: Sequence[int], num_tokens: int, channels: int, options: HarmonDrawingOptions, device: torch.device
) -> Randomness:
    """Draw the random numbers of one drawing per seed, on the CPU, and move them to the device."""
    orders = [torch.randperm(num_tokens, generator=torch_rng(seed, "places")) for seed in seeds]
    noises = [torch.randn(num_tokens, channels, generator=torch_rng(seed, "image tokens")) for seed in seeds]
    order, noise = torch.stack(orders).to(device), torch.stack(noises).to(device)
    if options.sampler == "ddim":
        return Randomness(order, noise, None)
    size = options.num_denoising_steps, num_tokens, channels
    steps = [torch.randn(size, generator=torch_rng(seed, "denoising steps")) for seed in seeds]
    return Randomness(order, noise, torch.stack(steps).to(device))


@cache
def _remaining_signal() -> tuple[float, ...]:
    """Return the cumulative product of 1 - beta at each timestep of the cosine schedule (arXiv 2102.09672)."""

    def level(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    edges = [level(index / NUM_TIMESTEPS) for index in range(NUM_TIMESTEPS + 1)]
    kept = [max(after / before, 1 - _MAX_BETA) for before, after in pairwise(edges)]
    return tuple(accumulate(kept, mul))
