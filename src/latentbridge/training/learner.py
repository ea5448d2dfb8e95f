"""The training state of a run: model, optimizers and EMA, and one optimizer step."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
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
from latentbridge.training.stage import Objective, Stage, trainable_parameters
from latentbridge.types import LossOutputs


class Learner:
    """A model in training with its optimizers and EMA."""

    def __init__(
        self,
        model: Network,
        stage: Stage,
        config: RunConfig,
        run: RunFolder,
        checkpoint: Path | None,
        device: torch.device = CPU,
    ):
        """Prepare training of `model`, initialized for this run on the CPU, or resume from `checkpoint`.

        Adapters and heads are drawn on the CPU so that they depend on the seed only.
        """
        self.config, self.run, self.device = config, run, device
        self.start = {name: p.detach().clone() for name, p in model.named_parameters()} if config.blend < 1 else {}
        with parallel.one_rank_at_a_time(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if checkpoint is None:
                stage.prepare(model)
            if config.stage.lora_rank:
                add_adapter(model, config.stage.lora_rank)
            stage.setup(model.to(device))
            self.objective = Objective(model, stage).to(device)
        fast_bf16 = bool(parallel.broadcast_from_rank_zero(has_fast_bfloat16(device)))
        self.bf16 = config.bf16 and fast_bf16
        """Mixed precision is on; decided by rank 0's device."""
        self.eager_attention = self.bf16 and device == CPU
        """On CPUs the backward pass of fused attention is ten times slower in bfloat16."""
        if self.eager_attention:
            for module in model.modules():
                if isinstance(module, PreTrainedModel):
                    module.set_attn_implementation("eager")
        recompute(model, config.recompute)
        parallel.shard_parameters(self.objective, stage.by_block)
        self.named = trainable_parameters(dict(self.objective.named_parameters()), stage, config)
        """The trained parameters by name."""
        for name, parameter in self.objective.named_parameters():
            parameter.requires_grad_(name in self.named)
        self.optimizers = make_optimizers(self.named, config.optim, muon_bf16=fast_bf16)
        self.average = ExponentialMovingAverage(self.named, config.optim.ema_decay)
        self.guard = DivergenceGuard(run, config)
        self.steps_done = (
            load_checkpoint(checkpoint, self.objective, self.optimizers, self.average) if checkpoint else 0
        )

    def train_step(self, batch: object, *, logged: bool) -> tuple[dict[str, float], dict[str, float]]:
        """Run one optimizer step; return the gradient's metrics and the parts of the loss.

        Gradient norm shares are measured if the step is `logged` and there is one rank. Raises DivergenceError before the
        weights change.
        """
        step = self.steps_done
        factor = lr_factor(step, self.config.steps, self.config.optim)
        outputs = self._loss(batch)
        loss = cast(Tensor, outputs.loss)
        mean = all_reduce_sum(loss).item() / world_size()  # so that all ranks stop together
        self.guard.check_loss(step, self.objective.stage.phase(step), mean, outputs)
        shares: dict[str, float] = {}
        if logged and world_size() == 1:
            shares = gradient_norm_shares(cast(dict[str, Tensor], outputs.terms), self.named.values())
        loss.backward()
        norm = parallel.clip_gradients(self.named.values(), self.config.optim.clip_norm)
        self.guard.check_gradient(step, norm, lambda: cast(Tensor, self._loss(batch).loss), self.named)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.named, step)
        self.steps_done += 1
        parts = parallel.mean_over_ranks(outputs.parts) if logged else outputs.parts
        share_metrics = {f"{name} share": share for name, share in shares.items()}
        return {"grad_norm": round(norm, 4), **share_metrics, "lr": factor}, parts

    def check(self) -> dict[str, float]:
        """Return the stage's held-out metrics; raises UserError if the weights must not be saved."""
        self.guard.check_weights(self.steps_done - 1, self.named)
        with parallel.gathered_parameters(self.objective):
            return self.objective.stage.check(self.objective.model, self.steps_done)

    def save(self) -> None:
        """Save a checkpoint."""
        save_checkpoint(self.run, self.steps_done, self.objective, self.optimizers, self.average)

    @torch.no_grad()
    def finish(self) -> None:
        """Copy the EMA weights, unsharded and interpolated with the initial weights by `blend`, into the model."""
        for name, parameter in self.named.items():
            parameter.copy_(self.average.weights[name])
        parallel.unshard_parameters(self.objective)
        if self.start:
            for name, parameter in self.objective.model.named_parameters():
                parameter.copy_(self.start[name].to(self.device).lerp(parameter, self.config.blend))

    def _loss(self, batch: object) -> LossOutputs:
        attention = sdpa_kernel(SDPBackend.MATH) if self.eager_attention else nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16), attention:
            return self.objective(to_device(batch, self.device), torch_rng(self.config.seed, "loss", self.steps_done))
