"""Experiment trackers beside `metrics.jsonl`: TensorBoard, trackio and Weights & Biases, all usable offline."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from PIL import Image

from latentbridge.config import RunConfig, to_dict
from latentbridge.errors import UserError, unknown_name
from latentbridge.files import read_json, write_json
from latentbridge.run_folder import RunFolder
from latentbridge.types import Observer

_PROJECT = "latentbridge"
_IMAGES = "samples"


class TrackerBackend(Protocol):
    """A tracking library's logger for one run; a new process with the same name and id continues the curves."""

    def log(self, step: int, values: Mapping[str, float], image: Path | None) -> None:
        """Log metrics, and optionally a PNG file, at a step higher than all before."""
        ...

    def finish(self) -> None:
        """Flush and close."""
        ...


class Tracker(Observer):
    """An observer that sends each record of a run's log to a tracking library once; a context manager.

    Records from before it was switched on are sent as well. The last step is kept in the run's `tracked.json`, so a resumed
    run continues the curves without repeating the steps since its checkpoint.
    """

    def __init__(self, name: str):
        """Import the library; raises UserError if the name is unknown or the library is missing."""
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        self.name = name
        try:
            self._library = import_module(TRACKERS[name][0])
        except ImportError as missing:
            raise UserError(
                f'{name} is missing or incomplete ({missing}); run `pip install "latentbridge[track]"`.'
            ) from missing
        self._backend: TrackerBackend | None = None

    def on_train_begin(self, folder: Path, config: RunConfig) -> None:
        self._run = RunFolder(folder)
        state = self._stored().get(self.name, {"id": uuid4().hex[:8]})
        self._id, self._last_step = state["id"], state.get("last_step", state.get("told", 0))  # "told": before 2026-12
        self._backend = TRACKERS[self.name][1](self._library, folder, self._id, to_dict(config))
        for record in self._run.metrics():
            self.on_log(record)

    def on_log(self, record: Mapping[str, Any]) -> None:
        step = record["step"]
        if self._backend is None or step <= self._last_step:
            return
        sample = self._run.sample(step)
        values = {name: value for name, value in record.items() if name != "step" and isinstance(value, (int, float))}
        self._backend.log(step, values, sample if sample.exists() else None)
        self._last_step = step
        state = {"id": self._id, "last_step": step}
        write_json(self._run.tracker_state, self._stored() | {self.name: state})

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._backend:
            self._backend.finish()

    def _stored(self) -> dict[str, Any]:
        return read_json(self._run.tracker_state) if self._run.tracker_state.exists() else {}


class TensorBoard:
    """Event files in the run's folder; `tensorboard --logdir runs` shows all runs."""

    def __init__(self, library: Any, folder: Path, id: str, config: Mapping[str, Any]):
        self._writer = library.SummaryWriter(folder / "tensorboard")
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```", 0)

    def log(self, step: int, values: Mapping[str, float], image: Path | None) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if image:
            self._writer.add_image(_IMAGES, np.asarray(Image.open(image).convert("RGB")), step, dataformats="HWC")
        self._writer.flush()  # so that a killed run loses nothing

    def finish(self) -> None:
        self._writer.close()


class Trackio:
    """A local database in trackio's own folder; `trackio show` opens it."""

    def __init__(self, library: Any, folder: Path, id: str, config: Mapping[str, Any]):
        self._library = library
        with redirect_stdout(sys.stderr):
            self._run = library.init(
                project=_PROJECT,
                name=f"{folder.name}-{id}",
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, step: int, values: Mapping[str, float], image: Path | None) -> None:
        images = {_IMAGES: self._library.Image(image)} if image else {}
        self._run.log({**values, **images}, step)

    def finish(self) -> None:
        with redirect_stdout(sys.stderr):
            self._library.finish()


class Wandb:
    """Offline files in the run's folder, for `wandb sync`; online if WANDB_MODE says so."""

    def __init__(self, library: Any, folder: Path, id: str, config: Mapping[str, Any]):
        self._library = library
        self._run = library.init(
            project=_PROJECT,
            name=folder.name,
            id=id,
            dir=folder,
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            settings=library.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float], image: Path | None) -> None:
        images = {_IMAGES: self._library.Image(str(image))} if image else {}
        self._run.log({**values, **images}, step=step)

    def finish(self) -> None:
        self._run.finish()


TRACKERS: dict[str, tuple[str, Callable[[Any, Path, str, Mapping[str, Any]], TrackerBackend]]] = {
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
    "trackio": ("trackio", Trackio),
    "wandb": ("wandb", Wandb),
}
"""The module to import and the backend class, by tracker name."""
