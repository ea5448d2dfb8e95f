"""Checkpoints of a run: atomic, verified when loaded, and loadable on any number of ranks.

A checkpoint is a folder of safetensors files, one per rank (torch.distributed.checkpoint), and `state.json` with the step
and the SHA-256 of each file. See docs/decisions/0007.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
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

_MAX_CHECKPOINTS = 2


def save_checkpoint(
    run: RunFolder,
    step: int,
    objective: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: ExponentialMovingAverage,
) -> None:
    """Save the training state after `step` steps and delete all but the newest checkpoints; every rank must call it.

    Raises UserError if it cannot be written; earlier checkpoints remain.
    """
    folder = run.checkpoint(step)
    with atomic_folder(folder) if is_rank_zero() else nullcontext(staging_path(folder)) as staging:
        tensors = {name: tensor.contiguous() for name, tensor in _state(objective, optimizers, average).items()}
        with _dcp_errors():
            dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(staging), save_distributed=True))
        if is_rank_zero():
            digests = {file.name: file_digest(file) for file in sorted(staging.glob("*.safetensors"))}
            write_json(staging / "state.json", {"step": step, "sha256": digests})
    if is_rank_zero():
        # checkpoints of later steps are damaged, as the run resumed from an earlier one
        for old in [other for other in run.checkpoints() if other <= folder][_MAX_CHECKPOINTS:]:
            (old / "state.json").unlink()
            shutil.rmtree(old)


def newest_intact_checkpoint(run: RunFolder) -> Path | None:
    """Return the newest checkpoint whose checksums match; prints a warning for each damaged one."""
    step = 0
    if is_rank_zero():
        for folder in run.checkpoints():
            damaged = _damaged_file(folder)
            if not damaged:
                step = int(read_json(folder / "state.json")["step"])
                break
            print(f"The checkpoint {folder} is damaged ({damaged}); using an earlier one.", file=sys.stderr)
    step = broadcast_from_rank_zero(step)
    return run.checkpoint(step) if step else None


def load_checkpoint(
    folder: Path, objective: nn.Module, optimizers: list[torch.optim.Optimizer], average: ExponentialMovingAverage
) -> int:
    """Load a checkpoint in place and return its step; every rank must call it, and their number may differ from the save."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with _dcp_errors():
        stored = {name.rpartition(".")[0] for name in reader.read_metadata().state_dict_metadata}
        for index, optimizer in enumerate(optimizers):
            _initialize_state(optimizer, stored, f"optimizer_{index}")
        dcp.load(_state(objective, optimizers, average), storage_reader=reader)
    return int(read_json(folder / "state.json")["step"])


def delete_checkpoints(run: RunFolder) -> None:
    """Delete all checkpoints of a run."""
    if is_rank_zero():
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)


def _state(
    objective: nn.Module, optimizers: list[torch.optim.Optimizer], average: ExponentialMovingAverage
) -> dict[str, Tensor]:
    """Return the tensors by name, without copies; optimizer state is named by the index of the parameter."""
    persistent = objective.state_dict().keys()
    named = chain(objective.named_parameters(), objective.named_buffers())
    state = {f"objective.{name}": tensor.detach() for name, tensor in named if name in persistent}
    state |= {f"average.{name}": tensor for name, tensor in average.weights.items()}
    for index, optimizer in enumerate(optimizers):
        for number, parameter in enumerate(_parameters(optimizer)):
            for name, tensor in optimizer.state.get(parameter, {}).items():
                state[f"optimizer_{index}.{number}.{name}"] = tensor
    return state


def _initialize_state(optimizer: torch.optim.Optimizer, stored: set[str], name: str) -> None:
    """Create the optimizer state of the parameters that have some stored, by a step with learning rate 0.

    Parameters without a gradient so far have no state and must not get one.
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


def _damaged_file(folder: Path) -> str:
    """Return the name of the first file whose checksum differs, or an empty string."""
    try:
        digests = read_json(folder / "state.json")["sha256"]
    except (UserError, KeyError, TypeError):
        return "state.json"
    for name, digest in digests.items():
        with suppress(OSError):
            if file_digest(folder / name) == digest:
                continue
        return name
    return ""


@contextmanager
def _dcp_errors() -> Iterator[None]:
    """Raise the original error instead of a CheckpointException, and hide the warning about a missing process group."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as collection:
        raise next(iter(collection.failures.values()))[0] from collection
