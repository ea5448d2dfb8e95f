"""The one training loop: every stage of every model runs through `train`."""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from transformers import PreTrainedModel

from latentbridge.config import RunConfig, from_dict, to_dict
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import Network, load_parts, new_model, read_tensors, save_model, shipped
from latentbridge.rng import torch_rng
from latentbridge.rundir import RunDir, atomic_write, read_json, write_json
from latentbridge.training.optim import Average, make_optimizers, schedule
from latentbridge.training.shares import gradient_shares
from latentbridge.types import LossOutputs


class Stage(Protocol):
    """What to move, what to feed, what to minimise; and, where a stage needs it, what comes before, around and between."""

    trains: tuple[str, ...] = ("omnibridge",)
    """The kinds of network it can train."""
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
        """Structure the stage adds, at the start and on every resume: adapters inside the model, and training-only heads to return."""
        return None

    def detach(self, model: Network) -> None:
        """Take back what `attach` put inside the model, keeping what it learned."""

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
    """Run a stage to its end and return the finished model's folder; with `resume`, go on from the newest whole checkpoint.

    A resumed run ends with the same weights, bit for bit, as one that was never stopped, on the same machine and thread count.
    """
    run = RunDir(folder)
    checkpoint = run.newest_checkpoint()
    if (checkpoint or (run.model / "config.json").exists()) and not resume:
        raise UserError(f"{folder} already holds a run; add --resume to go on with it or choose another folder.")
    if resume and (run.path / "config.json").exists():
        stored = from_dict(RunConfig, read_json(run.path / "config.json"))
        if stored != config:
            raise UserError(
                f"{folder} was started with other settings; resume with the same recipe and --set values or choose another folder."
            )
    if resume and (run.model / "config.json").exists():
        return run.model
    starts = {source: folder.parent / shipped(source) for _, source in config.init}
    for source, start_folder in starts.items():
        if not start_folder.is_dir():
            raise UserError(
                f"{config.name} starts from the run {source}, and there is none in {folder.parent}; train it first: "
                f"latentbridge train {source} --out {start_folder}"
            )
    stage.runs = folder.parent
    write_json(run.path / "config.json", to_dict(config))
    if config.threads:
        torch.set_num_threads(config.threads)

    model = new_model(config.model, config.seed)
    for part, source in config.init:
        load_parts(model, starts[source], [part])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if checkpoint is None:
            stage.prepare(model)
        objective = Objective(model, stage)
    if config.bf16:
        _write_out_attention(model)
    named = {name: p for name, p in objective.named_parameters() if stage.trainable(name)}
    for name, parameter in objective.named_parameters():
        parameter.requires_grad_(name in named)
    optimizers = make_optimizers(named, config.optim)
    average = Average(named, config.optim.ema_decay)
    start = _restore(checkpoint, objective, optimizers, average) if checkpoint else 0

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
        parts, gradient = _step(objective, stage.batch(model, step), rng, named, config, shares=logged)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(named, step)
        due = (step + 1) % config.checkpoint_every == 0
        measures = stage.check(model, step + 1) if due or last else {}
        if logged or measures:
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
            _save(run, step + 1, objective, optimizers, average)

    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(average.weights[name])
    stage.detach(model)
    save_model(model, run.model)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return run.model


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
    if not torch.isfinite(loss):
        raise UserError(
            f"The loss of {config.name} became {loss.item()}; lower optim.lr and optim.muon_lr and start again in another folder."
        )
    found = gradient_shares(cast(dict[str, Tensor], outputs.terms), named.values()) if shares else {}
    loss.backward()
    norm = nn.utils.clip_grad_norm_(named.values(), config.optim.clip_norm)
    named_shares = {f"{name} share": share for name, share in found.items()}
    return outputs.parts, {"grad_norm": round(float(norm), 4), **named_shares}


def _save(
    run: RunDir, step: int, objective: Objective, optimizers: list[torch.optim.Optimizer], average: Average
) -> None:
    folder = run.checkpoint(step)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "objective.safetensors", objective.state_dict())
    _write(folder / "average.safetensors", average.weights)
    for index, optimizer in enumerate(optimizers):
        tensors = {
            f"{key}.{name}": value
            for key, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        _write(folder / f"optimizer_{index}.safetensors", tensors)
    write_json(folder / "state.json", {"step": step})
    for old in sorted(run.path.glob("checkpoints/step_*"))[:-2]:
        (old / "state.json").unlink(missing_ok=True)
        shutil.rmtree(old)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    with atomic_write(path) as temporary:
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary)


def _restore(folder: Path, objective: Objective, optimizers: list[torch.optim.Optimizer], average: Average) -> int:
    mend = f"the checkpoint is damaged; delete {folder} to resume from the one before it"
    objective.load_state_dict(read_tensors(folder / "objective.safetensors", mend))
    averaged = read_tensors(folder / "average.safetensors", mend)
    average.weights = {name: averaged[name] for name in average.weights}
    for index, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in read_tensors(folder / f"optimizer_{index}.safetensors", mend).items():
            number, _, name = key.partition(".")
            states.setdefault(int(number), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    return int(read_json(folder / "state.json")["step"])
