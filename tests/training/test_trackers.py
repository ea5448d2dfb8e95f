"""Trackers log every record once, also over a resume; each is read back by its library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentbridge.config import RunConfig, SftConfig
from latentbridge.errors import UserError
from latentbridge.files import read_json
from latentbridge.run_folder import RunFolder
from latentbridge.training import trackers
from latentbridge.training.trackers import Tracker

CONFIG = RunConfig("toy", SftConfig(), steps=5, batch_size=1)


def log(run: RunFolder, step: int) -> dict[str, Any]:
    """Log a record with the loss 1 / step; step 3 has an image."""
    if step == 3:
        run.sample(3).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((5, 7, 3), 200, dtype=np.uint8)).save(run.sample(3))
    record = {"step": step, "seconds": 2.0 * step, "loss": 1 / step}
    run.log(record)
    return record


def track(name: str, folder: Path, steps: range) -> None:
    """Track some steps in one process of a run."""
    run = RunFolder(folder)
    with Tracker(name) as tracker:
        tracker.on_train_begin(folder, CONFIG)
        for step in steps:
            tracker.on_log(log(run, step))


def track_with_resume(name: str, folder: Path) -> None:
    """Track a run whose first record has no tracker, killed after step 3 and resumed from a checkpoint at step 2."""
    log(RunFolder(folder), 1)
    track(name, folder, range(2, 4))
    track(name, folder, range(3, 6))


# --- all trackers ------------------------------------------------------------------------------


class FakeBackend:
    """A backend that stores what is logged."""

    made: list[FakeBackend] = []

    def __init__(self, library: Any, folder: Path, id: str, config: Any):
        self.id, self.steps, self.images, self.finished = id, list[int](), list[int](), False
        FakeBackend.made.append(self)

    def log(self, step: int, values: Any, image: Path | None) -> None:
        assert values == {"seconds": 2.0 * step, "loss": 1 / step}
        self.steps.append(step)
        self.images += [step] if image else []

    def finish(self) -> None:
        self.finished = True


def test_every_record_is_logged_once_and_a_resume_keeps_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "fake", ("json", FakeBackend))
    track_with_resume("fake", tmp_path)
    first, second = FakeBackend.made
    assert (first.steps, second.steps) == ([1, 2, 3], [4, 5])
    assert first.images == [3] and second.images == []
    assert first.id == second.id and first.finished and second.finished
    assert read_json(tmp_path / "tracked.json") == {"fake": {"id": first.id, "last_step": 5}}


def test_strings_are_not_sent_to_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "fake", ("json", FakeBackend))
    with Tracker("fake") as tracker:
        tracker.on_train_begin(tmp_path, CONFIG)
        tracker.on_log({"step": 1, "seconds": 2.0, "loss": 1.0, "why": "because"})


def test_an_unknown_tracker_and_a_missing_library_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Unknown tracker 'tensorbord'; did you mean 'tensorboard'?"):
        Tracker("tensorbord")
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("no_such_library", FakeBackend))
    with pytest.raises(
        UserError, match=r'wandb is missing or incomplete .*; run `pip install "latentbridge\[track\]"`'
    ):
        Tracker("wandb")


# --- each library --------------------------------------------------------------------------


def test_tensorboard_has_one_curve(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    track_with_resume("tensorboard", tmp_path)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, round(event.value, 4)) for event in events.Scalars("loss")]
    assert losses == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25), (5, 0.2)]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (3, 7, 5)


_PROGRAM = """
import sys
from pathlib import Path
from tests.training.test_trackers import track_with_resume
track_with_resume(sys.argv[1], Path(sys.argv[2]))
"""


def track_in_subprocess(name: str, folder: Path, **environment: str) -> None:
    """Track in a subprocess, as libraries read the environment when imported."""
    import os

    subprocess.run(
        [sys.executable, "-c", _PROGRAM, name, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", **environment},
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip


def test_trackio_has_one_curve_in_its_own_folder(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    (tmp_path / "run").mkdir()
    track_in_subprocess("trackio", tmp_path / "run", TRACKIO_DIR=str(tmp_path / "trackio"))
    (database,) = (tmp_path / "trackio").glob("latentbridge*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics order by step").fetchall()
    state = read_json(tmp_path / "run" / "tracked.json")["trackio"]
    assert {name for name, _, _ in rows} == {f"run-{state['id']}"}
    assert [(step, json.loads(values)["loss"]) for _, step, values in rows] == [(s, 1 / s) for s in range(1, 6)]
    assert list((tmp_path / "trackio" / "media").rglob("*.png"))


def test_wandb_stays_offline_in_the_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "run").mkdir()
    track_in_subprocess("wandb", tmp_path / "run", HOME=str(tmp_path), WANDB_MODE="offline")
    id = read_json(tmp_path / "run" / "tracked.json")["wandb"]["id"]
    kept = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{id}/run-{id}.wandb"))
    assert kept and all(path.stat().st_size for path in kept)
    assert list((tmp_path / "run" / "wandb").rglob("*.png"))
