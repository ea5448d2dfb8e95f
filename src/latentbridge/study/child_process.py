"""What a process of a study does: one run trained to its end and measured, going on from whatever is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from latentbridge.config import from_dict
from latentbridge.errors import StorageError, UserError
from latentbridge.files import write_json
from latentbridge.models.checkpoint import load
from latentbridge.processes import folder_lock
from latentbridge.run_folder import RunFolder
from latentbridge.studies import Measuring
from latentbridge.study.documents import make_document
from latentbridge.study.plan import FAILURE, STARTS, Run, model_folder, standing, start_digests, weights_digest
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage


def work(run: tuple[Any, ...], out: str, measuring: dict[str, Any] | None) -> None:
    """Carry out a run, given as the values of `Run`; a user's mistake is one line, and ends the process with 2."""
    torch.set_num_threads(1)
    named = Run(*run)
    try:
        with folder_lock(Path(out) / named.name, wait=False):  # a process may outlive the study that started it
            carry_out(named, Path(out), from_dict(Measuring, measuring) if measuring else None)
    except UserError as error:
        print(f"error: {_one_line(error)}", flush=True)
        sys.exit(2)


def carry_out(run: Run, out: Path, measuring: Measuring | None) -> None:
    """Train what is not trained and measure what is not measured.

    A training given up on its way (a collapse, a loss that is no number) would end so again: the reason is kept with the
    run, and later calls leave it alone. One that could not even begin, or that a full disk stopped, keeps nothing.
    """
    now = standing(run, out, measuring)
    if run.config and not now.trained:
        write_json(now.folder / STARTS, start_digests(run, out))
        try:
            train(run.config, make_stage(run.config), now.folder, resume=True, progress=False)
        except StorageError:
            raise
        except UserError as error:
            if RunFolder(now.folder).metrics():
                write_json(now.folder / FAILURE, {"reason": _one_line(error)})
            raise
    if measuring is None or not now.missing:
        return
    backbone, weights = load(model_folder(run.name, out)), weights_digest(run.name, out)
    for world, report in now.missing:
        print(f"measuring {world} {report}", flush=True)
        make_document(backbone, now.folder, world, report, measuring, weights)


def _one_line(error: UserError) -> str:
    return " ".join(str(error).split())
