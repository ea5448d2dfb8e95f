"""Trackers hear every row once, in a run and over a resume; each is asked by its real library what it heard."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentbridge.config import RunConfig, StageConfig
from latentbridge.errors import UserError
from latentbridge.rundir import RunDir, read_json
from latentbridge.training import trackers
from latentbridge.training.trackers import Tracker

CONFIG = RunConfig("toy", StageConfig("sft"), steps=5, batch_size=1)


def log(run: RunDir, step: int) -> dict[str, Any]:
    """A row of the log: the loss is 1 over the step, and step 3 has a picture."""
    if step == 3:
        run.sample(3).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((5, 7, 3), 200, dtype=np.uint8)).save(run.sample(3))
    record = {"step": step, "seconds": 2.0 * step, "loss": 1 / step}
    run.log(record)
    return record


def tell(name: str, folder: Path, steps: range) -> None:
    """What a process of a run does with a tracker."""
    run = RunDir(folder)
    with Tracker(name) as tracker:
        tracker.on_train_begin(folder, CONFIG)
        for step in steps:
            tracker.on_log(log(run, step))


def told_twice(name: str, folder: Path) -> None:
    """A run whose first row nobody heard, killed after step 3 and resumed from a checkpoint at step 2."""
    log(RunDir(folder), 1)
    tell(name, folder, range(2, 4))
    tell(name, folder, range(3, 6))


# --- what all share ------------------------------------------------------------------------------


class Wall:
    """A board that keeps what it hears."""

    made: list[Wall] = []

    def __init__(self, library: Any, folder: Path, id: str, config: Any):
        self.id, self.steps, self.pictures, self.finished = id, list[int](), list[int](), False
        Wall.made.append(self)

    def log(self, step: int, values: Any, picture: Path | None) -> None:
        assert values == {"seconds": 2.0 * step, "loss": 1 / step}
        self.steps.append(step)
        self.pictures += [step] if picture else []

    def finish(self) -> None:
        self.finished = True


def test_every_row_is_told_once_and_a_resume_keeps_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wall", ("json", Wall))
    told_twice("wall", tmp_path)
    first, second = Wall.made
    assert (first.steps, second.steps) == ([1, 2, 3], [4, 5])
    assert first.pictures == [3] and second.pictures == []
    assert first.id == second.id and first.finished and second.finished
    assert read_json(tmp_path / "tracked.json") == {"wall": {"id": first.id, "told": 5}}


def test_words_in_a_row_are_left_to_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wall", ("json", Wall))
    with Tracker("wall") as tracker:
        tracker.on_train_begin(tmp_path, CONFIG)
        tracker.on_log({"step": 1, "seconds": 2.0, "loss": 1.0, "why": "because"})


def test_an_unknown_tracker_and_a_missing_library_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Unknown tracker 'tensorbord'; did you mean 'tensorboard'?"):
        Tracker("tensorbord")
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("no_such_library", Wall))
    with pytest.raises(
        UserError, match=r'wandb is missing or incomplete .*; run `pip install "latentbridge\[track\]"`'
    ):
        Tracker("wandb")


# --- by their libraries --------------------------------------------------------------------------


def test_tensorboard_reads_back_one_curve(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told_twice("tensorboard", tmp_path)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, round(event.value, 4)) for event in events.Scalars("loss")]
    assert losses == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25), (5, 0.2)]
    (picture,) = events.Images("samples")
    assert (picture.step, picture.width, picture.height) == (3, 7, 5)


_PROGRAM = """
import sys
from pathlib import Path
from tests.training.test_trackers import told_twice
told_twice(sys.argv[1], Path(sys.argv[2]))
"""


def told_elsewhere(name: str, folder: Path, **environment: str) -> None:
    """In a process of its own, for what a library reads of its environment when it is imported."""
    import os

    subprocess.run(
        [sys.executable, "-c", _PROGRAM, name, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", **environment},
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip


def test_trackio_keeps_one_curve_in_its_own_folder(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    (tmp_path / "run").mkdir()
    told_elsewhere("trackio", tmp_path / "run", TRACKIO_DIR=str(tmp_path / "trackio"))
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
    told_elsewhere("wandb", tmp_path / "run", HOME=str(tmp_path), WANDB_MODE="offline")
    id = read_json(tmp_path / "run" / "tracked.json")["wandb"]["id"]
    kept = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{id}/run-{id}.wandb"))
    assert kept and all(path.stat().st_size for path in kept)
    assert list((tmp_path / "run" / "wandb").rglob("*.png"))
