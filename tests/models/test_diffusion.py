from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentbridge.models.diffusion import difference_map, diffusion_loss, edit_mask, guided, make_scheduler, sample

SHAPE = (2, 3, 4, 4)
CLEAN = torch.linspace(-1, 1, 96).reshape(SHAPE)
NOTHING = torch.zeros(2, 1, 1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def split_velocity(noisy: Tensor, timesteps: Tensor, clean: Tensor) -> Tensor:
    """The velocity of a noisy picture whose clean one is known: noise and velocity solve two linear equations."""
    alpha = make_scheduler(1000).alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def test_the_schedule_ends_in_pure_noise():
    alphas = make_scheduler(1000).alphas_cumprod
    assert alphas[-1] == 0 and alphas[0] > 0.99
    assert (alphas.diff() < 0).all()


def test_the_loss_is_nought_for_the_true_velocity_only():
    def oracle(noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        return split_velocity(noisy, timesteps, CLEAN)

    scheduler = make_scheduler(1000)
    assert diffusion_loss(oracle, scheduler, CLEAN, NOTHING, rng()) < 1e-6  # float32 rounding, squared
    shifted = diffusion_loss(lambda *inputs: oracle(*inputs) + 0.5, scheduler, CLEAN, NOTHING, rng())
    assert shifted.item() == pytest.approx(0.25, abs=1e-3)


def test_at_pure_noise_the_target_is_minus_the_picture():
    scheduler, noise = make_scheduler(1000), torch.randn(SHAPE, generator=rng())
    last = torch.tensor([999, 999])
    velocity = scheduler.get_velocity(CLEAN, noise, last)  # pyright: ignore[reportArgumentType]
    assert torch.equal(velocity, -CLEAN)
    assert torch.equal(scheduler.add_noise(CLEAN, noise, last), noise)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
def test_guidance_moves_from_the_negative_past_the_condition(guidance: float, expected: float):
    def answer(noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        return condition.view(-1, 1, 1, 1).expand_as(noisy)

    negative, condition = torch.full((2, 1, 1), 1.0), torch.full((2, 1, 1), 3.0)
    got = guided(answer, guidance)(torch.zeros(SHAPE), torch.zeros(2, dtype=torch.long), condition, negative)
    assert torch.equal(got, torch.full(SHAPE, expected))


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_sampling_with_an_oracle_recovers_the_picture(steps: int):
    noise = torch.randn(SHAPE, generator=rng(1))

    def draw(clean: Tensor) -> Tensor:
        return sample(
            lambda noisy, t, condition: split_velocity(noisy, t, clean.repeat(len(noisy) // 2, 1, 1, 1)),
            make_scheduler(1000), NOTHING, NOTHING, noise, steps=steps, guidance=2.0,
        )  # fmt: skip

    assert (draw(CLEAN) - CLEAN).abs().max() < 1e-3  # float32 rounding, divided by the smallest noise level
    assert (draw(CLEAN + 0.1) - CLEAN).abs().max() > 0.05


def test_what_is_kept_stays_as_it_was():
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    noise, source = torch.randn(SHAPE, generator=rng(1)), CLEAN.flip(0)
    seen: list[Tensor] = []

    def oracle(noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        seen.append(noisy[:2])
        return split_velocity(noisy, t, CLEAN.repeat(2, 1, 1, 1))

    scheduler = make_scheduler(1000)
    drawn = sample(oracle, scheduler, NOTHING, NOTHING, noise, steps=4, guidance=1.0, keep=(source, mask))
    outside = mask.expand(SHAPE) == 0
    assert torch.equal(drawn[outside], source[outside])
    assert (drawn - CLEAN)[~outside].abs().max() < 1e-3
    for noisy, timestep in zip(seen, scheduler.timesteps, strict=True):
        noised = scheduler.add_noise(source, noise, timestep.expand(2))  # pyright: ignore[reportArgumentType]
        assert torch.equal(noisy[outside], noised[outside])


def test_the_difference_map_is_the_mean_disagreement():
    def answer(noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        assert timesteps.tolist() == [799, 799]
        return condition.view(-1, 1, 1, 1) * torch.ones(SHAPE)

    before, after = torch.tensor([1.0, 2.0]).view(2, 1, 1), torch.tensor([4.0, 2.0]).view(2, 1, 1)
    got = difference_map(answer, make_scheduler(1000), CLEAN, before, after, torch.randn(3, *SHAPE, generator=rng()))
    assert torch.equal(got, torch.tensor([3.0, 0.0]).view(2, 1, 1).expand(2, 4, 4))


def test_the_mask_is_where_a_capped_map_passes_a_third_of_its_peak():
    difference = torch.tensor([[[10.0, 1.0], [0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0]]])
    # The first map's mean is 3, so 10 is capped at 9 and the threshold is 3.15; an empty map has an empty mask.
    assert edit_mask(difference).tolist() == [[[True, False], [False, False]], [[False, False], [False, False]]]
    # The cap lets a second region of a third of the peak's height through: mean 1.3125 of 16, cap 3.9375, threshold 1.378.
    peak = torch.zeros(1, 4, 4)
    peak[0, 0, 0], peak[0, 3, 3] = 18.0, 3.0
    assert edit_mask(peak).nonzero().tolist() == [[0, 0, 0], [0, 3, 3]]
