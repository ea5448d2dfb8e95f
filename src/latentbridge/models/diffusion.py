"""The diffusion process as pure functions over any network: noising, the training loss, guided sampling, and edit masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import Tensor

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy image latents [b c h w], timesteps [b], condition [b n d]) -> prediction [b c h w]."""


def make_scheduler(num_train_timesteps: int) -> DDIMScheduler:
    """The tiny model's scheduler: cosine betas rescaled to end in pure noise, so that backgrounds are not leaked; v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def diffusion_loss(
    predict: Predict, scheduler: DDIMScheduler, clean: Tensor, condition: Tensor, rng: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity (arXiv 2202.00512) at uniform timesteps; `clean` [b c h w], `condition` [b n d]."""
    noise = torch.randn(clean.shape, generator=rng)
    timesteps = torch.randint(0, len(scheduler.alphas_cumprod), (clean.shape[0],), generator=rng)
    noisy = scheduler.add_noise(clean, noise, timesteps)  # pyright: ignore[reportArgumentType]
    velocity = scheduler.get_velocity(clean, noise, timesteps)  # pyright: ignore[reportArgumentType]
    return (predict(noisy, timesteps, condition).float() - velocity).square().mean()


def guided(predict: Predict, guidance: float) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Classifier-free guidance: (noisy, timesteps, condition, negative) -> prediction, both branches in one batch."""

    def run(noisy: Tensor, timesteps: Tensor, condition: Tensor, negative: Tensor) -> Tensor:
        both = predict(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), torch.cat([negative, condition]))
        unconditional, conditional = both.float().chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return run


@torch.no_grad()
def sample(
    predict: Predict,
    scheduler: DDIMScheduler,
    condition: Tensor,
    negative: Tensor,
    noise: Tensor,
    *,
    steps: int,
    guidance: float,
    keep: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Image latents [b c h w] denoised from `noise` under `condition` [b n d] against `negative` [b n d].

    `keep` = (clean source latents, mask [b 1 h w] that is 1 where new content goes) holds everything outside the mask on
    the source's own noised path at every step (blended latent diffusion, arXiv 2206.02779).
    """
    scheduler.set_timesteps(steps)
    step_predict = guided(predict, guidance)
    latents = noise
    for timestep in scheduler.timesteps:
        t = timestep.expand(latents.shape[0])
        if keep is not None:
            source, mask = keep
            noised = scheduler.add_noise(source, noise, t)  # pyright: ignore[reportArgumentType]
            latents = mask * latents + (1 - mask) * noised
        prediction = step_predict(latents, t, condition, negative)
        latents = scheduler.step(prediction, int(timestep), latents, return_dict=False)[0]
    if keep is not None:
        source, mask = keep
        latents = mask * latents + (1 - mask) * source
    return latents


@torch.no_grad()
def difference_map(
    predict: Predict,
    scheduler: DDIMScheduler,
    source: Tensor,
    before: Tensor,
    after: Tensor,
    noises: Tensor,
    level: float = 0.8,
) -> Tensor:
    """Where two conditions disagree about a picture: [b h w] mean absolute difference of the predictions (DiffEdit, arXiv 2210.11427 step 1).

    `source` [b c h w] is noised to `level` of the way with each of `noises` [k b c h w]; `before` and `after` are the conditions.
    """
    t = torch.full((source.shape[0],), int(level * (len(scheduler.alphas_cumprod) - 1)))
    total = torch.zeros(source.shape[0], *source.shape[2:])
    for noise in noises:
        noisy = scheduler.add_noise(source, noise, t)  # pyright: ignore[reportArgumentType]
        difference = predict(noisy, t, after).float() - predict(noisy, t, before).float()
        total += difference.abs().mean(dim=1)
    return total / len(noises)


def edit_mask(difference: Tensor, threshold: float = 0.35) -> Tensor:
    """bool [b h w]: where a difference map [b h w], capped at its 3-fold mean and scaled to its peak, exceeds the threshold (DiffEdit)."""
    capped = difference.minimum(3 * difference.mean(dim=(1, 2), keepdim=True))
    return capped > threshold * capped.amax(dim=(1, 2), keepdim=True)
