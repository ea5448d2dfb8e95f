"""The diffusion process as pure functions over any network: noising, the training loss, guided sampling, and edit masks."""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentbridge.models.condition import Condition, map_condition
from latentbridge.ranks import per_rank_random

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

Predict = Callable[[Tensor, Tensor, Any], Tensor]
"""(noisy image latents [b c h w], timesteps [b], condition) -> prediction [b c h w]; the condition is a `Condition`."""
Scheduler = Any
"""Any variance-preserving scheduler of diffusers; the library gives them no common type."""


def make_scheduler(num_train_timesteps: int) -> DDIMScheduler:
    """The tiny model's scheduler: cosine betas rescaled to end in pure noise, so that backgrounds are not leaked; v-prediction."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def add_noise(scheduler: Scheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What networks read at integer `timesteps` [b]: the clean share and the noise add up to unit variance.

    Unlike a scheduler's own `add_noise`, the same for all of them: some keep their samples on another scale.
    """
    alphas = _alphas(scheduler, timesteps)
    return alphas**0.5 * clean + (1 - alphas) ** 0.5 * noise


def _alphas(scheduler: Scheduler, timesteps: Tensor) -> Tensor:
    """The clean share of the variance at `timesteps` [b], [b 1 1 1] beside image latents."""
    return scheduler.alphas_cumprod.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)


def target(scheduler: Scheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What a network trained under the scheduler predicts: the noise, the clean latents, or the velocity (arXiv 2202.00512)."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "sample":
        return clean
    alphas = _alphas(scheduler, timesteps)
    return alphas**0.5 * noise - (1 - alphas) ** 0.5 * clean


def clean_estimate(scheduler: Scheduler, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
    """The clean image latents a prediction speaks of; the inverse of `target`."""
    if scheduler.config.prediction_type == "sample":
        return prediction
    alphas = _alphas(scheduler, timesteps)
    if scheduler.config.prediction_type == "epsilon":
        return (noisy - (1 - alphas) ** 0.5 * prediction) / alphas**0.5
    return alphas**0.5 * noisy - (1 - alphas) ** 0.5 * prediction


def diffusion_loss(
    predict: Predict, scheduler: Scheduler, clean: Tensor, condition: Condition, rng: torch.Generator
) -> Tensor:
    """Mean squared error of the scheduler's target at uniform timesteps; `clean` [b c h w]."""
    return noised_loss(predict, scheduler, clean, condition, *draw_noise(scheduler, clean.shape, rng))


def draw_noise(
    scheduler: Scheduler, shape: Sequence[int], rng: torch.Generator, rows_dim: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise of a shape [... c h w], and a timestep for each [c h w], int64 [...]; the batch's rows lie along `rows_dim`."""
    any_timestep = partial(torch.randint, 0, len(scheduler.alphas_cumprod))
    noise = per_rank_random(torch.randn, shape, rng, rows_dim)
    return noise, per_rank_random(any_timestep, shape[:-3], rng, rows_dim)


def noised_loss(
    predict: Predict, scheduler: Scheduler, clean: Tensor, condition: Condition, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """`diffusion_loss` at given noise [b c h w] and `timesteps` [b], which may lie on the CPU."""
    noise, timesteps = noise.to(clean.device), timesteps.to(clean.device)
    noisy = add_noise(scheduler, clean, noise, timesteps)
    expected = target(scheduler, clean, noise, timesteps)
    return (predict(noisy, timesteps, condition).float() - expected).square().mean()


def guided(predict: Predict, guidance: float) -> Callable[[Tensor, Tensor, Condition, Condition], Tensor]:
    """Classifier-free guidance: (noisy, timesteps, condition, negative) -> prediction, both branches in one batch.

    Guidance 1 is none: the negative is not asked.
    """

    def run(noisy: Tensor, timesteps: Tensor, condition: Condition, negative: Condition) -> Tensor:
        if guidance == 1:
            return predict(noisy, timesteps, condition).float()
        joined = map_condition(lambda *pair: torch.cat(pair), negative, condition)
        unconditional, conditional = predict(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), joined).float().chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return run


def sample_steps(
    predict: Predict,
    scheduler: Scheduler,
    condition: Condition,
    negative: Condition,
    noise: Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float,
    keep: tuple[Tensor, Tensor] | None = None,
) -> Iterator[Tensor]:
    """Image latents [b c h w] on their way from unit `noise`, with gradients, once a step; the last are clean.

    They are denoised under `condition` against `negative`. `generators`, one an item, feed the schedulers that add noise at every step. `keep` = (clean source latents, mask
    [b 1 h w] that is 1 where new content goes) holds everything outside the mask on the source's own noised path at
    every step (blended latent diffusion, arXiv 2206.02779).
    """
    scheduler = copy.deepcopy(scheduler)  # a schedule in progress is state, and callers share theirs
    scheduler.set_timesteps(steps)
    per_rank_random = (
        {"generator": list(generators)} if "generator" in inspect.signature(scheduler.step).parameters else {}
    )
    step_predict = guided(predict, guidance)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        t = timestep.expand(latents.shape[0]).to(latents.device)
        if keep is not None:
            source, mask = keep
            latents = mask * latents + (1 - mask) * scheduler.add_noise(source, noise, t)
        prediction = step_predict(scheduler.scale_model_input(latents, timestep), t, condition, negative)
        latents = scheduler.step(prediction, timestep, latents, **per_rank_random, return_dict=False)[0]
        if keep is not None and timestep == scheduler.timesteps[-1]:
            source, mask = keep
            latents = mask * latents + (1 - mask) * source
        yield latents


def sample(*arguments: Any, **settings: Any) -> Tensor:
    """What `sample_steps` ends with."""
    return last(sample_steps(*arguments, **settings))


def last(steps: Iterator[Tensor]) -> Tensor:
    """The last of at least one."""
    return deque(steps, maxlen=1).pop()


@torch.no_grad()
def predict_x0(
    predict: Predict, scheduler: Scheduler, source: Tensor, condition: Condition, noises: Tensor, level: float = 0.8
) -> Tensor:
    """The clean image latents [b c h w] a condition would make of a picture, on average over noises.

    `source` [b c h w] is noised to `level` of the way with each of `noises` [k b c h w]. Where two conditions lead to
    different pictures from the same noises, an edit from one to the other belongs (DiffEdit, arXiv 2210.11427 step 1).
    """
    noisiest = int(level * (len(scheduler.alphas_cumprod) - 1))
    t = torch.full((source.shape[0],), noisiest, device=source.device)
    total = torch.zeros_like(source)
    for noise in noises:
        noisy = add_noise(scheduler, source, noise, t)
        total += clean_estimate(scheduler, noisy, predict(noisy, t, condition).float(), t)
    return total / len(noises)


def edit_mask(before: Tensor, after: Tensor, threshold: float = 0.3) -> Tensor:
    """bool [b h w]: the pixels in which two pictures [b 3 h w] differ, by mean absolute channel, by more than
    `threshold` of the picture's 99th percentile.

    DiffEdit compares image latents; pixels follow outlines, so that a new background spares the things before it.
    """
    difference = (after - before).abs().mean(dim=1)
    return difference > threshold * difference.flatten(1).quantile(0.99, dim=1)[:, None, None]
