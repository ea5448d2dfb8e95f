"""Detection of diverged runs: a loss, gradient or weight that is not finite, or a loss that rises and stays high."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn

from latentbridge.config import RunConfig
from latentbridge.errors import UserError
from latentbridge.files import read_json, write_json
from latentbridge.ranks import all_reduce_sum
from latentbridge.run_folder import RunFolder
from latentbridge.training import parallel
from latentbridge.types import LossOutputs

_WINDOW = 100
"""Number of losses that the latest ones are compared with."""
_MIN_LOSSES = 30
_PATIENCE = 10
"""Number of consecutive losses that must be too high; shorter spikes are no divergence."""
_MAX_Z_SCORE = 10.0
"""The highest single loss of this repository's healthy runs has 2.1 (docs/LOG.md, 2026-11-23)."""


class DivergenceError(UserError):
    """A diverged run; its checkpoints are from before."""


class LossStatistics(NamedTuple):
    """Median and spread of past losses."""

    median: float
    deviation: float
    """1.4826 times the median absolute deviation, and at least a tenth of the absolute median."""

    def z_score(self, value: float) -> float:
        """Return how many deviations a value is above the median; 0 if all losses were 0."""
        return (value - self.median) / self.deviation if self.deviation else 0.0


def loss_statistics(losses: Sequence[float]) -> LossStatistics:
    """Return the statistics of one or more losses."""
    median = float(np.median(losses))
    return LossStatistics(
        median, max(1.4826 * float(np.median(np.abs(np.subtract(losses, median)))), 0.1 * abs(median))
    )


def has_diverged(losses: Sequence[float]) -> bool:
    """Return whether all of the last `_PATIENCE` losses are far above those before them."""
    before, latest = losses[-_WINDOW - _PATIENCE : -_PATIENCE], losses[-_PATIENCE:]
    return len(before) >= _MIN_LOSSES and loss_statistics(before).z_score(min(latest)) > _MAX_Z_SCORE


def first_nonfinite_gradient(loss: Callable[[], Tensor], named: Mapping[str, nn.Parameter]) -> str | None:
    """Return the parameter whose gradient is the first to become non-finite in a backward pass of the loss."""
    nonfinite: list[str] = []

    def check(name: str, gradient: Tensor) -> None:
        if not torch.isfinite(gradient).all():
            nonfinite.append(name)

    hooks = [p.register_hook(lambda gradient, name=name: check(name, gradient)) for name, p in named.items()]
    try:
        loss().backward()
    finally:
        for hook in hooks:
            hook.remove()
    return nonfinite[0] if nonfinite else None


class DivergenceGuard:
    """A check of each step's loss, gradient and weights that stops a diverged run with a DivergenceError.

    Its history is not saved, so a resumed run is compared with the losses since the resume. A run that was stopped for a
    high loss and is resumed is not stopped for it again.
    """

    def __init__(self, run: RunFolder, config: RunConfig):
        self.run, self.config = run, config
        self.history: deque[tuple[float, Mapping[str, float]]] = deque(maxlen=_WINDOW + _PATIENCE)
        """Losses of the current phase and their parts."""
        self.phase = 0
        self.first_step = (
            read_json(run.stopped)["step"] + _WINDOW if run.stopped.exists() else config.optim.warmup_steps
        )
        """The first step at which a high loss stops the run."""

    def check_loss(self, step: int, phase: int, loss: float, outputs: LossOutputs) -> None:
        """Check the loss of `step` before its backward pass; only losses of the same phase are compared."""
        if not math.isfinite(loss):
            values = {name: float(cast(Tensor, term).detach()) for name, term in outputs.terms.items()} or outputs.parts
            nonfinite = [name for name, value in values.items() if not math.isfinite(value)]
            self._stop(step, f"The loss of {self.config.name} became {loss}{_in_parts(nonfinite)}")
        if phase != self.phase:
            self.history.clear()
            self.phase = phase
        self.history.append((loss, outputs.parts))
        losses = [value for value, _ in self.history]
        if step >= self.first_step and has_diverged(losses):
            level = loss_statistics(losses[:-_PATIENCE]).median
            change = f"rose from {level:.4g} to {loss:.4g} and stayed high for {_PATIENCE} steps"
            reason = f"The loss of {self.config.name} {change}{_in_parts([self._highest_part()])}"
            self._stop(step, reason, since=step - _PATIENCE + 1)

    def check_gradient(
        self, step: int, norm: float, loss: Callable[[], Tensor], named: Mapping[str, nn.Parameter]
    ) -> None:
        """Check the gradient norm of `step` before the optimizer step; `loss` computes the loss again."""
        if not math.isfinite(norm):
            name = first_nonfinite_gradient(loss, named)
            first = f"; the first non-finite gradient in the backward pass is that of {name}" if name else ""
            self._stop(step, f"The gradient of {self.config.name} became {norm}{first}")

    def check_weights(self, step: int, named: Mapping[str, nn.Parameter]) -> None:
        """Check the weights after the optimizer step of `step`, before they are saved."""
        nonfinite = [not torch.isfinite(parallel.local_shard(parameter)).all() for parameter in named.values()]
        counts = all_reduce_sum(torch.tensor(nonfinite, dtype=torch.int64)).tolist()  # so that all ranks stop
        names = [name for name, count in zip(named, counts, strict=True) if count]
        if names:
            more = f" and {len(names) - 1} others" if names[1:] else ""
            self._stop(step, f"The weights {names[0]}{more} of {self.config.name} are no longer finite")

    def _highest_part(self) -> str:
        """Return the part of the loss with the highest z-score."""
        *before, (_, latest) = self.history
        scores: dict[str, float] = {}
        for name, value in latest.items():
            values = [parts[name] for _, parts in before[: 1 - _PATIENCE] if name in parts]
            scores[name] = loss_statistics(values).z_score(value) if values else 0.0
        return max(scores, key=lambda name: scores[name], default="")

    def _stop(self, step: int, problem: str, since: int | None = None) -> NoReturn:
        """Record the reason and raise; `since` is the step at which a loss began to rise, which may be intended."""
        checkpoints = [folder.name for folder in self.run.checkpoints()]
        good = [name for name in checkpoints if since is None or int(name.removeprefix("step_")) <= since]
        checkpoint = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint from before"
        resume = "" if since is None else "; if the rise was expected, continue with --resume"
        reason = (
            f"{problem} at step {step + 1}, whose batch is stage.batch(model, {step}) of seed {self.config.seed}; {checkpoint}; "
            f"look at {self.run.report} (latentbridge report {self.run.path}), lower optim.lr and optim.muon_lr and start "
            f"again in another folder{resume}."
        )
        if parallel.is_rank_zero():
            write_json(self.run.stopped, {"step": step + 1, "reason": reason})
        raise DivergenceError(reason)


def _in_parts(names: Sequence[str]) -> str:
    named = [name for name in names if name]
    return f", in {' and '.join(named)}," if named else ""
