"""What a process of a study does: one run trained to its end and measured, going on from whatever is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from latentbridge.config import from_dict
from latentbridge.errors import StorageError, UserError
from latentbridge.models.backbones.loading import load_backbone
from latentbridge.processes import held
from latentbridge.rundir import RunDir, write_json
from latentbridge.studies import MeasurementConfig
from latentbridge.study.documents import make_document
from latentbridge.study.plan import FAILURE, STARTS, Run, model_folder, prerequisite_digests, run_status, weights_digest
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage


def run_in_child(run: tuple[Any, ...], out: str, measuring: dict[str, Any] | None) -> None:
    """Carry out a run, given as the values of `Run`; a user's mistake is one line, and ends the process with 2."""
    torch.set_num_threads(1)
    named = Run(*run)
    try:
        with held(Path(out) / named.name, wait=False):  # a process may outlive the study that started it
            execute_run(named, Path(out), from_dict(MeasurementConfig, measuring) if measuring else None)
    except UserError as error:
        print(f"error: {_one_line(error)}", flush=True)
        sys.exit(2)


def execute_run(run: Run, out: Path, measuring: MeasurementConfig | None) -> None:
    """Train what is not trained and measure what is not measured.

    A training given up on its way (a collapse, a loss that is no number) would end so again: the reason is kept with the
    run, and later calls leave it alone. One that could not even begin, or that a full disk stopped, keeps nothing.
    """
    now = run_status(run, out, measuring)
    if run.config and not now.trained:
        write_json(now.folder / STARTS, prerequisite_digests(run, out))
        try:
            train(run.config, make_stage(run.config), now.folder, resume=True, progress=False)
        except StorageError:
            raise
        except UserError as error:
            if RunDir(now.folder).metrics():
                write_json(now.folder / FAILURE, {"reason": _one_line(error)})
            raise
    if measuring is None or not now.missing:
        return
    backbone, weights = load_backbone(model_folder(run.name, out)), weights_digest(run.name, out)
    for world, report in now.missing:
        print(f"measuring {world} {report}", flush=True)
        make_document(backbone, now.folder, world, report, measuring, weights)


def _one_line(error: UserError) -> str:
    return " ".join(str(error).split())
