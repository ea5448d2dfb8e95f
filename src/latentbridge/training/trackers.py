"""A run's log in trackers that people know, beside `metrics.jsonl`; each by its own library, and none needs a network."""

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
from latentbridge.rundir import RunDir, read_json, write_json
from latentbridge.types import Observer

_PROJECT = "latentbridge"
_PICTURES = "samples"


class Board(Protocol):
    """Where a tracker shows one run; made for each process anew, and continues the curves of the same `name` and `id`."""

    def log(self, step: int, values: Mapping[str, float], picture: Path | None) -> None:
        """Numbers, and a PNG where there is one, at a step that is higher than all before."""
        ...

    def finish(self) -> None:
        """Writes what is left."""
        ...


class Tracker(Observer):
    """Tells a board every row of a run's log once, also those from before it was switched on; a context, which finishes it.

    How far it has told is kept in the run's `tracked.json`, so a resumed run continues the same curves without repeating
    the steps between its checkpoint and its end.
    """

    def __init__(self, name: str):
        """Raises UserError for an unknown name, and where the library of a known one is missing."""
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        self.name = name
        try:
            self._library = import_module(TRACKERS[name][0])
        except ImportError as missing:
            raise UserError(
                f'{name} is missing or incomplete ({missing}); run `pip install "latentbridge[track]"`.'
            ) from missing
        self._board: Board | None = None

    def on_train_begin(self, folder: Path, config: RunConfig) -> None:
        self._run = RunDir(folder)
        stored = self._stored()
        self._state = stored.get(self.name) or {"id": uuid4().hex[:8], "told": 0}
        self._board = TRACKERS[self.name][1](self._library, folder, self._state["id"], to_dict(config))
        for record in self._run.metrics():
            self.on_log(record)

    def on_log(self, record: Mapping[str, Any]) -> None:
        step = record["step"]
        if self._board is None or step <= self._state["told"]:
            return
        picture = self._run.sample(step)
        values = {name: value for name, value in record.items() if name != "step" and isinstance(value, (int, float))}
        self._board.log(step, values, picture if picture.exists() else None)
        self._state["told"] = step
        write_json(self._run.tracked, self._stored() | {self.name: self._state})

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board:
            self._board.finish()

    def _stored(self) -> dict[str, Any]:
        return read_json(self._run.tracked) if self._run.tracked.exists() else {}


class TensorBoard:
    """Event files in the run's folder; `tensorboard --logdir runs` shows all runs."""

    def __init__(self, library: Any, folder: Path, id: str, config: Mapping[str, Any]):
        self._writer = library.SummaryWriter(folder / "tensorboard")
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```", 0)

    def log(self, step: int, values: Mapping[str, float], picture: Path | None) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if picture:
            self._writer.add_image(_PICTURES, np.asarray(Image.open(picture).convert("RGB")), step, dataformats="HWC")
        self._writer.flush()  # a killed run loses nothing

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

    def log(self, step: int, values: Mapping[str, float], picture: Path | None) -> None:
        shown = {_PICTURES: self._library.Image(picture)} if picture else {}
        self._run.log({**values, **shown}, step)

    def finish(self) -> None:
        with redirect_stdout(sys.stderr):
            self._library.finish()


class Wandb:
    """Offline in the run's folder, for `wandb sync`; online where WANDB_MODE says so."""

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

    def log(self, step: int, values: Mapping[str, float], picture: Path | None) -> None:
        shown = {_PICTURES: self._library.Image(str(picture))} if picture else {}
        self._run.log({**values, **shown}, step=step)

    def finish(self) -> None:
        self._run.finish()


TRACKERS: dict[str, tuple[str, Callable[[Any, Path, str, Mapping[str, Any]], Board]]] = {
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
    "trackio": ("trackio", Trackio),
    "wandb": ("wandb", Wandb),
}
"""By name: the library to import, and the board made with it."""
