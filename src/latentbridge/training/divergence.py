"""Has a run diverged? What is no number, and a loss that rose and stays up, stop it before a checkpoint is spoiled."""

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
"""Losses that the latest are held against."""
_LEAST = 30
"""Fewer are too few to say what is usual."""
_PATIENCE = 10
"""Steps in a row that must be too high: a hard batch or a spike that heals is no divergence."""
_REACH = 10.0
"""How many deviations are too high. The highest single loss of this repository's healthy runs stands 2.1 above (docs/LOG.md, 2026-11-23)."""


class DivergenceError(UserError):
    """A run that has no use going on; what it leaves behind is good up to its last checkpoint."""


class LossStatistics(NamedTuple):
    """What losses were before the latest ones."""

    median: float
    deviation: float
    """Median absolute deviation as a standard one (times 1.4826), and at least a tenth of the median's size, so that a loss
    of one sign must double to be far off, however still it lay."""

    def distance(self, value: float) -> float:
        """How many deviations a value stands above; 0 where all were 0, which tells nothing of what is usual."""
        return (value - self.median) / self.deviation if self.deviation else 0.0


def loss_statistics(losses: Sequence[float]) -> LossStatistics:
    """The median of at least one loss, and how far the others lie from it."""
    median = float(np.median(losses))
    return LossStatistics(
        median, max(1.4826 * float(np.median(np.abs(np.subtract(losses, median)))), 0.1 * abs(median))
    )


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the last losses all stand far above those before them, and there are enough to tell."""
    before, latest = losses[-_WINDOW - _PATIENCE : -_PATIENCE], losses[-_PATIENCE:]
    return len(before) >= _LEAST and loss_statistics(before).distance(min(latest)) > _REACH


def first_nonfinite_gradient(loss: Callable[[], Tensor], named: Mapping[str, nn.Parameter]) -> str | None:
    """The parameter whose gradient is the first to be not finite on the way back from the loss, which is computed anew."""
    found: list[str] = []

    def note(name: str, gradient: Tensor) -> None:
        if not torch.isfinite(gradient).all():
            found.append(name)

    hooks = [p.register_hook(lambda gradient, name=name: note(name, gradient)) for name, p in named.items()]
    try:
        loss().backward()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


class DivergenceGuard:
    """Watches the losses, gradients and weights of a run, and stops it with a sentence that says where to look.

    What it knows is lost with the process, so a resumed run is judged by the losses since then; it stops runs and changes
    nothing else in them. Whoever resumes a run that was stopped for a loss that rose wants it to go on: that step is not
    held against it again.
    """

    def __init__(self, run: RunFolder, config: RunConfig):
        self.run, self.config = run, config
        self.losses: deque[float] = deque(maxlen=_WINDOW + _PATIENCE)
        self.parts: deque[Mapping[str, float]] = deque(maxlen=_WINDOW + _PATIENCE)
        self.phase = 0
        self.forgiven = read_json(run.stopped)["step"] + _WINDOW if run.stopped.exists() else config.optim.warmup_steps
        """Steps up to which a loss that rises is not held against the run."""

    def check_loss(self, step: int, phase: int, loss: float, outputs: LossOutputs) -> None:
        """Before the backward pass of `step`; losses of one phase are held against each other only."""
        if not math.isfinite(loss):
            values = {name: float(cast(Tensor, term).detach()) for name, term in outputs.terms.items()} or outputs.parts
            wrong = [name for name, value in values.items() if not math.isfinite(value)]
            self._stop(step, f"The loss of {self.config.name} became {loss}{_within(wrong)}")
        if phase != self.phase:
            self.losses.clear()
            self.parts.clear()
            self.phase = phase
        self.losses.append(loss)
        self.parts.append(outputs.parts)
        losses = list(self.losses)
        if step >= self.forgiven and has_diverged(losses):
            level = loss_statistics(losses[:-_PATIENCE]).median
            story = f"rose from {level:.4g} to {loss:.4g} and stayed up for {_PATIENCE} steps{_within([self._risen_part()])}"
            self._stop(step, f"The loss of {self.config.name} {story}", since=step - _PATIENCE + 1)

    def check_gradient(
        self, step: int, norm: float, loss: Callable[[], Tensor], named: Mapping[str, nn.Parameter]
    ) -> None:
        """After the backward pass of `step`, before the optimizers; `loss` computes it anew."""
        if not math.isfinite(norm):
            where = first_nonfinite_gradient(loss, named)
            first = f", first that of {where} on the way back from the loss" if where else ""
            self._stop(step, f"The gradient of {self.config.name} became {norm}{first}")

    def check_weights(self, step: int, named: Mapping[str, nn.Parameter]) -> None:
        """After the optimizers of `step`, before anything is saved."""
        spoiled = [not torch.isfinite(parallel.local_shard(parameter)).all() for parameter in named.values()]
        counts = all_reduce_sum(torch.tensor(spoiled, dtype=torch.int64)).tolist()  # so that all ranks stop
        wrong = [name for name, count in zip(named, counts, strict=True) if count]
        if wrong:
            more = f" and {len(wrong) - 1} others" if wrong[1:] else ""
            self._stop(step, f"The weights {wrong[0]}{more} of {self.config.name} are no longer finite")

    def _risen_part(self) -> str:
        """The part of the loss that stands highest above what it was."""
        distances: dict[str, float] = {}
        for name, value in self.parts[-1].items():
            before = [parts[name] for parts in list(self.parts)[:-_PATIENCE] if name in parts]
            distances[name] = loss_statistics(before).distance(value) if before else 0.0
        return max(distances, key=lambda name: distances[name], default="")

    def _stop(self, step: int, story: str, since: int | None = None) -> NoReturn:
        """`since` is the step at which the trouble began, where that was earlier and may have been meant."""
        whole = [path.parent.name for path in sorted(self.run.path.glob("checkpoints/step_*/state.json"))]
        good = [name for name in whole if since is None or int(name.removeprefix("step_")) <= since]
        kept = f"the checkpoint {good[-1]} is kept" if good else "there is no checkpoint from before"
        also = "" if since is None else ", or, where that was to be expected, go on with --resume"
        reason = (
            f"{story} at step {step + 1}, whose batch is stage.batch(model, {step}) of seed {self.config.seed}; {kept}; "
            f"look at {self.run.report} (latentbridge report {self.run.path}), lower optim.lr and optim.muon_lr and start "
            f"again in another folder{also}."
        )
        if parallel.is_rank_zero():
            write_json(self.run.stopped, {"step": step + 1, "reason": reason})
        raise DivergenceError(reason)


def _within(names: Sequence[str]) -> str:
    named = [name for name in names if name]
    return f", in {' and '.join(named)}," if named else ""
