"""Optimisers and schedule: Muon for hidden matrices, AdamW for everything else."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from latentbridge.config import OptimConfig
from latentbridge.training.parallel import gather_gradients, local_shard

_NOT_HIDDEN = ("embed", "lm_head", "shared", "proj_out", "heads.")
"""Matrices that are tables or output layers, for which Muon is not meant (see torch.optim.Muon)."""

_T5_SCORES = ("Attention.q.weight", "Attention.k.weight")
_SCORES_RATE, _BIAS_RATE = 0.15, 30.0
"""Of the AdamW rate, for T5's query and key matrices and for its position bias."""
_QWEN_SCORES, _QWEN_SCORES_RATE = ("q_proj.weight", "k_proj.weight"), 0.25
"""Of Muon's rate, for the language model's query and key matrices."""


class Float32Muon(torch.optim.Muon):
    """torch's Muon with its Newton-Schulz iteration in float32, which torch fixes to bfloat16.

    A processor without bfloat16 units takes 12 to 80 times as long for a bfloat16 product as for a float32 one (matrices of
    128 to 512; AMD EPYC Zen 3, torch 2.13). State and settings are torch's own, so checkpoints of both are read by both.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update the parameters that have gradients; rates follow `match_rms_adamw`."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient, state = parameter.grad, self.state[parameter]
                if gradient is None:
                    continue
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                whole = local_shard(gradient.lerp(momentum, group["momentum"]))
                update = _orthogonalize(whole, group["ns_coefficients"], group["ns_steps"], group["eps"])
                if isinstance(gradient, DTensor):
                    update = DTensor.from_local(update, gradient.device_mesh, gradient.placements)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))


def _orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return the matrix [n m] with all singular values near 1, by the quintic Newton-Schulz iteration in its own dtype.

    Source: Keller Jordan's Muon, as in torch.optim.Muon. A step multiplies x from the left by a polynomial of its Gram matrix
    [n n]. Where x is at least twice as wide as high, these factors are collected and x is multiplied once, which takes .6
    of the time for 192 x 768 and differs by rounding.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    if x.shape[1] < 2 * x.shape[0]:
        for _ in range(steps):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.T if tall else x
    gram, product = x @ x.T, torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        gram, product = factor @ gram @ factor, factor @ product
    x = product @ x
    return x.T if tall else x


def make_optimizers(
    named: dict[str, nn.Parameter], config: OptimConfig, muon_bf16: bool = True
) -> list[torch.optim.Optimizer]:
    """Return the optimisers over the parameters that move; the peak rate of each is kept as `peak_lr` in its groups.

    `muon_bf16` says whether Muon multiplies in bfloat16 or in float32.

    T5 attention has no 1/sqrt(d): its query and key matrices carry that factor, and its position bias must outgrow
    their products. At one rate for all, scores saturate, the bias never counts and the encoder reads a bag of words
    (docs/LOG.md, 2026-11-22); so queries and keys move slower and the bias faster, as under Adafactor's relative steps.
    Those of the language model grow without end under Muon at its full rate, until attention points at one token each
    and cannot follow which word belongs to which (docs/LOG.md, 2026-11-23); they move at a quarter of it.
    """
    scores = [p for name, p in named.items() if name.endswith(_T5_SCORES)]
    bias = [p for name, p in named.items() if "relative_attention_bias" in name]
    apart = {id(p) for p in (*scores, *bias)}
    general = {name: p for name, p in named.items() if id(p) not in apart}
    hidden = {name: p for name, p in general.items() if p.ndim == 2 and not any(w in name for w in _NOT_HIDDEN)}
    optimizers: list[torch.optim.Optimizer] = []
    if hidden and config.muon_lr > 0:
        slow = [p for name, p in hidden.items() if name.endswith(_QWEN_SCORES)]
        full = [p for name, p in hidden.items() if not name.endswith(_QWEN_SCORES)]
        groups = [{"params": full, "lr": config.muon_lr}, {"params": slow, "lr": config.muon_lr * _QWEN_SCORES_RATE}]
        kind = torch.optim.Muon if muon_bf16 else Float32Muon
        muon = kind(_filled(groups), weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        muon.register_step_pre_hook(gather_gradients)
        optimizers.append(muon)
        general = {name: p for name, p in general.items() if name not in hidden}
    groups = [
        {"params": list(general.values()), "lr": config.lr},
        {"params": scores, "lr": config.lr * _SCORES_RATE},
        {"params": bias, "lr": config.lr * _BIAS_RATE, "weight_decay": 0.0},
    ]
    if groups := _filled(groups):
        optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _filled(groups: list[dict]) -> list[dict]:
    return [group for group in groups if group["params"]]


def lr_factor(step: int, steps: int, config: OptimConfig) -> float:
    """The share of the peak learning rate at a step: linear warm-up, constant, linear decay to zero at the end."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (steps - step) / max(1.0, config.decay_fraction * steps)
    return min(warm, left, 1.0)


class ExponentialMovingAverage:
    """Exponential moving average of the weights that move (warm-up: decay grows as (1 + n) / (10 + n))."""

    def __init__(self, named: dict[str, nn.Parameter], decay: float):
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in named.items()}

    @torch.no_grad()
    def update(self, named: dict[str, nn.Parameter], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        targets = [p.detach() for p in named.values()]
        torch._foreach_lerp_(list(self.weights.values()), targets, 1 - decay)
