"""The one training loop: every stage of every model runs through `train`."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import PreTrainedModel

from latentbridge.config import RunConfig, from_dict, to_dict
from latentbridge.errors import UserError
from latentbridge.models.adapters import add_adapter, is_adapter, merge_adapter, save_adapter
from latentbridge.models.backbones.loading import starting_network
from latentbridge.models.checkpoint import Network, save_model, shipped
from latentbridge.recipes.real import RELEASES
from latentbridge.rng import torch_rng
from latentbridge.rundir import RunDir, read_json, write_json
from latentbridge.training import parallel
from latentbridge.training.checkpoints import forget_checkpoints, newest_good, restore, save_checkpoint
from latentbridge.training.optim import Average, make_optimizers, schedule
from latentbridge.training.recompute import recompute
from latentbridge.training.shares import gradient_shares
from latentbridge.types import LossOutputs


class Stage(Protocol):
    """What to move, what to feed, what to minimise; and, where a stage needs it, what comes before, around and between."""

    trains: tuple[str, ...] = ("omnibridge",)
    """The kinds of network it can train."""
    many_ranks: bool = False
    """Whether `batch` and `loss` know of other ranks (`training/parallel.py`); one that does not runs in one process."""
    rollouts: bool = False
    """Whether `batch` asks the model, which then has its weights whole on every rank."""
    runs: Path = Path("runs")
    """Where the run and its siblings are; the loop says it."""

    def prepare(self, model: Network) -> None:
        """One-time work before the first step that the weights then carry: closed-form fits, initialisations."""

    def trainable(self, name: str) -> bool:
        """Whether the parameter of that name moves."""
        ...

    def batch(self, model: Network, step: int) -> object:
        """The batch of a step, a function of (seed, step) alone."""
        ...

    def loss(self, model: Network, batch: Any, rng: torch.Generator, heads: Any) -> LossOutputs:
        """The loss; runs inside `Objective.forward`."""
        ...

    def attach(self, model: Network) -> nn.Module | None:
        """Training-only heads, at the start and on every resume, and whatever else the stage needs of the model by then."""
        return None

    def check(self, model: Network, step: int) -> dict[str, float]:
        """Measures on held-out data, for the log; raises UserError where going on would be a waste.

        Asked after every `checkpoint_every` steps and after the last, before anything is saved, so what a run leaves
        behind has passed.
        """
        return {}


class Objective(nn.Module):
    """Model, stage and training-only heads as one module whose forward is the loss, so that wrapping it wraps everything."""

    def __init__(self, model: Network, stage: Stage):
        super().__init__()
        self.model = model
        self.stage = stage
        self.heads = stage.attach(model)

    def forward(self, batch: object, rng: torch.Generator) -> LossOutputs:
        return self.stage.loss(self.model, batch, rng, self.heads)


def train(config: RunConfig, stage: Stage, folder: Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Run a stage to its end and return the finished model's folder; with `resume`, go on from the newest good checkpoint.

    A resumed run ends with the same weights, bit for bit, as one that was never stopped, on the same machine and thread
    count. Started by `torchrun`, all processes train together; on another number of them a run goes on all the same, but
    its weights differ by rounding.
    """
    with parallel.joined():
        return _train(config, stage, folder, resume, progress and parallel.leads())


def _train(config: RunConfig, stage: Stage, folder: Path, resume: bool, progress: bool) -> Path:
    run = RunDir(folder)
    if (run.newest_checkpoint() or (run.model / "config.json").exists()) and not resume:
        raise UserError(f"{folder} already holds a run; add --resume to go on with it or choose another folder.")
    if resume and (run.path / "config.json").exists():
        stored = from_dict(RunConfig, read_json(run.path / "config.json"))
        if stored != config:
            raise UserError(
                f"{folder} was started with other settings; resume with the same recipe and --set values or choose another folder."
            )
    if resume and (run.model / "config.json").exists():
        forget_checkpoints(run)
        return run.model
    starts = {source: folder.parent / shipped(source) for _, source in config.init}
    for source, start_folder in starts.items():
        if not start_folder.is_dir():
            mend = f"train it first: latentbridge train {source} --out {start_folder}"
            if source in RELEASES:
                mend = f"put the folder of that release there: {RELEASES[source]}"
            raise UserError(f"{config.name} starts from the run {source}, and there is none in {folder.parent}; {mend}")
    _check_ranks(config, stage)
    checkpoint = newest_good(run)
    stage.runs = folder.parent
    if parallel.leads():
        write_json(run.path / "config.json", to_dict(config))
    if config.threads:
        torch.set_num_threads(config.threads)

    model = starting_network(config.model, config.seed, [(part, starts[source]) for part, source in config.init])
    with parallel.in_turn(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if checkpoint is None:
            stage.prepare(model)
        if config.stage.lora_rank:
            add_adapter(model, config.stage.lora_rank)
        objective = Objective(model, stage)
    if config.bf16:
        _write_out_attention(model)
    recompute(model, config.recompute)
    parallel.shard(objective)
    named = moving(dict(objective.named_parameters()), stage, config)
    for name, parameter in objective.named_parameters():
        parameter.requires_grad_(name in named)
    optimizers = make_optimizers(named, config.optim)
    average = Average(named, config.optim.ema_decay)
    start = restore(checkpoint, objective, optimizers, average) if checkpoint else 0

    bar = tqdm(
        range(start, config.steps),
        initial=start,
        total=config.steps,
        desc=config.name,
        disable=not progress,
        mininterval=2,
    )
    began = time.perf_counter() - max((r["seconds"] for r in run.metrics() if r["step"] <= start), default=0.0)
    for step in bar:
        share = schedule(step, config.steps, config.optim)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * share
        last = step + 1 == config.steps
        logged = last or (step + 1) % config.log_every == 0
        rng = torch_rng(config.seed, "loss", step)
        with parallel.whole(objective) if stage.rollouts else nullcontext():
            batch = stage.batch(model, step)
        parts, gradient = _step(objective, batch, rng, named, config, shares=logged and parallel.world() == 1)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(named, step)
        due = (step + 1) % config.checkpoint_every == 0
        measures: dict[str, float] = {}
        if due or last:
            with parallel.whole(objective):
                measures = stage.check(model, step + 1)
        parts = parallel.averaged(parts) if logged else parts
        if (logged or measures) and parallel.leads():
            seconds = round(time.perf_counter() - began, 2)
            run.log(
                {
                    "step": step + 1,
                    "seconds": seconds,
                    "samples": (step + 1) * config.batch_size,
                    **gradient,
                    "lr": share,
                    **parts,
                    **measures,
                }
            )
            bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()})
        if due and not last:
            save_checkpoint(run, step + 1, objective, optimizers, average)

    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(average.weights[name])
    parallel.settle(objective)
    if parallel.leads():
        write_json(run.path / "size.json", _size(named))
        if config.stage.lora_rank:
            save_adapter(model, run.adapter)
            merge_adapter(model)
        save_model(model, run.model)
    forget_checkpoints(run)
    parallel.wait_for_all()
    return run.model


def moving(parameters: Mapping[str, nn.Parameter], stage: Stage, config: RunConfig) -> dict[str, nn.Parameter]:
    """What moves of an objective: what the stage trains; with `lora_rank` the language model's adapter and heads instead.

    Raises UserError for an adapter beside weights that the stage would not train either.
    """
    trained = {name: p for name, p in parameters.items() if stage.trainable(name)}
    if not config.stage.lora_rank:
        return trained
    if not any(".base_layer." in name for name in trained):
        raise UserError(
            f"{config.stage.kind} trains no language model that an adapter could stand for; set stage.lora_rank=0."
        )
    return {name: p for name, p in trained.items() if is_adapter(name) or name.startswith("heads.")}


def _size(named: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """How many parameters moved, and the most memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"moving": sum(p.numel() for p in named.values()), "peak_mib": round(peak)}


def _check_ranks(config: RunConfig, stage: Stage) -> None:
    """Raises UserError where a run cannot be divided among the processes that were started."""
    ranks = parallel.world()
    if ranks > 1 and not stage.many_ranks:
        raise UserError(
            f"The stage {config.stage.kind} runs in one process, not in {ranks}; start it without torchrun."
        )
    if config.batch_size % ranks:
        raise UserError(
            f"batch_size is {config.batch_size}, of which {ranks} processes cannot have equal parts; choose a multiple of {ranks}."
        )


def _write_out_attention(model: Network) -> None:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")


def _step(
    objective: Objective,
    batch: object,
    rng: torch.Generator,
    named: dict[str, nn.Parameter],
    config: RunConfig,
    shares: bool,
) -> tuple[dict[str, float], dict[str, float]]:
    """Forward and backward: the parts of the loss, and what to log of the gradient: its norm, and the terms' `shares`.

    In bfloat16 attention is written out, because the CPU's fused kernel is ten times slower backward; transformers'
    models, which have their own way to say so, are told in `train`.
    """
    attention = sdpa_kernel(SDPBackend.MATH) if config.bf16 else nullcontext()
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16), attention:
        outputs = objective(batch, rng)
    loss = cast(Tensor, outputs.loss)
    total = parallel.summed(loss)  # not finite where it is not on any rank, so that all stop
    if not torch.isfinite(total):
        raise UserError(
            f"The loss of {config.name} became {total.item()}; lower optim.lr and optim.muon_lr and start again in another folder."
        )
    found = gradient_shares(cast(dict[str, Tensor], outputs.terms), named.values()) if shares else {}
    loss.backward()
    norm = parallel.clip_gradients(named.values(), config.optim.clip_norm)
    named_shares = {f"{name} share": share for name, share in found.items()}
    return outputs.parts, {"grad_norm": round(norm, 4), **named_shares}
