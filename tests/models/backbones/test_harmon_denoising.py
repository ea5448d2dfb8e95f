from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from latentbridge.models.backbones.harmon.denoising import (
    LearnedVarianceDiffusion,
    draw_randomness,
    learned_variance_loss,
)
from latentbridge.models.backbones.harmon.options import HarmonDrawingOptions
from latentbridge.rng import torch_rng

CPU = torch.device("cpu")


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch_rng(seed, "some"))


def test_a_sample_is_diffusers():
    """The library's own stochastic sampler, given our noise, over the same timesteps."""
    process, steps = LearnedVarianceDiffusion(12), 12
    noise, step_noise, outputs = some(6, 5), some(steps, 6, 5, seed=1), some(steps, 6, 10, seed=2)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(timesteps=process.timesteps[::-1])
    expected = noise[..., None, None]
    for row, timestep in enumerate(process.timesteps[::-1]):
        generator = torch.Generator().manual_seed(row)
        expected = scheduler.step(
            outputs[row][..., None, None], timestep, expected, generator=generator, return_dict=False
        )[0]
        step_noise[row] = torch.randn(6, 5, 1, 1, generator=torch.Generator().manual_seed(row))[..., 0, 0]
    rows = iter(outputs)
    drawn = process.sample(lambda tokens, timestep: next(rows), noise, step_noise)
    expected = expected[..., 0, 0]
    assert (drawn - expected).abs().max() < 1e-3 * expected.abs().max()  # the library's schedule is in float32


def test_temperature_scales_the_noise_of_steps():
    process, noise, step_noise = LearnedVarianceDiffusion(4), some(3, 5), some(4, 3, 5, seed=1)

    def sample(temperature: float, given: Tensor = step_noise) -> Tensor:
        return process.sample(lambda tokens, timestep: torch.zeros(3, 10), noise, given, temperature)

    assert torch.equal(sample(0.0), sample(0.0, 5 * step_noise))
    torch.testing.assert_close(sample(2.0), sample(1.0, 2 * step_noise))
    assert (sample(1.0) - sample(0.0)).abs().max() > 0.1
    last = step_noise.clone()
    last[-1] = 100
    assert torch.equal(sample(1.0, last), sample(1.0)), "the last step adds none"


def test_variances_lie_between_the_posteriors_and_beta():
    process = LearnedVarianceDiffusion(1000)
    levels = torch.cumprod(1 - process.betas, 0)
    index = torch.tensor([1, 400, 998])
    for fraction, variance in [
        (-1.0, process.betas[index] * (1 - levels[index - 1]) / (1 - levels[index])),
        (1.0, process.betas[index]),
    ]:
        _, log_variance = process._step(some(3, 5), some(3, 5), torch.full((3, 5), fraction), index)
        torch.testing.assert_close(log_variance[:, 0].exp().double(), variance, rtol=1e-4, atol=0)


class Fixed(nn.Module):
    """A head with outputs of its own."""

    def __init__(self, outputs: Tensor):
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, noisy: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        return self.outputs[..., None, None]


def test_the_bound_trains_variances_alone():
    clean, noise, timesteps = some(6, 5), some(6, 5, seed=1), torch.tensor([0, 1, 50, 400, 900, 999])
    head = Fixed(some(6, 10, seed=2))
    learned_variance_loss(head, clean, some(6, 3), noise, timesteps).backward()
    gradient = head.outputs.grad
    assert gradient is not None
    prediction, variances = gradient.chunk(2, dim=1)
    torch.testing.assert_close(prediction, 2 * (head.outputs[:, :5].detach() - noise) / 30, atol=1e-6, rtol=1e-5)
    assert variances.abs().amin() > 0


def test_the_bound_is_the_divergence_of_gaussians_in_bits():
    process, index = LearnedVarianceDiffusion(1000), torch.tensor([7, 500])
    clean, noise, prediction, fraction = (some(2, 5, seed=seed) for seed in range(4))
    noisy = process.add_noise(clean, noise, index)
    levels, betas = torch.cumprod(1 - process.betas, 0)[index][:, None], process.betas[index][:, None]
    torch.testing.assert_close(noisy.double(), levels.sqrt() * clean + (1 - levels).sqrt() * noise, atol=1e-6, rtol=0)
    before = levels / (1 - betas)
    spread = betas * (1 - before) / (1 - levels)

    def mean(of: Tensor) -> Tensor:
        return before.sqrt() * betas / (1 - levels) * of + (1 - betas).sqrt() * (1 - before) / (1 - levels) * noisy

    guess = (noisy - (1 - levels).sqrt() * prediction) / levels.sqrt()
    ours = ((fraction + 1) / 2 * betas.log() + (1 - fraction) / 2 * spread.log()).exp()
    expected = 0.5 * ((ours / spread).log() + (spread + (mean(clean) - mean(guess)) ** 2) / ours - 1) / math.log(2)
    bound = process.variance_loss(clean, noisy, prediction, fraction, index)
    torch.testing.assert_close(bound.double(), expected.mean(1), rtol=1e-3, atol=1e-4)


def test_at_the_first_timestep_the_bound_is_the_likelihood_of_a_level():
    process, index = LearnedVarianceDiffusion(1000), torch.tensor([0])
    clean, noise, fraction = some(1, 5), some(1, 5, seed=1), torch.zeros(1, 5)
    noisy = process.add_noise(clean, noise, index)
    right, wrong = (process.variance_loss(clean, noisy, given, fraction, index) for given in (noise, noise + 9))
    mean, log_variance = process._step(noisy, noise, fraction, index)
    deviation = (0.5 * log_variance).exp()
    upper, lower = (torch.special.ndtr((clean - mean + side / 255) / deviation) for side in (1, -1))
    torch.testing.assert_close(right, -(upper - lower).log2().mean(1), rtol=1e-4, atol=1e-4)
    assert wrong > right + 1


@pytest.mark.parametrize(("sampler", "num_steps"), [("ddpm", 100), ("ddim", None)])
def test_random_numbers_follow_each_pictures_own_seed(sampler: str, num_steps: int | None):
    options = HarmonDrawingOptions(sampler=sampler)  # pyright: ignore[reportArgumentType]
    both, alone = draw_randomness([3, 8], 9, 5, options, CPU), draw_randomness([8], 9, 5, options, CPU)
    for pair, one in zip(both, alone, strict=True):
        assert (pair is None and one is None) or torch.equal(pair[1:], one)
        assert pair is None or not torch.equal(pair[:1], one)
    assert (None if both.step_noise is None else both.step_noise.shape[1]) == num_steps
    assert both.order.sort(1).values.tolist() == [list(range(9))] * 2


def test_guidance_may_rise_with_the_share_that_is_drawn():
    options = HarmonDrawingOptions(guidance=5.0, guidance_schedule="linear")
    assert [options.at_step(drawn, 8).guidance for drawn in (0, 2, 4, 8)] == [1.0, 2.0, 3.0, 4.5]
    assert HarmonDrawingOptions(guidance=5.0).at_step(2, 8).guidance == 5.0
