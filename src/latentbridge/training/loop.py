"""The training loop of all stages and models."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from tqdm import tqdm

from latentbridge.config import RunConfig, from_dict, to_dict
from latentbridge.devices import has_fast_bfloat16, resolve_device
from latentbridge.errors import UserError
from latentbridge.files import read_json, write_json
from latentbridge.models.adapters import merge_adapter, save_adapter
from latentbridge.models.backbones.loading import starting_network
from latentbridge.models.checkpoint import Network, save_model, shipped
from latentbridge.processes import idle_cores
from latentbridge.ranks import world_size
from latentbridge.recipes.real import RELEASES
from latentbridge.run_folder import RunFolder, describe_environment
from latentbridge.training import parallel
from latentbridge.training.checkpoints import delete_checkpoints, newest_intact_checkpoint
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
    """Train a run to its end and return the finished model's folder; `resume` continues from the newest intact checkpoint.

    On the same CPU and thread count a resumed run ends with bitwise the same weights as an uninterrupted one. With another
    device or number of ranks (`torchrun`) they differ by rounding, as they do from run to run on accelerators with
    non-deterministic kernels.
    """
    device = resolve_device(config.device)
    with torch.accelerator.device_index(device.index), parallel.process_group(device):
        return _train(config, stage, RunFolder(folder), device, resume, progress and parallel.is_rank_zero(), observers)


def _train(
    config: RunConfig,
    stage: Stage,
    run: RunFolder,
    device: torch.device,
    resume: bool,
    progress: bool,
    observers: Sequence[Observer],
) -> Path:
    _check_folder(config, run, resume)
    if (run.model / "config.json").exists():
        delete_checkpoints(run)
        return run.model
    sources = _initial_folders(config, run)
    _check_ranks(config, stage)
    checkpoint = newest_intact_checkpoint(run)
    stage.runs = run.path.parent
    recorded = read_json(run.environment) if checkpoint and run.environment.exists() else {}
    threads = config.threads or recorded.get("threads") or min(torch.get_num_threads(), idle_cores())
    if parallel.is_rank_zero():
        write_json(run.path / "config.json", to_dict(config))
        _record_environment(run, device, threads, recorded)
    torch.set_num_threads(threads)

    model = starting_network(config.model, config.seed, sources)
    learner = Learner(model, stage, config, run, checkpoint, device)
    local_observers = observers if parallel.is_rank_zero() else ()
    for observer in local_observers:
        observer.on_train_begin(run.path, config)

    def make_batch(step: int) -> object:
        with parallel.gathered_parameters(learner.objective) if stage.rollouts else nullcontext():
            return stage.batch(model, step)

    first = learner.steps_done
    batches = Prefetcher(make_batch, range(first, config.steps), ahead=not stage.rollouts)
    bar = tqdm(batches, initial=first, total=config.steps, desc=config.name, disable=not progress, mininterval=2)
    start = time.perf_counter() - max((r["seconds"] for r in run.metrics() if r["step"] <= first), default=0.0)
    for step, batch in bar:
        last = step + 1 == config.steps
        logged = last or (step + 1) % config.log_every == 0
        due = last or (step + 1) % config.checkpoint_every == 0
        gradient, parts = learner.train_step(batch, logged=logged)
        measures = learner.check() if due else {}
        if any(observer.should_evaluate(step + 1) for observer in observers):
            with parallel.gathered_parameters(learner.objective):
                for observer in local_observers:
                    measures |= observer.on_evaluate(model, step + 1)
        if (logged or measures) and parallel.is_rank_zero():
            seconds = round(time.perf_counter() - start, 2)
            counts = {"step": step + 1, "seconds": seconds, "samples": (step + 1) * config.batch_size}
            record = {**counts, **gradient, "waiting": batches.wait_fraction(), **parts, **measures}
            run.log(record)
            for observer in local_observers:
                observer.on_log(record)
            bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()})
        if due and not last:
            learner.save()

    learner.finish()
    if parallel.is_rank_zero():
        _save_finished(model, learner, config, run)
    delete_checkpoints(run)
    parallel.barrier()
    return run.model


def _save_finished(model: Network, learner: Learner, config: RunConfig, run: RunFolder) -> None:
    """Write the run's size, its adapter if it trained one, and the finished model."""
    write_json(run.size, _size(learner.named))
    if config.stage.lora_rank:
        save_adapter(model, run.adapter)
        merge_adapter(model)
    save_model(model, run.model)


def _record_environment(run: RunFolder, device: torch.device, threads: int, recorded: dict[str, Any]) -> None:
    """Write `environment.json`; warn if a resumed run started in another precision."""
    fast = has_fast_bfloat16(device)
    was_fast = recorded.get("bfloat16", fast)
    if was_fast != fast:
        print(
            f"{run.path} was started where bfloat16 products are {'fast' if was_fast else 'slow'}, and here they are "
            f"{'fast' if fast else 'slow'}: its weights will differ by rounding from those of an uninterrupted run.",
            file=sys.stderr,
        )
    write_json(run.environment, describe_environment() | {"device": str(device), "threads": threads, "bfloat16": fast})


def _check_folder(config: RunConfig, run: RunFolder, resume: bool) -> None:
    """Raise UserError if the folder holds a run and `resume` is off, or a run with another config."""
    if (run.newest_checkpoint() or (run.model / "config.json").exists()) and not resume:
        raise UserError(f"{run.path} already holds a run; add --resume to continue it or choose another folder.")
    if resume and (run.path / "config.json").exists():
        stored = from_dict(RunConfig, read_json(run.path / "config.json"))
        _check_same_settings(config, stored, run)


def _check_same_settings(config: RunConfig, stored: RunConfig, run: RunFolder) -> None:
    """Raise UserError that names the settings that a run was started with and `config` changes.

    The device may change, and `steps` may grow as long as the run has not finished: its checkpoints are then deleted.
    """
    now, then = (_flat(to_dict(replace(each, device=""))) for each in (config, stored))
    changed = {name: (then.get(name), now.get(name)) for name in then | now if then.get(name) != now.get(name)}
    if changed.keys() == {"steps"} and config.steps > stored.steps:
        if not (run.model / "config.json").exists():
            return
        raise UserError(
            f"{run.path} finished after its {stored.steps} steps and has no checkpoint to go on from; start a run of "
            f"{config.steps} steps in another folder."
        )
    if changed:
        names = "; ".join(f"{name} was {before!r} and is now {after!r}" for name, (before, after) in changed.items())
        rule = " (steps may only grow)" if "steps" in changed else ""
        raise UserError(
            f"{run.path} was started with other settings: {names}{rule}; resume with the same recipe and --set values or "
            "choose another folder."
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their names for --set, such as `optim.lr`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _initial_folders(config: RunConfig, run: RunFolder) -> list[tuple[str, Path]]:
    """Return (part, folder with its initial weights); raises UserError, with the command to run, if one is missing."""
    runs = run.path.parent
    for _, source in config.init:
        folder = runs / shipped(source)
        if not folder.is_dir():
            fix = f"train it first: latentbridge train {source} --out {folder}"
            if source in RELEASES:
                fix = f"put the folder of that release there: {RELEASES[source]}"
            raise UserError(f"{config.name} starts from the run {source}, which is not in {runs}; {fix}")
    return [(part, runs / shipped(source)) for part, source in config.init]


def _check_ranks(config: RunConfig, stage: Stage) -> None:
    """Raise UserError if the stage or batch size does not support the number of ranks."""
    ranks = world_size()
    if ranks > 1 and not stage.many_ranks:
        raise UserError(
            f"The stage {config.stage.kind} runs in one process, not in {ranks}; start it without torchrun."
        )
    if config.batch_size % ranks:
        raise UserError(
            f"batch_size is {config.batch_size}, which is not divisible by {ranks} processes; choose a multiple of {ranks}."
        )


def _size(named: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """Return the number of trained parameters and this process's peak memory in MiB."""
    return {"moving": sum(p.numel() for p in named.values()), "peak_mib": round(_peak_mib())}


def _peak_mib() -> float:
    """Return this process's peak memory in MiB."""
    if peak := getattr(psutil.Process().memory_info(), "peak_wset", None):  # Windows
        return peak / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
