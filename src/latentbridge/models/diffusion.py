"""Diffusion for any network: noising, the training loss, guided sampling, and edit masks."""

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
"""(noisy image latents [b c h w], timesteps [b], `Condition`) -> prediction [b c h w]."""
Scheduler = Any
"""Any variance-preserving scheduler of diffusers, which have no common type."""


def make_scheduler(num_train_timesteps: int) -> DDIMScheduler:
    """Return a v-prediction scheduler with cosine betas rescaled to zero terminal SNR, which lets no background through."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )


def add_noise(scheduler: Scheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the variance-preserving noised latents at integer `timesteps` [b].

    A scheduler's own `add_noise` may differ, because some schedulers scale their samples.
    """
    alphas = _alphas(scheduler, timesteps)
    return alphas**0.5 * clean + (1 - alphas) ** 0.5 * noise


def _alphas(scheduler: Scheduler, timesteps: Tensor) -> Tensor:
    """Return `alphas_cumprod` at `timesteps` [b], as [b 1 1 1]."""
    return scheduler.alphas_cumprod.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)


def target(scheduler: Scheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the training target: the noise, the clean latents, or the velocity (arXiv 2202.00512)."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "sample":
        return clean
    alphas = _alphas(scheduler, timesteps)
    return alphas**0.5 * noise - (1 - alphas) ** 0.5 * clean


def clean_estimate(scheduler: Scheduler, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
    """Return the clean latents implied by a prediction; the inverse of `target`."""
    if scheduler.config.prediction_type == "sample":
        return prediction
    alphas = _alphas(scheduler, timesteps)
    if scheduler.config.prediction_type == "epsilon":
        return (noisy - (1 - alphas) ** 0.5 * prediction) / alphas**0.5
    return alphas**0.5 * noisy - (1 - alphas) ** 0.5 * prediction


def diffusion_loss(
    predict: Predict, scheduler: Scheduler, clean: Tensor, condition: Condition, rng: torch.Generator
) -> Tensor:
    """Return the mean squared error of the prediction for `clean` [b c h w] at uniformly drawn timesteps."""
    return noised_loss(predict, scheduler, clean, condition, *draw_noise(scheduler, clean.shape, rng))


def draw_noise(
    scheduler: Scheduler, shape: Sequence[int], rng: torch.Generator, rows_dim: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw noise [... c h w] and timesteps, int64 [...], for this rank's rows along `rows_dim`."""
    draw_timesteps = partial(torch.randint, 0, len(scheduler.alphas_cumprod))
    noise = per_rank_random(torch.randn, shape, rng, rows_dim)
    return noise, per_rank_random(draw_timesteps, shape[:-3], rng, rows_dim)


def noised_loss(
    predict: Predict, scheduler: Scheduler, clean: Tensor, condition: Condition, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return the `diffusion_loss` for given noise [b c h w] and `timesteps` [b], which may be on the CPU."""
    noise, timesteps = noise.to(clean.device), timesteps.to(clean.device)
    noisy = add_noise(scheduler, clean, noise, timesteps)
    expected = target(scheduler, clean, noise, timesteps)
    return (predict(noisy, timesteps, condition).float() - expected).square().mean()


def guided(predict: Predict, guidance: float) -> Callable[[Tensor, Tensor, Condition, Condition], Tensor]:
    """Return a function (noisy, timesteps, cond, uncond) -> prediction with classifier-free guidance.

    Both conditions are evaluated in one batch; with guidance 1 only `cond` is.
    """

    def predict_guided(noisy: Tensor, timesteps: Tensor, cond: Condition, uncond: Condition) -> Tensor:
        if guidance == 1:
            return predict(noisy, timesteps, cond).float()
        both = map_condition(lambda *pair: torch.cat(pair), uncond, cond)
        uncond_out, cond_out = predict(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), both).float().chunk(2)
        return uncond_out + guidance * (cond_out - uncond_out)

    return predict_guided


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
    """Denoise unit `noise` [b c h w] and yield the latents after every step, with gradients.

    `guidance` moves from the `negative` condition past `condition`. `generators`, one per item, serve schedulers that add
    noise at each step. `keep` = (source latents, mask [b 1 h w]) inpaints: where the mask is 0, latents are replaced by the
    noised source before each step and by the source after the last (blended latent diffusion, arXiv 2206.02779).
    """
    scheduler = copy.deepcopy(scheduler)  # stepping changes its state
    scheduler.set_timesteps(steps)
    stochastic = "generator" in inspect.signature(scheduler.step).parameters
    step_options = {"generator": list(generators)} if stochastic else {}
    predict_guided = guided(predict, guidance)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        t = timestep.expand(latents.shape[0]).to(latents.device)
        if keep is not None:
            latents = _inpaint(latents, scheduler.add_noise(keep[0], noise, t), keep[1])
        prediction = predict_guided(scheduler.scale_model_input(latents, timestep), t, condition, negative)
        latents = scheduler.step(prediction, timestep, latents, **step_options, return_dict=False)[0]
        if keep is not None and timestep == scheduler.timesteps[-1]:
            latents = _inpaint(latents, *keep)
        yield latents


def _inpaint(latents: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    return mask * latents + (1 - mask) * source


def sample(*arguments: Any, **settings: Any) -> Tensor:
    """Return the final latents of `sample_steps`."""
    return last(sample_steps(*arguments, **settings))


def last(steps: Iterator[Tensor]) -> Tensor:
    """Return the last item of a non-empty iterator."""
    return deque(steps, maxlen=1).pop()


@torch.no_grad()
def predict_x0(
    predict: Predict, scheduler: Scheduler, source: Tensor, condition: Condition, noises: Tensor, level: float = 0.8
) -> Tensor:
    """Return the predicted clean latents [b c h w] under a condition, averaged over noises (DiffEdit, arXiv 2210.11427).

    `source` [b c h w] is noised to the fraction `level` of the timesteps with each of `noises` [k b c h w].
    """
    timestep = int(level * (len(scheduler.alphas_cumprod) - 1))
    t = torch.full((source.shape[0],), timestep, device=source.device)
    total = torch.zeros_like(source)
    for noise in noises:
        noisy = add_noise(scheduler, source, noise, t)
        total += clean_estimate(scheduler, noisy, predict(noisy, t, condition).float(), t)
    return total / len(noises)


def edit_mask(before: Tensor, after: Tensor, threshold: float = 0.3) -> Tensor:
    """Return bool [b h w], True where two pictures [b 3 h w] differ by more than `threshold` times the 99th percentile.

    The difference is the mean absolute one over channels. DiffEdit compares image latents; pixels follow outlines more
    closely, so editing the background leaves objects intact.
    """
    difference = (after - before).abs().mean(dim=1)
    return difference > threshold * difference.flatten(1).quantile(0.99, dim=1)[:, None, None]
