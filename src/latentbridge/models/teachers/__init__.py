"""Stronger embedding models that LatentUMM learns from, by name; each fulfils `types.Teacher`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latentbridge.errors import UserError, unknown_name
from latentbridge.models.teachers.dual_encoder import Clip, Siglip
from latentbridge.models.teachers.gemini import Gemini
from latentbridge.models.teachers.package import Package
from latentbridge.models.teachers.scene import Scene
from latentbridge.run_folder import RunFolder
from latentbridge.types import Teacher

TEACHERS: dict[str, Callable[[str], Teacher]] = {
    "clip": Clip,
    "siglip": Siglip,
    "gemini": Gemini,
    "package": Package,
    "scene": Scene,
}
"""Kind of teacher: how to make it from what follows the colon in its name, or from nothing."""
TRAINED = {"scene": "scene-teacher"}
"""Teachers of our own: which recipe trains each, and what its run is called."""


def load_teacher(name: str, runs: Path = Path("runs")) -> Teacher:
    """The teacher called "clip:FOLDER", "siglip:FOLDER", "gemini", "gemini:DIMENSION", "package", "package:MODEL",
    "scene:FOLDER", or "scene", which is the finished run of its recipe in `runs`.
    """
    kind, _, source = name.partition(":")
    if kind not in TEACHERS:
        raise unknown_name("teacher", kind, TEACHERS)
    if kind in TRAINED and not source:
        source = str(runs / TRAINED[kind])
        if not (RunFolder(source).model / "config.json").exists():
            raise UserError(
                f"The teacher {kind!r} is too large to ship, and {source} holds no finished run; train it first: "
                f"latentbridge train {TRAINED[kind]} --out {source} --resume"
            )
    return TEACHERS[kind](source)
