"""Checkpoints of a run under way: whole or absent, checked when read, and the same for any number of ranks.

A checkpoint is a folder of safetensors files, each rank's shards in one (PyTorch's distributed checkpoint, so a run may
go on with more or fewer ranks), and `state.json` with the step and the files' checksums. Why: docs/decisions/0007.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from latentbridge.errors import UserError
from latentbridge.files import atomic_folder, file_digest, read_json, staging_path, write_json
from latentbridge.run_folder import RunFolder
from latentbridge.training.optim import ExponentialMovingAverage
from latentbridge.training.parallel import broadcast_from_rank_zero, is_rank_zero

_KEPT = 2


def save_checkpoint(
    run: RunFolder,
    step: int,
    objective: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: ExponentialMovingAverage,
) -> None:
    """Write what the steps after `step` depend on, and take away all before it but the newest; every rank calls it.

    Raises UserError where it cannot be written; the checkpoints before it stand.
    """
    folder = run.checkpoint(step)
    with atomic_folder(folder) if is_rank_zero() else nullcontext(staging_path(folder)) as staging:
        tensors = {name: tensor.contiguous() for name, tensor in _state(objective, optimizers, average).items()}
        with _plain_errors():
            dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(staging), save_distributed=True))
        if is_rank_zero():
            digests = {file.name: file_digest(file) for file in sorted(staging.glob("*.safetensors"))}
            write_json(staging / "state.json", {"step": step, "sha256": digests})
    if is_rank_zero():
        upto = [
            other for other in run.checkpoints() if other <= folder
        ]  # what lies beyond is damaged, for the run came back
        for old in upto[_KEPT:]:
            (old / "state.json").unlink()
            shutil.rmtree(old)


def newest_intact_checkpoint(run: RunFolder) -> Path | None:
    """The latest checkpoint whose files are what was written; each damaged one is named on stderr."""
    good = 0
    if is_rank_zero():
        for folder in run.checkpoints():
            damaged = _damage(folder)
            if not damaged:
                good = int(read_json(folder / "state.json")["step"])
                break
            print(f"The checkpoint {folder} is damaged ({damaged}); going on from what is before it.", file=sys.stderr)
    step = broadcast_from_rank_zero(good)
    return run.checkpoint(step) if step else None


def load_checkpoint(
    folder: Path, objective: nn.Module, optimizers: list[torch.optim.Optimizer], average: ExponentialMovingAverage
) -> int:
    """Put a checkpoint's tensors where they belong and return its step; every rank calls it, however many wrote it."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with _plain_errors():
        stored = reader.read_metadata().state_dict_metadata.keys()
        for index, optimizer in enumerate(optimizers):
            _begin(optimizer, {name.rpartition(".")[0] for name in stored}, f"optimizer_{index}")
        dcp.load(_state(objective, optimizers, average), storage_reader=reader)
    return int(read_json(folder / "state.json")["step"])


def delete_checkpoints(run: RunFolder) -> None:
    """Take all away: the run has its model."""
    if is_rank_zero():
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)


def _state(
    objective: nn.Module, optimizers: list[torch.optim.Optimizer], average: ExponentialMovingAverage
) -> dict[str, Tensor]:
    """The tensors themselves by name, tied ones once; optimisers' are numbered as their parameters are."""
    kept = objective.state_dict().keys()
    named = chain(objective.named_parameters(), objective.named_buffers())
    state = {f"objective.{name}": tensor.detach() for name, tensor in named if name in kept}
    state |= {f"average.{name}": tensor for name, tensor in average.weights.items()}
    for index, optimizer in enumerate(optimizers):
        for number, parameter in enumerate(_parameters(optimizer)):
            for name, tensor in optimizer.state.get(parameter, {}).items():
                state[f"optimizer_{index}.{number}.{name}"] = tensor
    return state


def _begin(optimizer: torch.optim.Optimizer, stored: set[str], name: str) -> None:
    """Let the optimiser make its own state, to be written over, for those parameters of which some is stored.

    A parameter that had no gradient yet has none, and must not get any. The step is one of rate 0 without gradients.
    """
    for number, parameter in enumerate(_parameters(optimizer)):
        if f"{name}.{number}" in stored:
            parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _damage(folder: Path) -> str:
    """The first file that is not what was written; empty where all are."""
    try:
        digests = read_json(folder / "state.json")["sha256"]
    except (UserError, KeyError, TypeError):
        return "state.json"
    wrong = (name for name, digest in digests.items() if not _matches(folder / name, digest))
    return next(wrong, "")


def _matches(file: Path, digest: str) -> bool:
    try:
        return file_digest(file) == digest
    except OSError:
        return False


@contextmanager
def _plain_errors() -> Iterator[None]:
    """The error itself in place of the library's collection of one for each rank, and no word about being one alone."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as collection:
        raise next(iter(collection.failures.values()))[0] from collection
