"""What learns in a run: an objective, what moves of it, its optimisers, and one step of them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from latentbridge.config import RunConfig
from latentbridge.devices import CPU, has_fast_bfloat16, to_device
from latentbridge.models.adapters import add_adapter
from latentbridge.models.checkpoint import Network
from latentbridge.ranks import all_reduce_sum, world_size
from latentbridge.rng import torch_rng
from latentbridge.run_folder import RunFolder
from latentbridge.training import parallel
from latentbridge.training.checkpoints import load_checkpoint, save_checkpoint
from latentbridge.training.divergence import DivergenceGuard
from latentbridge.training.gradient_norms import gradient_norm_shares
from latentbridge.training.optim import ExponentialMovingAverage, lr_factor, make_optimizers
from latentbridge.training.recompute import recompute
from latentbridge.training.stage import Objective, Stage, moving
from latentbridge.types import LossOutputs


class Learner:
    """A model under training: its steps, what is kept of it on the way, and what it leaves."""

    def __init__(
        self,
        model: Network,
        stage: Stage,
        config: RunConfig,
        run: RunFolder,
        checkpoint: Path | None,
        device: torch.device = CPU,
    ):
        """`model` is as the run starts from it, on the CPU; a `checkpoint` puts its own weights in place.

        What a stage prepares and all that is drawn, adapters and heads, is made on the CPU, so that the seed decides it
        alone; what is computed before the first step is computed on the device.
        """
        self.config, self.run, self.device = config, run, device
        self.start = {name: p.detach().clone() for name, p in model.named_parameters()} if config.blend < 1 else {}
        with parallel.one_rank_at_a_time(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if checkpoint is None:
                stage.prepare(model)
            if config.stage.lora_rank:
                add_adapter(model, config.stage.lora_rank)
            self.objective = Objective(model.to(device), stage).to(device)
        fast = bool(parallel.broadcast_from_rank_zero(has_fast_bfloat16(device)))
        self.bf16 = config.bf16 and fast
        """Mixed precision is on; the same on every rank, as the leading one's device decides."""
        self.writes_out_attention = self.bf16 and device == CPU
        """Its fused kernel is ten times slower backward in bfloat16; accelerators keep theirs."""
        if self.writes_out_attention:
            _write_out_attention(model)
        recompute(model, config.recompute)
        parallel.shard_parameters(self.objective, stage.by_block)
        self.named = moving(dict(self.objective.named_parameters()), stage, config)
        for name, parameter in self.objective.named_parameters():
            parameter.requires_grad_(name in self.named)
        self.optimizers = make_optimizers(self.named, config.optim, muon_bf16=fast)
        self.average = ExponentialMovingAverage(self.named, config.optim.ema_decay)
        self.guard = DivergenceGuard(run, config)
        self.steps_done = (
            load_checkpoint(checkpoint, self.objective, self.optimizers, self.average) if checkpoint else 0
        )

    def train_step(self, batch: object, *, logged: bool) -> tuple[dict[str, float], dict[str, float]]:
        """One step; what to log of its gradient, and the parts of its loss. Raises Diverged before anything has moved.

        The terms' shares of the gradient are told where a step is `logged` and weights are not in shards.
        """
        step = self.steps_done
        rate = lr_factor(step, self.config.steps, self.config.optim)
        outputs = self._losses(batch)
        loss = cast(Tensor, outputs.loss)
        mean = all_reduce_sum(loss).item() / world_size()  # the same on every rank, so that all stop
        self.guard.check_loss(step, self.objective.stage.phase(step), mean, outputs)
        shares: dict[str, float] = {}
        if logged and world_size() == 1:
            shares = gradient_norm_shares(cast(dict[str, Tensor], outputs.terms), self.named.values())
        loss.backward()
        norm = parallel.clip_gradients(self.named.values(), self.config.optim.clip_norm)
        self.guard.check_gradient(step, norm, lambda: cast(Tensor, self._losses(batch).loss), self.named)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.named, step)
        self.steps_done += 1
        parts = parallel.mean_over_ranks(outputs.parts) if logged else outputs.parts
        return {
            "grad_norm": round(norm, 4),
            **{f"{name} share": share for name, share in shares.items()},
            "lr": rate,
        }, parts

    def check(self) -> dict[str, float]:
        """The stage's measures; raises UserError where the weights must not be saved."""
        self.guard.check_weights(self.steps_done - 1, self.named)
        with parallel.gathered_parameters(self.objective):
            return self.objective.stage.check(self.objective.model, self.steps_done)

    def save(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(self.run, self.steps_done, self.objective, self.optimizers, self.average)

    @torch.no_grad()
    def finish(self) -> None:
        """Put what the run leaves into the model, whole on every rank: the averaged weights, or `blend` of the way there."""
        for name, parameter in self.named.items():
            parameter.copy_(self.average.weights[name])
        parallel.unshard_parameters(self.objective)
        if self.start:
            for name, parameter in self.objective.model.named_parameters():
                parameter.copy_(self.start[name].to(self.device).lerp(parameter, self.config.blend))

    def _losses(self, batch: object) -> LossOutputs:
        """Of the step to come, whose noise is a function of (seed, step) on every device; the batch comes to it here.

        transformers' models have their own way to be told to write out attention.
        """
        attention = sdpa_kernel(SDPBackend.MATH) if self.writes_out_attention else nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16), attention:
            return self.objective(to_device(batch, self.device), torch_rng(self.config.seed, "loss", self.steps_done))


def _write_out_attention(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")
