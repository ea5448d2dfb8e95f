"""The one training loop: every stage of every model runs through `train`."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from latentbridge.config import RunConfig, from_dict, to_dict
from latentbridge.devices import device_named, multiplies_bfloat16
from latentbridge.errors import UserError
from latentbridge.models.adapters import merge_adapter, save_adapter
from latentbridge.models.backbones.loading import starting_network
from latentbridge.models.checkpoint import save_model, shipped
from latentbridge.processes import idle_cores
from latentbridge.ranks import world_size
from latentbridge.recipes.real import RELEASES
from latentbridge.rundir import RunDir, describe_environment, read_json, write_json
from latentbridge.training import parallel
from latentbridge.training.checkpoints import forget_checkpoints, newest_good
from latentbridge.training.learner import Learner
from latentbridge.training.prefetch import Prefetcher
from latentbridge.training.stage import Stage
from latentbridge.types import Observer


def train(
    config: RunConfig,
    stage: Stage,
    folder: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    observers: Sequence[Observer] = (),
) -> Path:
    """Run a stage to its end and return the finished model's folder; with `resume`, go on from the newest good checkpoint.

    A resumed run ends with the same weights, bit for bit, as one that was never stopped, on the same machine's CPU and
    thread count; and so does one that is observed. Started by `torchrun`, all processes train together. On another number of
    them, or on another device, a run goes on all the same, but its weights differ by rounding; so they do from one time to
    the next where an accelerator adds up in no fixed order.
    """
    device = device_named(config.device)
    with torch.accelerator.device_index(device.index), parallel.process_group(device):
        return _train(config, stage, RunDir(folder), device, resume, progress and parallel.is_rank_zero(), observers)


def _train(
    config: RunConfig,
    stage: Stage,
    run: RunDir,
    device: torch.device,
    resume: bool,
    progress: bool,
    observers: Sequence[Observer],
) -> Path:
    _check_folder(config, run, resume)
    if (run.model / "config.json").exists():
        forget_checkpoints(run)
        return run.model
    starts = _starts(config, run)
    _check_ranks(config, stage)
    checkpoint = newest_good(run)
    stage.runs = run.path.parent
    recorded = read_json(run.environment) if checkpoint and run.environment.exists() else {}
    threads = config.threads or recorded.get("threads") or min(torch.get_num_threads(), idle_cores())
    if parallel.is_rank_zero():
        write_json(run.path / "config.json", to_dict(config))
        _record_environment(run, device, threads, recorded)
    torch.set_num_threads(threads)

    model = starting_network(config.model, config.seed, starts)
    learner = Learner(model, stage, config, run, checkpoint, device)
    looking = observers if parallel.is_rank_zero() else ()
    for observer in looking:
        observer.on_train_begin(run.path, config)

    def batch_of(step: int) -> object:
        with parallel.gathered_parameters(learner.objective) if stage.rollouts else nullcontext():
            return stage.batch(model, step)

    start = learner.steps_done
    batches = Prefetcher(batch_of, range(start, config.steps), ahead=not stage.rollouts)
    bar = tqdm(batches, initial=start, total=config.steps, desc=config.name, disable=not progress, mininterval=2)
    began = time.perf_counter() - max((r["seconds"] for r in run.metrics() if r["step"] <= start), default=0.0)
    for step, batch in bar:
        last = step + 1 == config.steps
        logged = last or (step + 1) % config.log_every == 0
        due = last or (step + 1) % config.checkpoint_every == 0
        gradient, parts = learner.learn(batch, logged=logged)
        measures = learner.check() if due else {}
        if any(observer.should_evaluate(step + 1) for observer in observers):
            with parallel.gathered_parameters(learner.objective):
                for observer in looking:
                    measures |= observer.on_evaluate(model, step + 1)
        if (logged or measures) and parallel.is_rank_zero():
            seconds = round(time.perf_counter() - began, 2)
            counts = {"step": step + 1, "seconds": seconds, "samples": (step + 1) * config.batch_size}
            record = {**counts, **gradient, "waiting": batches.waiting_share(), **parts, **measures}
            run.log(record)
            for observer in looking:
                observer.on_log(record)
            bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()})
        if due and not last:
            learner.save()

    learner.finish()
    if parallel.is_rank_zero():
        write_json(run.size, _size(learner.named))
        if config.stage.lora_rank:
            save_adapter(model, run.adapter)
            merge_adapter(model)
        save_model(model, run.model)
    forget_checkpoints(run)
    parallel.barrier()
    return run.model


def _record_environment(run: RunDir, device: torch.device, threads: int, recorded: dict[str, Any]) -> None:
    """Write `environment.json`; tell the user where a resumed run goes on in another precision than was `recorded`."""
    fast = multiplies_bfloat16(device)
    began = recorded.get("bfloat16", fast)
    if began != fast:
        print(
            f"{run.path} began where products in bfloat16 are {'fast' if began else 'slow'}, and here they are "
            f"{'fast' if fast else 'slow'}: its weights will differ by rounding from those of an uninterrupted run.",
            file=sys.stderr,
        )
    write_json(run.environment, describe_environment() | {"device": str(device), "threads": threads, "bfloat16": fast})


def _check_folder(config: RunConfig, run: RunDir, resume: bool) -> None:
    """Raises UserError where the folder holds a run that is not to be gone on with, or another one."""
    if (run.newest_checkpoint() or (run.model / "config.json").exists()) and not resume:
        raise UserError(f"{run.path} already holds a run; add --resume to go on with it or choose another folder.")
    if resume and (run.path / "config.json").exists():
        stored = from_dict(RunConfig, read_json(run.path / "config.json"))
        if replace(stored, device=config.device) != config:
            raise UserError(
                f"{run.path} was started with other settings; resume with the same recipe and --set values or choose another folder."
            )


def _starts(config: RunConfig, run: RunDir) -> list[tuple[str, Path]]:
    """(part, folder it starts from); raises UserError where there is no such folder, saying what puts it there."""
    beside = run.path.parent
    for _, source in config.init:
        folder = beside / shipped(source)
        if not folder.is_dir():
            mend = f"train it first: latentbridge train {source} --out {folder}"
            if source in RELEASES:
                mend = f"put the folder of that release there: {RELEASES[source]}"
            raise UserError(f"{config.name} starts from the run {source}, and there is none in {beside}; {mend}")
    return [(part, beside / shipped(source)) for part, source in config.init]


def _check_ranks(config: RunConfig, stage: Stage) -> None:
    """Raises UserError where a run cannot be divided among the processes that were started."""
    ranks = world_size()
    if ranks > 1 and not stage.many_ranks:
        raise UserError(
            f"The stage {config.stage.kind} runs in one process, not in {ranks}; start it without torchrun."
        )
    if config.batch_size % ranks:
        raise UserError(
            f"batch_size is {config.batch_size}, of which {ranks} processes cannot have equal parts; choose a multiple of {ranks}."
        )


def _size(named: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """How many parameters moved, and the most memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"moving": sum(p.numel() for p in named.values()), "peak_mib": round(peak)}
