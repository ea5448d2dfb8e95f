"""Optimizers, learning rate schedule and EMA: Muon for hidden matrices, AdamW for all other parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from latentbridge.config import OptimConfig
from latentbridge.training.parallel import gather_gradients, local_shard

_NOT_HIDDEN = ("embed", "lm_head", "shared", "proj_out", "heads.")
"""Embedding tables and output layers, for which Muon is not meant (see torch.optim.Muon)."""

_T5_SCORES = ("Attention.q.weight", "Attention.k.weight")
_T5_SCORES_RATE, _T5_BIAS_RATE = 0.15, 30.0
"""Factors on the AdamW rate for T5's query and key matrices and for its position bias."""
_QWEN_SCORES, _QWEN_SCORES_RATE = ("q_proj.weight", "k_proj.weight"), 0.25
"""Factor on Muon's rate for the language model's query and key matrices."""


class Float32Muon(torch.optim.Muon):
    """torch.optim.Muon with the Newton-Schulz iteration in float32 instead of bfloat16.

    A CPU without bfloat16 units takes 12 to 80 times as long for a product in bfloat16 as in float32 (matrices of 128 to
    512; AMD EPYC Zen 3, torch 2.13). State and settings are those of torch.optim.Muon, so checkpoints are compatible.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update the parameters that have gradients, with rates as in `match_rms_adamw`."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient, state = parameter.grad, self.state[parameter]
                if gradient is None:
                    continue
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                nesterov = local_shard(gradient.lerp(momentum, group["momentum"]))
                update = _orthogonalize(nesterov, group["ns_coefficients"], group["ns_steps"], group["eps"])
                if isinstance(gradient, DTensor):
                    update = DTensor.from_local(update, gradient.device_mesh, gradient.placements)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))


def _orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return the matrix [n m] with all singular values near 1, by the quintic Newton-Schulz iteration in its own dtype.

    Source: Keller Jordan's Muon, as in torch.optim.Muon. Each step multiplies x from the left by a polynomial of its Gram
    matrix [n n]. If m >= 2 n these factors are multiplied first and applied to x once, which takes 0.6 of the time for
    192 x 768 and differs by rounding.
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
    """Return the optimizers of the trained parameters; each group stores its peak learning rate as `peak_lr`.

    `muon_bf16` selects bfloat16 or float32 for Muon's matrix products.

    T5 attention has no 1/sqrt(d): its query and key matrices contain that factor, and its position bias must outgrow
    their products. With one rate for all, attention saturates, the bias has no effect and the encoder becomes a bag of
    words (docs/LOG.md, 2026-11-22); so queries and keys get a lower rate and the bias a higher one, as under Adafactor's
    relative steps. The language model's queries and keys grow without bound under Muon's full rate, until attention
    points at one token each (docs/LOG.md, 2026-11-23); they get a quarter of it.
    """
    scores = [p for name, p in named.items() if name.endswith(_T5_SCORES)]
    bias = [p for name, p in named.items() if "relative_attention_bias" in name]
    t5 = {id(p) for p in (*scores, *bias)}
    general = {name: p for name, p in named.items() if id(p) not in t5}
    hidden = {name: p for name, p in general.items() if p.ndim == 2 and not any(w in name for w in _NOT_HIDDEN)}
    optimizers: list[torch.optim.Optimizer] = []
    if hidden and config.muon_lr > 0:
        slow = [p for name, p in hidden.items() if name.endswith(_QWEN_SCORES)]
        full = [p for name, p in hidden.items() if not name.endswith(_QWEN_SCORES)]
        groups = [{"params": full, "lr": config.muon_lr}, {"params": slow, "lr": config.muon_lr * _QWEN_SCORES_RATE}]
        kind = torch.optim.Muon if muon_bf16 else Float32Muon
        muon = kind(_nonempty(groups), weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        muon.register_step_pre_hook(gather_gradients)
        optimizers.append(muon)
        general = {name: p for name, p in general.items() if name not in hidden}
    groups = [
        {"params": list(general.values()), "lr": config.lr},
        {"params": scores, "lr": config.lr * _T5_SCORES_RATE},
        {"params": bias, "lr": config.lr * _T5_BIAS_RATE, "weight_decay": 0.0},
    ]
    if groups := _nonempty(groups):
        optimizers.append(torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _nonempty(groups: list[dict]) -> list[dict]:
    return [group for group in groups if group["params"]]


def lr_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Return the factor on the peak learning rate at a step: linear warmup, constant, linear decay to 0 at the end."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = (steps - step) / max(1.0, config.decay_fraction * steps)
    return min(warmup, decay, 1.0)


class ExponentialMovingAverage:
    """An exponential moving average of the trained weights whose decay warms up as (1 + step) / (10 + step)."""

    def __init__(self, named: dict[str, nn.Parameter], decay: float):
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in named.items()}

    def update(self, named: dict[str, nn.Parameter], step: int) -> None:
        update = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        update(list(self.weights.values()), [p.detach() for p in named.values()], step)
