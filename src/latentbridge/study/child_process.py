"""Entry point of a study's child processes: train and measure one run, resuming an earlier attempt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from latentbridge.config import from_dict
from latentbridge.errors import StorageError, UserError
from latentbridge.files import write_json
from latentbridge.models.checkpoint import as_trainable, load
from latentbridge.processes import folder_lock
from latentbridge.run_folder import RunFolder
from latentbridge.studies import MeasurementConfig
from latentbridge.study.documents import make_document
from latentbridge.study.plan import FAILURE, STARTS, Run, model_folder, prerequisite_digests, run_status, weights_digest
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage


def run_in_child(run: tuple[Any, ...], out: str, measuring: dict[str, Any] | None) -> None:
    """Execute a run, given as the fields of `Run`; a UserError is printed as one line and exits with 2."""
    torch.set_num_threads(1)
    parsed = Run(*run)
    try:
        with folder_lock(Path(out) / parsed.name, wait=False):  # a process may outlive the study that started it
            execute_run(parsed, Path(out), from_dict(MeasurementConfig, measuring) if measuring else None)
    except UserError as error:
        print(f"error: {_one_line(error)}", flush=True)
        sys.exit(2)


def execute_run(run: Run, out: Path, measuring: MeasurementConfig | None) -> None:
    """Train and measure a run as far as that is not done.

    The reason of a training that failed after its first step (collapse, NaN loss) is stored, and later calls do not retry it.
    A training that failed to start, or for lack of disk space, stores nothing.
    """
    status = run_status(run, out, measuring)
    if run.config and not status.trained:
        write_json(status.folder / STARTS, prerequisite_digests(run, out))
        try:
            train(run.config, make_stage(run.config), status.folder, resume=True, progress=False)
        except StorageError:
            raise
        except UserError as error:
            if RunFolder(status.folder).metrics():
                write_json(status.folder / FAILURE, {"reason": _one_line(error)})
            raise
    if measuring is None or not status.missing:
        return
    backbone, weights = as_trainable(load(model_folder(run.name, out))), weights_digest(run.name, out)
    for world, report in status.missing:
        print(f"measuring {world} {report}", flush=True)
        make_document(backbone, status.folder, world, report, measuring, weights)


def _one_line(error: UserError) -> str:
    return " ".join(str(error).split())
