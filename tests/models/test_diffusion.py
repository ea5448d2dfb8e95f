from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor

from latentbridge.models.condition import HunyuanCondition
from latentbridge.models.diffusion import (
    add_noise,
    diffusion_loss,
    edit_mask,
    guided,
    make_scheduler,
    predict_x0,
    sample,
    target,
)

SHAPE = (2, 3, 4, 4)
CLEAN = torch.linspace(-1, 1, 96).reshape(SHAPE)
NOTHING = torch.zeros(2, 1, 1)
GENERATORS = [torch.Generator().manual_seed(seed) for seed in (1, 2)]


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


def test_slots_are_guided_like_states():
    seen: list[HunyuanCondition] = []

    def answer(noisy: Tensor, timesteps: Tensor, slots: HunyuanCondition) -> Tensor:
        seen.append(slots)
        return noisy

    first, second = (HunyuanCondition(*(torch.full((2, n), value) for n in (2, 3, 5, 7))) for value in (1.0, 2.0))
    guided(answer, 2.0)(torch.zeros(SHAPE), torch.zeros(2), first, second)
    guided(answer, 1.0)(torch.zeros(SHAPE), torch.zeros(2), first, second)
    assert seen[1] is first, "guidance 1 asks the condition alone"
    assert [tensor.tolist() for tensor in seen[0]] == [[[2.0] * n] * 2 + [[1.0] * n] * 2 for n in (2, 3, 5, 7)]


def test_noise_and_targets_are_those_of_the_library():
    scheduler, timesteps = make_scheduler(1000), torch.tensor([3, 700])
    noise = torch.randn(SHAPE, generator=rng())
    noisy = scheduler.add_noise(CLEAN, noise, timesteps)  # pyright: ignore[reportArgumentType]
    assert torch.equal(add_noise(scheduler, CLEAN, noise, timesteps), noisy)
    velocity = scheduler.get_velocity(CLEAN, noise, timesteps)  # pyright: ignore[reportArgumentType]
    assert torch.equal(target(scheduler, CLEAN, noise, timesteps), velocity)
    for prediction, expected in (("epsilon", noise), ("sample", CLEAN)):
        scheduler = diffusers.EulerDiscreteScheduler(prediction_type=prediction)
        assert target(scheduler, CLEAN, noise, timesteps) is expected


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_sampling_with_an_oracle_recovers_the_picture(steps: int):
    noise = torch.randn(SHAPE, generator=rng(1))

    def draw(clean: Tensor) -> Tensor:
        return sample(
            lambda noisy, t, condition: split_velocity(noisy, t, clean.repeat(len(noisy) // 2, 1, 1, 1)),
            make_scheduler(1000), NOTHING, NOTHING, noise, GENERATORS, steps=steps, guidance=2.0,
        )  # fmt: skip

    assert (draw(CLEAN) - CLEAN).abs().max() < 1e-3  # float32 rounding, divided by the smallest noise level
    assert (draw(CLEAN + 0.1) - CLEAN).abs().max() > 0.05


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    ],
)  # fmt: skip
def test_any_scheduler_recovers_the_picture_and_is_left_as_it_was(name: str, prediction: str):
    scheduler = getattr(diffusers, name)(prediction_type=prediction, beta_schedule="scaled_linear")
    before = str(vars(scheduler))

    def oracle(noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The true answer at the nearest whole timestep, which is all that networks are trained on."""
        t = t.round().long()
        alphas = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1).float()
        clean = CLEAN
        noise = (noisy - alphas.sqrt() * clean) / (1 - alphas).sqrt()
        return target(scheduler, clean, noise.float(), t)

    noise = torch.randn(SHAPE, generator=rng(1))
    made = [
        sample(oracle, scheduler, NOTHING, NOTHING, noise, [rng(3), rng(4)], steps=10, guidance=1.0) for _ in range(2)
    ]
    assert torch.equal(*made)  # the items' own generators are all the chance there is
    assert (made[0] - CLEAN).abs().max() < 0.1  # some end at a low noise level instead of none
    assert str(vars(scheduler)) == before


def test_what_is_kept_stays_as_it_was():
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    noise, source = torch.randn(SHAPE, generator=rng(1)), CLEAN.flip(0)
    seen: list[Tensor] = []

    def oracle(noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        seen.append(noisy[:2])
        return split_velocity(noisy, t, CLEAN)

    scheduler = make_scheduler(1000)
    drawn = sample(oracle, scheduler, NOTHING, NOTHING, noise, GENERATORS, steps=4, guidance=1.0, keep=(source, mask))
    outside = mask.expand(SHAPE) == 0
    assert torch.equal(drawn[outside], source[outside])
    assert (drawn - CLEAN)[~outside].abs().max() < 1e-3
    scheduler.set_timesteps(4)
    for noisy, timestep in zip(seen, scheduler.timesteps, strict=True):
        noised = scheduler.add_noise(source, noise, timestep.expand(2))  # pyright: ignore[reportArgumentType]
        assert torch.equal(noisy[outside], noised[outside])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_what_a_network_envisions_is_its_mean_clean_estimate(prediction_type: str):
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction_type)
    noises = torch.randn(3, *SHAPE, generator=rng())
    asked: list[int] = []

    def answer(noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Right about the noise, and off by the condition and one more each time about the clean latents."""
        asked.extend(timesteps.tolist())
        alphas = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        clean = CLEAN + condition + len(asked)
        return target(scheduler, clean, (noisy - alphas**0.5 * clean) / (1 - alphas) ** 0.5, timesteps)

    condition = torch.tensor([5.0, 7.0]).view(2, 1, 1, 1)
    got = predict_x0(answer, scheduler, CLEAN.flip(0), condition, noises)
    assert asked == [799] * 6
    torch.testing.assert_close(got, CLEAN + condition + (2 + 4 + 6) / 3, atol=1e-3, rtol=0)


def test_the_mask_is_where_pictures_differ_by_a_share_of_nearly_the_most():
    before = torch.zeros(2, 3, 11, 11)
    after = before.clone()
    after[0, 0, :2], after[0, :, 5, 5], after[0, 1, 7, 7] = 3.0, 0.4, 0.8
    # A mean over channels of 1, 0.4 and 0.27; 22 of 121 pixels differ by 1, so that is the 99th percentile.
    mask = edit_mask(before, after)
    assert mask[0, :2].all() and mask[0, 5, 5] and int(mask[0].sum()) == 23
    assert not mask[1].any()  # equal pictures leave nothing to edit
