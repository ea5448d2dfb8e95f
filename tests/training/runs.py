"""Complete and interrupted runs for tests of stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentbridge.config import RunConfig, StageConfig, from_dict
from latentbridge.training.loop import train
from latentbridge.training.stages import make_stage


class Stopped(Exception):
    """An interruption, such as a power cut."""


def stage_with(kind: str, **settings: Any) -> Any:
    """The config of a stage with those of the settings that it has."""
    stage = from_dict(StageConfig, {"kind": kind})
    return replace(stage, **{name: value for name, value in settings.items() if hasattr(stage, name)})


def run(config: RunConfig, folder: Path, resume: bool = False) -> bytes:
    """Train to the end and return the file of the final weights."""
    return (train(config, make_stage(config), folder, resume=resume, progress=False) / "model.safetensors").read_bytes()


def run_until(config: RunConfig, folder: Path, last: int, resume: bool = False) -> None:
    """Train until an interruption before the batch of step `last`."""
    stage: Any = make_stage(config)
    make_batch = stage.batch

    def batch(model: Any, step: int) -> object:
        if step == last:
            raise Stopped
        return make_batch(model, step)

    stage.batch = batch
    with pytest.raises(Stopped):
        train(config, stage, folder, resume=resume, progress=False)
